"""Trainings by two processes: the same as by one, they end together, and nobody is left behind."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from geomol_training.fit import fit
from geomol_training.keeper import Keeper, read_state
from rich.console import Console

from ase_geomol.errors import ConfigError, GeoMolError, OutputError

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope="module")
def recipe(make_recipe):
    """Some batches hold one structure only, so that a process has nothing to do."""
    return make_recipe(
        optimiser={"name": "muon"},
        schedule={"kind": "plateau", "patience": 1},
        training={"batch_edges": 75, "precision": "float64", "save_minutes": 1e-9},
    )


@pytest.fixture(scope="module")
def two(recipe, tmp_path_factory):
    """A run of 20 steps by two processes; its checkpoint of step 11 is kept."""
    out, save = tmp_path_factory.mktemp("runs") / "two", Keeper.save

    def save_and_copy(keeper, fitting, **options):
        save(keeper, fitting, **options)
        if fitting.standing.step == 11:
            shutil.copytree(out, out.with_name("killed"), dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Keeper, "save", save_and_copy)
        result = fit(recipe, out, processes=2, console=quiet())
    assert not multiprocessing.active_children()
    assert not torch.distributed.is_initialized()
    return result


def weights_of(result) -> dict[str, torch.Tensor]:
    state = read_state(result.model.with_name("last.pt"), "identity")
    return {f"{part}.{name}": state[part][name] for part in ("predictor", "averaged") for name in state[part]}


def assert_same_learning(first, second) -> None:
    torch.testing.assert_close(weights_of(first), weights_of(second), rtol=1e-9, atol=1e-11)
    assert first.errors == pytest.approx(second.errors, rel=1e-9)


def test_two_processes_learn_what_one_learns(recipe, two, tmp_path):
    one = fit(recipe, tmp_path, console=quiet())
    assert (one.step, two.step) == (20, 20)
    assert_same_learning(one, two)
    rows = [path.read_text().splitlines() for path in two.model.parent.glob("logs/*/metrics.csv")]
    assert [len(lines) for lines in rows] == [4]  # one writer: a header and three validations


@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_in_parts_is_the_same_step(recipe, two, make_recipe, tmp_path, processes):
    training = {**recipe.training.model_dump(exclude_none=True), "parts": 3}
    in_parts = recipe.model_copy(update={"training": type(recipe.training)(**training)})
    assert_same_learning(fit(in_parts, tmp_path, processes=processes, console=quiet()), two)


def test_resumed_run_of_two_processes_has_the_same_bits(recipe, two, tmp_path):
    out = shutil.copytree(two.model.parent.with_name("killed"), tmp_path / "run")
    resumed, whole = weights_of(fit(recipe, out, resume=True, processes=2, console=quiet())), weights_of(two)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_run_is_resumed_with_another_number_of_processes(recipe, two, tmp_path):
    out = shutil.copytree(two.model.parent.with_name("killed"), tmp_path / "run")
    assert_same_learning(fit(recipe, out, resume=True, console=quiet()), two)


@pytest.fixture
def at_first_weights(make_recipe, tmp_path):
    """A function: a run by two processes without end of its own, and what happens to it after its first weights."""

    def run(act):
        ended = threading.Event()

        def wait_and_act():
            while not (tmp_path / "model.safetensors").exists():
                if ended.wait(0.02):
                    return
            act([process.pid for process in multiprocessing.active_children()])

        thread = threading.Thread(target=wait_and_act)
        thread.start()
        try:
            recipe = make_recipe(training={"max_steps": None})
            return fit(recipe, tmp_path, time_budget=60.0, processes=2, console=quiet())
        finally:
            ended.set()
            thread.join()
            assert not multiprocessing.active_children()
            assert not torch.distributed.is_initialized()

    return run


@needs_signals
def test_interrupt_ends_both(at_first_weights, tmp_path):
    """All processes get the signal, as by Ctrl-C in a terminal; the first one alone follows it."""

    def interrupt(pids):
        assert len(pids) == 1
        os.kill(pids[0], signal.SIGTERM)
        for pid in (*pids, os.getpid()):
            os.kill(pid, signal.SIGINT)

    result = at_first_weights(interrupt)
    assert result.stopped_by == "interrupted"
    assert read_state(tmp_path / "last.pt", "identity")["standing"]["step"] == result.step


@needs_signals
def test_a_process_that_dies_ends_the_run_with_a_sentence(at_first_weights):
    with pytest.raises(GeoMolError, match=r"Process 1 of this training ended \(exit code -9; .* --resume"):
        at_first_weights(lambda pids: os.kill(pids[0], signal.SIGKILL))


COMMAND = ("-m", "geomol_training.cli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments: str, program: tuple[str, ...] = COMMAND) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=one_thread())


EACH_WRITES_ITS_WEIGHTS = """
import os
from pathlib import Path
import torch
from geomol_training import cli, objective

