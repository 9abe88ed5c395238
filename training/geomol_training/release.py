"""From a trained checkpoint to a shipped one: the weights, their card, the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field

from ase_geomol.checkpoint import WEIGHTS, Checkpoint, Metadata, load_checkpoint, register, save_checkpoint
from ase_geomol.errors import DataError
from ase_geomol.files import write_atomically

from .config import read_yaml, validated

CARD = """# {name}

{intro}

| | |
|---|---|
| theory | {theory} |
| elements | {elements} |
| charges, multiplicities | {charges}; {spins} |
| architecture | GeoMFormer (local form): {layers} layers, {channels} channels, {heads} heads, cutoff {cutoff} Å |
| parameters | {parameters} |
| short range | {repulsion} |
| forces | exact gradients of the energy |
| licence | {licence} |

## Training data

{data}

{counts}

## Errors on molecules that it never saw

Measured by `{evaluation_command}`; split by molecule.

{errors}

## Relaxation and 1 ps at 300 K of unseen drug-like molecules

{stability}

## Known failures

{failures}

## How it was made

{making}
"""


class Notes(BaseModel):
    """The words of a card that no measurement gives: each a paragraph of Markdown."""

    model_config = ConfigDict(extra="forbid")

    intro: str
    data: str
    failures: str
    making: str
    evaluation_command: str


class Measured(BaseModel):
    """What of ``evaluation.json`` goes into a card; ``sha256`` is of the weights that were evaluated."""

    sha256: str
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


class Stability(BaseModel):
    """What of ``stability.json`` goes into a card: the last row is about all molecules."""

    command: str
    hardware: Hardware
    date: str
    rows: list[dict[str, Any]] = Field(min_length=1)


def release(
    checkpoint: Path, notes: Path, evaluation: Path, labels: Path | None = None, stability: Path | None = None
) -> Path:
    """Copy a checkpoint with its measured errors to the shipped weights, write its card, enter it in the registry.

    Args:
        checkpoint: what ``geomol-train fit`` exported.
        notes: YAML with the card's words: ``intro``, ``data``, ``failures``, ``making``, ``evaluation_command``.
        evaluation: ``evaluation.json`` that ``geomol-train evaluate`` wrote on the test split.
        labels: the labels' ``manifest.json``.
        stability: result of ``tests/benchmarks/stability.py``.

    Raises:
        ConfigError: a file lacks a field.
        DataError: a JSON file cannot be read; the evaluation is of other weights, or not of the test split.
        OutputError: the weights folder cannot be written.
    """
    loaded = load_checkpoint(checkpoint)
    words = validated(Notes, read_yaml(notes), notes)
    measured = validated(Measured, _json(evaluation), evaluation)
    _check_measured(measured, evaluation, loaded)
    counts, survival = _counts(labels), _stability(stability)
    errors = {f"test_{name}": round(value, 2) for name, value in measured.errors.items()}
    metadata = Metadata.model_validate({**loaded.metadata.model_dump(), "errors": errors})
    path = WEIGHTS / f"{metadata.name}.safetensors"
    save_checkpoint(path, loaded.potential, metadata)
    config: Any = loaded.potential.model.config  # type: ignore[attr-defined]
    repulsion = loaded.potential.repulsion
    reach = 0.0 if repulsion is None else repulsion.reach
    card = CARD.format(
        name=metadata.name,
        theory=metadata.theory,
        elements=" ".join(chemical_symbols[z] for z in loaded.potential.elements),
        charges=_listed(metadata.charges),
        spins=_listed(metadata.spins),
        layers=config.layers,
        channels=config.channels,
        heads=config.heads,
        cutoff=config.cutoff,
        parameters=f"{sum(p.numel() for p in loaded.potential.parameters()):,}",
        repulsion=f"ZBL repulsion within {reach:g} sums of covalent radii" if reach else "nothing but the network",
        licence=metadata.licence,
        counts=counts,
        errors=_table({"all": {"frames": measured.n_frames, **measured.errors}, **measured.by_source}),
        stability=survival,
        **words.model_dump(),
    )
    write_atomically(path.with_suffix(".md"), card.encode())
    register(path)
    return path


def _check_measured(measured: Measured, evaluation: Path, loaded: Checkpoint) -> None:
    if measured.sha256 != loaded.sha256:
        raise DataError(f"{evaluation} is about other weights than {loaded.path}: evaluate these first.")
    if measured.split != "test":
        raise DataError(f"{evaluation} is not about the test split alone: evaluate with --split test.")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _counts(labels: Path | None) -> str:
    if labels is None:
        return ""
    manifest = validated(Manifest, _json(labels), labels)
    counts = manifest.counts
    lines = [f"{manifest.frames:,} frames:", "", "| source | frames |", "|---|---|"]
    lines += [f"| {source} | {count:,} |" for source, count in counts.source.items()]
    split = ", ".join(f"{name} {count:,}" for name, count in counts.split.items())
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in counts.rejected.items()) or "none"
    return "\n".join([*lines, "", f"By molecule: {split}. Rejected: {rejected}."])


def _table(errors: dict[str, dict[str, float]]) -> str:
    """Errors {group: {name: value}} as a table, a row a group."""
    names = list(errors["all"])
    lines = [
        "| group | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for group, row in errors.items():
        cells = [f"{row[n]:.{0 if n == 'frames' else 1}f}" if n in row else "" for n in names]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _stability(result: Path | None) -> str:
    if result is None:
        return "Not measured."
    record = validated(Stability, _json(result), result)
    lines = [f"`{record.command}` on {record.hardware.processor}, {record.date}:", "", "| | |", "|---|---|"]
    lines += [
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in record.rows[-1].items()
    ]
    return "\n".join(lines)
