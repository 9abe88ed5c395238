"""Independent pieces of work on several processes, each with one thread."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

from ase_geomol.errors import DataError

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, stop: float | None = None
) -> Generator[Result, None, None]:
    """What ``work`` gives for each item, in the order in which it is ready; `contextlib.closing` ends it early.

    Whatever ends it, pieces that have begun are finished first: what they write is whole. Processes end with this one
    even if it is killed.

    Args:
        work: of a module, or a partial of one; it and the items are sent to the processes.
        items: looked at when there is a process for them.
        workers: number of processes.
        stop: of ``time.monotonic``; no piece begins at that time or later.

    Raises:
        DataError: a process died.
    """
    waiting = iter(items)
    with _single_threaded():  # all processes start with the first piece
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin)
        running: set[Future[Result]] = {pool.submit(work, item) for item in _first(waiting, workers, stop)}
    try:
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            running |= {pool.submit(work, item) for item in _first(waiting, len(finished), stop)}
    except BrokenProcessPool as error:
        raise DataError("A process died (out of memory?): run the command again, with fewer --workers.") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, whatever it does then."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _first(items: Iterator[Item], count: int, stop: float | None) -> Iterator[Item]:
    for _ in range(count):
        if stop is not None and time.monotonic() >= stop:
            return
        try:
            yield next(items)
        except StopIteration:
            return


def _begin() -> None:
    """Ctrl-C reaches the whole process group: workers finish their piece, the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes that start inside use one thread each; this process keeps its own settings."""
    before = {name: os.environ.get(name) for name in SINGLE_THREAD}
    os.environ.update(SINGLE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
