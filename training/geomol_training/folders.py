"""The folder that a command writes into."""

from __future__ import annotations

import os
from pathlib import Path

from ase_geomol.errors import OutputError


def make_folder(path: Path) -> None:
    """Make a folder, or see that it can be written; raises :class:`OutputError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {path}: {error.strerror}.") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"No permission to write into {path}.")
