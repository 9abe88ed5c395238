"""From a trained checkpoint to a shipped one: the weights, their card, the registry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ase_geomol.checkpoint import WEIGHTS, Checkpoint, Metadata, held_by, load_checkpoint, register, save_checkpoint
from ase_geomol.errors import DataError
from ase_geomol.files import write_atomically
from ase_geomol.models.ditmc import ConformerFlow

from .cards import facts, table
from .config import read_yaml, validated

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

## At work

{results}

## Known failures

{failures}

## How it was made

{making}
"""


class Notes(BaseModel):
    """The words of a card that no measurement gives: each a paragraph of Markdown, but for the first.

    Attributes:
        held_out: what was kept from the training as a whole, such as "molecules".
    """

    model_config = ConfigDict(extra="forbid")

    held_out: str

    intro: str
    data: str
    failures: str
    making: str
    evaluation_command: str


class Measured(BaseModel):
    """What of ``evaluation.json`` goes into a card; ``fingerprint`` is of the weights that were evaluated."""

    fingerprint: str
    split: str | None
    errors: dict[str, float]
    by_source: dict[str, dict[str, float]]
    n_frames: int


class Counts(BaseModel):
    """Frames by source and by split; rejections by reason."""

    source: dict[str, int]
    split: dict[str, int]
    rejected: dict[str, int]


class Manifest(BaseModel):
    """What of the labels' ``manifest.json`` goes into a card."""

    frames: int
    counts: Counts


class Hardware(BaseModel):
    """Where a benchmark ran."""

    processor: str


class Measurement(BaseModel):
    """What of a result of ``tests/benchmarks`` goes into a card."""

    question: str
    command: str
    model: dict[str, Any] | None = None
    hardware: Hardware
    date: str
    on_card: bool = Field(default=False, alias="on the card")
    summary: dict[str, float | None] = Field(default_factory=dict)
    rows: list[dict[str, Any]] = Field(min_length=1)


def release(
    checkpoint: Path, notes: Path, evaluation: Path, labels: Sequence[Path] = (), results: Path | None = None
) -> Path:
    """Copy a checkpoint with its measured errors to the shipped weights, write its card, enter it in the registry.

    Args:
        checkpoint: what ``geomol-train fit`` exported.
        notes: YAML with the fields of `Notes`.
        evaluation: folder that ``geomol-train evaluate``, or ``evaluate-conformers``, wrote on the test split.
        labels: each ``manifest.json`` of the labels.
        results: folder of the results of ``tests/benchmarks``; those of these weights go into the card.

    Raises:
        ConfigError: a file lacks a field.
        DataError: a file cannot be read; the evaluation is of other weights, or not of the test split.
        OutputError: the weights folder cannot be written.
    """
    if held_by(checkpoint) is ConformerFlow:
        from .conformers.release import release_conformers

        return release_conformers(checkpoint, notes, evaluation, labels, results)
    loaded = load_checkpoint(checkpoint)
    words = validated(Notes, read_yaml(notes), notes)
    measured = validated(Measured, read_json(evaluation / "evaluation.json"), evaluation)
    _check_measured(measured, evaluation, loaded)
    parity = _bytes(evaluation / "parity.png")
    counts, at_work = label_counts(labels), benchmark_results(results, loaded.fingerprint)
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


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file; raises :class:`DataError`."""
    try:
        return json.loads(_bytes(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def label_counts(labels: Sequence[Path]) -> str:
    """Frames by source, split and reason of rejection, over all manifests."""
    if not labels:
        return ""
    manifests = [validated(Manifest, read_json(path), path) for path in labels]
    source, split, rejected = (
        sum((Counter(getattr(manifest.counts, what)) for manifest in manifests), Counter())
        for what in ("source", "split", "rejected")
    )
    lines = [f"{sum(manifest.frames for manifest in manifests):,} frames:", "", "| source | frames |", "|---|---|"]
    lines += [f"| {name} | {count:,} |" for name, count in sorted(source.items())]
    listed = (", ".join(f"{name} {count:,}" for name, count in sorted(of.items())) for of in (split, rejected))
    return "\n".join([*lines, "", "Split: {}. Rejected: {}.".format(*(text or "none" for text in listed))])


def benchmark_results(folder: Path | None, fingerprint: str) -> str:
    """A section for each benchmark of the weights with this fingerprint, where the result itself says that it tells
    something about them: others are about code.
    """
    sections = []
    for path in sorted(folder.glob("*.json")) if folder else ():
        measurement = validated(Measurement, read_json(path), path)
        if (measurement.model or {}).get("fingerprint") != fingerprint or not measurement.on_card:
            continue
        question = measurement.question.partition("\n\n")[0]
        how = f"`{measurement.command}` on {measurement.hardware.processor}, {measurement.date}:"
        lines = [f"### {' '.join(question.split())}", "", how, "", "| | |", "|---|---|"]
        lines += [
            f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
            for name, value in measurement.summary.items()
        ]
        sections.append("\n".join(lines))
    return "\n\n".join(sections) or "Not measured."
