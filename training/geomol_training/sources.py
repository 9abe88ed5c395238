"""Which files a recipe's sources mean, and a short name of what would be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path

from ase_geomol.errors import DataError

from .checks import Limits
from .readers import Keys, files_read, oc20, qm9, vasp
from .readers.npz import portion_of_archive

FORMAT = 4
"""Part of a cache's key; raised when frames are packed differently."""

READ_FROM_FOLDERS = (".extxyz", ".xyz", ".traj", ".db", ".npz", ".xz", ".gz", ".lmdb", ".aselmdb")


def find_files(sources: str | Sequence[str]) -> list[Path]:
    """Files that one or more names mean: a file, a folder (its data files), a pattern such as ``a/*.traj``, "qm9pack",
    or a portion of rMD17's archive (`geomol_training.readers.npz.portion_of_archive`), which is no file.

    Raises:
        DataError: a name means nothing, or some files of OC20 lack the reference energies that others have.
    """
    files: list[Path] = []
    for source in [sources] if isinstance(sources, str) else sources:
        path = Path(source)
        if path.is_dir():
            inside = vasp.without_twins(_without_sizes([entry for entry in path.iterdir() if _is_data(entry)]))
        elif path.exists() or portion_of_archive(path) is not None:
            inside = [path]
        elif source == qm9.PACKAGE:
            inside = qm9.package_files()
        else:
            inside = [Path(name) for name in glob(source, recursive=True)]
        if not inside:
            raise DataError(
                f"'{source}' is no file, no folder with data files ({' '.join(READ_FROM_FOLDERS)} vasprun.xml OUTCAR) "
                "and no pattern that matches any: check the path; it is relative to the working directory."
            )
        files += sorted(inside)
    oc20.check_tables(files)
    return list(dict.fromkeys(files))


def _is_data(entry: Path) -> bool:
    if not entry.is_file() or entry.name.startswith("."):
        return False
    if vasp.is_vasprun(entry) or vasp.is_outcar(entry):
        return True
    return entry.suffix in READ_FROM_FOLDERS and not entry.name.endswith((".txt.xz", ".txt.gz"))


def _without_sizes(files: list[Path]) -> list[Path]:
    """Without the ``metadata.npz`` that is published beside LMDB files, the numbers of atoms in each structure."""
    databases = any(path.suffix in (".lmdb", ".aselmdb") for path in files)
    return [path for path in files if not (databases and path.name == "metadata.npz")]


def fingerprint(files: Sequence[Path], keys: Keys, limits: Limits, bad_rows: str) -> str:
    """A short name of what would be read: files, and those that are read along, by name, size and time; and every
    setting.
    """
    every = [(path, read) for path in files for read in files_read(path)]
    stats = [(str(path), str(read), read.stat().st_size, read.stat().st_mtime_ns) for path, read in every]
    content = json.dumps([FORMAT, stats, asdict(keys), asdict(limits), bad_rows])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
