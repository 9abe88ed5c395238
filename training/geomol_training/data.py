"""From names of files, folders and patterns to packed frames, with a cache of what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ase_geomol.errors import DataError

from .checks import Inspector, Limits, describe_skipped
from .frames import Frames, Row, load_frames, pack, save_frames
from .packed import check_packed, open_packed, packed_identity
from .readers import Keys, read_rows
from .sources import find_files, fingerprint


class Loaded(NamedTuple):
    """Frames, how many rows were left out for which reason, and the cache's key (None without a cache)."""

    frames: Frames
    skipped: Counter[str]
    key: str | None


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
        sources: see `geomol_training.sources.find_files`; or one folder that `preprocess` packed.
        keys: where the labels stand.
        limits: what a row may contain.
        bad_rows: raise at a bad row, or count and skip it.
        cache: folder where the packed frames are kept, and found again while no file has changed.
        report: told the number of files done and of all.

    Raises:
        DataError: no such file; a damaged file or a bad row; nothing left.
    """
    if (identity := packed_identity(sources)) is not None:
        frames, skipped = open_packed(Path(str(sources)))
        check_packed(Path(str(sources)), keys, limits)
        return Loaded(frames, skipped, identity)
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


def _all_rows(
    files: Sequence[Path], keys: Keys, inspector: Inspector, report: Callable[[int, int], None]
) -> Iterator[Row]:
    for done, path in enumerate(files, start=1):
        yield from inspector.passed(read_rows(path, keys), path)
        report(done, len(files))
