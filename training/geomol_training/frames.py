"""Labelled structures in one packed, immutable container of flat arrays."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.geometry import complete_cell

from ase_geomol.errors import DataError

from .arrays import write_arrays

CODED = ("group", "split", "source", "trajectory")
"""Arrays of `Frames` with indices into names, ``group_names`` and so on."""
OF_ATOMS = ("numbers", "positions", "forces", "energies", "tags", "fixed", "relaxed")
"""Arrays of `Frames` with a line for each atom."""
TOLD = {"forces": "has_forces", "energies": "has_energies", "stress": "has_stress", "relaxed": "has_relaxed"}
"""Arrays of `Frames` that structures may lack, and those that tell which have them. What no structure has takes no
memory and is not stored."""
SKIPPED = "skipped"
"""Name, in a file of packed frames, of the counts of rows that were left out."""


class Row(NamedTuple):
    """One labelled structure as a reader hands it over: eV, Å, eV/Å, eV/Å³.

    ``forces`` (N, 3), ``stress`` (3, 3) and the atoms' shares of the energy ``energies`` (N,), as potentials know them,
    are None where the file has none. ``group`` names what must not be divided between training and validation (a
    molecule), ``split`` the part that the file assigns, ``name`` the structure itself, ``trajectory`` the run that it
    is a frame of. ``tags`` (N,) are ASE's, ``fixed`` (N,) tells atoms that may not move, and ``relaxed`` (N, 3) is
    where a relaxation takes the atoms, if the file tells; the energy is then that of the end. ``damage`` says why a
    reader could not read the row, of which there is nothing else then; ``sought``, where there is no energy, its name
    and those that the file has.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float | None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    charge: int = 0
    spin: int = 1
    group: str = ""
    split: str = ""
    source: str = ""
    name: str = ""
    tags: np.ndarray | None = None
    fixed: np.ndarray | None = None
    relaxed: np.ndarray | None = None
    energies: np.ndarray | None = None
    damage: str = ""
    trajectory: str = ""
    sought: str = ""


def damaged_row(why: str) -> Row:
    """Stands for a row that cannot be read."""
    none = np.zeros((0, 3))
    return Row(np.zeros(0, dtype=np.int64), none, np.zeros((3, 3)), np.zeros(3, dtype=bool), None, damage=why)


@dataclass(frozen=True)
class Frames:
    """F structures with N atoms in all; the atoms of structure f are ``offsets[f]:offsets[f+1]``.

    Attributes:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å.
        forces: (N, 3) eV/Å, zero where a structure has none.
        energies: (N,) eV, the atoms' shares of the energy, zero where a structure has none.
        energy: (F,) eV, or the property that is learned, in its unit.
        stress: (F, 3, 3) eV/Å³ in ASE's sign, zero where a structure has none.
        has_forces: (F,) bool.
        has_stress: (F,) bool.
        has_energies: (F,) bool.
        cell: (F, 3, 3) Å, rows are lattice vectors.
        pbc: (F, 3) bool.
        offsets: (F+1,).
        charge: (F,) e.
        spin: (F,) multiplicity.
        name: (F,) text, of each structure; empty where the file gives none.
        tags: (N,) ASE's.
        fixed: (N,) bool, atoms that may not move.
        relaxed: (N, 3) Å, where a relaxation ends; the positions where a structure has none.
        has_relaxed: (F,) bool.
        group: (F,) index into ``group_names``; likewise ``split``, ``source`` and ``trajectory``.
        group_names: (G,) text; likewise ``split_names``, ``source_names`` and ``trajectory_names``.
    """

    numbers: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    energies: np.ndarray
    energy: np.ndarray
    stress: np.ndarray
    has_forces: np.ndarray
    has_stress: np.ndarray
    has_energies: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    offsets: np.ndarray
    charge: np.ndarray
    spin: np.ndarray
    name: np.ndarray
    tags: np.ndarray
    fixed: np.ndarray
    relaxed: np.ndarray
    has_relaxed: np.ndarray
    group: np.ndarray
    group_names: np.ndarray
    split: np.ndarray
    split_names: np.ndarray
    source: np.ndarray
    source_names: np.ndarray
    trajectory: np.ndarray
    trajectory_names: np.ndarray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name).flags.writeable = False

    def __reduce__(self) -> Any:
        """To another process, arrays that are mapped from files go as the files' names."""
        return _reopened, ({name: _as_file(values) for name, values in told_arrays(self).items()},)

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def n_atoms(self) -> np.ndarray:
        """Number of atoms (F,) of each structure."""
        return np.diff(self.offsets)

    def counts(self, index: np.ndarray) -> np.ndarray:
        """Number of atoms of the structures ``index``, whatever the number of all."""
        return self.offsets[index + 1] - self.offsets[index]

    @cached_property
    def told(self) -> frozenset[str]:
        """Those of `TOLD` that some structure has."""
        return frozenset(name for name, flag in TOLD.items() if getattr(self, flag).any())

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(int(number) for number in np.flatnonzero(np.bincount(self.numbers)))

    @cached_property
    def spins_told(self) -> bool:
        """Whether every multiplicity fits its number of electrons; else the data left it at the default.

        Free atoms, which have spins of their own, count where there is nothing else only.
        """
        fits, many = spins_fit(self), self.n_atoms > 1
        return bool(fits[many].all() if many.any() else fits.all())

    def atoms_of(self, index: np.ndarray) -> np.ndarray:
        """Positions, in the per-atom arrays, of all atoms of the structures ``index``, one after the other."""
        counts = self.counts(index)
        before = np.cumsum(counts) - counts
        return np.repeat(self.offsets[:-1][index] - before, counts) + np.arange(counts.sum())

    def take(self, index: np.ndarray) -> Frames:
        """The structures ``index``, in that order."""
        atoms, taken = self.atoms_of(index), {}
        for name, values in told_arrays(self).items():
            if name == "offsets":
                taken[name] = np.concatenate([[0], np.cumsum(self.counts(index))])
            else:
                taken[name] = values if name.endswith("_names") else values[atoms if name in OF_ATOMS else index]
        return completed(taken)


