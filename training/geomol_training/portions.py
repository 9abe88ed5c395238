"""A long pass over frames in portions that are kept on disk, so that a pass that was stopped goes on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from .alone import alone_in
from .arrays import write_arrays
from .frames import Frames

PORTION = 2000
"""Frames of a portion."""
Arrays = dict[str, np.ndarray]
Report = Callable[[int, int], None]
"""Told the number of frames done and of all."""


@contextmanager
def kept_until_done(folder: Path) -> Iterator[Path]:
    """A folder of portions for this process alone; it is deleted in the end, unless that is an error."""
    with alone_in(folder):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def in_portions(
    frames: Frames, compute: Callable[[Frames, Report], Arrays], folder: Path, identity: str, report: Report
) -> Iterator[Arrays]:
    """What ``compute`` gives for each portion of the frames.

    Args:
        frames: all of them.
        compute: given a portion, and whom to tell.
        folder: where portions are kept, each by its structures and ``identity``; one that is there is not computed.
        identity: all else that they depend on.
        report: told how far it is.
    """
    for start in range(0, len(frames), PORTION):
        portion = frames.take(np.arange(start, min(start + PORTION, len(frames))))
        path = folder / f"{_fingerprint(portion, identity)}.npz"
        if not path.exists():
            write_arrays(path, compute(portion, partial(_report_from, start, len(frames), report)))
        with np.load(path) as kept:
            yield dict(kept)
        report(start + len(portion), len(frames))


def _report_from(start: int, total: int, report: Report, done: int, _: int) -> None:
    report(start + done, total)


def _fingerprint(frames: Frames, identity: str) -> str:
    """Of all that predictions depend on."""
    digest = hashlib.sha256(identity.encode())
    for field in ("offsets", "numbers", "positions", "cell", "pbc", "charge", "spin", "tags", "fixed"):
        digest.update(np.ascontiguousarray(getattr(frames, field)).tobytes())
    return digest.hexdigest()[:16]
