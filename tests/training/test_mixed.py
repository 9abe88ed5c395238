"""Mixed precision: gradients are those of single precision up to the rounding of bfloat16, weights are ordinary."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from geomol_training.batches import make_batch
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.fit import fit
from geomol_training.mixed import MixedLinear, use_mixed_precision
from geomol_training.readers import Keys
from geomol_training.recipe import Loss
from geomol_training.tasks import PotentialTask
from rich.console import Console
from torch import nn

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.models import build_model
from ase_geomol.potential import Potential

CONFIGS = {
    "geomformer": {"layers": 2, "channels": 32, "ffn_channels": 32, "heads": 4},
    "est": {"layers": 1, "lmax": 1, "channels": 16, "expert_channels": 16, "kernels": 16, "radial_channels": 16},
}
ROUNDING = 2.0**-8
"""Of bfloat16."""


def gradient(potential: Potential, batch) -> torch.Tensor:
    """Of a loss with forces, so that the network is differentiated twice."""
    PotentialTask(Loss()).loss(potential.train(), batch).backward()
    return torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None]).double()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_gradients_are_those_of_single_precision(xyz, architecture: str):
    torch.manual_seed(0)
    batch = make_batch(load(str(xyz), Keys(), Limits()).frames, np.arange(8), 4.0)
    model = build_model(architecture, {"elements": (1, 6, 8), "cutoff": 4.0, **CONFIGS[architecture]})
    plain, mixed = (Potential(copy.deepcopy(model)) for _ in range(2))
    use_mixed_precision(mixed.model)  # type: ignore[arg-type]
    wanted, found = gradient(plain, batch), gradient(mixed, batch)
    apart = float((found - wanted).norm() / wanted.norm())
    assert ROUNDING / 100 < apart < 10 * ROUNDING  # it does round, and no more than that
    with torch.no_grad():
        assert torch.equal(plain.eval()(batch.graph).energy, mixed.eval()(batch.graph).energy)


def test_a_training_in_mixed_precision(make_recipe, tmp_path):
    """As good as in single precision; its weights are of single precision, and so is what they predict."""
    results = []
    for precision in ("float32", "mixed"):
        recipe = make_recipe(training={"precision": precision})
        results.append(fit(recipe, tmp_path / precision, console=Console(file=io.StringIO()), threads=1))
    plain, mixed = (result.errors["validation_forces_MAE_meV_per_A"] for result in results)
    assert mixed != plain
    assert mixed == pytest.approx(plain, rel=0.05)
    potential = load_checkpoint(results[1].model).potential
    assert potential.dtype == torch.float32
    assert not any(isinstance(part, MixedLinear) for part in potential.modules())
    assert any(type(part) is nn.Linear for part in potential.modules())
