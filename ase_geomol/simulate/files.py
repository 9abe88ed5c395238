"""Files that grow while a simulation runs and stay valid when it is cut off."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from ..errors import OutputError


class GrowingFile:
    """A text file that only grows; a piece that cannot be written whole is taken back.

    Args:
        path: the file.
        size: bytes to keep of an existing file; 0 starts it anew.

    Raises:
        OutputError: the place cannot be written; on `write`, also a full disk.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path, self.size = path, size
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.ftruncate(self._handle, size)
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error

    def write(self, text: str) -> None:
        """Append ``text``, straight to the operating system."""
        content = text.encode()
        done = 0
        try:
            while done < len(content):
                done += os.pwrite(self._handle, content[done:], self.size + done)
        except OSError as error:
            os.ftruncate(self._handle, self.size)
            raise OutputError(
                f"Cannot write {self.path}: {error.strerror or error}. All earlier steps are kept."
            ) from error
        self.size += done

    def close(self) -> None:
        """Close the file; half a piece, left by an interrupt, is cut off."""
        os.ftruncate(self._handle, self.size)
        os.close(self._handle)


def frame_text(atoms: Atoms, info: Mapping[str, Any]) -> str:
    """One extended-XYZ frame with the calculator's energy, forces and stress, and ``info`` added to its own."""
    frame = atoms.copy()
    frame.info.update(info)
    known = {key: atoms.calc.results[key] for key in ("energy", "forces", "stress") if key in atoms.calc.results}  # type: ignore[union-attr]
    frame.calc = SinglePointCalculator(frame, **known)
    buffer = io.StringIO()
    write_extxyz(buffer, frame)
    return buffer.getvalue()


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
