"""From names of files, folders and patterns to packed frames, with a cache of what was read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import Literal, NamedTuple

from ase_geomol.errors import DataError

from . import qm9
from .checks import Inspector, Limits
from .frames import Frames, Row, load_frames, pack, save_frames
from .readers import Keys, read_rows

FORMAT = 1
"""Part of a cache's key; raised when frames are packed differently."""

READ_FROM_FOLDERS = (".extxyz", ".xyz", ".traj", ".db", ".npz", ".xz", ".gz")


class Loaded(NamedTuple):
    """Frames, how many rows were left out for which reason, and the cache's key (None without a cache)."""

    frames: Frames
    skipped: Counter[str]
    key: str | None


def find_files(sources: str | Sequence[str]) -> list[Path]:
    """Files that one or more names mean: a file, a folder (its data files), a pattern such as ``a/*.traj``, or
    "qm9pack".

    Raises:
        DataError: a name means nothing.
    """
    files: list[Path] = []
    for source in [sources] if isinstance(sources, str) else sources:
        path = Path(source)
        if path.is_dir():
            inside = [entry for entry in path.iterdir() if _is_data(entry)]
        elif path.exists():
            inside = [path]
        elif source == qm9.PACKAGE:
            inside = qm9.package_files()
        else:
            inside = [Path(name) for name in glob(source, recursive=True)]
        if not inside:
            raise DataError(
                f"'{source}' is no file, no folder with data files ({' '.join(READ_FROM_FOLDERS)}) and no pattern "
                "that matches any: check the path; it is relative to the working directory."
            )
        files += sorted(inside)
    return list(dict.fromkeys(files))


def _is_data(entry: Path) -> bool:
    return entry.is_file() and entry.suffix in READ_FROM_FOLDERS and not entry.name.startswith(".")


def load(
    sources: str | Sequence[str],
    keys: Keys,
    limits: Limits,
    *,
    bad_rows: Literal["raise", "skip"] = "raise",
    cache: Path | None = None,
    report: Callable[[int, int], None] = lambda done, files: None,
) -> Loaded:
    """Read, check and pack all frames that ``sources`` mean.

    Args:
        sources: see `find_files`.
        keys: where the labels stand.
        limits: what a row may contain.
        bad_rows: raise at a bad row, or count and skip it.
        cache: folder where the packed frames are kept, and found again while no file has changed.
        report: told the number of files done and of all.

    Raises:
        DataError: no such file; a damaged file or a bad row; nothing left.
    """
    files = find_files(sources)
    key = fingerprint(files, keys, limits, bad_rows)
    stored = None if cache is None else cache_file(cache, key)
    if stored is not None and stored.exists():
        return Loaded(*load_frames(stored), key)
    inspector = Inspector(limits, bad_rows)
    frames = pack(_all_rows(files, keys, inspector, report))
    if len(frames) == 0:
        raise DataError(f"No usable row in {len(files)} files: {describe_skipped(inspector.skipped)}.")
    if stored is not None:
        save_frames(stored, frames, inspector.skipped)
    return Loaded(frames, inspector.skipped, key if stored is not None else None)


def cache_file(folder: Path, key: str) -> Path:
    """Where the packed frames of a key are kept."""
    return folder / f"data-{key}.npz"


def fingerprint(files: Sequence[Path], keys: Keys, limits: Limits, bad_rows: str) -> str:
    """A short name of what would be read: files by name, size and time, and every setting."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    content = json.dumps([FORMAT, stats, asdict(keys), asdict(limits), bad_rows])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def describe_skipped(skipped: Counter[str]) -> str:
    """One phrase such as ``3 rows left out: 2 no energy, 1 unknown element``."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
    return f"{skipped.total()} rows left out" + (f": {reasons}" if reasons else "")


def _all_rows(
    files: Sequence[Path], keys: Keys, inspector: Inspector, report: Callable[[int, int], None]
) -> Iterator[Row]:
    for done, path in enumerate(files, start=1):
        yield from inspector.passed(read_rows(path, keys), path)
        report(done, len(files))
