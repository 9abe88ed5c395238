"""Harmonic phonons of crystals through phonopy: bands, density of states, thermal properties."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..errors import ConfigError, InputError, MissingExtraError, OutputError
from .cells import see_crystal
from .supercells import repeats

SUPERCELL = 10.0
"""Å: least distance of an atom to its images, unless the supercell is given."""
IMAGINARY = -0.1
"""THz: a frequency below it is imaginary; above it may be rounding of the acoustic modes around the centre."""
BAND_POINTS = 51


@dataclass(frozen=True)
class Phonons:
    """Phonons of a crystal. Frequencies in THz; imaginary ones are negative.

    Attributes:
        distances: (Q,) along the path through the Brillouin zone.
        bands: (Q, 3 n) frequencies there, of n atoms in the primitive cell.
        ticks: distances and names of the path's special points.
        dos_frequencies: (F,).
        dos: (F,) states per THz and primitive cell.
        temperatures: (T,) K.
        free_energy: (T,) kJ/mol of primitive cells; phonopy leaves imaginary modes out of this and the next two.
        entropy: (T,) J/K/mol.
        heat_capacity: (T,) J/K/mol, at constant volume.
        supercell: (3, 3) integers.
        primitive: atoms of the primitive cell, of which a mole is meant above.
        space_group: by phonopy.
        lowest: the lowest frequency on mesh and path.
        phonopy: phonopy's own object, with all that it can do.
    """

    distances: np.ndarray
    bands: np.ndarray
    ticks: tuple[tuple[float, str], ...]
    dos_frequencies: np.ndarray
    dos: np.ndarray
    temperatures: np.ndarray
    free_energy: np.ndarray
    entropy: np.ndarray
    heat_capacity: np.ndarray
    supercell: np.ndarray
    primitive: int
    space_group: str
    lowest: float
    phonopy: Any

    @property
    def stable(self) -> bool:
        """Whether no mode is imaginary."""
        return self.lowest > IMAGINARY

    def save(self, path: Path) -> None:
        """Write displacements, forces and force constants as phonopy's YAML file; raises :class:`OutputError`."""
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            self.phonopy.save(filename=str(temporary), settings={"force_constants": True})
            os.replace(temporary, path)
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
        finally:
            temporary.unlink(missing_ok=True)


def phonons(
    atoms: Atoms,
    *,
    supercell: tuple[int, int, int] | None = None,
    displacement: float = 0.01,
    mesh: float = 100.0,
    temperatures: tuple[float, float, float] = (0.0, 1000.0, 10.0),
    symprec: float = 1e-3,
    on_force: Callable[[int, int], object] | None = None,
) -> Phonons:
    """Displace atoms of a supercell, collect forces, and solve for the phonons.

    Args:
        atoms: a crystal whose positions and cell are relaxed, with a calculator; use double precision.
        supercell: repetitions of the cell; default: until images are `SUPERCELL` apart.
        displacement: Å.
        mesh: phonopy's length of the mesh of wave vectors: the larger, the denser.
        temperatures: K, first, last and step.
        symprec: Å, to find the symmetry: above what a relaxation and the digits of a file leave of it.
        on_force: called with the number of displaced supercells done and of all.

    Raises:
        ConfigError: a displacement, repetitions or symprec that are not positive.
        InputError: no crystal.
        MissingExtraError: phonopy is not installed.
    """
    see_crystal(atoms, "Phonons")
    see_displacements(supercell, displacement, symprec)
    phonon = _phonopy(atoms, np.diag(supercell or repeats(atoms.cell, SUPERCELL)), symprec)
    phonon.generate_displacements(distance=displacement)
    displaced = [_atoms(cell) for cell in phonon.supercells_with_displacements]
    rest = _atoms(phonon.supercell)
    rest.calc = atoms.calc
    offset = rest.get_forces()  # what a structure that is not quite relaxed has, and a finite cutoff's rounding
    forces = []
    for number, moved in enumerate(displaced):
        moved.calc = atoms.calc
        forces.append(moved.get_forces() - offset)
        if on_force:
            on_force(number + 1, len(displaced))
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return _solved(phonon, mesh, temperatures, symprec)


