"""Other processes that make the batches of a training."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from geomol_training import batches
from geomol_training.batches import AHEAD, FixedBatches, Plan, TrainingStream, loader, survey
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.fit import fit
from geomol_training.frames import Frames
from geomol_training.keeper import read_state
from geomol_training.processes import room_for_workers
from geomol_training.readers import Keys
from rich.console import Console

from ase_geomol.errors import ConfigError, GeoMolError

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope="module")
def frames(xyz) -> Frames:
    return load(str(xyz), Keys(), Limits()).frames


@needs_fork
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_keep_the_order(frames, workers):
    plan = Plan(survey(frames, 4.0, workers=workers).edges, frames.n_atoms, 60, seed=0)
    assert np.array_equal(plan.sizes, survey(frames, 4.0).edges)
    stream = TrainingStream(frames, plan, 4.0, 16, lambda: 3)
    for made_here, made_there in zip(stream, loader(stream, workers), strict=True):
        assert torch.equal(made_here.frame, made_there.frame)
        assert torch.equal(made_here.graph.edge_index, made_there.graph.edge_index)
        assert made_here.whole == made_there.whole
    parts = [np.arange(10), np.arange(10, 30), np.arange(30, 40)]
    assert [len(batch.energy) for batch in loader(FixedBatches(frames, parts, 4.0), workers)] == [10, 20, 10]


@needs_fork
def test_workers_know_what_was_arranged(frames, monkeypatch):
    """Each interval begins in them anew, and they need not look for its beginning."""
    plan, arranged = Plan(np.ones(len(frames), dtype=int), frames.n_atoms, 10, seed=0), Plan._arranged
    here = os.getpid()

    def arranged_here(self, epoch):
        assert os.getpid() == here
        return arranged(self, epoch)

    monkeypatch.setattr(Plan, "_arranged", arranged_here)
    for step in (0, 2, 22):  # four batches in an epoch, the interval ends before the next
        batches = list(loader(TrainingStream(frames, plan, 4.0, 2, lambda now=step: now), 2))
        wanted = arranged(plan, step // 4)[step % 4 :][:2]
        assert all(np.array_equal(batch.frame, index) for batch, index in zip(batches, wanted, strict=True))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_workers_leak_nothing(frames):
    """Neither open files nor memory grow over 1,000 batches, here and in a worker that makes most of them.

    Workers that have ended hold two files each until their loader is collected.
    """
    plan = Plan(np.ones(len(frames), dtype=int), frames.n_atoms, 2, seed=0)

    def state(process: str | int) -> tuple[int, int]:
        resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return len(os.listdir(f"/proc/{process}/fd")), resident

    before = {}
    for number, _ in enumerate(loader(TrainingStream(frames, plan, 4.0, 1200, lambda: 0), 1), start=1):
        if number == 200:
            (worker,) = multiprocessing.active_children()
            before = {process: state(process) for process in ("self", worker.pid)}
        if number == 1200 - AHEAD - 1:  # while the worker lives
            for process, (files, resident) in before.items():
                files_then, resident_then = state(process)
                assert files_then <= files + 2
                assert resident_then - resident < 8 * 2**20
    assert number == 1200
    gc.collect()
    files, _ = state("self")
    assert sum(1 for _ in range(4) for _ in loader(TrainingStream(frames, plan, 4.0, 10, lambda: 0), 2)) == 40
    gc.collect()
    assert state("self")[0] <= files


@needs_fork
@pytest.mark.parametrize("processes", [1, 2])
def test_workers_change_nothing(make_recipe, tmp_path, processes):
    recipe, states = make_recipe(), []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        fit(recipe, out, processes=processes, workers=workers, console=quiet())
        states.append(read_state(out / "last.pt", "identity")["predictor"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not multiprocessing.active_children()


@pytest.fixture
def with_workers(make_recipe, tmp_path):
    """A function: a run with two workers without end of its own, and what happens to them after its first weights."""

    def run(act):
        ended = threading.Event()

        def wait_and_act():
            while not ended.wait(0.02):
                workers = [process.pid for process in multiprocessing.active_children()]
                if (tmp_path / "model.safetensors").exists() and len(workers) == 2:
                    return act(workers)

        thread = threading.Thread(target=wait_and_act)
        thread.start()
        recipe = make_recipe(training={"max_steps": None, "validate_every": 100})
        try:
            return fit(recipe, tmp_path, time_budget=60.0, workers=2, console=quiet())
        finally:
            ended.set()
            thread.join()

    return run


@needs_fork
def test_interrupt_reaches_workers_too(with_workers, tmp_path):
    """As by Ctrl-C in a terminal; the process that learns alone follows it."""
    apart = []

    def interrupt(pids):
        end = time.monotonic() + 2
        with suppress(ProcessLookupError):
            while not apart and time.monotonic() < end:  # they leave the group, to which a batch system sends signals
                apart.extend(pid for pid in pids if os.getpgid(pid) != os.getpgid(0))
        for pid in (*pids, os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    result = with_workers(interrupt)
    assert apart
    assert result.stopped_by == "interrupted"
    assert not multiprocessing.active_children()
    assert read_state(tmp_path / "last.pt", "identity")["standing"]["step"] == result.step


@needs_fork
def test_a_worker_that_dies_ends_the_run_with_a_sentence(with_workers):
    with pytest.raises(GeoMolError, match=r"made batches ended .* with --resume\), perhaps with fewer --workers"):
        with_workers(lambda pids: os.kill(pids[0], signal.SIGKILL))


@needs_fork
def test_a_worker_that_hangs_ends_the_run_with_a_sentence(with_workers, monkeypatch):
    monkeypatch.setattr(batches, "LATE", 3.0)
    with pytest.raises(GeoMolError, match=r"made batches does not answer\. Go on .* with --resume\)"):
        with_workers(lambda pids: os.kill(pids[0], signal.SIGSTOP))
    assert not multiprocessing.active_children()


def test_numbers_of_workers(make_recipe, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="must not be negative, and is -1"):
        fit(make_recipe(), tmp_path, workers=-1, console=quiet())
    with monkeypatch.context() as patched:
        patched.setattr("geomol_training.processes.get_all_start_methods", lambda: ["spawn"])
        with pytest.raises(ConfigError, match="give --workers 0"):
            fit(make_recipe(), tmp_path, workers=1, console=quiet())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert room_for_workers(1) == 0
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(10))
        assert [room_for_workers(n) for n in (1, 2, 5, 20)] == [8, 4, 1, 0]
