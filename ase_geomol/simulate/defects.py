"""What it costs to open a crystal: surfaces and vacancies."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import surface

from ..errors import ConfigError, GeoMolError, InputError, MissingExtraError
from .cells import see_crystal
from .relax import RelaxResult, relax, see_goal
from .supercells import repeats

NEAR = 0.05
"""Å, by which depths of atoms may differ that count as one plane."""
JOULE_PER_SQUARE_METRE = units.J / units.m**2


@dataclass(frozen=True)
class SurfaceEnergy:
    """A slab with two surfaces, and what they cost.

    Attributes:
        energy: J/m², of one surface after relaxation.
        unrelaxed: J/m², with the bulk's positions.
        cut: the slab before relaxation; where its ends differ, as of polar surfaces, energies are means of both.
        slab: how its relaxation ended.
        area: Å², of one surface.
        unlike: whether the two surfaces differ.
    """

    energy: float
    unrelaxed: float
    cut: Atoms
    slab: RelaxResult
    area: float
    unlike: bool


def conventional_cell(atoms: Atoms, symprec: float = 1e-3) -> Atoms:
    """The crystal in the conventional cell of its symmetry (by spglib), which Miller indices refer to.

    It is turned, and has numbers and positions only: neither info, tags, moments, charges, constraints nor calculator.

    Args:
        atoms: a crystal in any of its cells.
        symprec: Å, to find the symmetry.

    Raises:
        ConfigError: symprec is not positive.
        InputError: no crystal, or one whose symmetry spglib does not find.
        MissingExtraError: spglib is not installed.
    """
    see_crystal(atoms, "A conventional cell")
    see_symmetry(symprec)
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice about its own errors
        cell: Any = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        found = spglib.standardize_cell(cell, symprec=symprec)
    if found is None:
        raise InputError("spglib finds no symmetry of this crystal, and so no conventional cell.")
    cell, places, numbers = found
    return Atoms(numbers, cell=cell, scaled_positions=places, pbc=True)


def miller_cell(atoms: Atoms, symprec: float = 1e-3) -> Atoms:
    """The cell that Miller indices refer to, with the calculator.

    It is the crystal's `conventional_cell`, but ``atoms`` themselves where they are as many: they are a conventional
    cell then, perhaps in another setting. Raises as `conventional_cell`.
    """
    conventional = conventional_cell(atoms, symprec)
    if len(conventional) == len(atoms):
        return atoms
    conventional.calc = atoms.calc
    return conventional


def see_symmetry(symprec: float) -> None:
    """Refuse to look for a `conventional_cell`.

    Raises:
        ConfigError: symprec is not positive.
        MissingExtraError: spglib is not installed.
    """
    if not symprec > 0:
        raise ConfigError(f"symprec ({symprec} Å) must be positive.")
    if find_spec("spglib") is None:
        raise MissingExtraError("spglib", "materials", "Conventional cells")


def surface_energy(
    atoms: Atoms,
    miller: tuple[int, int, int],
    *,
    layers: int = 6,
    vacuum: float = 10.0,
    fmax: float = 0.02,
    steps: int = 500,
) -> SurfaceEnergy:
    """Cut a slab out of a crystal, relax its positions, and compare with the bulk: ``(E_slab - n E_bulk) / 2A``.

    The slab is periodic in its plane only. Where the two ends of a compound's slab differ, the energy is the mean of
    the two surfaces.

    Args:
        atoms: the relaxed crystal, with a calculator. The indices refer to its cell as it is: see `conventional_cell`.
        miller: indices of the surface; a common factor says nothing and is taken out: (2, 2, 0) is (1, 1, 0).
        layers: repetitions of the cell along the surface's normal.
        vacuum: Å, at either side.
        fmax: eV/Å, to which positions are relaxed.
        steps: at most so many.

    Raises:
        ConfigError: Miller indices of zero only, or layers, vacuum, ``fmax`` or ``steps`` that are not positive.
        InputError: no crystal, or ASE cannot cut it so.
    """
    see_crystal(atoms, "A surface energy")
    see_slab(miller, layers, vacuum, fmax, steps)
    slab = _cut(atoms, miller, layers)
    slab.center(vacuum=vacuum, axis=2)
    slab.pbc = (True, True, False)
    slab.calc = atoms.calc
    bulk = len(slab) / len(atoms) * atoms.get_potential_energy()
    area = float(np.linalg.norm(np.cross(*slab.cell.array[:2])))
    relaxed = relax(slab, fmax=fmax, steps=steps, optimizer="LBFGS")
    first, last = ((energy - bulk) / (2 * area) / JOULE_PER_SQUARE_METRE for energy in relaxed.energies[[0, -1]])
    return SurfaceEnergy(float(last), float(first), slab, relaxed, area, _ends_differ(slab))


def see_slab(miller: tuple[int, int, int], layers: int, vacuum: float, fmax: float, steps: int) -> None:
    """Refuse settings of `surface_energy`; raises :class:`ConfigError`."""
    if not any(miller) or layers < 1 or not vacuum > 0:
        raise ConfigError(f"miller {miller}, layers ({layers}) or vacuum ({vacuum} Å) make no slab.")
    see_goal(fmax, steps)


def vacancy_energy(
    atoms: Atoms, index: int = 0, *, size: float = 9.0, fmax: float = 0.02, steps: int = 500
) -> tuple[float, RelaxResult]:
    """Take one atom out of a supercell, relax the others, and compare: ``E(N - 1) - (N - 1)/N E(N)`` in eV.

    The cell stays as it is. The atom that is taken goes back to the crystal, so this is for elements.

    Args:
        atoms: a relaxed crystal of one element, with a calculator.
        index: which atom is taken.
        size: Å, least distance of the vacancy to its images.
        fmax: eV/Å, to which positions are relaxed.
        steps: at most so many.

    Raises:
        ConfigError: no such atom, or a size that is not positive.
        InputError: no crystal, or one of several elements.
    """
    see_crystal(atoms, "A vacancy")
    if len(set(atoms.numbers.tolist())) > 1:
        raise InputError("A vacancy of a compound leaves a reservoir to choose: this energy is for elements.")
    if not 0 <= index < len(atoms) or not size > 0:
        raise ConfigError(f"There is no atom {index} to take out, or size ({size} Å) is not positive.")
    whole = atoms.repeat(repeats(atoms.cell, size))
    count = len(whole)
    del whole[index]
    whole.calc = atoms.calc
    relaxed = relax(whole, fmax=fmax, steps=steps, optimizer="LBFGS")
    reference = (count - 1) / len(atoms) * atoms.get_potential_energy()
    return float(relaxed.energies[-1] - reference), relaxed


def _cut(atoms: Atoms, miller: tuple[int, int, int], layers: int) -> Atoms:
    """A slab without vacuum, with all of the crystal's atoms that belong there."""
    indices = np.array(miller) // np.gcd.reduce(miller)
    normal = indices @ atoms.cell.reciprocal().array
    raised = atoms.copy()  # atoms of one plane around the cell's wall would go to both ends of the slab
    raised.positions += NEAR * normal / np.linalg.norm(normal)
    try:
        slab = surface(raised, indices, layers, periodic=True)
    except Exception as error:  # ASE's own errors name no cause
        raise InputError(f"ASE cannot cut the surface {miller}: {type(error).__name__}: {error}") from error
    same_volume = np.isclose(slab.get_volume(), layers * atoms.get_volume(), rtol=1e-6)
    if not (same_volume and _same_composition(slab, atoms)):
        raise GeoMolError(f"The slab {slab.get_chemical_formula()} is not of the bulk's density and composition.")
    return slab


def _ends_differ(slab: Atoms) -> bool:
    """Whether atoms near one surface are others, or stand at other depths, than near the other one."""
    height = slab.positions[:, 2]
    below, above = height - height.min(), height.max() - height
    return any(
        np.abs(np.sort(below[slab.numbers == number]) - np.sort(above[slab.numbers == number])).max() > NEAR
        for number in set(slab.numbers.tolist())
    )


def _same_composition(slab: Atoms, bulk: Atoms) -> bool:
    first, second = (np.bincount(atoms.numbers, minlength=119) / len(atoms) for atoms in (slab, bulk))
    return bool(np.allclose(first, second))
