"""One process at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ase_geomol.errors import ConfigError, OutputError
from ase_geomol.files import make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "in-use"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; where the system or the disk knows no locks, nothing happens.

    Processes that are forked from this one do not hold the lock, so it is free as soon as this one has died.

    Raises:
        ConfigError: another one is there.
        OutputError: the folder cannot be written.
    """
    make_folder(folder)
    if fcntl is None:
        yield
        return
    lock = _locked(folder)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(lock)


def _locked(folder: Path) -> int:
    assert fcntl is not None
    path = folder / LOCK
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            os.close(lock)
            raise ConfigError(f"Another process works in {folder}: wait for it, or choose another folder.") from error
        except OSError:
            return lock  # a disk without locks
        if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            return lock
        os.close(lock)  # whoever held it before has just taken the file away
