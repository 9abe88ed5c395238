"""Is the graph that DiTMC sees the same by whatever road a molecule comes, on more than 1,000 molecules?

Molecules of QM9 and drug-like ones, one random stereoisomer of each (what a SMILES string leaves open, positions would
decide), embedded by RDKit. Beside the SMILES string: the molecule with its bonds kekulised,
with positions, from its binary form, from its mol block, and as ASE's atoms with bonds and formal charges. All keep the
order of atoms. Off positions RDKit does not read the handedness of nitrogen (in rings of three, at bridgeheads) and
phosphorus with three neighbours. Of ASE's atoms we do, but for nitrogen with a hydrogen, whose hand usual SMILES
strings cannot name. Where all that differs is that centres are left open, molecules are counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from _frame import Answer, answer, progress
from _graphs import bonds_of, centres_of
from ase import Atoms
from geomol_training.labelling.druglike import random_druglike
from geomol_training.labelling.qm9 import sample_qm9
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from ase_geomol.models.ditmc import ORGANIC, MolecularGraph
from ase_geomol.providers.features import graph_of
from ase_geomol.providers.molecules import Molecule, Request, parse

SETTINGS = {"QM9": 600, "drug-like": 600, "atoms of these": (15, 60), "seed": 23}
OTHER, OPEN = "of another graph", "stereocentres left open"
ARRAYS = ("numbers", "atom_features", "hops", "sides", "root")


def run(smoke: bool) -> Answer:
    """One row for each road."""
    counts: dict[str, dict[str, int]] = {}
    embedded = 0
    for smiles in progress(islice(_smiles(), 5 if smoke else None), "molecules"):
        molecule = _isomer(parse(smiles))
        mol = Chem.Mol(molecule.mol)
        if rdDistGeom.EmbedMolecule(mol, randomSeed=1) != 0:
            continue
        embedded += 1
        first = graph_of(molecule, ORGANIC)
        for road, request in _roads(molecule, mol).items():
            count = counts.setdefault(road, {"molecules": 0, OTHER: 0, OPEN: 0})
            count["molecules"] += 1
            second = graph_of(parse(request), ORGANIC)
            lost, added = _centres_lost_and_added(first, second)
            other = bool(added) or not _same_but_for_centres(first, second)
            count[OTHER] += other
            count[OPEN] += bool(lost) and not other
    rows = [{"road": road, **count} for road, count in counts.items()]
    other, left_open = (sum(row[name] for row in rows) for name in (OTHER, OPEN))
    told = {"graphs that differ otherwise (goal: 0)": other, "graphs with stereocentres left open": left_open}
    return Answer(rows, {"molecules embedded": embedded, **told})


def _smiles() -> Iterator[str]:
    random = np.random.default_rng(SETTINGS["seed"])
    for molecule in sample_qm9(SETTINGS["QM9"], random):
        yield molecule.smiles
    wanted = SETTINGS["drug-like"]
    drawn = (random_druglike(random, SETTINGS["atoms of these"]) for _ in iter(int, 1))
    yield from islice((molecule.smiles for molecule in drawn if molecule is not None), wanted)


def _isomer(molecule: Molecule) -> Molecule:
    """With hydrogens as atoms, so that C=N-H counts."""
    options = StereoEnumerationOptions(maxIsomers=1, onlyUnassigned=True, rand=SETTINGS["seed"])
    return parse(next(iter(EnumerateStereoisomers(molecule.mol, options=options))))


def _roads(molecule: Molecule, mol: Chem.Mol) -> dict[str, Request]:
    kekulised = Chem.Mol(molecule.mol)
    Chem.Kekulize(kekulised, clearAromaticFlags=True)
    atoms = Atoms(molecule.numbers, mol.GetConformer().GetPositions(), info={"bonds": molecule.bonds})
    atoms.set_array("formal_charge", molecule.formal_charges)
    return {
        "kekulised": kekulised,
        "RDKit molecule": mol,
        "binary": Chem.Mol(mol.ToBinary()),
        "mol block": Chem.MolFromMolBlock(Chem.MolToMolBlock(mol), removeHs=False),
        "ASE's atoms": atoms,
    }


def _same_but_for_centres(first: MolecularGraph, second: MolecularGraph) -> bool:
    alike = all(torch.equal(getattr(first, name), getattr(second, name)) for name in ARRAYS)
    return alike and bonds_of(first) == bonds_of(second)


def _centres_lost_and_added(first: MolecularGraph, second: MolecularGraph) -> tuple[list[list[int]], list[list[int]]]:
    """Four atoms of each stereocentre of one graph that is not, with the same handedness, in the other."""
    before, after = centres_of(first), centres_of(second)
    lost = [four for four, odd in before if (four, odd) not in after]
    return lost, [four for four, odd in after if (four, odd) not in before]


if __name__ == "__main__":
    answer(__doc__ or "", run, ["rdkit"], settings=SETTINGS)
