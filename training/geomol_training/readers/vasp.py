"""Outputs of VASP: ``vasprun.xml`` and ``OUTCAR`` with all their ionic steps, through ASE; compressed ones, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ase import Atoms
from ase.io import iread

from ..frames import Row
from .ase_files import row_of_atoms
from .damage import row_or_damage
from .keys import Keys


def is_vasprun(path: Path) -> bool:
    """Whether it is called ``vasprun.xml``, ``vasprun.relax2.xml.gz`` or so."""
    return "vasprun" in path.name and ".xml" in path.suffixes


def is_outcar(path: Path) -> bool:
    """Whether it is called ``OUTCAR``, ``OUTCAR.relax2.gz`` or so."""
    return path.name.startswith("OUTCAR")


def without_twins(files: Iterable[Path]) -> list[Path]:
    """The files of a folder but for its OUTCARs where a vasprun.xml tells the same calculation."""
    files = list(files)
    twice = any(map(is_vasprun, files))
    return [path for path in files if not (twice and is_outcar(path))]


def files_beside(outcar: Path) -> list[Path]:
    """Where ASE looks for fixed atoms, which an OUTCAR does not tell."""
    return [path for path in (outcar.with_name(name) for name in ("CONTCAR", "POSCAR")) if path.exists()]


def read_vasp(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the finished ionic steps.

    The energy is the free one ("TOTEN", "e_fr_energy"), whose derivatives VASP's forces and stress are, and not that
    without smearing ("energy(sigma->0)"), which ASE calls the energy.
    """
    for atoms in iread(str(path), index=":", format="vasp-xml" if is_vasprun(path) else "vasp-out"):
        yield row_or_damage(_row, atoms, keys)


def _row(atoms: Atoms, keys: Keys) -> Row:
    assert atoms.calc is not None
    atoms.calc.results["energy"] = atoms.calc.results["free_energy"]
    return row_of_atoms(atoms, keys)
