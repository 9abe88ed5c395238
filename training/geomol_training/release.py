"""From a trained checkpoint to a shipped one: the weights, their card, the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from ase_geomol.checkpoint import WEIGHTS, Checkpoint, Metadata, held_by, load_checkpoint, register, save_checkpoint
from ase_geomol.errors import DataError
from ase_geomol.files import write_atomically
from ase_geomol.models.ditmc import ConformerFlow

from .cards import Notes, benchmark_results, certainty, facts, label_counts, read_bytes, read_json, table
from .config import read_yaml, validated
from .conformers.release import release_conformers

CARD = """# {name}

{intro}

{facts}

## Training data

{data}

{counts}

## Errors on {held_out} that it never saw

Measured by `{evaluation_command}`.

{errors}

![Labels against predictions, energies and forces]({parity})

## How sure it is

{certainty}

## At work

{results}

## Known failures

{failures}

## How it was made

{making}
"""


class Measured(BaseModel):
    """What of ``evaluation.json`` goes into a card; ``fingerprint`` is of the weights that were evaluated."""

    fingerprint: str
    split: str | None
    errors: dict[str, float]
    by_source: dict[str, dict[str, float]]
    n_frames: int


def release(
    checkpoint: Path, notes: Path, evaluation: Path, labels: Sequence[Path] = (), results: Path | None = None
) -> Path:
    """Copy a checkpoint with its measured errors to the shipped weights, write its card, enter it in the registry.

    Args:
        checkpoint: what ``geomol-train fit`` exported.
        notes: YAML with the fields of `Notes`.
        evaluation: folder that ``geomol-train evaluate``, or ``evaluate-conformers``, wrote on the test split; of
            weights with a rigidity, ``geomol-train rigidity`` wrote into the same one.
        labels: each ``manifest.json`` of the labels.
        results: folder of the results of ``tests/benchmarks``; those of these weights go into the card.

    Raises:
        ConfigError: a file lacks a field.
        DataError: a file cannot be read; the evaluation is of other weights, or not of the test split.
        OutputError: the weights folder cannot be written.
    """
    if held_by(checkpoint) is ConformerFlow:
        return release_conformers(checkpoint, notes, evaluation, labels, results)
    loaded = load_checkpoint(checkpoint)
    words = validated(Notes, read_yaml(notes), notes)
    measured = validated(Measured, read_json(evaluation / "evaluation.json"), evaluation)
    _check_measured(measured, evaluation, loaded)
    parity = read_bytes(evaluation / "parity.png")
    counts, at_work = label_counts(labels), benchmark_results(results, loaded.fingerprint)
    rigidity = loaded.potential.rigidity
    sure = certainty(evaluation, loaded.fingerprint, None if rigidity is None else rigidity.form)
    errors = {f"test_{name}": round(value, 2) for name, value in measured.errors.items()}
    metadata = Metadata.model_validate({**loaded.metadata.model_dump(), "errors": errors})
    path = WEIGHTS / f"{metadata.name}.safetensors"
    save_checkpoint(path, loaded.potential, metadata)
    card = CARD.format(
        name=metadata.name,
        facts=facts(loaded.potential, metadata),
        counts=counts,
        errors=table({"all": {"frames": measured.n_frames, **measured.errors}, **measured.by_source}),
        parity=f"{metadata.name}.png",
        certainty=sure,
        results=at_work,
        **words.model_dump(),
    )
    write_atomically(path.with_suffix(".png"), parity)
    write_atomically(path.with_suffix(".md"), card.encode())
    register(path)
    return path


def _check_measured(measured: Measured, evaluation: Path, loaded: Checkpoint) -> None:
    if measured.fingerprint != loaded.fingerprint:
        raise DataError(f"{evaluation} is about other weights than {loaded.path}: evaluate these first.")
    if measured.split != "test":
        raise DataError(f"{evaluation} is not about the test split alone: evaluate with --split test.")
