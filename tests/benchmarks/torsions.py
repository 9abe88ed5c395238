"""How well does the energy follow when a bond of an unseen molecule is turned?

Twenty neutral molecules of the conformer benchmark that have a rotatable bond (RDKit's definition, not strict: amides
and esters count); one such bond each, drawn at random. Only their SMILES are taken from there: the geometry is RDKit's
(ETKDGv3, MMFF94s), relaxed by GFN2-xTB. Then GFN2-xTB turns the bond in 24 steps of 15°, each from the geometry before:
the four atoms of the torsion are held, all others relax. Where a relaxation ended before its forces were small, the
point counts and is also counted as "not relaxed". Our energies, and those of GFN1-xTB as a peer, are single points on
exactly these geometries. Error: mean over the 24 points of the absolute difference to GFN2-xTB, both profiles counted
from their own mean, or both from their own minimum. Goal: a mean error of at most 0.5 kcal/mol, counted from the mean,
which does not hang on a single point. The picture shows every profile.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _gfn2 import relaxed, xtb
from _measures import profile_errors
from _unseen import DATA, SEED, unseen
from _work import computed, each, frames_of, table, work_folder
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.units import kcal, mol
from geomol_training.labelling.geometry import rotated, side_of_bond
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem.Lipinski import RotatableBondSmarts

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import load_structure, relax

MODEL = "geomformer-organic"
SMOKE = ("CCCC",)
SETTINGS = {
    "data": DATA,
    "seed": SEED,
    "molecules": 20,
    "points": 24,
    "fmax eV/Å": 0.03,
    "most steps": 200,
    "most steps at first": 2000,
}
OURS, PEER = "error kcal/mol, from the ", "GFN1-xTB's error kcal/mol, from the "
COLUMNS = {
    "atoms": sum,
    "bond": lambda bonds: "",
    "not relaxed": sum,
    "barrier kcal/mol": np.mean,
    "error of the barrier kcal/mol": lambda errors: float(np.mean(np.abs(errors))),
    OURS + "mean": np.mean,
    OURS + "minimum": np.mean,
    PEER + "mean": np.mean,
    PEER + "minimum": np.mean,
}


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule, then means over all."""
    points = 4 if smoke else SETTINGS["points"]
    with (
        work_folder("torsions", SETTINGS, smoke) as reference,
        work_folder("torsions", SETTINGS, smoke, model) as folder,
    ):
        found = (atoms for atoms in unseen(SMOKE if smoke else ()) if rotatable_bonds(atoms.info["smiles"]))
        molecules = {atoms.info["name"]: atoms.info["smiles"] for atoms in islice(found, SETTINGS["molecules"])}
        rows = each(molecules, partial(_row, model=model, points=points, reference=reference), folder)
        _draw([row for row in rows if not row["error"]], folder / "torsions.png")
    shown = table(rows, COLUMNS)
    last = shown[-1]
    summary = {
        "mean error in kcal/mol, counted from the mean (goal: at most 0.5)": last[OURS + "mean"],
        "mean error in kcal/mol, counted from the minimum": last[OURS + "minimum"],
        "GFN1-xTB's mean error in kcal/mol, counted from the mean": last[PEER + "mean"],
        "GFN1-xTB's mean error in kcal/mol, counted from the minimum": last[PEER + "minimum"],
        "points that GFN2-xTB did not relax": last["not relaxed"],
        "molecules that ended with an error (goal: 0)": last["error"],
    }
    return Answer(shown, summary, computed(rows))


def rotatable_bonds(smiles: str) -> list[tuple[int, int]]:
    """Pairs of heavy atoms of the bonds that may turn, in the order of the SMILES."""
    return sorted(Chem.MolFromSmiles(smiles).GetSubstructMatches(RotatableBondSmarts))