def write_weights(self):
    weights = [part.state_dict() for part in (self.predictor, self.averaged)]
    torch.save(weights, Path(__file__).with_name(os.environ["RANK"] + ".pt"))

objective.Fitting.on_train_end = write_weights
cli.main()
"""


def test_torchrun(recipe, two, tmp_path):
    """Processes that torchrun started learn the same, bit by bit; one of them writes, and a finished run ends well."""
    path, out, program = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "program.py"
    path.write_text(recipe.model_dump_json(exclude_none=True))
    program.write_text(EACH_WRITES_ITS_WEIGHTS)
    done = torchrun("fit", str(path), "--out", str(out), program=(str(program),))
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert done.stdout.count("all steps done") == 1
    found = read_state(out / "last.pt", "identity")
    wanted = read_state(two.model.with_name("last.pt"), "identity")
    for part in ("predictor", "averaged"):
        torch.testing.assert_close(found[part], wanted[part], rtol=1e-9, atol=1e-11)
    again = torchrun("fit", str(path), "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr
    assert "nothing was left to do" in again.stdout


@needs_signals
def test_torchrun_that_is_asked_to_terminate(make_recipe, tmp_path):
    """As a cluster does where time is over: all is saved, and goes on."""
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(make_recipe(training={"max_steps": 100_000}).model_dump_json(exclude_none=True))
    command = [*TORCHRUN, *COMMAND, "fit", str(path), "--out", str(out), "--time-budget", "60s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread()) as run:
        while not (out / "model.safetensors").exists():
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        told, errors = run.communicate(timeout=60)
    assert "terminated" in told, errors
    assert "Process 1 ends" not in errors
    state = read_state(out / "last.pt", "identity")
    assert state["stopped_by"] == "terminated"
    assert f"{state['standing']['step']} steps" in told


KILLED_AT_THE_FIRST_CHECKPOINT = """
import os, signal
from geomol_training import cli, keeper

keeper.write_state = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main()
"""


@needs_signals
def test_torchrun_with_a_leader_that_is_killed(recipe, tmp_path):
    """Within the time limit: whoever follows does not wait for it."""
    path, program = tmp_path / "recipe.yaml", tmp_path / "program.py"
    path.write_text(recipe.model_dump_json(exclude_none=True))
    program.write_text(KILLED_AT_THE_FIRST_CHECKPOINT)
    done = torchrun("fit", str(path), "--out", str(tmp_path / "run"), program=(str(program),))
    assert done.returncode != 0
    assert "Process 1 ends, because another one is gone." in done.stderr


def test_torchrun_with_a_leader_that_fails(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.model_dump_json(exclude_none=True))
    done = torchrun("fit", str(path), "--out", str(tmp_path / "run"), "--set", "data.train=nowhere.extxyz")
    assert done.returncode != 0
    assert done.stderr.count("'nowhere.extxyz' is no file") == 1
    assert "Process 1 ends, because the one that led it is gone." in done.stderr


def test_full_disk_ends_both(make_recipe, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geomol_training.logs.CSVLogger.log_metrics", full)
    with pytest.raises(OutputError, match=r"Cannot write the logs into .*: No space left on device\."):
        fit(make_recipe(), tmp_path, processes=2, console=quiet())
    assert not multiprocessing.active_children()


def test_refused_numbers_of_processes(make_recipe, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="at least one process, not 0"):
        fit(make_recipe(), tmp_path, processes=0, console=quiet())
    with monkeypatch.context() as patched:
        patched.setenv("TORCHELASTIC_RUN_ID", "run")
        patched.setenv("LOCAL_WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="Give torchrun the command geomol-train fit itself"):
            fit(make_recipe(), tmp_path, processes=2, console=quiet())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes need as many CUDA devices, and there are 1"):
        fit(make_recipe(), tmp_path, processes=2, console=quiet())
    assert not list(tmp_path.iterdir())