def spins_fit(frames: Frames) -> np.ndarray:
    """Whether the multiplicity (F,) of each structure fits its number of electrons."""
    electrons = np.add.reduceat(frames.numbers, frames.offsets[:-1]) - frames.charge
    return (electrons - frames.spin) % 2 == 1


def told_arrays(frames: Frames) -> dict[str, np.ndarray]:
    """All arrays by name, but those that no structure has."""
    names = [field.name for field in dataclasses.fields(frames)]
    return {name: getattr(frames, name) for name in names if name not in TOLD or name in frames.told}


def completed(arrays: Mapping[str, np.ndarray]) -> Frames:
    """Frames of these arrays, which need not have those that no structure has."""
    frames, atoms = len(arrays["energy"]), len(arrays["numbers"])
    untold = {
        "forces": np.broadcast_to(0.0, (atoms, 3)),
        "energies": np.broadcast_to(0.0, atoms),
        "stress": np.broadcast_to(0.0, (frames, 3, 3)),
        "relaxed": arrays["positions"],
    }
    return Frames(**{**arrays, **{name: untold[name] for name, flag in TOLD.items() if not arrays[flag].any()}})


def joined(first: Frames, second: Frames) -> Frames:
    """The structures of both, one after the other; ``*_names`` are those of both."""
    arrays, of_first, of_second = {}, told_arrays(first), told_arrays(second)
    for name in {**of_first, **of_second}:
        one, two = getattr(first, name), getattr(second, name)
        if name == "offsets":
            one, two = one, two[1:] + one[-1]
        elif f"{name}_names" in Frames.__dataclass_fields__:
            two = two + len(getattr(first, f"{name}_names"))
        arrays[name] = np.concatenate([one, two])
    return completed(arrays)


def _as_file(array: np.ndarray) -> np.ndarray | str:
    whole = isinstance(array, np.memmap) and array.base is not None and not isinstance(array.base, np.memmap)
    return str(array.filename) if whole else np.asarray(array)  # type: ignore[attr-defined]


def _reopened(arrays: dict[str, Any]) -> Frames:
    return completed({name: np.load(a, mmap_mode="r") if isinstance(a, str) else a for name, a in arrays.items()})


