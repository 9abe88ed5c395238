"""From names of files and folders to packed sets of conformers, with a cache of what was read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ase_geomol.errors import DataError, InputError
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.refine import boltzmann_weights
from ase_geomol.providers.stereo import count_stereo, stereo_errors

from ..readers import Keys, read_intact_rows
from ..sources import find_files
from .geom import UNKNOWN_BONDS, has_unknown_bonds, read_geom, read_references
from .sets import ConformerSets, MoleculeSet, pack_sets, read_packed_sets, save_sets

FORMAT = 2
"""Part of a cache's key; raised when sets are read or packed differently."""


class LoadedSets(NamedTuple):
    """Sets of conformers, what was left out for which reason, and a short name of what was read."""

    sets: ConformerSets
    skipped: Counter[str]
    key: str


def load_sets(
    sources: str | Sequence[str],
    geom_splits: str | None = None,
    *,
    cache: Path | None = None,
    report: Callable[[int], None] = lambda molecules: None,
) -> LoadedSets:
    """Read and pack all conformers that ``sources`` mean.

    Args:
        sources: one or more of: a folder or files that ``geomol-train conformers`` wrote; a folder of GEOM's pickles;
            a ``test_mols.pkl``. See `geomol_training.conformers.geom`.
        geom_splits: the ``split0.npy`` of a folder of GEOM's; only its molecules are read.
        cache: folder where the packed sets are kept, and found again while no file has changed.
        report: told the number of molecules so far.

    Raises:
        DataError: no such file, a damaged one, or nothing left.
    """
    named = [sources] if isinstance(sources, str) else list(sources)
    splits = None if geom_splits is None else Path(geom_splits)
    key = _fingerprint([*(file for source in named for file in files_of(source)), *([splits] if splits else [])])
    stored = None if cache is None else cache_file(cache, key)
    if stored is not None and stored.exists():
        return LoadedSets(*read_packed_sets(stored), key)
    skipped: Counter[str] = Counter()
    sets = pack_sets(_reported((item for source in named for item in _read(source, splits, skipped)), report))
    skipped = +skipped
    if not len(sets):
        raise DataError(f"{' '.join(named)} has no conformers that can be used: {dict(skipped) or 'it is empty'}.")
    if stored is not None:
        save_sets(stored, sets, skipped)
    return LoadedSets(sets, skipped, key)


def cache_file(folder: Path, key: str) -> Path:
    """Where the packed sets with this key are kept."""
    return folder / f"conformers-{key}.npz"


def files_of(source: str) -> list[Path]:
    """Files that a name means; raises :class:`DataError` where there are none."""
    path = Path(source)
    if path.suffix == ".pkl" and path.is_file():
        return [path]
    pickles = sorted(path.glob("*.pickle")) if path.is_dir() else []
    return pickles or find_files(source)


def _read(source: str, splits: Path | None, skipped: Counter[str]) -> Iterator[MoleculeSet]:
    files = files_of(source)
    if files[0].suffix == ".pickle":
        yield from read_geom(Path(source), splits, skipped)
    elif files[0].suffix == ".pkl":
        yield from read_references(files[0], skipped)
    else:
        for file in files:
            yield from _read_frames(file, skipped)


def _read_frames(file: Path, skipped: Counter[str]) -> Iterator[MoleculeSet]:
    """Frames of one molecule follow each other; ``smiles`` says in which order its atoms are, and which isomer it is.

    Molecules that no conformer model knows, and conformers of another stereoisomer, are left out and counted.
    """
    for smiles, rows in groupby(read_intact_rows(file, Keys(name="smiles")), key=lambda row: row.name):
        frames = list(rows)
        try:
            molecule = parse(smiles)
        except InputError as error:
            raise DataError(f"{file} has a molecule that is none: {error}") from error
        if has_unknown_bonds(molecule):
            skipped[UNKNOWN_BONDS] += 1
            continue
        for row in frames:
            if not np.array_equal(row.numbers, molecule.numbers):
                raise DataError(f"{file} has conformers of {smiles} whose atoms are in another order than its own.")
        if count_stereo(molecule):
            right = [row for row in frames if not stereo_errors(molecule, row.positions)]
            skipped["conformers of another stereoisomer"] += len(frames) - len(right)
            frames = right
        if not frames:
            skipped["molecules without a conformer left"] += 1
            continue
        energies = np.array([np.nan if row.energy is None else row.energy for row in frames])
        order = np.argsort(energies, kind="stable")  # those without energies stay as they are
        positions = np.array([row.positions for row in frames])
        yield MoleculeSet(
            molecule=molecule,
            positions=positions[order],
            weights=_weights(energies)[order],
            energies=energies[order],
            group=frames[0].group,
            split=frames[0].split,
            source=frames[0].source,
        )


def _weights(energies: np.ndarray) -> np.ndarray:
    """Boltzmann weights (K,); equal ones where an energy is unknown."""
    known = np.isfinite(energies).all()
    return boltzmann_weights(energies) if known else np.full(len(energies), 1 / len(energies))


def _reported(sets: Iterator[MoleculeSet], report: Callable[[int], None]) -> Iterator[MoleculeSet]:
    for count, item in enumerate(sets, start=1):
        yield item
        report(count)


def _fingerprint(files: Sequence[Path]) -> str:
    """A short name of what would be read: files by name, size and time."""
    try:
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}.") from error
    return hashlib.sha256(json.dumps([FORMAT, stats]).encode()).hexdigest()[:16]
