"""What a dry run says of steps and memory, beside what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from geomol_training import estimate as estimating
from geomol_training.batches import make_batch
from geomol_training.beginning import untrained
from geomol_training.cli import app
from geomol_training.estimate import Memory, TooMuchMemory, estimate
from geomol_training.fit import fit
from geomol_training.parts import read_training_frames
from geomol_training.tasks import task_of
from rich.console import Console
from typer.testing import CliRunner


def test_memory_is_that_of_living_tensors():
    with Memory() as memory:
        first = torch.zeros(1000, dtype=torch.float64)
        view = first[:10] + 1  # a view holds nothing of its own
        assert (memory.now, memory.peak) == (8080, 8080)
        del first
        assert (memory.now, memory.peak) == (80, 8080)
        del view
        weights = torch.ones(100, requires_grad=True)
        product = (weights * 2).exp().sum()  # the exponential is kept for the derivative, its argument is not
        assert memory.now == 400 + 400 + 4
        product.backward()
        assert memory.now == 2 * 400 + 4  # the gradient, and no longer the exponential
    with pytest.raises(TooMuchMemory), Memory(limit=1000):
        torch.zeros(1000)


@pytest.mark.parametrize("architecture", ["geomformer", "est"])
def test_memory_of_a_step_is_about_what_it_takes(make_recipe, tmp_path, architecture):
    """Of the largest batch, as measured; the estimate has seen eight frames of 24."""
    recipe = make_recipe(training={"batch_edges": None, "batch_frames": 24})
    if architecture == "est":
        config = {"lmax": 1, "channels": 8, "points": "icosahedral-12", "zonal_nodes": 6, "elements": [1, 6, 8]}
        model = recipe.model.model_copy(update={"architecture": "est", "config": config})
        recipe = recipe.model_copy(update={"model": model})
    found = estimate(recipe)
    assert (found.frames, found.steps, found.atoms) == (24, 1, 8 * (9 + 5 + 3))
    frames = read_training_frames(recipe, tmp_path, Console(quiet=True))
    predictor = untrained(recipe, frames.elements).train()
    batch = make_batch(frames, np.arange(24), predictor.cutoff)
    with Memory() as memory:
        task_of(recipe).loss(predictor, batch).backward()
    gradients = sum(parameter.nbytes for parameter in predictor.parameters())
    assert found.activations == pytest.approx(memory.peak - gradients, rel=0.25)
    in_parts = recipe.model_copy(update={"training": recipe.training.model_copy(update={"parts": 4})})
    assert estimate(in_parts).activations == pytest.approx(found.activations / 4)


@pytest.mark.parametrize(("size", "within"), [({"batch_frames": 5}, 0), ({"batch_atoms": 40}, 0), ({}, 2)])
def test_steps_are_those_of_the_training(make_recipe, tmp_path, size, within):
    """Exactly, where nobody has to count neighbours."""
    size = {"batch_edges": None, **size} if size else {"batch_edges": 200}
    recipe = make_recipe(training={**size, "max_steps": None, "max_epochs": 1})
    done = fit(recipe, tmp_path, console=Console(quiet=True), threads=1).step
    assert abs(estimate(recipe).steps - done) <= within


def test_a_structure_that_is_too_large_is_not_tried_further(make_recipe, monkeypatch):
    monkeypatch.setattr(estimating, "TOO_MUCH", 1e4)
    assert math.isinf(estimate(make_recipe()).activations)


def test_a_dry_run_tells_it(make_recipe, tmp_path):
    recipe = make_recipe(training={"batch_edges": None, "batch_frames": 6, "max_steps": None, "max_epochs": 50})
    (tmp_path / "a.yaml").write_text(recipe.model_dump_json())
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    done = runner.invoke(app, ["fit", str(tmp_path / "a.yaml"), "--dry-run"])
    assert done.exit_code == 0, done.output
    for words in ("for a step with", "24 structures to learn are about", "50 epochs (about"):
        assert words in done.output
    bad = ["fit", str(tmp_path / "a.yaml"), "--dry-run", "--set", "data.max_force=0.001"]
    done = runner.invoke(app, bad)
    assert done.exit_code == 1
    assert "unusable data: " in done.output
