"""Equation of state: energy against volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.eos import EquationOfState as Fit

from ..errors import ConfigError, InputError
from .cells import rescaled, see_crystal
from .relax import relax, see_goal

EDGE = 0.2
"""Share of the range of volumes, at either end, in which a minimum is not believed."""


@dataclass(frozen=True)
class EquationOfState:
    """Energies at several volumes, and the Birch-Murnaghan curve through them.

    Attributes:
        volumes: (P,) Å³.
        energies: (P,) eV.
        volume: Å³, where the curve has its minimum.
        energy: eV there.
        bulk_modulus: GPa.
        derivative: of the bulk modulus by pressure.
        residual: eV, largest distance of a point from the curve.
        atoms: the structure scaled to ``volume``, with its calculator.
        unrelaxed: at how many volumes the positions were not relaxed to ``fmax``.
    """

    volumes: np.ndarray
    energies: np.ndarray
    volume: float
    energy: float
    bulk_modulus: float
    derivative: float
    residual: float
    atoms: Atoms
    unrelaxed: int

    def curve(self, volumes: np.ndarray) -> np.ndarray:
        """Energies (eV) of the fitted curve (Birch, Phys. Rev. 71, 809 (1947))."""
        eta = (self.volume / volumes) ** (2 / 3) - 1
        strength = 9 * self.volume * self.bulk_modulus * units.GPa / 16
        return self.energy + strength * (self.derivative * eta**3 + eta**2 * (2 - 4 * eta))


def equation_of_state(
    atoms: Atoms,
    *,
    strain: float = 0.03,
    points: int = 9,
    fmax: float | None = 0.005,
    on_point: Callable[[int, float, float], object] | None = None,
) -> EquationOfState:
    """Scale a crystal evenly, and fit the third-order Birch-Murnaghan equation to its energies.

    Args:
        atoms: a crystal near its equilibrium, with a calculator.
        strain: largest relative change of lengths, to both sides.
        points: how many volumes.
        fmax: eV/Å, to which positions are relaxed at each volume; None keeps them.
        on_point: called with number, volume (Å³) and energy (eV) after each.

    Raises:
        ConfigError: fewer than 5 points, a strain outside 0 to 0.3, or ``fmax`` not positive.
        InputError: no crystal, or no minimum of the energy among these volumes.
    """
    see_crystal(atoms, "An equation of state")
    see_volumes(strain, points, fmax)
    volumes, energies, unrelaxed = np.empty(points), np.empty(points), 0
    for number, factor in enumerate(np.linspace(1 - strain, 1 + strain, points)):
        scaled = rescaled(atoms, factor)
        if fmax is not None:
            end = relax(scaled, fmax=fmax)
            scaled, unrelaxed = end.atoms, unrelaxed + (not end.converged)
        volumes[number], energies[number] = scaled.get_volume(), scaled.get_potential_energy()
        if on_point:
            on_point(number + 1, volumes[number], energies[number])
    return _fitted(atoms, volumes, energies, unrelaxed)


def see_volumes(strain: float, points: int, fmax: float | None) -> None:
    """Refuse settings of `equation_of_state`; raises :class:`ConfigError`."""
    if points < 5 or not 0 < strain < 0.3:
        raise ConfigError(f"points ({points}) must be at least 5, strain ({strain}) between 0 and 0.3.")
    if fmax is not None:
        see_goal(fmax)


def _fitted(atoms: Atoms, volumes: np.ndarray, energies: np.ndarray, unrelaxed: int) -> EquationOfState:
    fit = Fit(volumes, energies, eos="birchmurnaghan")
    try:
        volume, energy, bulk_modulus = fit.fit(warn=False)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"No equation of state fits these energies ({error}): relax the cell first.") from error
    margin = EDGE * np.ptp(volumes)
    if not volumes.min() + margin < volume < volumes.max() - margin or bulk_modulus <= 0:
        raise InputError(
            f"The energy has no minimum well inside {volumes.min():.2f} to {volumes.max():.2f} Å³: "
            "relax the cell first, or take a larger strain."
        )
    return EquationOfState(
        volumes=volumes,
        energies=energies,
        volume=float(volume),
        energy=float(energy),
        bulk_modulus=float(bulk_modulus / units.GPa),
        derivative=float(fit.eos_parameters[2]),
        residual=float(np.abs(fit.func(volumes, *fit.eos_parameters) - energies).max()),
        atoms=rescaled(atoms, (volume / atoms.get_volume()) ** (1 / 3)),
        unrelaxed=unrelaxed,
    )
