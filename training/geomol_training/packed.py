"""Large data sets: read once, by several processes, into arrays on disk that a training maps into memory.

A packed folder holds one ``.npy`` file for each array of `Frames`, and ``packed.json``. While it is made, every file
that was read, or part of a database, leaves a shard; a run that was stopped goes on with the next one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from ase_geomol.errors import DataError, OutputError
from ase_geomol.files import make_folder, write_atomically

from .alone import alone_in
from .checks import Inspector, Limits, describe_skipped
from .frames import CODED, OF_ATOMS, TOLD, Frames, completed, load_frames, pack, save_frames, spins_fit
from .pool import in_processes
from .readers import Keys, parts_of, read_rows
from .sources import find_files, fingerprint

CONTENT = "packed.json"
FORMAT = 4
ROWS_AT_ONCE = 10_000
"""Of a database, so that several processes read one."""


class Piece(NamedTuple):
    """A file, or a part of it, and the shard that it becomes."""

    file: Path
    part: slice
    shard: Path


def packed_identity(source: str | Sequence[str]) -> str | None:
    """What one packed folder holds, in short; None if ``source`` is none.

    Raises:
        DataError: it is damaged, or of another version.
    """
    if not isinstance(source, str) or not (Path(source) / CONTENT).is_file():
        return None
    try:
        identity = str(json.loads((Path(source) / CONTENT).read_text())["identity"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"The packed data {source} is damaged: delete it and preprocess again ({error}).") from error
    if not identity.startswith(f"{FORMAT}-"):
        raise DataError(f"The packed data {source} is of another version: delete it and preprocess again.")
    return identity


def preprocess(
    sources: str | Sequence[str],
    out: Path,
    keys: Keys = Keys(),
    limits: Limits = Limits(),
    *,
    bad_rows: Literal["raise", "skip"] = "raise",
    workers: int = 1,
    report: Callable[[int, int, int], None] = lambda done, parts, frames: None,
) -> tuple[Frames, Counter[str]]:
    """Read and check all that ``sources`` mean, and leave it packed in ``out``.

    Args:
        sources: files, folders or patterns, as in a recipe.
        out: folder; the same call again goes on there.
        keys: where labels stand.
        limits: what a row may contain.
        bad_rows: raise at a bad row, or count and skip it.
        workers: processes.
        report: told the files (and parts of large databases) done, of all, and the frames so far.

    Returns:
        The frames, mapped, and how many rows were left out for which reason.

    Raises:
        DataError: a file cannot be used, nothing is left, or the folder holds other data.
        OutputError: the folder cannot be written.
        ConfigError: another process works there.
    """
    files = find_files(sources)
    identity = f"{FORMAT}-{fingerprint(files, keys, limits, bad_rows)}"
    with alone_in(out):
        make_folder(out / "shards")
        _claim(out, identity)
        if not (out / CONTENT).exists():
            pieces = _pieces(files, out / "shards")
            _read_all(pieces, keys, limits, bad_rows, workers, report)
            _join([piece.shard for piece in pieces], out, identity, keys, limits)
        shutil.rmtree(out / "shards")
    return open_packed(out)


def _claim(out: Path, identity: str) -> None:
    """Refuse a folder with other data; an unfinished one goes on."""
    path = out / "shards" / "identity.txt"
    before = packed_identity(str(out))
    if before is None and path.exists():
        before = path.read_text()
    if before is not None and before != identity:
        raise DataError(f"{out} holds other data, or other settings: delete it, or choose another folder.")
    if not (out / CONTENT).exists():
        write_atomically(path, identity.encode())


def _pieces(files: list[Path], folder: Path) -> list[Piece]:
    """What is read at once, in order; shards are named after file and first row."""
    return [
        Piece(file, part, folder / f"{number:06d}-{part.start or 0:09d}.npz")
        for number, file in enumerate(files)
        for part in parts_of(file, ROWS_AT_ONCE)
    ]


def _read_all(
    pieces: list[Piece],
    keys: Keys,
    limits: Limits,
    bad_rows: Literal["raise", "skip"],
    workers: int,
    report: Callable[[int, int, int], None],
) -> None:
    """A shard for every piece that has none yet."""
    todo = [piece for piece in pieces if not piece.shard.exists()]
    done, frames = len(pieces) - len(todo), 0
    report(done, len(pieces), frames)
    if workers == 1:
        for piece in todo:
            frames += _read_one(piece, keys, limits, bad_rows)
            done += 1
            report(done, len(pieces), frames)
        return
    read = partial(_read_one, keys=keys, limits=limits, bad_rows=bad_rows)
    with closing(in_processes(read, todo, workers)) as found:
        for count in found:
            frames += count
            done += 1
            report(done, len(pieces), frames)


def _read_one(piece: Piece, keys: Keys, limits: Limits, bad_rows: Literal["raise", "skip"] = "raise") -> int:
    """Read, check and pack one piece; returns its number of frames."""
    inspector = Inspector(limits, bad_rows)
    rows = read_rows(piece.file, keys, piece.part)
    frames = pack(inspector.passed(rows, piece.file, piece.part.start or 0))
    save_frames(piece.shard, frames, inspector.skipped)
    return len(frames)


@dataclass
class _Whole:
    """What all shards together have: names in order of appearance, arrays that no structure has, sizes and kinds."""

    names: dict[str, dict[str, int]] = field(default_factory=lambda: {kind: {} for kind in CODED})
    untold: set[str] = field(default_factory=lambda: set(TOLD))
    frames: int = 0
    atoms: int = 0
    longest_name: int = 1
    elements: set[int] = field(default_factory=set)
    charges: set[int] = field(default_factory=set)
    spins: set[int] = field(default_factory=set)
    periodic: bool = False
    several_atoms: bool = False
    spins_of_several: bool = True
    spins_of_all: bool = True

    @property
    def spins_told(self) -> bool:
        """As `Frames.spins_told`."""
        return self.spins_of_several if self.several_atoms else self.spins_of_all

    def add(self, part: Frames) -> None:
        """Count one more shard in."""
        self.frames, self.atoms = self.frames + len(part), self.atoms + len(part.numbers)
        self.longest_name = max(self.longest_name, part.name.dtype.itemsize // 4)
        self.untold -= {name for name in self.untold if getattr(part, TOLD[name]).any()}
        self.elements.update(part.elements)
        self.charges.update(np.unique(part.charge).tolist())
        self.spins.update(np.unique(part.spin).tolist())
        self.periodic |= bool(part.pbc.any())
        if len(part):
            fits, several = spins_fit(part), part.n_atoms > 1
            self.several_atoms |= bool(several.any())
            self.spins_of_several &= bool(fits[several].all())
            self.spins_of_all &= bool(fits.all())
        for kind, codes in self.names.items():
            for name in getattr(part, f"{kind}_names"):
                codes.setdefault(str(name), len(codes))


def _join(shards: list[Path], out: Path, identity: str, keys: Keys, limits: Limits) -> None:
    """One file for each array, written shard after shard."""
    whole = _Whole()
    skipped: Counter[str] = Counter()
    for part, left_out in map(load_frames, shards):
        whole.add(part)
        skipped += left_out
    if whole.frames == 0:
        raise DataError(f"No usable row in {len(shards)} files: {describe_skipped(skipped)}.")
    try:
        _write_arrays(shards, out, whole)
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {error.strerror or error}.") from error
    content = {
        "identity": identity,
        "keys": dataclasses.asdict(keys),
        "max_force": limits.max_force,
        "frames": whole.frames,
        "atoms": whole.atoms,
        "elements": sorted(whole.elements),
        "charges": sorted(whole.charges),
        "spins": sorted(whole.spins),
        "periodic": whole.periodic,
        "spins_told": whole.spins_told,
        "skipped": dict(skipped),
    }
    write_atomically(out / CONTENT, json.dumps(content, indent=1).encode())


def _write_arrays(shards: list[Path], out: Path, whole: _Whole) -> None:
    arrays: dict[str, np.ndarray] = {}
    first = first_atom = 0
    for part, _ in map(load_frames, shards):
        if not len(part):
            continue
        last, last_atom = first + len(part), first_atom + len(part.numbers)
        for name, values in _arrays(part, whole):
            rows, start, end = (whole.atoms, first_atom, last_atom) if name in OF_ATOMS else (whole.frames, first, last)
            if name == "offsets":
                rows, start, values = whole.frames + 1, first + 1, values[1:] + first_atom
                end = start + len(part)
            if name not in arrays:
                dtype = f"<U{whole.longest_name}" if name == "name" else values.dtype
                arrays[name] = _room(out / f"{name}.npy", np.dtype(dtype), (rows, *values.shape[1:]))
                if name == "offsets":
                    arrays[name][0] = 0
            arrays[name][start:end] = values
        first, first_atom = last, last_atom
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    for kind, codes in whole.names.items():
        np.save(out / f"{kind}_names.npy", np.array(list(codes), dtype=np.str_))


def _room(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """An array on disk, with all of its space: on a full disk, writing to a file with holes would end the process."""
    array = open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate") and array.nbytes:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _arrays(part: Frames, whole: _Whole) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a shard that are stored, without the names, and with codes that hold for all shards."""
    for name in Frames.__dataclass_fields__:
        if name.endswith("_names") or name in whole.untold:
            continue
        values = getattr(part, name)
        if name in CODED:
            codes = np.array([whole.names[name][str(one)] for one in getattr(part, f"{name}_names")])
            values = codes[values].astype(np.int64)
        yield name, values


