"""Trainings on a GPU."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from ase.build import molecule
from geomol_training.fit import fit
from rich.console import Console

from ase_geomol import GeoMolCalculator

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_training(make_recipe, structures, tmp_path):
    """A training on the device, with workers, learns; its weights are read where there is no such device."""
    half = make_recipe(optimiser={"name": "muon"}, training={"max_steps": 30, "validate_every": 30})
    assert fit(half, tmp_path, workers=2, console=Console(file=io.StringIO())).step == 30
    whole = make_recipe(optimiser={"name": "muon"}, training={"max_steps": 60, "validate_every": 30})
    result = fit(whole, tmp_path, resume=True, workers=2, console=Console(file=io.StringIO()))
    assert result.step == 60
    first = fit(make_recipe(training={"max_steps": 1}), tmp_path / "first", console=Console(file=io.StringIO()))
    assert result.errors["validation_forces_MAE_meV_per_A"] < first.errors["validation_forces_MAE_meV_per_A"]
    forces = []
    for device in ("cuda", "cpu"):
        water = molecule("H2O")
        water.calc = GeoMolCalculator(result.model, device=device)
        forces.append(water.get_forces())
    np.testing.assert_allclose(*forces, atol=1e-3)
