"""The N-body network: symmetries, ablations, the coupling of its streams, attention and the fast norm."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from geomol_training.nbody.network import (
    Attention,
    InvariantNorm,
    NBodyConfig,
    NBodyGeoMFormer,
    Part,
    StreamLinear,
)
from geomol_training.nbody.whitening import FastEquivariantNorm
from pydantic import ValidationError
from torch import Tensor, nn
from torch.autograd import gradcheck

from ase_geomol.nn import EquivariantNorm

MODES = ["whiten", "rms"]
PARTS = get_args(Part)


def make(seed: int = 0, **options) -> NBodyGeoMFormer:
    """A small network in float64 with no parameter at a neutral start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"layers": 2, "channels": 8, "heads": 2, "kernels": 6}
        network = NBodyGeoMFormer(NBodyConfig(**{**sizes, **options})).double().eval()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def systems(count: int = 3, particles: int = 5, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positions, velocities = 1.5 * torch.randn(2, count, particles, 3, dtype=torch.float64, generator=generator)
    charges = 2.0 * torch.randint(0, 2, (count, particles), generator=generator) - 1
    return charges.double(), positions, velocities


def rotation(sign: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return sign * torch.linalg.det(q) * q


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


# Symmetries


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sign", [1, -1])
def test_rotations_and_reflections(mode, sign):
    network, (charges, positions, velocities), turn = make(equivariant_norm=mode), systems(), rotation(sign)
    assert torch.linalg.det(turn).item() == pytest.approx(sign)
    expected = network(charges, positions, velocities) @ turn.T
    assert largest(network(charges, positions @ turn.T, velocities @ turn.T) - expected) < 1e-12
    assert largest(expected - positions @ turn.T) > 1e-2


@pytest.mark.parametrize("mode", MODES)
def test_translations(mode):
    network, (charges, positions, velocities) = make(equivariant_norm=mode), systems()
    shift = torch.tensor([0.3, -7.0, 2.0], dtype=torch.float64)
    moved = network(charges, positions + shift, velocities)
    assert largest(moved - shift - network(charges, positions, velocities)) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_permutations_and_batches(mode):
    network, (charges, positions, velocities) = make(equivariant_norm=mode), systems()
    expected = network(charges, positions, velocities)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert largest(network(charges[:, order], positions[:, order], velocities[:, order]) - expected[:, order]) < 1e-12
    for k in range(3):
        one = slice(k, k + 1)
        assert largest(network(charges[one], positions[one], velocities[one]) - expected[one]) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_degenerate_systems_have_finite_slopes(mode):
    """All in a plane, all on a line, a particle on the centroid, particles at rest."""
    network, (charges, positions, velocities) = make(equivariant_norm=mode), systems(4)
    positions[0, :, 2], velocities[0, :, 2] = 0, 0
    positions[1, :, 1:], velocities[1, :, 1:] = 0, 0
    positions[2] -= positions[2, [0]]
    positions[2, 1] = -positions[2, 2:].sum(0)
    velocities[3] = 0
    inputs = [positions.requires_grad_(), velocities.requires_grad_()]
    predicted = network(charges, *inputs)
    assert torch.isfinite(predicted).all()
    slopes = torch.autograd.grad(predicted.square().sum(), [*inputs, *network.parameters()])
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert largest(predicted[0, :, 2]) < 1e-12
    assert largest(predicted[1, :, 1:]) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_derivatives(mode):
    network = make(equivariant_norm=mode, layers=1, channels=4)
    charges, positions, velocities = systems(1, 3)
    weight = network.get_parameter("blocks.0.norms.1.vectors.weight")

    def function(positions: Tensor, velocities: Tensor, weight: Tensor) -> Tensor:
        values = {"blocks.0.norms.1.vectors.weight": weight}
        return torch.func.functional_call(network, values, (charges, positions, velocities))

    inputs = (positions.requires_grad_(), velocities.requires_grad_(), weight.detach().clone().requires_grad_())
    assert gradcheck(function, inputs)


def test_charges_matter():
    network, (charges, positions, velocities) = make(), systems()
    changed = charges.clone()
    changed[:, 0] *= -1
    assert largest(network(changed, positions, velocities) - network(charges, positions, velocities)) > 1e-3


# Ablations


def belongs(name: str, part: str) -> bool:
    """Whether a parameter is one of the part."""
    if part == "structural_bias":
        return name.startswith("bias.")
    if part == "invariant_norm":
        return "norms" in name and ".scalars." in name
    if part == "equivariant_norm":
        return "norms" in name and ".vectors." in name
    return f".parts.{part}." in name


def silenced(network: NBodyGeoMFormer, part: str) -> NBodyGeoMFormer:
    """The full network with a part made to do nothing by other means than its switch."""
    if part.endswith("_norm"):
        for norms in (network.final_norms, *(n for block in network.blocks for n in block.norms)):
            setattr(norms, "scalars" if part == "invariant_norm" else "vectors", nn.Identity())
    else:
        for name, parameter in network.named_parameters():
            if belongs(name, part) and (".out." in name or name.startswith("bias.2.")):
                parameter.data.zero_()
    return network


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", PARTS)
def test_a_switch_removes_exactly_its_part(part, mode):
    full, ablated = make(equivariant_norm=mode), make(equivariant_norm=mode, without=(part,))
    names, left = dict(full.named_parameters()), dict(ablated.named_parameters())
    assert set(names) - set(left) == {name for name in names if belongs(name, part)} != set()
    assert set(left) <= set(names)
    ablated.load_state_dict({name: value for name, value in full.state_dict().items() if name in left})
    inputs = systems()
    found, before = ablated(*inputs), full(*inputs)
    assert largest(found - before) > 1e-4
    assert largest(found - silenced(full, part)(*inputs)) < 1e-12


def test_everything_can_be_left_out():
    network, (charges, positions, velocities) = make(without=PARTS), systems()
    turn = rotation(-1)
    expected = network(charges, positions, velocities) @ turn.T
    assert largest(network(charges, positions @ turn.T, velocities @ turn.T) - expected) < 1e-12


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"without": ("attention",)}, {"equivariant_norm": "batch"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        NBodyConfig(**wrong)


# Streams


def test_the_streams_meet_in_equivariant_cross_attention_only():
    """Seen in the readout of the position stream: with gates, velocities reach it through nothing else."""
    for without, reached in (((), True), (("equivariant_cross",), False)):
        network, (charges, positions, velocities) = make(without=without, coupling="gates"), systems()
        network.readouts[1].second.vectors.weight.data.zero_()
        difference = network(charges, positions, 2 * velocities) - network(charges, positions, velocities)
        assert (largest(difference) > 1e-4) is reached


@pytest.mark.parametrize("coupling", ["products", "gates"])
def test_only_products_tell_which_way_particles_move(coupling):
    """With gates, the readout of the positions is the same after all velocities are turned together."""
    network, (charges, positions, velocities) = make(coupling=coupling), systems()
    network.readouts[1].second.vectors.weight.data.zero_()
    turned = network(charges, positions, velocities @ rotation(1)) - network(charges, positions, velocities)
    assert (largest(turned) > 1e-4) is (coupling == "products")


def test_the_streams_have_weights_of_their_own():
    linear, x = StreamLinear(3, 4, bias=True).double(), torch.randn(2, 5, 1, 3, dtype=torch.float64)
    nn.init.normal_(linear.bias)  # type: ignore[arg-type]
    found = linear(x)
    for s in range(2):
        assert torch.allclose(found[s], x[s] @ linear.weight[s] + linear.bias[s], atol=1e-14)  # type: ignore[index]


def test_the_paper_s_size():
    """25 d^2 a layer and pair of streams, without biases, for r = d."""
    network = NBodyGeoMFormer(NBodyConfig())
    matrices = [p for p in network.blocks.parameters() if p.dim() == 3 and p.shape[1] > 1]
    assert sum(p.numel() for p in matrices) == 2 * 4 * 25 * 80**2


# Layers


@pytest.mark.parametrize("rows", [1, 3])
def test_attention_is_the_printed_formula(rows):
    torch.manual_seed(0)
    config = NBodyConfig(channels=8, heads=2, dropout=0.0)
    attention = Attention(config, rows).double()
    query, key, value = torch.randn(3, 2, 3, 5, rows, 8, dtype=torch.float64)
    bias = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    found = attention.attend(query, key, value, bias.expand(2, -1, -1, -1, -1).flatten(0, 2))
    expected = torch.zeros_like(found)
    for s in range(2):
        for b in range(3):
            for h in range(2):
                head = slice(4 * h, 4 * h + 4)
                for i in range(5):
                    logits = (query[s, b, i, None, :, head] * key[s, b, :, :, head]).sum((-2, -1))
                    weights = torch.softmax(logits / math.sqrt(4 * rows) + bias[b, h, i], 0)
                    expected[s, b, i, :, head] = torch.einsum("j,jrc->rc", weights, value[s, b, :, :, head])
    assert largest(found - attention.out(expected)) < 1e-13


def test_large_logits_are_safe():
    attention = Attention(NBodyConfig(channels=8, heads=2), 1)
    x = torch.full((2, 1, 5, 1, 8), 1e3, requires_grad=True)
    found = attention.attend(x, x, x, torch.zeros(4, 5, 5))
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert torch.isfinite(found).all()
    assert torch.isfinite(slope).all()


def test_dropout_acts_in_training_only_and_keeps_the_symmetry():
    network, inputs, turn = make(dropout=0.3), systems(), rotation(-1)
    assert largest(network(*inputs) - make()(*inputs)) == 0
    network.train()
    torch.manual_seed(3)
    expected = network(*inputs) @ turn.T
    torch.manual_seed(3)
    assert largest(network(inputs[0], inputs[1] @ turn.T, inputs[2] @ turn.T) - expected) < 1e-12
    assert largest(network(*inputs) @ turn.T - expected) > 1e-4


def test_invariant_norm_is_a_layer_norm_of_each_stream():
    norm, x = InvariantNorm(8).double(), 2 + torch.randn(2, 3, 5, 1, 8, dtype=torch.float64)
    for s in range(2):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        plain = nn.LayerNorm(8).double()
        plain.load_state_dict({"weight": norm.weight[s].flatten(), "bias": norm.bias[s].flatten()})
        assert torch.allclose(norm(x)[s], plain(x[s]), atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_the_fast_norm_has_the_values_and_slopes_of_the_plain_one(mode):
    x = torch.randn(2, 4, 5, 3, 16, dtype=torch.float64)
    x[0, 0, :, 1:] = 0  # on a line
    x[0, 1] = 0
    x[1] *= torch.logspace(-3, 2, 4, dtype=torch.float64)[:, None, None, None]
    plain, fast = (kind(16, mode, 0.05).double() for kind in (EquivariantNorm, FastEquivariantNorm))
    found = []
    for norm in (plain, fast):
        vectors = x.clone().requires_grad_()
        values = norm(vectors)
        (slopes,) = torch.autograd.grad((torch.sin(values) * x.cos()).sum(), vectors)
        found.append((values, slopes))
    assert largest(found[0][0] - found[1][0]) < 1e-12
    assert largest(found[0][1] - found[1][1]) < 1e-11
    vectors = x[0, 2:, :2].clone().requires_grad_()
    assert gradcheck(fast, (vectors,))
