"""From a trained conformer model to a shipped one: the weights, their card, the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ase_geomol.checkpoint import WEIGHTS, ConformerCheckpoint, load_conformers, register, save_checkpoint
from ase_geomol.errors import DataError
from ase_geomol.files import write_atomically

from ..cards import Notes, benchmark_results, label_counts, pairs, read_json, symbols
from ..config import read_yaml, validated
from .evaluate import MOST_ASKED
from .methods import MODEL, WINDOW
from .summary import DRAWN, as_table, differences_as_table

CARD = """# {name}

{intro}

{facts}

## Training data

{data}

{counts}

## Measured with {references} references on {held_out} that it never saw

Measured by `{evaluation_command}` on {molecules} {held_out} on {hardware}: twice as many structures of each as there
are {references} references, at most {most}. COV is the share of references (R) or of structures (P) with a partner of
the other kind within the threshold, AMR the mean distance to the nearest one, by the root-mean-square distance of
heavy atoms that knows symmetry; means over the molecules, medians in brackets. "{model}" is what the network draws,
with mirror images of what was asked for reflected; of "{model}, checked", structures with wrong stereochemistry,
bonds or clashes were drawn again. Where structures are "chosen", ten times as many were relaxed, which counts in
their seconds, those within {window:g} eV of the lowest kept, and of these the lowest of each of as many clusters as
were asked for.

{measured}

{remarks}

What the network's methods have more than RDKit's, mean over the molecules and its standard error:

{differences}

## At work

{results}

## Known failures

{failures}

## How it was made

{making}
"""


class ConformerNotes(Notes):
    """Words for a card, as `Notes`; ``references`` says what is compared with, in the name of every such number."""

    references: str


class MeasuredConformers(BaseModel):
    """What of ``evaluation.json`` goes into a card; ``fingerprint`` is of the weights that were evaluated."""

    fingerprint: str
    split: str | None
    rows: int
    processor: str
    device: str
    remarks: dict[str, int]
    methods: dict[str, dict[str, dict[str, float | None]]]
    differences: list[dict[str, Any]]


def release_conformers(
    checkpoint: Path, notes: Path, evaluation: Path, labels: Sequence[Path], results: Path | None
) -> Path:
    """As `geomol_training.release.release`, for a conformer model and what ``evaluate-conformers`` wrote."""
    loaded = load_conformers(checkpoint)
    words = validated(ConformerNotes, read_yaml(notes), notes)
    measured = validated(MeasuredConformers, read_json(evaluation / "evaluation.json"), evaluation)
    if measured.fingerprint != loaded.fingerprint:
        raise DataError(f"{evaluation} is about other weights than {loaded.path}: evaluate these first.")
    if measured.split != "test":
        raise DataError(f"{evaluation} is not about the test split alone: evaluate with --split test.")
    counts, at_work = label_counts(labels), benchmark_results(results, loaded.fingerprint)
    known = {name: value for name, value in measured.methods[MODEL][DRAWN].items() if value is not None}
    errors = {f"test_{_named(name, words.references)}": round(value, 3) for name, value in known.items()}
    metadata = loaded.metadata.model_copy(update={"errors": errors})
    path = WEIGHTS / f"{metadata.name}.safetensors"
    save_checkpoint(path, loaded.flow, metadata)
    card = CARD.format(
        name=metadata.name,
        facts=_facts(loaded),
        counts=counts,
        molecules=measured.rows,
        hardware=measured.processor if measured.device == "cpu" else f"{measured.device} and {measured.processor}",
        model=MODEL,
        window=WINDOW,
        most=MOST_ASKED,
        measured=_table(*as_table(measured.methods), words.references),
        differences=_table(*differences_as_table(measured.differences), words.references),
        remarks="\n".join(f"- {remark}: {count}" for remark, count in measured.remarks.items()),
        results=at_work,
        **words.model_dump(),
    )
    write_atomically(path.with_suffix(".md"), card.encode())
    register(path)
    return path


def _named(name: str, references: str) -> str:
    """The name of a number with that of the molecules and references that it is measured on; not times and counts."""
    return name if name.startswith(("s per", "molecules", "ensembles")) else f"{references} {name}"


def _table(headings: Sequence[str], rows: Mapping[str, Sequence[str]], references: str) -> str:
    """In Markdown, with the references in the name of every number that they decide."""
    lines = [f"| | {' | '.join(_named(name, references) for name in headings)} |", "|---" * (len(headings) + 1) + "|"]
    return "\n".join([*lines, *(f"| {row} | {' | '.join(cells)} |" for row, cells in rows.items())])


def _facts(loaded: ConformerCheckpoint) -> str:
    """What the model is, as a table."""
    flow, config, sampler = loaded.flow, loaded.flow.model.config, loaded.flow.form.sampler
    form = f"{config.positions} positions, {config.conditioning} conditioning"
    return pairs(
        {
            "draws": f"conformers, as of {loaded.metadata.theory}",
            "elements": symbols(flow.elements),
            "architecture": f"DiTMC: {config.layers} layers, {config.channels} channels, {form}",
            "parameters": f"{sum(parameter.numel() for parameter in flow.parameters()):,}",
            "flow": f"{flow.form.prior} prior, noise of {flow.form.noise:g} Å, output: {flow.form.output}",
            "sampler": f"{sampler.steps} {sampler.schedule} steps, {sampler.solver}",
            "licence": loaded.metadata.licence,
        }
    )
