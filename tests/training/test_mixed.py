"""Mixed precision: gradients are those of single precision up to the rounding of bfloat16, weights are ordinary."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable

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
    "est": {"layers": 2, "lmax": 1, "channels": 16, "expert_channels": 16, "kernels": 16, "radial_channels": 16},
}
ROUNDING = 2.0**-8
"""Of bfloat16."""


def gradients(potential: Potential, batch) -> dict[str, torch.Tensor]:
    """Of a loss with forces, so that the network is differentiated twice."""
    PotentialTask(Loss()).loss(potential.train(), batch).backward()
    return {name: p.grad.flatten().double() for name, p in potential.named_parameters() if p.grad is not None}


def apart(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], names: Iterable[str]) -> float:
    """Distance of the gradients of these parameters, relative to their length."""
    first, second = (torch.cat([values[name] for name in names]) for values in (found, wanted))
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("architecture", CONFIGS)
def test_gradients_are_those_of_single_precision(xyz, architecture: str):
    torch.manual_seed(0)
    batch = make_batch(load(str(xyz), Keys(), Limits()).frames, np.arange(8), 4.0)
    model = build_model(architecture, {"elements": (1, 6, 8), "cutoff": 4.0, **CONFIGS[architecture]})
    plain, mixed = (Potential(copy.deepcopy(model)) for _ in range(2))
    names = [f"model.{name}.weight" for name in mixed_parts(mixed.model)]  # type: ignore[arg-type]
    wanted, found = gradients(plain, batch), gradients(mixed, batch)
    assert ROUNDING / 100 < apart(found, wanted, names) < 10 * ROUNDING  # they do round, and no more than that
    assert 0 < apart(found, wanted, wanted) < 10 * ROUNDING
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


FEED_FORWARD = ("invariant_ffn.hidden", "invariant_ffn.out", "equivariant_ffn.hidden", "equivariant_ffn.gate")


@pytest.mark.parametrize("message", ["zonal", "graph_attention", "so2", "gata", "attention"])
def test_of_est_the_experts_at_points_alone_compute_in_bfloat16(message: str):
    """Neither radial functions nor logits, maps by degree or order, the gate of experts and the read-out."""
    config = {"elements": (1, 6, 8), "message": message, "message_heads": 2, **CONFIGS["est"]}
    network = build_model("est", config)
    experts = {name for name, _ in network.named_modules() if name.endswith("update.spherical.first")}
    assert mixed_parts(network) == experts
    assert experts


def test_of_geomformer_feed_forward_networks_alone_compute_in_bfloat16():
    config = {"elements": (1, 6, 8), "direct_forces": True, **CONFIGS["geomformer"]}
    names = (*FEED_FORWARD, "equivariant_ffn.out")
    expected = {f"blocks.{block}.parts.{name}" for block in range(2) for name in names}
    assert mixed_parts(build_model("geomformer", config)) == expected


def mixed_parts(network: nn.Module) -> set[str]:
    """Names of the parts that multiply in bfloat16."""
    use_mixed_precision(network)
    return {name for name, part in network.named_modules() if isinstance(part, MixedLinear)}
