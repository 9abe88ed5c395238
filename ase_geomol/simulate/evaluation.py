"""Errors of a calculator on labelled structures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read

from ..errors import DataError, GeoMolError
from ..files import write_atomically
from .structures import see_ordered


@dataclass(frozen=True)
class Evaluation:
    """Labels and predictions of M structures.

    Attributes:
        n_atoms: (M,).
        energies: (M, 2) eV, label and prediction.
        forces: M arrays (N, 3, 2) eV/Å, label and prediction; of no rows where a structure has no forces.
    """

    n_atoms: np.ndarray
    energies: np.ndarray
    forces: tuple[np.ndarray, ...]

    @property
    def force_errors(self) -> np.ndarray:
        """Mean absolute error of the force components of each structure (M,) in eV/Å; NaN without labels."""
        return np.array([np.abs(f[..., 1] - f[..., 0]).mean() if f.size else np.nan for f in self.forces])

    @property
    def errors(self) -> dict[str, tuple[float, float]]:
        """Mean absolute and root mean square error by quantity, in meV and meV/Å."""
        energy = self.energies[:, 1] - self.energies[:, 0]
        deviations = {"energy (meV)": energy, "energy per atom (meV)": energy / self.n_atoms}
        if any(f.size for f in self.forces):
            deviations["forces (meV/Å)"] = np.concatenate([(f[..., 1] - f[..., 0]).ravel() for f in self.forces])
        return {
            name: (1000 * float(np.abs(d).mean()), 1000 * float(np.sqrt((d**2).mean())))
            for name, d in deviations.items()
        }

    def write_csv(self, path: Path) -> None:
        """Write one line for each structure: label, prediction and error of its energy, error of its forces.

        Raises:
            OutputError: the place cannot be written.
        """
        lines = ["structure,atoms,energy_label_eV,energy_eV,energy_error_meV_per_atom,force_mae_meV_per_A"]
        for index, ((label, energy), atoms, force) in enumerate(
            zip(self.energies, self.n_atoms, self.force_errors, strict=True)
        ):
            error = 1000 * (energy - label) / atoms
            lines.append(f"{index},{atoms},{label:.8f},{energy:.8f},{error:.4f},{1000 * force:.4f}")
        write_atomically(path, ("\n".join(lines) + "\n").encode())


def load_structures(path: str, index: str = ":") -> list[Atoms]:
    """Read structures, with their results if there are any, from any file that ASE reads.

    Args:
        path: the file.
        index: which, as ASE's slices.

    Raises:
        DataError: the file cannot be read, or has no such structures.
        InputError: a crystal is disordered.
    """
    if not os.path.isfile(path):
        raise DataError(f"There is no file '{path}'.")
    try:
        frames = read(path, index)
    except Exception as error:  # every one of ASE's readers has its own
        raise DataError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    found = [frames] if isinstance(frames, Atoms) else list(frames)
    for atoms in found:
        see_ordered(atoms, path)
    return found


def evaluate(
    frames: Sequence[Atoms], calculator: Calculator, on_frame: Callable[[int], object] | None = None
) -> Evaluation:
    """Compare a calculator with the energies and forces stored in ``frames``.

    Args:
        frames: structures with stored results; energies are needed, forces are compared where they are.
        calculator: any of ASE's.
        on_frame: called with the number of structures done.

    Raises:
        DataError: no structures, one without an energy or with labels that are not finite, or one that the
            calculator refuses.
    """
    if not frames:
        raise DataError("There are no structures to evaluate.")
    labels = [_labels(frame, index) for index, frame in enumerate(frames)]
    energies, forces = [], []
    for index, (frame, (energy, known)) in enumerate(zip(frames, labels, strict=True)):
        structure = frame.copy()
        structure.calc = calculator
        try:
            energies.append((energy, structure.get_potential_energy()))
            predicted = structure.get_forces(apply_constraint=False)
        except GeoMolError as error:
            raise DataError(f"Structure {index} cannot be computed: {error}") from error
        forces.append(np.empty((0, 3, 2)) if known is None else np.stack([known, predicted], axis=-1))
        if on_frame is not None:
            on_frame(index + 1)
    return Evaluation(np.array([len(f) for f in frames]), np.array(energies, dtype=float), tuple(forces))


def _labels(frame: Atoms, index: int) -> tuple[float, np.ndarray | None]:
    """Energy, and forces if there are any, stored in the structure of this index."""
    results = frame.calc.results if frame.calc is not None else {}
    if "energy" not in results:
        raise DataError(f"Structure {index} has no energy to compare with.")
    energy, forces = results["energy"], results.get("forces")
    if not np.isfinite(energy):
        raise DataError(f"Structure {index} has an energy that is not finite ({energy}): leave it out.")
    if forces is not None and not np.isfinite(forces).all():
        atom = int(np.flatnonzero(~np.isfinite(forces).all(axis=1))[0])
        raise DataError(f"Structure {index} has a force that is not finite, on atom {atom}: leave it out.")
    return energy, forces
