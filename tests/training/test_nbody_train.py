"""Training on N-body data: it learns, resumes exactly, ends in time, and says what is wrong."""

from __future__ import annotations

import io
import json
import os
import signal

import numpy as np
import pytest
import torch
from geomol_training.cli import app
from geomol_training.keeper import read_state, write_state
from geomol_training.nbody import learning, train
from geomol_training.nbody.learning import Part, Settings, Training, make_settings, mean_square_error
from geomol_training.nbody.simulate import Samples
from geomol_training.nbody.train import run
from rich.console import Console
from typer.testing import CliRunner

from ase_geomol.errors import CheckpointError, ConfigError

ADAM = {"name": "adam", "lr": 0.01}
TINY = {"layers": 1, "channels": 8, "heads": 2, "kernels": 8}


def settings(**changes) -> Settings:
    network = TINY | changes.pop("network", {})
    return make_settings(network=network, batch=16, warmup_steps=2, **{"optimiser": ADAM, **changes})


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def samples() -> dict[str, Samples]:
    """Particles that move on as they move, a little slower near each other."""
    random, made = np.random.default_rng(0), {}
    for part, count in {"train": 40, "valid": 24, "test": 30}.items():
        positions, velocities = random.normal(size=(2, count, 5, 3))
        charges = random.choice([-1.0, 1.0], size=(count, 5))
        made[part] = Samples(charges, positions, velocities, positions + 0.8 * velocities)
    return made


def test_learns(samples, tmp_path):
    console = quiet()
    result = run(settings(ema=0.9), samples, tmp_path, steps=90, threads=1, console=console)
    assert result is not None
    still = ((samples["test"].targets - samples["test"].positions) ** 2).mean()
    assert result["test_mse"] < 0.2 * still
    assert result["steps"] == 90
    assert result["epochs"] == 30  # 16 + 16 + 8 samples each
    assert result["asked"] == {"steps": 90, "seconds": None}
    assert result["samples"] == {"train": 40, "valid": 24, "test": 30}
    assert [line["step"] for line in result["history"]] == [15, 30, 45, 60, 75, 90]
    best = min(result["history"], key=lambda line: line["valid_mse"])
    assert (result["valid_mse"], result["best_step"]) == (best["valid_mse"], best["step"])
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert f"test MSE {result['test_mse']:.5f}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_error_is_of_the_best_validation(samples, tmp_path, monkeypatch):
    """Weights of the validation with the lowest error are tested, not the last ones."""
    errors, seen = iter([0.3, 0.1, 0.2]), []

    def error(network, part):
        seen.append(([p.clone() for p in network.parameters()], len(part.charges)))
        return 0.5 if len(part.charges) == 30 else next(errors)

    for module in (learning, train):
        monkeypatch.setattr(module, "mean_square_error", error)
    result = run(settings(), samples, tmp_path, steps=45, console=quiet())
    assert result is not None
    assert (result["valid_mse"], result["best_step"], result["test_mse"]) == (0.1, 30, 0.5)
    assert [count for _, count in seen] == [24, 24, 24, 30]
    assert all(torch.equal(a, b) for a, b in zip(seen[1][0], seen[3][0], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[2][0], seen[3][0], strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resumed_run_has_the_same_bits(samples, tmp_path, dropout, monkeypatch):
    chosen = settings(network={"dropout": dropout})
    whole = run(chosen, samples, tmp_path / "whole", steps=40, console=quiet())
    monkeypatch.setattr(train, "Training", Stopping)
    assert run(chosen, samples, tmp_path / "parts", steps=40, console=quiet()) is None
    assert not (tmp_path / "parts" / "result.json").exists()
    monkeypatch.undo()
    parts = run(chosen, samples, tmp_path / "parts", steps=40, resume=True, console=quiet())
    assert whole is not None
    assert parts is not None
    assert whole["test_mse"] == parts["test_mse"]
    assert [line["valid_mse"] for line in whole["history"]] == [line["valid_mse"] for line in parts["history"]]
    one, other = (read_state(tmp_path / name / "last.pt", "settings") for name in ("whole", "parts"))
    for name in ("network", "mean", "best"):
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name])


class Stopping(Training):
    """Someone presses Ctrl-C in the 17th step."""

    def step(self) -> None:
        super().step()
        if self.standing.step == 17:
            os.kill(os.getpid(), signal.SIGINT)


def test_seeds_differ_and_repeat(samples, tmp_path):
    found = [
        run(settings(seed=seed), samples, tmp_path / str(k), steps=3, console=quiet())["valid_mse"]  # type: ignore[index]
        for k, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1] != found[2]


