"""Elastic constants from stresses of strained crystals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms, units
from ase.stress import full_3x3_to_voigt_6_stress

from ..errors import ConfigError
from .cells import see_crystal
from .relax import relax, see_goal


@dataclass(frozen=True)
class Elasticity:
    """Elastic constants of a crystal, with the averages of Voigt, Reuss and Hill for a polycrystal.

    Attributes:
        constants: (6, 6) GPa, symmetric, along the cell's Cartesian axes, order xx yy zz yz xz xy, by engineering
            strains.
        asymmetry: GPa, largest difference of the constants from their transpose before they were made symmetric: it
            tells how far the stresses are from linear.
        bulk_modulus: GPa, Hill's average.
        shear_modulus: GPa, Hill's average.
        youngs_modulus: GPa.
        poisson_ratio: dimensionless.
        anisotropy: universal index of Ranganathan and Ostoja-Starzewski (2008); 0 where all directions are alike.
        stable: whether every strain costs energy (Born's criteria).
        unrelaxed: at how many strains the positions were not relaxed to ``fmax``.
    """

    constants: np.ndarray
    asymmetry: float
    bulk_modulus: float
    shear_modulus: float
    youngs_modulus: float
    poisson_ratio: float
    anisotropy: float
    stable: bool
    unrelaxed: int = 0


def elasticity(
    atoms: Atoms,
    *,
    strain: float = 0.005,
    points: int = 4,
    fmax: float | None = 0.001,
    on_strain: Callable[[int, int], object] | None = None,
) -> Elasticity:
    """Strain a crystal in six ways, relax its positions, and fit a line to each stress.

    Args:
        atoms: a crystal whose cell is relaxed, with a calculator that gives stresses; use double precision.
        strain: largest engineering strain, to both sides.
        points: strains of each kind, an even number.
        fmax: eV/Å, to which positions are relaxed at each strain; None keeps them (clamped ions).
        on_strain: called with the number of strains done and of all.

    Raises:
        ConfigError: an odd number of points, a strain outside 0 to 0.1, or ``fmax`` not positive.
        InputError: no crystal.
    """
    see_crystal(atoms, "Elasticity")
    see_strains(strain, points, fmax)
    sizes = np.linspace(-strain, strain, points + 1)
    sizes = sizes[sizes != 0]
    rows = np.empty((6, 6))
    done = unrelaxed = 0
    for component in range(6):
        stresses = []
        for size in sizes:
            stress, converged = _stress(atoms, component, size, fmax)
            stresses.append(stress)
            unrelaxed += not converged
            done += 1
            if on_strain:
                on_strain(done, 6 * len(sizes))
        rows[component] = np.polyfit(sizes, np.array(stresses), 1)[0]
    return replace(averages(rows / units.GPa), unrelaxed=unrelaxed)


def see_strains(strain: float, points: int, fmax: float | None) -> None:
    """Refuse settings of `elasticity`; raises :class:`ConfigError`."""
    if points < 2 or points % 2 or not 0 < strain < 0.1:
        raise ConfigError(f"points ({points}) must be even, strain ({strain}) between 0 and 0.1.")
    if fmax is not None:
        see_goal(fmax)


def averages(constants: np.ndarray) -> Elasticity:
    """Polycrystalline averages of elastic constants (6, 6) in GPa (Hill, Proc. Phys. Soc. A 65, 349 (1952))."""
    symmetric = (constants + constants.T) / 2
    normal, mixed, shears = _sums(symmetric)
    voigt = np.array([(normal + 2 * mixed) / 9, (normal - mixed + 3 * shears) / 15])
    normal, mixed, shears = _sums(np.linalg.pinv(symmetric))
    reuss = np.array([1 / (normal + 2 * mixed), 15 / (4 * normal - 4 * mixed + 3 * shears)])
    bulk, shear = (voigt + reuss) / 2
    return Elasticity(
        constants=symmetric,
        asymmetry=float(np.abs(constants - constants.T).max()),
        bulk_modulus=float(bulk),
        shear_modulus=float(shear),
        youngs_modulus=float(9 * bulk * shear / (3 * bulk + shear)),
        poisson_ratio=float((3 * bulk - 2 * shear) / (2 * (3 * bulk + shear))),
        anisotropy=float(5 * voigt[1] / reuss[1] + voigt[0] / reuss[0] - 6),
        stable=bool(np.linalg.eigvalsh(symmetric).min() > 0),
    )


def _sums(tensor: np.ndarray) -> tuple[float, float, float]:
    """Sums over a tensor (6, 6): normal strains by themselves, by each other, and shears by themselves."""
    return np.trace(tensor[:3, :3]), tensor[0, 1] + tensor[0, 2] + tensor[1, 2], np.trace(tensor[3:, 3:])


def _stress(atoms: Atoms, component: int, size: float, fmax: float | None) -> tuple[np.ndarray, bool]:
    """Stress (6,) in eV/Å³ under one engineering strain, and whether positions were relaxed as far as asked."""
    change = np.zeros((3, 3))
    i, j = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)][component]
    change[i, j] += size / 2
    change[j, i] += size / 2
    strained = atoms.copy()
    strained.calc = atoms.calc
    strained.set_cell(atoms.cell.array @ (np.eye(3) + change), scale_atoms=True)
    converged = True
    if fmax is not None and len(atoms) > 1:
        end = relax(strained, fmax=fmax)
        strained, converged = end.atoms, end.converged
    return full_3x3_to_voigt_6_stress(strained.get_stress(voigt=False)), converged
