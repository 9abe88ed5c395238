"""Does the energy rank the conformers of unseen drug-like molecules as better methods do?

All neutral molecules of the conformer benchmark whose elements the potential knows, its conformers as published, our
energies as single points. Spearman's rank correlation within each molecule, against the benchmark's columns of
GFN2-xTB (what was learned) and of DLPNO-CCSD(T), mean and median over molecules; beside it MMFF94 and GFN2-xTB
themselves, on the same conformers. The columns of GFN2-xTB and DLPNO-CCSD(T) are atomisation energies, larger is more
stable, and change their sign here. Error: mean absolute difference of energies counted from the molecule's mean.
Left out: charged molecules, other elements, conformers without an energy in all columns that are compared, molecules
of which fewer than 3 conformers are left, and those whose energies of MMFF94 spread over more than 30 kcal/mol, up to
thousands, where something else than a conformer went wrong. A molecule that ends with an error is a row of its own
below.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
from _frame import Answer, Row, answer
from _gfn2 import xtb
from _unseen import BENCHMARK, as_atoms, benchmark_frames, is_neutral
from _work import computed, each, work_folder
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers
from ase.units import kcal, mol
from scipy.stats import spearmanr

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import load_structure
from ase_geomol.simulate.files import frame_text

MODEL = "geomformer-organic"
SMOKE = "CCCCO"
SETTINGS = {"data": BENCHMARK.name, "fewest conformers": 3, "largest spread of MMFF94 kcal/mol": 30.0}
SPREAD = "largest spread of MMFF94 kcal/mol"
SIGNS = {"gfn2": -1, "dlpno": -1, "mmff": 1}
COMPARED = {"gfn2": ("ours", "mmff"), "dlpno": ("ours", "mmff", "gfn2")}
NAMES = {"ours": "ours", "gfn2": "GFN2-xTB", "dlpno": "DLPNO-CCSD(T)", "mmff": "MMFF94"}
COLUMNS = (
    "reference",
    "method",
    "molecules",
    "left out: too few conformers",
    "conformers",
    "mean Spearman",
    "median Spearman",
    "error kcal/mol",
    "error",
)
Conformer = tuple[dict[str, Any], str]
"""Header and text of a structure."""


def run(smoke: bool, model: str) -> Answer:
    """One row for each method against each reference, with what was left out."""
    known = GeoMolCalculator(model).elements
    molecules, left_out = choose(_smoke_conformers() if smoke else list(benchmark_frames()), known)
    with work_folder("conformers", SETTINGS, smoke, model) as folder:
        rows = each(molecules, partial(_energies, model=model), folder)
    energies = [row["energies"] for row in rows if not row["error"]]
    failed = [{"method": f"{row['name']}, left out", "error": row["error"]} for row in rows if row["error"]]
    table = [
        {"reference": NAMES[reference], "method": NAMES[method], **score, "error": ""}
        for reference, methods in COMPARED.items()
        for method, score in compare(energies, reference, methods).items()
    ]
    even = [{name: row.get(name) for name in COLUMNS} for row in (*table, *failed)]
    ranks = {
        f"{which} Spearman of {row['method']} with {row['reference']}": row[f"{which} Spearman"]
        for row in table
        for which in ("mean", "median")
    }
    summary = {**ranks, **left_out, "molecules that ended with an error (goal: 0)": len(failed)}
    return Answer(even, summary, computed(rows))


def choose(frames: list[Conformer], known: set[int]) -> tuple[dict[str, list[Conformer]], Row]:
    """The conformers of each molecule that the potential knows, and how many molecules were left out for what."""
    molecules: dict[str, list[Conformer]] = defaultdict(list)
    charged, foreign, spread = set(), set(), set()
    for info, text in frames:
        name = str(info["molecule"])
        elements = {atomic_numbers[line.split(maxsplit=1)[0]] for line in text.splitlines()[2:]}
        if not is_neutral(info):
            charged.add(name)
        elif not elements <= known:
            foreign.add(name)
        else:
            molecules[name].append((info, text))
    for name, conformers in list(molecules.items()):
        energies = [float(info.get("mmff_kcal_mol", np.nan)) for info, _ in conformers]
        if np.isfinite(energies).any() and np.nanmax(energies) - np.nanmin(energies) > SETTINGS[SPREAD]:
            spread.add(name)
            del molecules[name]
    return dict(molecules), {
        "charged molecules, left out": len(charged),
        "molecules of other elements, left out": len(foreign),
        "molecules that MMFF94 spreads too far, left out": len(spread),
    }


def compare(molecules: list[dict[str, list[float]]], reference: str, methods: tuple[str, ...]) -> dict[str, Row]:
    """Scores of each method, on those conformers that have an energy (kcal/mol) of all methods; none if none have."""
    scores: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    used = 0
    for energies in molecules:
        values = np.array([energies[name] for name in (reference, *methods)])
        values = values[:, np.isfinite(values).all(0)]
        if values.shape[1] < SETTINGS["fewest conformers"]:
            continue
        used += values.shape[1]
        values -= values.mean(1, keepdims=True)
        for method, mine in zip(methods, values[1:], strict=True):
            rank = spearmanr(mine, values[0]).statistic  # pyright: ignore[reportAttributeAccessIssue]
            scores[method].append((float(rank), float(np.abs(mine - values[0]).mean())))
    return {
        method: {
            "molecules": len(found),
            "left out: too few conformers": len(molecules) - len(found),
            "conformers": used,
            "mean Spearman": float(np.nanmean([rank for rank, _ in found])),
            "median Spearman": float(np.nanmedian([rank for rank, _ in found])),
            "error kcal/mol": float(np.mean([error for _, error in found])),
        }
        for method, found in scores.items()
        if found
    }


def _energies(conformers: list[Conformer], model: str) -> Row:
    """Energies (kcal/mol, smaller is more stable) of all conformers by every method; NaN where there is none."""
    calculator = GeoMolCalculator(model)
    ours = [_energy(as_atoms(text), calculator) for _, text in conformers]
    columns = {
        name: [sign * float(info.get(f"{name}_kcal_mol", np.nan)) for info, _ in conformers]
        for name, sign in SIGNS.items()
    }
    return {"energies": {"ours": ours, **columns}}


def _energy(atoms: Atoms, calculator: Calculator) -> float:
    atoms.calc = calculator
    return float(atoms.get_potential_energy() / (kcal / mol))


def _smoke_conformers() -> list[Conformer]:
    """Some conformers of a small molecule, with GFN2-xTB in place of all columns."""
    calculator, frames = xtb(), []
    for seed in range(4):
        atoms = load_structure(SMOKE, seed=seed)
        energy = _energy(atoms, calculator)
        columns = {f"{name}_kcal_mol": sign * energy for name, sign in SIGNS.items()}
        frames.append(({"molecule": "smoke", **columns}, frame_text(atoms, {})))
    return frames


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, settings=SETTINGS)
