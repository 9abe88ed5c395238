"""Does every line of a long file end as conformers or as a sentence, within its time?

Molecules of QM9, drug-like molecules joined from fragments, and strings that are nasty in many ways; for each, three
conformers by `RDKitProvider` and by `ConformerProvider`, with all checks. A line ends as "made", as one sentence
(refused as a request, or no structure within the time limit), or as an unexpected error, which is a bug, as is a
sentence of several lines or a line that takes more than two seconds longer than its limit. Structures with wrong
stereochemistry among those made are looked for once more by RDKit's own reading of the positions, where it has one; the
stereochemistry that it does not read off positions at all (of axes, of metals) is refused as a request.
"""

from __future__ import annotations

import time
import warnings
from functools import cache, partial
from statistics import median
from typing import NamedTuple

import numpy as np
from _frame import Answer, Row, answer
from _nasty import NASTY
from _work import computed, each, work_folder
from geomol_training.conformers.isomers import is_other_isomer
from geomol_training.labelling.druglike import random_druglike
from geomol_training.labelling.qm9 import sample_qm9

from ase_geomol import ConformerProvider, RDKitProvider
from ase_geomol.errors import InputError, ProviderError, ProviderWarning
from ase_geomol.providers.base import Provider
from ase_geomol.providers.molecules import parse

SETTINGS = {"QM9": 500, "drug-like": 300, "atoms of these": (15, 70), "conformers": 3, "time limit s": 30.0, "seed": 17}
MODEL = "ditmc-small"
SMOKE = {"QM9": 3, "drug-like": 2}
PROVIDERS = ("RDKit", "DiTMC")
LATE = 2.0
"""Seconds."""


class Case(NamedTuple):
    """A line, who makes its conformers, and how long it may take (s)."""

    provider: str
    group: str
    smiles: str
    time_limit: float


def run(smoke: bool, model: str) -> Answer:
    """One row for each provider and group."""
    table, summary, pieces = [], {}, []
    for provider in PROVIDERS:
        cases, by = collect(provider, smoke), maker(provider, model)
        place = "RDKit" if provider == "RDKit" else by.fingerprint[:12]  # type: ignore[attr-defined]
        with work_folder(f"robust_smiles_{place}", {**SETTINGS, "by": by.version}, smoke) as folder:
            rows = each(cases, partial(attempt, model=model), folder)
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(cases[row["name"]].group, []).append(row)
        everything = summed(provider, "all", rows)
        table += [*(summed(provider, group, found) for group, found in groups.items()), everything]
        pieces += rows
        summary |= {
            f"{provider}: lines": len(rows),
            f"{provider}: lines that end as neither conformers nor a sentence (goal: 0)": everything["unexpected"],
            f"{provider}: lines later than their limit (goal: 0)": everything["late"],
            f"{provider}: wrong isomers among the conformers made (goal: 0)": everything["wrong isomers"],
        }
    return Answer(table, summary, computed(pieces))


def collect(provider: str, smoke: bool) -> dict[str, Case]:
    """The lines, by names for their files."""
    rng = np.random.default_rng(SETTINGS["seed"])
    counts = SMOKE if smoke else SETTINGS
    limit = 2.0 if smoke else SETTINGS["time limit s"]
    lines = [("QM9", molecule.smiles) for molecule in sample_qm9(counts["QM9"], rng)]
    while len(lines) < counts["QM9"] + counts["drug-like"]:
        molecule = random_druglike(rng, SETTINGS["atoms of these"])
        if molecule is not None:
            lines.append(("drug-like", molecule.smiles))
    nasty = [(group, smiles) for group, found in NASTY.items() for smiles in (found[:2] if smoke else found)]
    return {f"{place:04d}": Case(provider, *line, limit) for place, line in enumerate([*lines, *nasty])}


def attempt(case: Case, model: str) -> Row:
    """What a line ends as."""
    begin = time.monotonic()
    wrong = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProviderWarning)
            ensemble = maker(case.provider, model).sample(
                case.smiles, SETTINGS["conformers"], time_limit=case.time_limit
            )
        end, sentence = "made" if not ensemble.shortage else "some made", ensemble.shortage
        wrong = sum(is_other_isomer(parse(case.smiles), atoms.positions) is True for atoms in ensemble)
    except InputError as error:
        end, sentence = "refused", str(error)
    except ProviderError as error:
        end, sentence = "time limit" if "time limit" in error.failures else "no structure", str(error)
    taken = time.monotonic() - begin
    plain = end == "made" or (sentence.endswith(".") and "\n" not in sentence)
    return {
        "end": end if plain else "unexpected",
        "sentence": sentence,
        "taken": taken,
        "late": taken > case.time_limit + LATE,
        "wrong": wrong,
        "smiles": case.smiles[:200],
    }


def summed(provider: str, group: str, rows: list[Row]) -> Row:
    """The row of a provider and group."""
    ends = [row.get("end", "unexpected") for row in rows]
    taken = [row["taken"] for row in rows if "taken" in row]
    return {
        "provider": provider,
        "group": group,
        "lines": len(rows),
        **{
            end: ends.count(end) for end in ("made", "some made", "refused", "no structure", "time limit", "unexpected")
        },
        "late": sum(row.get("late", False) for row in rows),
        "wrong isomers": sum(row.get("wrong", 0) for row in rows),
        "median s": median(taken) if taken else None,
        "longest s": max(taken, default=None),
    }


@cache
def maker(provider: str, model: str) -> Provider:
    """One for each process."""
    return RDKitProvider() if provider == "RDKit" else ConformerProvider(model, device="cpu")


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["rdkit"], model=MODEL, on_card=True, settings=SETTINGS)