def test_a_time_budget_ends_the_training(samples, tmp_path):
    result = run(settings(), samples, tmp_path, time_budget=0.3, console=quiet())
    assert result is not None
    assert result["steps"] >= 1
    assert result["seconds"] >= 0.3
    assert result["history"][-1]["step"] == result["steps"]
    again = run(settings(), samples, tmp_path, time_budget=0.3, resume=True, console=quiet())
    assert again is not None
    assert again["steps"] == result["steps"]
    assert again["test_mse"] == result["test_mse"]


def test_a_step_without_a_finite_gradient_changes_nothing(samples, tmp_path):
    targets = samples["train"].targets.copy()
    targets[7] = np.nan
    broken = {**samples, "train": samples["train"]._replace(targets=targets)}
    result = run(settings(), broken, tmp_path, steps=6, console=quiet())
    assert result is not None
    assert result["skipped_steps"] == 2  # one batch in each epoch
    assert np.isfinite(result["test_mse"])


def test_a_training_that_came_to_nothing_is_no_result(samples, tmp_path):
    broken = {**samples, "valid": samples["valid"]._replace(targets=np.full((24, 5, 3), np.nan))}
    with pytest.raises(ConfigError, match="Nothing was learned"):
        run(settings(), broken, tmp_path, steps=4, console=quiet())
    assert not (tmp_path / "result.json").exists()


def test_resuming_a_run_of_another_command(samples, tmp_path):
    write_state(tmp_path / "last.pt", {"identity": {}})
    with pytest.raises(CheckpointError, match="another command"):
        run(settings(), samples, tmp_path, steps=1, resume=True, console=quiet())


def test_mean_square_error_by_hand(samples):
    part = Part(*(torch.tensor(column) for column in samples["test"]))

    def still(charges, positions, velocities):
        return positions

    expected = (0.8 * samples["test"].velocities) ** 2
    assert mean_square_error(still, part, together=7) == pytest.approx(expected.mean())  # type: ignore[arg-type]


def test_what_cannot_be_done_is_said(samples, tmp_path):
    with pytest.raises(ConfigError, match="Nothing ends this training"):
        run(settings(), samples, tmp_path)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run(settings(), samples, tmp_path / "new", steps=1, resume=True, console=quiet())
    run(settings(), samples, tmp_path / "old", steps=1, console=quiet())
    with pytest.raises(ConfigError, match="holds a run"):
        run(settings(), samples, tmp_path / "old", steps=1, console=quiet())
    with pytest.raises(ConfigError, match="another 'seed'"):
        run(settings(seed=4), samples, tmp_path / "old", steps=2, resume=True, console=quiet())
    with pytest.raises(ConfigError, match="equivariant_norm"):
        make_settings(network={"equivariant_norm": "batch"})


def test_muon_moves_the_maps_of_both_streams(samples):
    parts = {name: Part(*(torch.tensor(x, dtype=torch.float32) for x in of)) for name, of in samples.items()}
    training = Training(settings(optimiser={"name": "muon"}), parts["train"], parts["valid"], learning.Extent(1, None))
    shapes = {tuple(p.shape) for p in training.optimiser.param_groups[0]["params"]}
    assert {(2, 8, 24), (2, 8, 8), (8, 8)} <= shapes


def test_the_name_of_a_run():
    assert make_settings(seed=2).name == "whiten-seed2"
    network = {"equivariant_norm": "rms", "without": ("structural_bias", "invariant_ffn")}
    assert make_settings(network=network).name == "rms-without-structural_bias-without-invariant_ffn-seed0"
    other = make_settings(network={"coupling": "gates"}, optimiser={"name": "adam", "lr": 0.001})
    assert other.name == "whiten-couplinggates-optimiseradam-lr0.001-seed0"


def test_command(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("geomol_training.nbody.simulate.load", lambda folder, report: samples)
    monkeypatch.chdir(tmp_path)
    call = ["nbody", "--norm", "rms", "--without", "invariant_ffn", "--steps", "1", "--lr", "0.002"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "runs/nbody/rms-without-invariant_ffn-lr0.002-seed0-1/result.json").read_text())
    assert result["settings"]["optimiser"]["lr"] == 0.002
    assert result["settings"]["network"]["without"] == ["invariant_ffn"]
    assert result["hardware"]["threads"] == 1
    refused = CliRunner().invoke(app, ["nbody", "--time-budget", "soon"])
    assert isinstance(refused.exception, ConfigError)
