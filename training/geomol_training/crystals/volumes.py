"""How large a crystal that nobody has seen may be: its atoms' distances and volumes in other crystals."""

from __future__ import annotations

from functools import cache

import numpy as np
from ase import Atoms
from ase.collections import dcdft
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from ase_geomol.errors import MissingExtraError

CONTACT = 1.05
"""Sums of covalent radii between the closest atoms of a crystal that `at_contact` has scaled."""
OVERLAP = 0.75
"""Sums of covalent radii: no atoms of a crystal that is built are closer."""


def at_predicted_volume(atoms: Atoms) -> Atoms:
    """Scale a crystal to about the volume that it would take.

    The lengths of bonds in other crystals (pymatgen's DLSVolumePredictor) say how large it is if its closest atoms are
    bonded, which is too large where a prototype brings together atoms that avoid each other in others. Its elements say
    how large it is as a metal, which is too large for salts. So the geometric mean of both, at most the first; of
    elements whose bonds pymatgen does not know, the second.
    """
    touching = at_contact(atoms)
    apart, bonded = sum(_volume_of_element(symbol) for symbol in atoms.symbols), _bonded_volume(touching)
    volume = min(bonded, np.sqrt(bonded * apart)) if np.isfinite(bonded) else apart
    least = touching.get_volume() * (OVERLAP / CONTACT) ** 3
    return _scaled(touching, (max(volume, least) / touching.get_volume()) ** (1 / 3))


def at_contact(atoms: Atoms) -> Atoms:
    """Scale a crystal so that its closest atoms are at `CONTACT` sums of covalent radii."""
    radii = covalent_radii[atoms.numbers]
    reach = 1.5 * (atoms.get_volume() / len(atoms)) ** (1 / 3)
    ratios = np.zeros(0)
    while not len(ratios):
        first, second, distance = neighbor_list("ijd", atoms, reach)
        ratios = distance / (radii[first] + radii[second])
        reach *= 1.5
    return _scaled(atoms, CONTACT / ratios.min())


def _scaled(atoms: Atoms, factor: float) -> Atoms:
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return scaled


def _bonded_volume(atoms: Atoms) -> float:
    """In Å³, not finite where it cannot be said; ``atoms`` touch, since no others are looked for farther away."""
    try:
        from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor
        from pymatgen.io.ase import AseAtomsAdaptor
    except ImportError as error:
        raise MissingExtraError("pymatgen", "labels", "Volumes of crystals") from error
    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)  # pyright: ignore[reportArgumentType]
    try:
        return float(predictor.predict(AseAtomsAdaptor.get_structure(atoms)))  # pyright: ignore[reportArgumentType]
    except ValueError:
        return float("nan")  # an element without a radius


@cache
def _volume_of_element(symbol: str) -> float:
    """In Å³ for an atom, in the crystal that is most stable."""
    if symbol in dcdft.names:
        crystal = dcdft[symbol]
        return crystal.get_volume() / len(crystal)
    from pymatgen.core import Element

    return float(Element(symbol).molar_volume) / 0.602214  # cm³/mol