def open_packed(folder: Path) -> tuple[Frames, Counter[str]]:
    """Map a packed folder; raises :class:`DataError` where it is damaged."""
    try:
        content = json.loads((folder / CONTENT).read_text())
        arrays = {
            field.name: _mapped(folder, field.name) for field in dataclasses.fields(Frames) if field.name not in TOLD
        }
        arrays |= {name: _mapped(folder, name) for name, flag in TOLD.items() if arrays[flag].any()}
        if len(arrays["energy"]) != content["frames"] or len(arrays["numbers"]) != content["atoms"]:
            raise ValueError("its arrays are not as long as it says")
        frames, skipped = completed(arrays), Counter(content["skipped"])
        frames.__dict__["elements"] = tuple(content["elements"])  # a look at each atom would read the whole set
        if "spins_told" in content:  # older ones lack it
            frames.__dict__["spins_told"] = content["spins_told"]
    except Exception as error:  # numpy has many ways to say that a file is damaged
        raise DataError(f"The packed data {folder} is damaged: preprocess again ({error}).") from error
    return frames, skipped


def _mapped(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def check_packed(folder: Path, keys: Keys, limits: Limits) -> None:
    """Refuse packed data that were read with other names of labels, or hold what may not be learned here.

    Raises:
        DataError: with what differs.
    """
    content = json.loads((folder / CONTENT).read_text())
    for name, value in dataclasses.asdict(keys).items():
        if content["keys"].get(name) != value:
            raise DataError(
                f"{folder} was packed with {content['keys'].get(name)!r} as its {name}, and {value!r} is asked for: "
                "preprocess again."
            )
    before = content["max_force"]
    if limits.max_force is not None and (before is None or before > limits.max_force):
        raise DataError(
            f"{folder} was packed with forces up to {before or 'any size'}, and {limits.max_force:g} eV/Å is asked "
            "for: preprocess with --max-force."
        )
    unknown = sorted(set(content["elements"]) - set(limits.elements or content["elements"]))
    if unknown:
        raise DataError(f"{folder} has the atomic numbers {unknown}, which model.config.elements lacks.")
    if not limits.periodic and content["periodic"]:
        raise DataError(f"{folder} has periodic structures, which this network cannot see: it needs a cutoff.")
    charges = sorted(set(content["charges"]) - set(limits.charges or content["charges"]))
    spins = sorted(set(content["spins"]) - {1} - set(limits.spins or content["spins"]))  # 1 may be what no file tells
    if charges or spins:
        raise DataError(f"{folder} has charges {charges} and spins {spins}, which are not known here.")