def displacements(frames: Frames) -> np.ndarray:
    """From the positions to the nearest images of the relaxed ones (N, 3) in Å; zero where there are none."""
    if not frames.has_relaxed.any():
        return np.zeros_like(frames.positions)
    apart = frames.relaxed - frames.positions
    for frame, (start, end) in enumerate(zip(frames.offsets[:-1], frames.offsets[1:], strict=True)):
        if frames.pbc[frame].any() and frames.has_relaxed[frame]:
            here, there = frames.positions[start:end], frames.relaxed[start:end]
            apart[start:end] = way(here, there, frames.cell[frame], frames.pbc[frame])
    return apart


def way(first: np.ndarray, last: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """From positions (N, 3) to the nearest images of others."""
    apart = last - first
    if pbc.any():
        whole = complete_cell(cell)
        apart = apart - (np.round(np.linalg.solve(whole.T, apart.T).T) * pbc) @ whole
    return apart


def pack(rows: Iterable[Row]) -> Frames:
    """Put rows into one container; rows are taken as they are (see `geomol_training.checks`)."""
    rows = list(rows)
    sizes = [len(row.numbers) for row in rows]
    arrays = {
        "numbers": _joined([row.numbers for row in rows], np.int64, ()),
        "positions": _joined([row.positions for row in rows], np.float64, (3,)),
        "energy": np.array([np.nan if row.energy is None else row.energy for row in rows], dtype=np.float64),
        "cell": np.array([row.cell for row in rows], dtype=np.float64).reshape(-1, 3, 3),
        "pbc": np.array([row.pbc for row in rows], dtype=bool).reshape(-1, 3),
        "offsets": np.cumsum([0, *sizes]),
        "charge": np.array([row.charge for row in rows], dtype=np.int64),
        "spin": np.array([row.spin for row in rows], dtype=np.int64),
        "name": np.array([row.name for row in rows], dtype=np.str_),
    }
    for name, dtype in (("tags", np.int32), ("fixed", np.bool_)):
        values = [getattr(row, name) for row in rows]
        arrays[name] = _joined([np.zeros(n) if v is None else v for n, v in zip(sizes, values, strict=True)], dtype, ())
    for name in CODED:
        arrays[name], arrays[f"{name}_names"] = coded([getattr(row, name) for row in rows])
    return completed(arrays | _told_by(rows))


def _told_by(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """What only some rows may have, and which of them; nothing of what none has."""
    arrays = {
        flag: np.array([getattr(row, name) is not None for row in rows], dtype=bool) for name, flag in TOLD.items()
    }
    if arrays["has_forces"].any():
        values = [np.zeros_like(row.positions) if row.forces is None else row.forces for row in rows]
        arrays["forces"] = _joined(values, np.float64, (3,))
    if arrays["has_energies"].any():
        values = [np.zeros(len(row.numbers)) if row.energies is None else row.energies for row in rows]
        arrays["energies"] = _joined(values, np.float64, ())
    if arrays["has_stress"].any():
        values = [np.zeros((3, 3)) if row.stress is None else row.stress for row in rows]
        arrays["stress"] = np.array(values, dtype=np.float64)
    if arrays["has_relaxed"].any():
        values = [row.positions if row.relaxed is None else row.relaxed for row in rows]
        arrays["relaxed"] = _joined(values, np.float64, (3,))
    return arrays


def _joined(parts: Sequence[np.ndarray], dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape)), *parts]).astype(dtype)


def coded(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Index of each name among the different ones, and these in order of appearance."""
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    return np.array([codes[name] for name in names], dtype=np.int64), np.array(list(codes), dtype=np.str_)


def save_frames(path: Path, frames: Frames, skipped: Mapping[str, int] | None = None) -> None:
    """Write an .npz without pickles, whole or not at all; raises :class:`OutputError`.

    ``skipped`` tells how many rows were left out for which reason.
    """
    arrays: dict[str, Any] = told_arrays(frames)
    arrays[SKIPPED] = np.array(json.dumps(dict(skipped or {})))
    write_arrays(path, arrays)


def load_frames(path: Path) -> tuple[Frames, Counter[str]]:
    """Read the frames and the counts that `save_frames` wrote; raises :class:`DataError` where they are damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = completed({name: arrays[name] for name in arrays if name != SKIPPED})
            return frames, Counter(json.loads(str(arrays[SKIPPED]))) if SKIPPED in arrays else Counter()
    except Exception as error:  # numpy and zipfile have a dozen ways to say that a file is damaged
        raise DataError(f"The packed data {path} is damaged: delete it and start again ({error}).") from error
