"""Several processes for one training: the first one leads, the others compute their shares of its batches.

They are started here, on one machine (`followers`), or by torchrun, on any number of machines (`lead_or_follow`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_all_start_methods, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from ase_geomol.errors import ConfigError, GeoMolError

from .pool import end_with_parent

ADDRESS = "127.0.0.1"
READY = "ready"
PATIENCE = timedelta(days=7)
"""For which processes wait for each other: the first one may read data, or measure, for hours."""
LOST_CONNECTION = ("onnection", "gloo", "NCCL")
"""One of these stands in what torch says where another process is gone."""
MOST_WORKERS = 8
"""Beside each process that computes on CUDA, if nobody says how many."""


T = TypeVar("T")


class Crew(NamedTuple):
    """Who takes part: ``processes`` that compute, and beside each of them ``workers`` that make its batches."""

    processes: int
    workers: int


def room_for_workers(processes: int) -> int:
    """Workers of each process where the network computes on CUDA; none where it needs the processor itself."""
    if not torch.cuda.is_available() or not hasattr(os, "sched_getaffinity"):
        return 0
    return min(MOST_WORKERS, max(0, len(os.sched_getaffinity(0)) // on_this_machine(processes) - 1))


def launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def on_this_machine(processes: int) -> int:
    """How many of the processes are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched() and processes > 1 else processes


def lead_or_follow(lead: Callable[[int], T]) -> T | None:
    """In each of the processes that torchrun started: the first does ``lead(processes)``, the others what it asks for.

    Where the first one fails, the others lose their connection to it and end; or torchrun ends them half a minute
    later, whatever they wait for.

    Returns:
        What ``lead`` gives; None in all others.
    """
    if torch.cuda.is_available():
        _check_devices(int(os.environ["LOCAL_WORLD_SIZE"]))
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(_backend(), timeout=PATIENCE)
    if distributed.get_rank() == 0:
        result = lead(distributed.get_world_size())
        distributed.broadcast_object_list([None, None])
        distributed.destroy_process_group()
        return result
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first one decides when to stop
    while _work_as_told(distributed.get_rank(), distributed.get_world_size()):
        pass
    return None


def check_workers(workers: int) -> None:
    """Refuse workers where they cannot be had, or a negative number; raises :class:`ConfigError`."""
    if workers < 0:
        raise ConfigError(f"The number of workers must not be negative, and is {workers}.")
    if workers and "fork" not in get_all_start_methods():
        raise ConfigError("Workers need an operating system that can fork processes: give --workers 0.")


@contextmanager
def workers_watched() -> Iterator[None]:
    """What torch says of a worker that died, or does not answer, becomes a sentence."""
    try:
        yield
    except RuntimeError as error:
        late = "DataLoader timed out" in str(error)
        if not late and "DataLoader worker" not in str(error):
            raise
        what = "does not answer" if late else "ended (out of memory?)"
        raise GeoMolError(
            f"A process that made batches {what}. Go on with the same command (a training with --resume), perhaps with "
            "fewer --workers."
        ) from error


class Running(LightningEnvironment):
    """Tells Lightning which of its machine's processes, all of them running already, this one is."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank
        self.set_global_rank(rank)  # else Lightning's logs take it from SLURM

    @property
    def creates_processes_externally(self) -> bool:
        """Nothing is left to start."""
        return True

    def local_rank(self) -> int:
        """Number of this process on its machine."""
        return int(os.environ["LOCAL_RANK"]) if launched() else self._rank


class Together(DDPStrategy):
    """Lightning's data-parallel strategy for the processes that `followers` has brought together."""

    def __init__(self, rank: int) -> None:
        # A share may be empty, and then has a gradient for one parameter only.
        super().__init__(cluster_environment=Running(rank), find_unused_parameters=True, broadcast_buffers=False)

    def _configure_launcher(self) -> None:
        """Without Lightning's launcher, which would set the number of threads."""


