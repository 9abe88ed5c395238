"""Structures that the benchmarks share; every one follows from its arguments alone."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from ase_geomol.simulate.structures import load_structure

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
DRUGS = (
    ASPIRIN,
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "CS(=O)(=O)Nc1ccc(Cl)cc1F",
    "COP(=O)(OC)OC=C(Cl)Cl",
    "Brc1ccc(cc1)C(=O)NCCO",
    "Ic1ccc(cc1)C(F)(F)F",
    "OCC1OC(O)C(O)C(O)C1O",
    "c1ccc2c(c1)CCCN2",
)
"""Ten molecules of 15 to 33 atoms, with H C N O F P S Cl Br I among them."""
DENSITY = 1.049
"""g/cm³ of acetic acid at room temperature."""
AVOGADRO = 0.602214
"""cm³/Å³ per mol."""
TURNS, SWEEPS = 500, 3


def peptide(residues: int) -> Atoms:
    """Acetyl-(alanine)n-methylamide: 12 + 10 n atoms."""
    return load_structure("CC(=O)" + "N[C@@H](C)C(=O)" * residues + "NC")


def liquid(atoms: int, seed: int = 0) -> Atoms:
    """Periodic acetic acid of 64, 128, 256, 512 … atoms: boxes of eight molecules side by side, slightly moved."""
    doublings = (atoms // 64).bit_length() - 1
    if atoms != 64 * 2**doublings:
        raise ValueError(f"{atoms} atoms are not 64, 128, 256, 512 …")
    box = _eight_molecules(seed) * [2 ** ((doublings + 2 - axis) // 3) for axis in range(3)]
    box.positions += np.random.default_rng(seed).normal(0, 0.02, box.positions.shape)
    return box


def _eight_molecules(seed: int) -> Atoms:
    """Eight molecules on a cubic grid; in turns, each takes the one of many random turns that keeps most distance."""
    random = np.random.default_rng(seed)
    one = molecule("CH3COOH")
    centred = one.positions - (one.positions.max(0) + one.positions.min(0)) / 2
    spacing = (one.get_masses().sum() / (AVOGADRO * DENSITY)) ** (1 / 3)
    centres = spacing * np.array(list(np.ndindex(2, 2, 2)))
    positions = centres[:, None] + centred
    for index in SWEEPS * list(range(8)):
        turns = Rotation.from_quat(random.normal(size=(TURNS, 4))).as_matrix()
        choices = centres[index] + centred @ turns
        others = np.delete(positions, index, axis=0).reshape(-1, 3)
        positions[index] = choices[np.argmax([_contact(choice, others, 2 * spacing) for choice in choices])]
    return Atoms(8 * list(one.numbers), positions.reshape(-1, 3), cell=[2 * spacing] * 3, pbc=True)


def _contact(first: np.ndarray, second: np.ndarray, edge: float) -> float:
    """Shortest distance between two groups of atoms in a periodic cube."""
    vectors = first[:, None] - second
    vectors -= edge * np.round(vectors / edge)
    return float(np.sqrt((vectors**2).sum(-1).min()))
