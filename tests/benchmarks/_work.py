"""Long work in pieces: each piece leaves its row in a folder as soon as it is done, and a second run goes on.

The folder is ``runs/benchmarks/SCRIPT/WEIGHTS``, with the beginning of the weights' fingerprint; what does not depend
on weights is kept in ``runs/benchmarks/SCRIPT/reference``. To measure everything again, delete the folder.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from ase import Atoms
from ase.io import read, write
from geomol_training.pool import SINGLE_THREAD, end_with_parent
from geomol_training.result import processor
from rich.progress import track

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import OutputError
from ase_geomol.files import make_folder, write_atomically
from ase_geomol.simulate import MDResult, MDSettings, run_md

FOLDER = Path("runs/benchmarks")
Row = dict[str, Any]
Item = TypeVar("Item")


@contextmanager
def work_folder(script: str, settings: Mapping[str, Any], smoke: bool, model: str | None = None) -> Iterator[Path]:
    """The folder of a script's work with these weights (None: without any); in smoke mode a temporary one.

    Raises:
        OutputError: it holds work with other settings.
    """
    if smoke:
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = FOLDER / script / (load_checkpoint(model).fingerprint[:12] if model else "reference")
    make_folder(folder)
    wanted, path = json.dumps(dict(settings), indent=1), folder / "settings.json"
    if path.exists() and path.read_text() != wanted:
        raise OutputError(f"{folder} holds work with other settings: delete or rename it.")
    write_atomically(path, wanted.encode())
    print(f"Rows, runs and pictures: {folder}")
    yield folder


def each(items: Mapping[str, Item], work: Callable[[Item], Row], folder: Path) -> list[Row]:
    """The row of each item, with its name, error, seconds, date and processor: computed now, or by an earlier run.

    As many processes as torch has threads, each with one. An error does not end the others, and is tried again by
    the next run. Ctrl-C ends all at once; finished rows are kept, and dynamics go on where they were.
    """
    piece = partial(_piece, work, folder)
    description = Path(sys.argv[0]).stem
    workers = min(torch.get_num_threads(), len(items))
    try:
        if workers <= 1:
            return list(track(map(piece, items, items.values()), total=len(items), description=description))
        with _processes(workers) as pool:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes start here, and will ignore it too
            futures = [pool.submit(piece, name, item) for name, item in items.items()]
            signal.signal(signal.SIGINT, before)
            return [future.result() for future in track(futures, description=description)]
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished rows are kept in {folder}, the same command goes on from there") from None


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with one thread each, whose work is dropped on Ctrl-C, and which end with this one."""
    os.environ.update(SINGLE_THREAD)
    with ProcessPoolExecutor(count, get_context("spawn"), _begin) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            for process in active_children():
                process.terminate()
            raise


def _begin() -> None:
    torch.set_num_threads(1)
    end_with_parent()


def _piece(work: Callable[[Item], Row], folder: Path, name: str, item: Item) -> Row:
    path = folder / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    made = {"date": datetime.now(UTC).date().isoformat(), "processor": processor()}
    start = time.perf_counter()
    try:
        row = {"name": name, **work(item), "error": "", **made}
    except Exception as error:  # what happens to one is a result, not the end of all
        return {"name": name, "error": f"{type(error).__name__}: {error}", **made}
    row["seconds"] = time.perf_counter() - start
    write_atomically(path, json.dumps(row).encode())
    return row


def computed(rows: list[Row]) -> Row:
    """When and on what processors these rows of `each` were computed."""
    days = sorted({row["date"] for row in rows})
    return {"from": days[0], "to": days[-1], "processors": sorted({row["processor"] for row in rows})}


def undated(rows: list[Row]) -> list[Row]:
    """Rows of `each` without what `computed` says of all of them."""
    return [{name: value for name, value in row.items() if name not in ("date", "processor")} for row in rows]


def table(rows: list[Row], columns: Mapping[str, Callable[[list[Any]], Any]]) -> list[Row]:
    """These columns of the rows, and a last row for all: each column's function of the values that there are."""
    shown: dict[str, Callable[[list[Any]], Any]] = {
        "name": lambda names: f"all {len(names)}",
        **columns,
        "seconds": lambda seconds: sum(seconds),
        "error": lambda errors: sum(map(bool, errors)),
    }
    even = [{name: row.get(name) for name in shown} for row in rows]
    values: dict[str, list[Any]] = {name: [row[name] for row in even if row[name] is not None] for name in shown}
    return [*even, {name: over(values[name]) if values[name] else None for name, over in shown.items()}]


def dynamics(start: Atoms, settings: MDSettings, duration: float, folder: Path) -> tuple[MDResult, list[Atoms]]:
    """A run of ``duration`` (fs) and its frames; one that was cut off goes on."""
    resume = (folder / "state.json").is_file()
    result = run_md(start, settings, time=duration, folder=folder, resume=resume, overwrite=not resume)
    return result, read_frames(folder / "trajectory.extxyz")


def frames_of(path: Path, make: Callable[[], list[Atoms]]) -> list[Atoms]:
    """Structures from a file, which is made where there is none."""
    if not path.exists():
        buffer = io.StringIO()
        write(buffer, make(), format="extxyz")
        write_atomically(path, buffer.getvalue().encode())
    return read_frames(path)


def read_frames(path: Path) -> list[Atoms]:
    """All structures of an extended-XYZ file."""
    frames = read(path, ":", format="extxyz")
    return [frames] if isinstance(frames, Atoms) else list(frames)
