"""Whole trainings, small: they learn, resume exactly, end in time and say what is wrong."""

from __future__ import annotations

import io
import json
import os
import platform
import signal
import sys
import threading
import time

import lightning
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training import beginning, keeper
from geomol_training.alone import alone_in
from geomol_training.display import Display
from geomol_training.evaluate import predict_frames
from geomol_training.fit import fit
from geomol_training.frames import load_frames
from geomol_training.keeper import Keeper, Run, read_state, write_state
from geomol_training.memory import keep_freed_memory
from geomol_training.objective import Fitting
from geomol_training.processes import Running
from geomol_training.recipe import Loss
from geomol_training.result import read_results
from geomol_training.tasks import PotentialTask
from rich.console import Console

from ase_geomol.checkpoint import Metadata, load_checkpoint
from ase_geomol.errors import CheckpointError, ConfigError, DataError, OutputError
from ase_geomol.graph import from_atoms
from ase_geomol.nn import recompute as checkpointing


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def state_of(out) -> dict:
    return read_state(out / "last.pt", "identity")


def same_weights(first: dict, second: dict) -> bool:
    return all(
        torch.equal(first[part][name], second[part][name]) for part in ("predictor", "averaged") for name in first[part]
    )


def test_a_job_of_slurm_is_one_process(make_recipe, tmp_path, monkeypatch):
    """Lightning would ask SLURM how many there are, put the job into the queue again, and keep its own checkpoints."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "fit"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lightning.pytorch.utilities.rank_zero_only, "rank", 3)  # as it does where it is imported
    found = []
    run_fit = lightning.Trainer.fit

    def noted(trainer, *arguments):
        found.append(trainer)
        run_fit(trainer, *arguments)

    monkeypatch.setattr(lightning.Trainer, "fit", noted)
    assert fit(make_recipe(training={"max_steps": 2}), tmp_path / "run", console=quiet()).step == 2
    (trainer,) = found
    assert trainer.world_size == 1
    assert isinstance(trainer._accelerator_connector.cluster_environment, Running)
    assert lightning.pytorch.utilities.rank_zero_only.rank == 0


def test_learns_ten_frames(make_recipe, tmp_path):
    recipe = make_recipe(
        data={"split": {"by": "frame", "train": 10, "valid": 10}},
        optimiser={"lr": 0.01},
        training={"batch_edges": 10**6, "max_steps": 160, "validate_every": 160, "ema": 0.9},
        loss={"energy": 10.0},
    )
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"valid": recipe.data.train, "split": recipe.data.split})}
    )
    console = quiet()
    result = fit(recipe, tmp_path / "long", console=console, threads=1)
    short = recipe.model_copy(update={"training": recipe.training.model_copy(update={"max_steps": 1})})
    before = fit(short, tmp_path / "short", console=quiet())
    for name in ("validation_energy_MAE_meV_per_atom", "validation_forces_MAE_meV_per_A"):
        assert result.errors[name] < before.errors[name] / 10, name
    assert "tiny, best weights" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resumed_run_has_the_same_bits(make_recipe, tmp_path, dropout):
    def run(out, steps, resume=False):
        recipe = make_recipe(training={"max_steps": steps}, schedule={"kind": "plateau", "patience": 1})
        config = {**recipe.model.config, "hidden_dropout": dropout}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"config": config})})
        return fit(recipe, tmp_path / out, resume=resume, console=quiet())

    run("whole", 20)
    run("parts", 7)
    run("parts", 13, resume=True)
    assert state_of(tmp_path / "parts")["standing"]["step"] == 13
    run("parts", 20, resume=True)
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert same_weights(whole, parts)
    for number, moments in whole["optimiser"]["state"].items():
        assert all(torch.equal(moments[name], parts["optimiser"]["state"][number][name]) for name in moments)


def test_killed_run_goes_on_from_its_last_checkpoint(make_recipe, tmp_path, monkeypatch):
    recipe = make_recipe(training={"save_minutes": 1e-9})
    fit(recipe, tmp_path / "whole", console=quiet())

    def killed(*_):
        raise MemoryError  # stands for a kill: nothing is written after it

    with monkeypatch.context() as patched:
        patched.setattr("geomol_training.keeper.save_checkpoint", killed)
        with pytest.raises(MemoryError):
            fit(recipe, tmp_path / "killed", console=quiet())
    assert 0 < state_of(tmp_path / "killed")["standing"]["step"] < 20
    fit(recipe, tmp_path / "killed", resume=True, console=quiet())
    assert same_weights(state_of(tmp_path / "whole"), state_of(tmp_path / "killed"))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("architecture", ["geomformer", "est"])
def test_computing_again_changes_nothing(make_recipe, tmp_path, monkeypatch, architecture, dropout):
    """Only the memory: blocks are run once more for the derivatives, with the same dropout."""
    calls, plain = [], checkpointing.checkpoint

    def counted(function, *given, **options):
        if isinstance(function, torch.nn.Module):  # EST forgets parts of its messages in any case
            calls.append(1)
        return plain(function, *given, **options)

    monkeypatch.setattr(checkpointing, "checkpoint", counted)
    states = []
    for recompute in (False, True):
        recipe = make_recipe(training={"max_steps": 5, "precision": "float64", "recompute": recompute})
        config = {"elements": [1, 6, 8], "cutoff": 4.0, "channels": 8, "layers": 2}
        if architecture == "geomformer":
            config |= {"hidden_dropout": dropout, "heads": 2}
        else:
            config |= {"path_dropout": dropout, "lmax": 1, "points": "icosahedral-12", "zonal_nodes": 6}
        model = recipe.model.model_copy(update={"architecture": architecture, "config": config})
        out = tmp_path / str(recompute)
        fit(recipe.model_copy(update={"model": model}), out, console=quiet())
        states.append(state_of(out)["predictor"])
        assert bool(calls) is recompute
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-11)


def starting_from(path, recipe):
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"start": str(path)})})


def test_a_training_starts_from_other_weights(make_recipe, structures, tmp_path):
    """All of them, references and scale as well, though the data has other energies and lacks an element."""
    first = fit(make_recipe(), tmp_path / "first", console=quiet())
    for number, atoms in enumerate(frames := [atoms.copy() for atoms in structures if 8 not in atoms.numbers]):
        atoms.calc = SinglePointCalculator(atoms, energy=7.0 + number, forces=np.ones((len(atoms), 3)))
    write(tmp_path / "others.extxyz", frames)
    others = make_recipe(
        data={"train": str(tmp_path / "others.extxyz"), "split": {"by": "frame"}},
        training={"max_steps": 1},
        optimiser={"lr": 1e-12},
        schedule={"warmup_steps": 0},
    )
    second = fit(starting_from(first.model, others), tmp_path / "second", console=quiet())
    before, after = (load_checkpoint(found.model) for found in (first, second))
    weights = after.potential.state_dict()
    assert all(torch.allclose(weights[name], value, atol=1e-9) for name, value in before.potential.state_dict().items())
    assert json.loads((tmp_path / "second/result.json").read_text())["start"] == before.fingerprint


def test_a_training_starts_from_weights_that_saw_less_far(make_recipe, tmp_path):
    first = fit(make_recipe(training={"max_steps": 1}), tmp_path / "first", console=quiet())
    farther = make_recipe(model={"cutoff": 5.0}, training={"max_steps": 1})
    told = Console(file=io.StringIO(), width=400)
    second = fit(starting_from(first.model, farther), tmp_path / "second", console=told)
    assert load_checkpoint(second.model).potential.cutoff == 5.0
    assert "; the cutoff in Å was 4.0, now it is 5.0." in told.file.getvalue()


def test_a_started_training_resumes_without_the_first_weights(make_recipe, tmp_path):
    first = fit(make_recipe(training={"max_steps": 1}), tmp_path / "first", console=quiet())
    fingerprint = load_checkpoint(first.model).fingerprint
    fit(starting_from(first.model, make_recipe(training={"max_steps": 2})), tmp_path / "second", console=quiet())
    first.model.unlink()
    longer = starting_from(first.model, make_recipe(training={"max_steps": 3}))
    assert fit(longer, tmp_path / "second", resume=True, console=quiet()).step == 3
    assert json.loads((tmp_path / "second/result.json").read_text())["start"] == fingerprint


def test_weights_of_another_form_are_no_start(make_recipe, tmp_path):
    first = fit(make_recipe(training={"max_steps": 1}), tmp_path / "first", console=quiet())
    with pytest.raises(ConfigError, match=r"'channels' of .* is 8, that of this recipe is 16"):
        fit(starting_from(first.model, make_recipe(model={"channels": 16})), tmp_path / "second", console=quiet())
    with pytest.raises(CheckpointError, match="none"):
        fit(starting_from(tmp_path / "none", make_recipe()), tmp_path / "third", console=quiet())
    dropping = make_recipe(model={"hidden_dropout": 0.1}, training={"max_steps": 1})
    assert fit(starting_from(first.model, dropping), tmp_path / "fourth", console=quiet()).step == 1


def test_time_budget(make_recipe, structures, tmp_path):
    recipe = make_recipe(training={"max_steps": None, "validate_every": 1000})
    result = fit(recipe, tmp_path, time_budget=2.0, console=quiet())
    assert result.stopped_by == "time budget used"
    assert result.elapsed < 4.0
    potential, metadata, _, _ = load_checkpoint(result.model)
    assert metadata.theory == "EMT"
    assert metadata.errors["validation_forces_MAE_meV_per_A"] > 0
    assert torch.isfinite(potential(from_atoms(structures[0], potential.cutoff)).energy).all()
    told = (tmp_path / "result.json").read_bytes()
    assert json.loads(told)["seconds"] == pytest.approx(result.elapsed, abs=0.06)
    again = fit(recipe, tmp_path, time_budget=2.0, resume=True, console=quiet())
    assert (again.step, again.stopped_by) == (result.step, "nothing was left to do")
    assert (tmp_path / "result.json").read_bytes() == told


def test_a_result_that_a_kill_kept_from_being_written_is_written_later(make_recipe, xyz, tmp_path, monkeypatch):
    """The kill comes while the test frames are measured; a longer training that goes on has no result at first."""

    def killed(*given, **named):
        assert not (tmp_path / "result.json").exists()
        raise MemoryError  # stands for a kill: nothing is written after it

    for steps in (4, 8):
        recipe = make_recipe(data={"test": str(xyz)}, training={"max_steps": steps})
        with monkeypatch.context() as patched:
            patched.setattr("geomol_training.fit.predict_frames", killed)
            with pytest.raises(MemoryError):
                fit(recipe, tmp_path, resume=steps > 4, console=quiet())
        again = fit(recipe, tmp_path, resume=True, console=quiet())
        told = json.loads((tmp_path / "result.json").read_text())
        assert (told["steps"], told["stopped_by"], told["errors"]) == (steps, "all steps done", again.errors)
        assert again.errors["test_forces_MAE_meV_per_A"] > 0
        assert again.stopped_by == "nothing was left to do"


def test_exported_weights_are_the_best_mean_weights(make_recipe, tmp_path):
    fit(make_recipe(), tmp_path, console=quiet())
    state = state_of(tmp_path)
    exported = load_checkpoint(tmp_path / "model.safetensors").potential.state_dict()
    assert state["standing"]["best"] < np.inf
    assert all(torch.equal(exported[name], value) for name, value in state["averaged"].items())
    assert not all(torch.equal(exported[name], value) for name, value in state["predictor"].items())


def test_logs_by_source(make_recipe, tmp_path):
    fit(make_recipe(training={"max_steps": 50}), tmp_path, console=quiet())
    header, *lines = (tmp_path / "logs/version_0/metrics.csv").read_text().splitlines()
    assert {"train/loss", "train/learning_rate", "valid/score", "valid/emt/forces_MAE_meV_per_A"} <= set(
        header.split(",")
    )
    assert len(lines) >= 7
    assert list((tmp_path / "tensorboard/version_0").glob("events*"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals")
def test_interrupt_ends_orderly(make_recipe, xyz, tmp_path):
    recipe = make_recipe(data={"test": str(xyz)}, training={"max_steps": 100_000})
    ended = threading.Event()

    def interrupt():
        while not (tmp_path / "model.safetensors").exists():
            if ended.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        result = fit(recipe, tmp_path, time_budget=20.0, console=quiet())
    finally:
        ended.set()
        thread.join()
    assert result.stopped_by == "interrupted"
    assert not any(name.startswith("test_") for name in result.errors)
    assert not (tmp_path / "result.json").exists()
    assert state_of(tmp_path)["standing"]["step"] == result.step
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_pauses_when_its_own_time_is_over(make_recipe, tmp_path):
    """The schedule knows nothing of it: the same bits as without a pause."""
    recipe = make_recipe()
    whole = fit(recipe, tmp_path / "whole", console=quiet())
    first = fit(recipe, tmp_path / "paused", stop_after=1e-3, console=quiet())
    assert (first.stopped_by, first.step) == ("paused", 1)
    assert not (tmp_path / "paused/result.json").exists()
    last = fit(recipe, tmp_path / "paused", stop_after=600, resume=True, console=quiet())
    assert last.stopped_by == whole.stopped_by == "all steps done"
    assert same_weights(state_of(tmp_path / "whole"), state_of(tmp_path / "paused"))
    exported = [load_checkpoint(tmp_path / run / "model.safetensors") for run in ("whole", "paused")]
    assert exported[0].fingerprint == exported[1].fingerprint
    with pytest.raises(ConfigError, match="A run of 0 s leaves no time"):
        fit(recipe, tmp_path / "none", stop_after=0, console=quiet())


@pytest.mark.parametrize("how", ["interrupted", "terminated", "paused"])
def test_a_stop_does_not_change_which_weights_are_kept(make_recipe, tmp_path, monkeypatch, how):
    """Between two validations it ends without one more."""
    step, measure, validated = Fitting.training_step, Fitting.on_validation_epoch_end, []

    def stopped(self, *given):
        if self.standing.step == 11 and not validated[1:]:
            kept = next(callback for callback in self.trainer.callbacks if isinstance(callback, Keeper))
            if how == "paused":
                kept._stop_at = 0.0
            else:
                kept._on_signal(signal.SIGINT if how == "interrupted" else signal.SIGTERM, None)
        return step(self, *given)

    whole = fit(make_recipe(), tmp_path / "whole", console=quiet())
    with monkeypatch.context() as patched:
        patched.setattr(Fitting, "training_step", stopped)
        patched.setattr(
            Fitting, "on_validation_epoch_end", lambda self: validated.append(self.standing.step) or measure(self)
        )
        first = fit(make_recipe(), tmp_path / "stopped", console=quiet())
        assert (first.stopped_by, first.step, validated) == (how, 12, [8])
        assert state_of(tmp_path / "stopped")["standing"]["step"] == 12
        last = fit(make_recipe(), tmp_path / "stopped", resume=True, console=quiet())
    assert validated == [8, 16, 20]
    assert load_checkpoint(last.model).fingerprint == load_checkpoint(whole.model).fingerprint
    assert same_weights(state_of(tmp_path / "whole"), state_of(tmp_path / "stopped"))


def test_a_pause_leaves_time_for_a_regular_validation(make_recipe, tmp_path, monkeypatch):
    """One that takes 10 s: the run pauses at the step before it, and not ten seconds before that."""
    monkeypatch.setattr(Keeper, "_reserve", lambda *_: 10.0 if (tmp_path / "model.safetensors").exists() else 0.0)
    result = fit(make_recipe(), tmp_path, stop_after=10.0, console=quiet())
    assert (result.stopped_by, result.step) == ("paused", 15)


def test_one_training_at_a_time_in_a_folder(make_recipe, occupied, tmp_path):
    with occupied(tmp_path / "run"), pytest.raises(ConfigError, match=r"Another process works in .*run"):
        fit(make_recipe(), tmp_path / "run", console=quiet())
    assert not list((tmp_path / "run").iterdir())
    with alone_in(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["in-use"]


def test_a_second_ctrl_c_alone_ends_a_run_at_once(tmp_path):
    """A request to terminate comes twice where a cluster sends it to torchrun and to all that it started."""
    kept = Keeper(Run(tmp_path, Metadata(name="tiny", theory="EMT", training_data="none"), {}))
    for _ in range(2):
        kept._on_signal(signal.SIGTERM, None)
    assert kept.stopped_by == "terminated"
    with pytest.raises(KeyboardInterrupt):
        kept._on_signal(signal.SIGINT, None)


def test_second_interrupt_loses_nothing(make_recipe, tmp_path, monkeypatch):
    """One while training, one more in the last validation: what was learned is on disk before it."""
    step = Fitting.validation_step

    def interrupted(self, batch, batch_idx):
        if self.standing.step % 8:
            raise SystemExit(1)  # what Lightning makes of a KeyboardInterrupt
        step(self, batch, batch_idx)

    def run(out, steps, *, resume=False):
        recipe = make_recipe(training={"max_steps": steps}, schedule={"kind": "constant"})
        fit(recipe, tmp_path / out, resume=resume, console=quiet())

    run("whole", 20)
    with monkeypatch.context() as patched:
        patched.setattr(Fitting, "validation_step", interrupted)
        with pytest.raises(SystemExit):
            run("parts", 11)
    assert state_of(tmp_path / "parts")["standing"]["step"] == 11
    run("parts", 20, resume=True)
    assert same_weights(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


@pytest.mark.parametrize("kills", [1, 2])
def test_the_best_weights_survive_a_kill_before_they_are_written(make_recipe, tmp_path, monkeypatch, kills):
    """The first or the second ones; what comes after them is worse."""
    save, calls = keeper.save_checkpoint, []

    def killed(*given):
        calls.append(1)
        if len(calls) == kills:
            raise MemoryError  # stands for a kill: nothing is written after it
        save(*given)

    with monkeypatch.context() as patched:
        patched.setattr(keeper, "save_checkpoint", killed)
        with pytest.raises(MemoryError):
            fit(make_recipe(), tmp_path, console=quiet())
    state = state_of(tmp_path)
    assert state["standing"]["step"] == 8 * kills
    worse = fit(make_recipe(optimiser={"lr": 10.0}), tmp_path, resume=True, console=quiet())
    assert worse.errors == state["not_exported"]
    exported = load_checkpoint(worse.model).potential.state_dict()
    assert all(torch.equal(exported[name], value) for name, value in state["averaged"].items())


def test_weights_that_were_deleted_are_exported_again(make_recipe, tmp_path):
    fit(make_recipe(training={"max_steps": 8}), tmp_path, console=quiet()).model.unlink()
    worse = fit(make_recipe(optimiser={"lr": 10.0}), tmp_path, resume=True, console=quiet())
    assert worse.model.exists()


def test_weights_without_a_checkpoint(make_recipe, tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"holds model\.safetensors, but no last\.pt to go on with"):
        fit(make_recipe(), tmp_path, console=quiet())


def test_time_that_ends_before_a_first_step(make_recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"time budget .* was used up before a first validation"):
        fit(make_recipe(), tmp_path, time_budget=1e-6, console=quiet())
    with pytest.raises(ConfigError, match="A time budget of 0 s leaves no time"):
        fit(make_recipe(), tmp_path, time_budget=0.0, console=quiet())
    assert fit(make_recipe(), tmp_path, time_budget=60.0, console=quiet()).step == 20


def test_time_for_the_first_validation_is_reserved(make_recipe, tmp_path, monkeypatch):
    """Steps of one small frame take 0.1 s, so that a validation of sixteen frames would take long."""
    step = Fitting.training_step
    monkeypatch.setattr(Fitting, "training_step", lambda *given: time.sleep(0.1) or step(*given))
    recipe = make_recipe(training={"batch_edges": None, "batch_atoms": 1, "max_steps": 1000, "validate_every": 1000})
    result = fit(recipe, tmp_path, time_budget=3.0, console=quiet())
    assert result.stopped_by == "time budget used"
    assert 0.1 * result.step < 2.5  # 0.1 s for 6 atoms of a step, 112 to validate


def test_a_time_budget_is_used_once(make_recipe, tmp_path, monkeypatch):
    """A validation that would take 30 s ends the run long before; resumed, it does not train until then again."""
    recipe = make_recipe(training={"max_steps": 1000})
    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "_reserve", lambda self, fitting: 30.0 if fitting.standing.step == 11 else 0.0)
        first = fit(recipe, tmp_path, time_budget=30.0, console=quiet())
    assert (first.step, first.stopped_by) == (12, "time budget used")
    again = fit(recipe, tmp_path, time_budget=30.0, resume=True, console=quiet())
    assert (again.step, again.stopped_by) == (12, "nothing was left to do")
    longer = recipe.model_copy(update={"training": recipe.training.model_copy(update={"max_steps": 14})})
    assert fit(longer, tmp_path, time_budget=60.0, resume=True, console=quiet()).step == 14


def test_a_first_step_that_compiles_says_nothing_of_a_validation(make_recipe, tmp_path, monkeypatch):
    """Of 6 of 112 atoms it takes 0.5 s, which would be 4.7 s for a validation."""
    step, slept = Fitting.training_step, []

    def compiling(*given):
        if not slept:
            slept.append(time.sleep(0.5))
        return step(*given)

    monkeypatch.setattr(Fitting, "training_step", compiling)
    recipe = make_recipe(training={"batch_edges": None, "batch_atoms": 1, "max_steps": 6, "validate_every": 1000})
    assert fit(recipe, tmp_path, time_budget=4.0, console=quiet()).stopped_by == "all steps done"


def test_held_out_frames_are_measured_and_written_down(make_recipe, tmp_path):
    recipe = make_recipe(data={"split": {"by": "frame", "valid": 8, "test": 5}}, training={"max_steps": 2})
    result = fit(recipe, tmp_path, console=quiet())
    assert result.errors["test_forces_MAE_meV_per_A"] > 0
    written = json.loads((tmp_path / "splits.json").read_text())
    assert sorted(written["train"] + written["valid"] + written["test"]) == list(range(40))
    assert len(written["test"]) == 5
    frames, _ = load_frames(tmp_path / written["data"])
    held_out = frames.take(np.array(written["test"]))
    task = PotentialTask(Loss())
    found = task.errors(held_out, predict_frames(load_checkpoint(result.model).potential, held_out, task))
    assert found["energy_MAE_meV"] == pytest.approx(result.errors["test_energy_MAE_meV"])
    told = read_results(tmp_path.parent)[tmp_path]
    assert (told["steps"], told["errors"]) == (2, result.errors)
    assert told["recipe"]["training"]["max_steps"] == 2


def test_direct_forces_are_validated_beside_the_gradient(make_recipe, tmp_path):
    loss = {"forces": 1.0, "direct_forces": 2.0}
    recipe = make_recipe(loss=loss, training={"max_steps": 2}, model={"direct_forces": True})
    found = fit(recipe, tmp_path, console=quiet()).errors
    direct, forces = (found[f"validation_{kind}_MAE_meV_per_A"] for kind in ("direct_forces", "forces"))
    assert direct != forces
    expected = found["validation_energy_MAE_meV_per_atom"] + forces + 2 * direct
    assert state_of(tmp_path)["standing"]["best"] == pytest.approx(1e-3 * expected)


def test_energies_alone_have_no_errors_of_forces(make_recipe, tmp_path):
    result = fit(make_recipe(loss={"forces": 0.0}, training={"max_steps": 2}), tmp_path, console=quiet())
    assert not any("forces" in name for name in result.errors)


def test_float64(make_recipe, tmp_path):
    fit(make_recipe(training={"precision": "float64", "max_steps": 2}), tmp_path, console=quiet())
    assert state_of(tmp_path)["predictor"]["model.embedding.weight"].dtype == torch.float64
    assert load_checkpoint(tmp_path / "model.safetensors").potential.dtype == torch.float64


def test_given_references(make_recipe, tmp_path):
    recipe = make_recipe(training={"max_steps": 1})
    physics = recipe.potential.model_copy(update={"reference_energies": {1: -1.0, 6: -2.0, 8: -3.0}, "scale": 2.5})
    fit(recipe.model_copy(update={"potential": physics}), tmp_path, console=quiet())
    potential = load_checkpoint(tmp_path / "model.safetensors").potential
    assert potential.reference_energies[[1, 6, 8]].tolist() == [-1.0, -2.0, -3.0]
    assert potential.scale.item() == 2.5


def test_neighbours_are_counted_once(make_recipe, tmp_path, monkeypatch):
    """For a run that is resumed, or that was killed before its first checkpoint; not for other neighbours."""
    count, counted = beginning.survey, []
    monkeypatch.setattr(beginning, "survey", lambda *given: counted.append(len(given[0])) or count(*given))
    with pytest.raises(ConfigError, match="Nothing was learned"):
        fit(make_recipe(), tmp_path, time_budget=1e-6, console=quiet())
    fit(make_recipe(training={"max_steps": 2}), tmp_path, console=quiet())
    fit(make_recipe(training={"max_steps": 4}), tmp_path, resume=True, console=quiet())
    assert counted == [24]
    fit(make_recipe(model={"cutoff": 3.0}, training={"max_steps": 2}), tmp_path / "other", console=quiet())
    (tmp_path / "other/last.pt").unlink()
    (tmp_path / "other/model.safetensors").unlink()
    fit(make_recipe(training={"max_steps": 2}), tmp_path / "other", console=quiet())
    assert counted == [24, 24, 24]


def test_epochs_are_counted_in_steps(make_recipe, tmp_path):
    recipe = make_recipe(training={"max_steps": None, "max_epochs": 2, "batch_edges": None, "batch_atoms": 40})
    result = fit(recipe, tmp_path, console=quiet())
    atoms = 8 * (9 + 5 + 3)  # of the training frames
    assert 2 * atoms / 40 <= result.step < 3 * atoms / 40


def test_batches_of_frames(make_recipe, tmp_path):
    recipe = make_recipe(training={"max_steps": None, "max_epochs": 2, "batch_edges": None, "batch_frames": 3})
    assert fit(recipe, tmp_path, console=quiet()).step == 2 * 24 // 3


# --- what a user may get wrong


def test_gradients_that_are_not_finite_are_skipped(make_recipe, tmp_path, monkeypatch):
    from geomol_training.tasks import potential as task

    true_loss, calls = task.total_loss, []

    def sometimes_nan(*arguments):
        calls.append(1)
        return true_loss(*arguments) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(task, "total_loss", sometimes_nan)
    fit(make_recipe(), tmp_path / "once", console=quiet())
    assert state_of(tmp_path / "once")["standing"]["skipped"] == 1
    monkeypatch.setattr(task, "total_loss", lambda *arguments: true_loss(*arguments) * float("nan"))
    with pytest.raises(DataError, match="50 steps in a row had no finite gradient"):
        fit(make_recipe(training={"max_steps": 100, "validate_every": 100}), tmp_path / "always", console=quiet())


def test_running_twice_in_one_folder(make_recipe, tmp_path):
    recipe = make_recipe(training={"max_steps": 1})
    with pytest.raises(CheckpointError, match="nothing to resume"):
        fit(recipe, tmp_path, resume=True, console=quiet())
    fit(recipe, tmp_path, console=quiet())
    with pytest.raises(ConfigError, match="holds a run"):
        fit(recipe, tmp_path, console=quiet())
    other = recipe.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="another 'seed'"):
        fit(other, tmp_path, resume=True, console=quiet())
    other = recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"forces": 3.0})})
    with pytest.raises(ConfigError, match="another 'loss'"):
        fit(other, tmp_path, resume=True, console=quiet())
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"batch_edges": 300})})
    with pytest.raises(ConfigError, match=r"another 'training\.batch_edges'"):
        fit(other, tmp_path, resume=True, console=quiet())
    for name, value in {"name": "muon", "weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-6}.items():
        other = recipe.model_copy(update={"optimiser": recipe.optimiser.model_copy(update={name: value})})
        with pytest.raises(ConfigError, match=rf"another 'optimiser\.{name}'"):
            fit(other, tmp_path, resume=True, console=quiet())
    write_state(tmp_path / "last.pt", {"settings": {}})
    with pytest.raises(CheckpointError, match="another command"):
        fit(recipe, tmp_path, resume=True, console=quiet())
    (tmp_path / "last.pt").write_bytes(b"PK no")
    with pytest.raises(CheckpointError, match="damaged"):
        fit(recipe, tmp_path, resume=True, console=quiet())


def test_threads_are_as_before_afterwards(make_recipe, tmp_path, monkeypatch):
    """Each training divides the same number among its processes."""
    given = []
    monkeypatch.setattr("geomol_training.fit._fit", lambda *_: given.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for options in ({"processes": 2}, {"processes": 2}, {"threads": 1}, {}):
            fit(make_recipe(), tmp_path, **options)
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert given == [2, 2, 1, 4]


def test_the_number_of_workers_is_said_where_it_matters(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("geomol_training.fit._fit", lambda *_: None)
    for workers, cuda, told in ((0, False, ""), (2, False, "2 workers make"), (0, True, "0 workers make")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        console = quiet()
        fit(make_recipe(), tmp_path, workers=workers, console=console)
        assert console.file.getvalue().startswith(told)
        assert bool(console.file.getvalue()) is bool(told)


def test_nothing_ends_it(make_recipe, tmp_path):
    with pytest.raises(ConfigError, match="Nothing ends this training"):
        fit(make_recipe(data={"train": "absent"}, training={"max_steps": None}), tmp_path, console=quiet())


def test_unknown_elements(make_recipe, tmp_path):
    recipe = make_recipe()
    config = {**recipe.model.config, "elements": [1, 6]}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"config": config})})
    with pytest.raises(DataError, match=r"row 0: unknown element .*atomic number 8"):
        fit(recipe, tmp_path, console=quiet())


@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize(
    ("loss", "label"), [({}, "forces"), ({"stress": 1.0}, "stress"), ({"energies": 1.0}, "energies")]
)
def test_a_label_that_the_loss_counts_and_no_frame_has(make_recipe, structures, tmp_path, part, loss, label):
    """In both parts: what is not learned does not choose the best weights either."""
    for name in ("train", "valid"):
        frames = [atoms.copy() for atoms in structures[:5]]
        for atoms, source in zip(frames, structures, strict=False):
            given = {"energy": source.get_potential_energy(), "forces": source.get_forces()}
            atoms.cell = [9, 9, 9]
            atoms.calc = SinglePointCalculator(atoms, **given, stress=np.zeros(6), energies=np.zeros(len(atoms)))
            if name == part:
                del atoms.calc.results[label]
        write(tmp_path / f"{name}.extxyz", frames)
    data = {name: f"{tmp_path}/{name}.extxyz" for name in ("train", "valid")}
    use = {"train": "learn", "valid": "validate"}[part]
    with pytest.raises(DataError, match=f"None of the 5 frames to {use} has {label}, looked for as '{label}'"):
        fit(make_recipe(data=data, loss=loss), tmp_path / "run", console=quiet())
    without = make_recipe(data=data, loss={**loss, label: 0.0}, training={"max_steps": 1})
    assert fit(without, tmp_path / "without", console=quiet()).step == 1


def test_how_many_frames_lack_a_label_is_said(make_recipe, structures, tmp_path):
    frames = [atoms.copy() for atoms in structures]
    for atoms, source in zip(frames, structures, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=source.get_potential_energy(), forces=source.get_forces())
    del frames[0].calc.results["forces"]
    write(tmp_path / "frames.extxyz", frames)
    told = quiet()
    fit(make_recipe(data={"train": f"{tmp_path}/frames.extxyz"}, training={"max_steps": 1}), tmp_path, console=told)
    assert "1 of the frames to learn have no forces." in told.file.getvalue()
    assert "to validate have no" not in told.file.getvalue()


@pytest.mark.parametrize("part", ["valid", "split"])
def test_elements_that_are_not_learned(make_recipe, structures, tmp_path, part):
    frames: dict[str, list] = {"train": [], "valid": []}
    for atoms in structures:
        split = "valid" if 8 in atoms.numbers else "train"
        frames[split].append(atoms.copy())
        frames[split][-1].calc, frames[split][-1].info["split"] = atoms.calc, split
    for split, chosen in frames.items():
        write(tmp_path / f"{split}.extxyz", chosen)
    sources = {
        "valid": {"train": f"{tmp_path}/train.extxyz", "valid": f"{tmp_path}/valid.extxyz"},
        "split": {"train": f"{tmp_path}/*.extxyz"},
    }
    sentence = {"valid": r"valid\.extxyz, row 0: unknown element", "split": r"validation frames .*numbers \[8\]"}
    recipe = make_recipe(data=sources[part], model={"elements": "those of the data"})
    with pytest.raises(DataError, match=sentence[part]):
        fit(recipe, tmp_path / "run", console=quiet())


def test_the_network_knows_no_more_than_the_data(make_recipe, tmp_path):
    recipe = make_recipe(model={"elements": [1, 6, 7, 8]})
    with pytest.raises(ConfigError, match=r"elements has the atomic numbers \[7\], which no training frame has"):
        fit(recipe, tmp_path, console=quiet())


@pytest.mark.parametrize("part", ["valid", "test"])
def test_ions_are_not_measured_with_what_learned_neutral_molecules(make_recipe, structures, tmp_path, part):
    ions = [atoms.copy() for atoms in structures[:3]]
    for ion, atoms in zip(ions, structures, strict=False):
        ion.calc = atoms.calc
        ion.info["charge"] = 1
    write(tmp_path / "ions.extxyz", ions)
    with pytest.raises(DataError, match=r"frames have charges \[1\] and spins \[\] that no training frame has"):
        fit(make_recipe(data={part: str(tmp_path / "ions.extxyz")}), tmp_path / "run", console=quiet())


def test_global_form_refuses_periodic_data(make_recipe, structures, tmp_path):
    periodic = structures[0].copy()
    periodic.calc = structures[0].calc
    periodic.cell, periodic.pbc = [9, 9, 9], True
    write(tmp_path / "data.extxyz", [periodic, *structures])
    recipe = make_recipe(data={"train": f"{tmp_path}/data.extxyz"}, model={"cutoff": None})
    with pytest.raises(DataError, match="row 0: periodic"):
        fit(recipe, tmp_path / "run", console=quiet())


def test_elements_default_to_those_of_the_data(make_recipe, tmp_path):
    recipe = make_recipe(training={"max_steps": 1})
    config = {name: value for name, value in recipe.model.config.items() if name != "elements"}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"config": config})})
    fit(recipe, tmp_path, console=quiet())
    assert load_checkpoint(tmp_path / "model.safetensors").potential.elements == (1, 6, 8)


def test_missing_test_data_is_noticed_at_once(make_recipe, tmp_path):
    with pytest.raises(DataError, match="'absent' is no file"):
        fit(make_recipe(data={"test": "absent"}), tmp_path, console=quiet())
    assert not list(tmp_path.glob("data-*"))


def test_folder_that_cannot_be_made(make_recipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot make the folder"):
        fit(make_recipe(), tmp_path / "file/run", console=quiet())


def test_full_disk_stops_the_logs_with_a_sentence(make_recipe, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geomol_training.logs.CSVLogger.log_metrics", full)
    with pytest.raises(OutputError, match=r"Cannot write the logs into .*: No space left on device\."):
        fit(make_recipe(), tmp_path, console=quiet())


def test_other_errors_of_files_are_not_taken_for_the_logs(make_recipe, tmp_path, monkeypatch):
    def unreadable(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("geomol_training.objective.Fitting.training_step", unreadable)
    with pytest.raises(OSError, match=r"\[Errno 5\] Input/output error"):
        fit(make_recipe(), tmp_path, console=quiet())


@pytest.mark.parametrize("parts", [1, 4])
def test_atoms_are_counted_once(make_recipe, tmp_path, monkeypatch, parts):
    """However many parts each batch has: 8 times three molecules in an epoch."""
    counted = []
    monkeypatch.setattr(Display, "on_train_end", lambda self, *_: counted.append(self._atoms))
    recipe = make_recipe(
        training={"batch_edges": None, "batch_frames": 6, "parts": parts, "max_steps": None, "max_epochs": 1}
    )
    fit(recipe, tmp_path, console=quiet())
    assert counted == [8 * (9 + 5 + 3)]


def test_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("ase_geomol.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match="No space left"):
        write_state(tmp_path / "last.pt", {"step": 1})
    assert not list(tmp_path.iterdir())


def test_memory_setting_is_harmless():
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
    assert torch.ones(10**7).sum() == 10**7