def check_processes(processes: int) -> None:
    """Refuse a number of processes that this machine cannot have; raises :class:`ConfigError`."""
    if processes < 1:
        raise ConfigError(f"A training needs at least one process, not {processes}.")
    if launched() and not distributed.is_initialized():
        raise ConfigError("Give torchrun the command geomol-train fit itself: it knows which of its processes leads.")
    if torch.cuda.is_available():
        _check_devices(on_this_machine(processes))


def _check_devices(here: int) -> None:
    devices = torch.cuda.device_count()
    if here > devices:
        raise ConfigError(
            f"{here} processes need as many CUDA devices, and there are {devices}: start no more on a machine."
        )


@contextmanager
def followers(processes: int, work: Callable[..., None], *given: Any) -> Iterator[None]:
    """While the caller works as process 0 inside, processes 1, 2, … do ``work(rank, processes, *given)``.

    Inside, all of them are a group of `torch.distributed`. They know only what is given here, and whatever ends the
    caller, ends them; a signal to end is for the caller alone.

    Args:
        processes: how many there are, the caller among them; 1 starts none.
        work: a function of a module.
        given: sent to each of them, by pickle.

    Raises:
        GeoMolError: one of them ended too early.
    """
    if processes == 1:
        yield
        return
    if launched():
        distributed.broadcast_object_list([work, given])
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error) for word in LOST_CONNECTION):
                raise
            raise GeoMolError("Another process of this training ended. Go on with --resume.") from error
        return
    store = TCPStore(ADDRESS, 0, is_master=True, wait_for_workers=False)
    started: list[BaseProcess] = []
    try:
        with _signals_blocked():
            for rank in range(1, processes):
                arguments = (rank, processes, store.port)
                started.append(get_context("spawn").Process(target=_follow, args=arguments, daemon=False))
                started[-1].start()
        while store.add(READY, 0) < processes - 1:
            _check_alive(started)
            time.sleep(0.05)
        _join(store, 0, processes)
        distributed.broadcast_object_list([work, given])
        yield
    except RuntimeError:  # torch's word for a lost connection, among others
        _check_alive(started, patience=1.0)
        raise
    finally:
        for process in started:
            process.kill()  # they have nothing to lose
            process.join()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _check_alive(started: Sequence[BaseProcess], patience: float = 0.0) -> None:
    """Raise where a process has ended, or does so within ``patience`` seconds."""
    for rank, process in enumerate(started, start=1):
        process.join(patience)
        if process.exitcode is not None:
            raise GeoMolError(
                f"Process {rank} of this training ended (exit code {process.exitcode}; out of memory?). Go on with "
                "--resume, perhaps with fewer --processes."
            )


def _join(store: Store, rank: int, processes: int) -> None:
    distributed.init_process_group(_backend(), store=store, rank=rank, world_size=processes, timeout=PATIENCE)


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _follow(rank: int, processes: int, port: int) -> None:
    """What a process that was started does."""
    end_with_parent()
    store = TCPStore(ADDRESS, port, is_master=False)
    store.add(READY, 1)
    _join(store, rank, processes)
    _work_as_told(rank, processes)


def _work_as_told(rank: int, processes: int) -> bool:
    """Do what the first process asks for; False where that is nothing more. Where it fails, this process ends, too."""
    task: list[Any] = [None, None]
    try:
        distributed.broadcast_object_list(task)
    except RuntimeError:  # the first one told why, unless it was killed
        print(f"Process {rank} ends, because the one that led it is gone.", file=sys.stderr)
        sys.exit(1)
    work, given = task
    if work is None:
        return False
    try:
        work(rank, processes, *given)
    except GeoMolError:
        sys.exit(1)  # the first process meets the same error and tells it
    except RuntimeError as error:
        lost = any(word in str(error) for word in LOST_CONNECTION)
        why = "because another one is gone" if lost else f"because of {str(error).splitlines()[0]}"
        print(f"Process {rank} ends, {why}.", file=sys.stderr)
        sys.exit(1)
    return True


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes that are started inside never hear of Ctrl-C or a request to terminate."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # else the first start does this, and unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