def see_displacements(supercell: tuple[int, int, int] | None, displacement: float, symprec: float) -> None:
    """Refuse settings of `phonons`, and to go on without phonopy.

    Raises:
        ConfigError: they are not positive.
        MissingExtraError: phonopy is not installed.
    """
    if not displacement > 0 or not symprec > 0 or (supercell is not None and min(supercell) < 1):
        raise ConfigError(
            f"displacement ({displacement} Å), supercell ({supercell}) and symprec ({symprec} Å) must be positive."
        )
    if find_spec("phonopy") is None:
        raise MissingExtraError("phonopy", "materials", "Phonons")


def _solved(phonon: Any, mesh: float, temperatures: tuple[float, float, float], symprec: float) -> Phonons:
    paths, names = _paths(_atoms(phonon.primitive), symprec)
    phonon.run_band_structure(paths)
    bands = phonon.band_structure
    distances, frequencies = np.concatenate(bands.distances), np.concatenate(bands.frequencies)
    ends = [(part[0], part[-1]) for part in bands.distances]
    ticks: dict[float, str] = {}
    for (start, end), (first, last) in zip(ends, names, strict=True):
        for place, name in ((float(start), first), (float(end), last)):
            ticks[place] = name if ticks.get(place, name) == name else f"{ticks[place]}|{name}"
    phonon.run_mesh(mesh)
    phonon.run_total_dos()
    first, last, step = temperatures
    phonon.run_thermal_properties(t_min=first, t_max=last, t_step=step, exclude_gamma_acoustic=True)
    dos, thermal = phonon.total_dos, phonon.thermal_properties
    return Phonons(
        distances=distances,
        bands=frequencies,
        ticks=tuple(ticks.items()),
        dos_frequencies=np.asarray(dos.frequency_points),
        dos=np.asarray(dos.dos),
        temperatures=np.asarray(thermal.temperatures),
        free_energy=np.asarray(thermal.free_energy),
        entropy=np.asarray(thermal.entropy),
        heat_capacity=np.asarray(thermal.heat_capacity),
        supercell=np.asarray(phonon.supercell_matrix),
        primitive=len(phonon.primitive),
        space_group=str(phonon.symmetry.get_international_table()),
        lowest=float(min(frequencies.min(), phonon.mesh.frequencies.min())),
        phonopy=phonon,
    )


def _paths(primitive: Atoms, symprec: float) -> tuple[list[np.ndarray], list[tuple[str, str]]]:
    """Segments of ASE's standard path for this lattice, seen within ``symprec`` (Å), and the names of their ends."""
    cell = primitive.cell  # ASE compares products of vectors, relative to the volume
    path = cell.bandpath(npoints=0, eps=2 * symprec * cell.lengths().max() / cell.volume ** (2 / 3))
    segments, names = [], []
    for run in path.path.split(","):
        points = _points(run)
        for first, last in pairwise(points):
            share = np.linspace(0, 1, BAND_POINTS)[:, None]
            segments.append((1 - share) * path.special_points[first] + share * path.special_points[last])
            names.append(tuple("Γ" if name == "G" else name for name in (first, last)))
    return segments, names


def _points(run: str) -> list[str]:
    """Names in a run such as "GXWK1G": letters, some with a digit behind."""
    names: list[str] = []
    for character in run:
        if character.isdigit():
            names[-1] += character
        else:
            names.append(character)
    return names


def _phonopy(atoms: Atoms, matrix: np.ndarray, symprec: float) -> Any:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="primitive_matrix defaulted")  # it is what we ask for
            return Phonopy(cell, supercell_matrix=matrix, primitive_matrix="auto", symprec=symprec)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"phonopy cannot use this crystal: {error}") from error


def _atoms(cell: Any) -> Atoms:
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, masses=cell.masses, pbc=True)
