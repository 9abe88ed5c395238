"""Files that are written whole or not at all, and the folders they go into."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .errors import OutputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary neighbour of ``path`` and rename it there.

    Raises:
        OutputError: no such folder, no permission, no space.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:  # an interrupt must not leave the temporary file either
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
        raise


def make_folder(folder: Path) -> None:
    """Create a folder for results.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {folder}: {error.strerror or error}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"Cannot write into the folder {folder}: Permission denied.")