def torsion_of(smiles: str, seed: int) -> tuple[list[int], np.ndarray]:
    """The four atoms of a randomly drawn torsion, heavy ones at the ends where there are, and the side that turns."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    bonds = Chem.GetAdjacencyMatrix(molecule).astype(bool)
    choices = rotatable_bonds(smiles)
    first, second = choices[int(np.random.default_rng(seed).integers(len(choices)))]
    side = side_of_bond(bonds, first, second)
    assert side is not None  # a rotatable bond is in no ring
    ends = [
        max(set(np.nonzero(bonds[atom])[0].tolist()) - {other}, key=lambda i: (molecule.GetAtomWithIdx(i).GetMass(), i))
        for atom, other in ((first, second), (second, first))
    ]
    return [ends[0], first, second, ends[1]], side


def _row(smiles: str, model: str, points: int, reference: Path) -> Row:
    key = Chem.MolToInchiKey(Chem.MolFromSmiles(smiles))
    frames = frames_of(reference / f"{key}.extxyz", partial(_turn, smiles, points))
    calculator = GeoMolCalculator(model)
    profiles = {
        "GFN2-xTB": [atoms.get_potential_energy() for atoms in frames],
        "GFN1-xTB": [atoms.info["gfn1_eV"] for atoms in frames],
        "ours": [calculator.get_potential_energy(atoms) for atoms in frames],
    }
    curves = {name: np.array(energies) / (kcal / mol) for name, energies in profiles.items()}
    ours, peer = (profile_errors(curves[name], curves["GFN2-xTB"]) for name in ("ours", "GFN1-xTB"))
    torsion, _ = torsion_of(smiles, SEED)
    return {
        "atoms": len(frames[0]),
        "bond": "{1}{0}-{3}{2}".format(*(x for i in torsion[1:3] for x in (i, frames[0].symbols[i]))),
        "not relaxed": sum(not atoms.info["relaxed"] for atoms in frames),
        "barrier kcal/mol": float(np.ptp(curves["GFN2-xTB"])),
        "error of the barrier kcal/mol": ours["barrier"],
        **{OURS + zero: ours[zero] for zero in ("mean", "minimum")},
        **{PEER + zero: peer[zero] for zero in ("mean", "minimum")},
        "curves": {name: curve.tolist() for name, curve in curves.items()},
    }


def _turn(smiles: str, points: int) -> list[Atoms]:
    """Geometries of GFN2-xTB around the circle, with its energies; GFN1-xTB's in ``info``."""
    torsion, side = torsion_of(smiles, SEED)
    fmax, gfn2, gfn1, frames = SETTINGS["fmax eV/Å"], xtb(), xtb("GFN1-xTB"), []
    atoms = relaxed(load_structure(smiles), fmax, SETTINGS["most steps at first"]).atoms
    for _ in range(points):
        atoms.calc, atoms.constraints = gfn2, [FixAtoms(torsion)]
        found = relax(atoms, fmax=fmax, steps=SETTINGS["most steps"], optimizer="LBFGS")
        atoms = found.atoms
        about = {"gfn1_eV": gfn1.get_potential_energy(atoms), "relaxed": found.converged}
        frame = Atoms(atoms.numbers, atoms.positions, info=about)
        frame.calc = SinglePointCalculator(frame, energy=atoms.get_potential_energy())
        frames.append(frame)
        axis = atoms.positions[torsion[2]] - atoms.positions[torsion[1]]
        atoms = rotated(atoms, side, atoms.positions[torsion[1]], axis, 360 / points)
    return frames


def _draw(rows: list[Row], path: Path) -> None:
    """Every profile, counted from its own mean."""
    across = 5
    down = -(-len(rows) // across)
    figure = Figure(figsize=(3 * across, 2.2 * max(down, 1)), layout="constrained")
    for place, row in enumerate(rows):
        axes = figure.add_subplot(down, across, place + 1)
        for (name, curve), style in zip(row["curves"].items(), ("k-", "0.7", "C0-"), strict=True):
            angles = 360 * np.arange(len(curve)) / len(curve)
            axes.plot(angles, np.array(curve) - np.mean(curve), style, label=name)
        axes.set_title(f"{row['name']} {row['bond']}", fontsize=8)
        axes.set(xticks=[0, 120, 240, 360])
    if rows:
        figure.axes[0].legend(fontsize=7)
        figure.supxlabel("Turned by (°)")
        figure.supylabel("Energy − mean (kcal/mol)")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite", "rdkit"], model=MODEL, on_card=True, settings=SETTINGS)
