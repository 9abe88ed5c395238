"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ase_geomol.errors import ConfigError
from ase_geomol.files import make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "in-use"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; where the system or the disk knows no locks, nothing happens.

    Raises:
        ConfigError: another one is there.
        OutputError: the folder cannot be written.
    """
    make_folder(folder)
    if fcntl is None:
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"Another process works in {folder}: wait for it, or choose another folder.") from error
        except OSError:
            pass  # a disk without locks
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
