"""Parts of model cards, in Markdown, and the files that they are made from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field

from ase_geomol.checkpoint import Metadata, form_of
from ase_geomol.errors import DataError
from ase_geomol.potential import Potential
from ase_geomol.rigidity import RigidityForm

from .config import validated

ARCHITECTURES = {"geomformer": "GeoMFormer", "est": "EST"}


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


class Counts(BaseModel):
    """Frames by source and by split; rejections by reason."""

    source: dict[str, int]
    split: dict[str, int]
    rejected: dict[str, int]


class Manifest(BaseModel):
    """What of the labels' ``manifest.json`` goes into a card."""

    frames: int
    counts: Counts


class Certainty(RigidityForm):
    """What of ``rigidity.json`` goes into a card; ``fingerprint`` is of the weights that were measured."""

    model_config = ConfigDict(extra="ignore")

    fingerprint: str
    measured_on: str
    measured_frames: int
    results: dict[str, float]


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


def facts(potential: Potential, metadata: Metadata) -> str:
    """What a potential is, as a table."""
    form = form_of(potential)
    config, reach = form["config"], form["repulsion"]
    locality = "local" if potential.cutoff is not None else "global"
    name: str = ARCHITECTURES[form["architecture"]]
    name += f" ({locality} form)" if form["architecture"] == "geomformer" else ""
    sizes = [f"{config[size]} {size}" for size in ("layers", "channels", "heads") if size in config]
    sizes.append("no cutoff" if potential.cutoff is None else f"cutoff {potential.cutoff} Å")
    forces = "exact gradients of the energy" + ("; a head of its own, too" if potential.has_direct_forces else "")
    if metadata.forces == "direct":
        forces = "learned by a direct head alone, which is not conservative"
    short_range = f"ZBL repulsion within {reach:g} sums of covalent radii, where the network sees distances held"
    rows = {
        "theory": metadata.theory,
        "elements": symbols(potential.elements),
        "charges, multiplicities": f"{_listed(metadata.charges)}; {_listed(metadata.spins)}",
        "architecture": f"{name}: {', '.join(sizes)}",
        "parameters": f"{sum(p.numel() for p in potential.parameters()):,}",
        "short range": short_range if reach else "nothing but the network",
        "forces": forces,
        "licence": metadata.licence,
    }
    return pairs(rows)


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


def certainty(evaluation: Path, fingerprint: str, form: RigidityForm | None) -> str:
    """How far the standard deviations of weights with a rigidity of this form can be trusted.

    Raises:
        ConfigError: ``rigidity.json`` lacks a field.
        DataError: it is missing, cannot be read, or is of other weights or another rigidity.
    """
    if form is None:
        return "It does not say: these weights have no rigidity."
    path = evaluation / "rigidity.json"
    if not path.exists():
        raise DataError(f"{path} is missing: run geomol-train rigidity with --out {evaluation}.")
    measured = validated(Certainty, read_json(path), path)
    if measured.fingerprint != fingerprint or measured.model_dump(include=set(form.model_dump())) != form.model_dump():
        raise DataError(f"{path} is about other weights: run geomol-train rigidity with --out {evaluation}.")
    rows = {name.replace("_", " "): f"{value:.3g}" for name, value in measured.results.items()}
    return (
        f"`energy_std` and `energies_std` come from a rigidity made of {measured.frames:,} training frames and "
        f"{measured.valid_frames:,} validation frames. On {measured.measured_frames:,} {measured.measured_on} "
        f"frames:\n\n{pairs(rows)}"
    )


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
        lines += [f"| {name} | {_cell(value)} |" for name, value in measurement.summary.items()]
        sections.append("\n".join(lines))
    return "\n\n".join(sections) or "Not measured."


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pairs(rows: Mapping[str, str]) -> str:
    """A table of two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def table(errors: Mapping[str, Mapping[str, float]]) -> str:
    """Errors {group: {name: value}} as a table, a row a group; the first group has all names."""
    names = list(next(iter(errors.values())))
    lines = [
        "| group | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for group, row in errors.items():
        cells = [f"{row[n]:.{0 if n == 'frames' else 1}f}" if n in row else "" for n in names]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def symbols(numbers: tuple[int, ...]) -> str:
    """``H C O`` of 1, 6, 8."""
    return " ".join(chemical_symbols[number] for number in numbers)


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "its data did not tell"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file; raises :class:`DataError`."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def read_bytes(path: Path) -> bytes:
    """The same, as it is."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
