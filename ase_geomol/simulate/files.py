"""Files that grow while a simulation runs and stay valid when it is cut off."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.io.extxyz import write_extxyz
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

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
    buffer = io.StringIO()
    write_extxyz(buffer, _with_results(atoms, info))
    return buffer.getvalue()


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write a structure with its energy and forces, whole or not at all, in the format of the file's name.

    Raises:
        OutputError: the place cannot be written, or ASE cannot write this structure in that format; then it is
            kept beside it as extended XYZ.
    """
    try:
        _write_whole(path, atoms)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    except Exception as error:  # every one of ASE's writers has its own
        reason = f"ASE cannot write {path} ({type(error).__name__}: {error})"
        if path.suffix == ".extxyz":
            raise OutputError(f"{reason}.") from error
        spare = path.with_name(f"{path.name}.extxyz")
        write_structure(spare, atoms)
        raise OutputError(f"{reason}: the structure is in {spare} instead.") from error


def _write_whole(path: Path, atoms: Atoms) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary, _with_results(atoms, {}), format=filetype(str(path), read=False))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def names_structure_file(path: Path) -> bool:
    """Whether a name is that of a structure's file, because its suffix is a format of ASE, and not of a folder.

    Raises:
        OutputError: ASE reads that format, but does not write it.
    """
    if not path.suffix or path.is_dir():
        return False
    try:
        name = filetype(str(path), read=False)
    except UnknownFileTypeError:
        return False
    if name not in ioformats:
        return False
    if not ioformats[name].can_write:
        raise OutputError(f"ASE writes no files like {path} (format {name}): choose another suffix, as .extxyz.")
    return True


def _with_results(atoms: Atoms, info: Mapping[str, Any]) -> Atoms:
    frame = atoms.copy()
    frame.info.update(info)
    calc = atoms.calc
    results = calc.results if calc is not None and not calc.check_state(atoms) else {}  # never of another structure
    known = {key: results[key] for key in ("energy", "forces", "stress") if key in results}
    frame.calc = SinglePointCalculator(frame, **known)
    return frame


def see_free(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that is not ours to replace.

    Raises:
        OutputError: it exists, and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already: choose another place with --out, or replace it with --overwrite.")
