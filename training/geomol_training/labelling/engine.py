"""GFN2-xTB through tblite: energies in eV, forces in eV/Å, one thread, restarted from the last density."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Bohr, Debye, Hartree

from ase_geomol.errors import MissingExtraError

LABEL_ACCURACY = 1.0  # tblite's own default: forces within 1e-3 eV/Å
DRIVING_ACCURACY = 100.0  # forces within 2e-2 eV/Å, half the time: good enough to move atoms between frames


class RejectedFrame(Exception):
    """A structure that gets no label; ``reason`` is counted and reported."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Electronic(NamedTuple):
    """What GFN2-xTB says of one structure: energy (eV), size of the dipole moment (D), HOMO-LUMO gap (eV)."""

    energy: float
    dipole: float
    gap: float


def import_tblite() -> Any:
    """Return ``tblite.interface``; raises :class:`MissingExtraError` where it is not installed."""
    try:
        import tblite.interface
    except ImportError as error:
        raise MissingExtraError("tblite", "labels", "Labelling with GFN2-xTB") from error
    return tblite.interface


class GFN2(Calculator):
    """GFN2-xTB as an ASE calculator of molecules of one charge and multiplicity.

    A change of positions restarts from the last density, any other change starts afresh. The energy is
    tblite's total energy: it includes the electronic entropy at 300 K, so that forces are its derivative.

    Args:
        accuracy: of tblite, smaller is better.
        charge: of every molecule, in elementary charges.
        multiplicity: 2S+1, of every molecule.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE's own interface)

    def __init__(self, accuracy: float = DRIVING_ACCURACY, *, charge: int = 0, multiplicity: int = 1) -> None:
        super().__init__()
        self.accuracy, self.charge, self.unpaired = accuracy, charge, multiplicity - 1
        self._interface = import_tblite()
        self._engine: Any = None
        self._density: Any = None
        self._numbers = np.zeros(0, dtype=int)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Fill ``results``; raises :class:`RejectedFrame` where the density does not converge."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # set by the base class
        energy, forces = self.evaluate(self.atoms, self.accuracy)
        self.results = {"energy": energy, "forces": forces}

    def evaluate(self, atoms: Atoms, accuracy: float) -> tuple[float, np.ndarray]:
        """Return the energy (eV) and the forces (N, 3) (eV/Å); raises :class:`RejectedFrame`."""
        try:
            return self._solve(atoms, accuracy)
        except self._interface.TBLiteRuntimeError:
            if self._density is None:
                self._engine = None
                raise RejectedFrame("density not converged") from None
        self._engine = None  # a bad restart: once more from the atomic densities
        try:
            return self._solve(atoms, accuracy)
        except self._interface.TBLiteRuntimeError:
            self._engine = self._density = None
            raise RejectedFrame("density not converged") from None

    def properties_of(self, atoms: Atoms) -> Electronic:
        """Energy, dipole and gap at these positions; raises :class:`RejectedFrame`.

        The dipole of an ion is that about its centre of mass; an orbital with one electron counts as occupied.
        """
        energy, _ = self.evaluate(atoms, LABEL_ACCURACY)
        dipole = np.asarray(self._density.get("dipole")) - self.charge * atoms.get_center_of_mass() / Bohr
        levels = np.asarray(self._density.get("orbital-energies"))
        electrons = np.asarray(self._density.get("orbital-occupations")).sum()
        occupied = round((electrons + self.unpaired) / 2)
        gap = levels[occupied] - levels[occupied - 1] if 0 < occupied < len(levels) else np.inf
        return Electronic(energy, float(np.linalg.norm(dipole) * Bohr / Debye), float(gap * Hartree))

    def _solve(self, atoms: Atoms, accuracy: float) -> tuple[float, np.ndarray]:
        positions = atoms.positions / Bohr
        if self._engine is None or not np.array_equal(self._numbers, atoms.numbers):
            self._numbers = atoms.numbers.copy()
            self._density = None
            self._engine = self._interface.Calculator(
                "GFN2-xTB", self._numbers, positions, charge=self.charge, uhf=self.unpaired
            )
            self._engine.set("verbosity", 0)
        else:
            self._engine.update(positions)
        self._engine.set("accuracy", accuracy)
        self._density = self._engine.singlepoint(self._density)
        energy = float(self._density.get("energy")) * Hartree
        forces = -np.asarray(self._density.get("gradient")) * (Hartree / Bohr)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise RejectedFrame("not finite")
        return energy, forces


def label(atoms: Atoms, max_force: float, engine: GFN2 | None = None) -> Atoms:
    """Return a copy of ``atoms`` with energy (eV) and forces (eV/Å) of GFN2-xTB.

    ``engine`` may carry the density of a structure near by. Raises :class:`RejectedFrame` when the
    density does not converge, a value is not finite, or a force exceeds ``max_force`` (eV/Å).
    """
    energy, forces = (engine or GFN2()).evaluate(atoms, LABEL_ACCURACY)
    if np.linalg.norm(forces, axis=1).max() > max_force:
        raise RejectedFrame("force too large")
    frame = Atoms(atoms.numbers, atoms.positions)
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
    return frame
