"""Layers: envelope, attention weights, equivariant norm, radial basis, readouts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ase_geomol.nn import (
    EquivariantNorm,
    ExponentialBasis,
    GaussianBasis,
    ScalarReadout,
    VectorReadout,
    attention_weights,
    log_envelope,
    radial,
    segment_sum,
    smooth_cutoff,
)
from ase_geomol.nn.attention import NOBODY


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _rotation(seed: int = 0) -> Tensor:
    q, r = torch.linalg.qr(_random(3, 3, seed=seed))
    return q * r.diagonal().sign()


# Envelope

PRINTED = {
    3: lambda x: 1 - 10 * x**3 + 15 * x**4 - 6 * x**5,
    6: lambda x: 1 - 28 * x**6 + 48 * x**7 - 21 * x**8,
}


@pytest.mark.parametrize("power", PRINTED)
def test_envelope_is_the_printed_polynomial(power: int) -> None:
    x = torch.linspace(0, 1, 201, dtype=torch.float64)
    assert torch.allclose(smooth_cutoff(5.0 * x, 5.0, power), PRINTED[power](x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("power", [3, 4, 5, 6, 9])
def test_envelope_has_two_continuous_derivatives_at_the_cutoff(power: int) -> None:
    for distance in (5.0 - 1e-7, 5.0, 5.0 + 1e-7, 8.0):
        r = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        value = smooth_cutoff(r, 5.0, power)
        (slope,) = torch.autograd.grad(value, r, create_graph=True)
        curvature = torch.autograd.grad(slope, r, allow_unused=True)[0] if slope.requires_grad else None
        assert abs(value.item()) < 1e-15
        assert abs(slope.item()) < 1e-11
        assert curvature is None or abs(curvature.item()) < 1e-4  # it falls in proportion to the distance 1e-7


@pytest.mark.parametrize("power", [3, 6])
def test_envelope_starts_flat_at_one(power: int) -> None:
    r = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = smooth_cutoff(r, 5.0, power)
    (slope,) = torch.autograd.grad(value, r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, r)
    assert value.item() == 1
    assert abs(slope.item()) < 1e-14
    assert abs(curvature.item()) < 1e-14


@pytest.mark.parametrize("power", [3, 6])
def test_envelope_is_never_negative_in_float32(power: int) -> None:
    r = torch.linspace(4.0, 5.0, 200_001, dtype=torch.float32)
    u = smooth_cutoff(r, 5.0, power)
    assert (u >= 0).all()
    assert (u <= 1).all()
    assert u[-1] == 0
    assert (smooth_cutoff(torch.tensor([5.0, 6.0, 1e6]), 5.0, power) == 0).all()


# Sums and attention

HEADS, RECEIVERS, SENDERS = 3, 4, 5
NEIGHBOURS = [(0, 1), (0, 2), (0, 4), (1, 0), (3, 2)]
"""Receiver and sender; atom 2 has nobody but itself, and all other slots are empty."""
SELVES = [(0, 0), (1, 1), (2, 2), (3, 3)]
NORMS = ["softmax", "silu", "sum"]


def _slots(pairs: list[tuple[int, int]]) -> Tensor:
    """Mask (n, M) of the pairs' slots."""
    mask = torch.zeros(RECEIVERS, SENDERS, dtype=torch.bool)
    mask[tuple(torch.tensor(pairs).T)] = True
    return mask


def _attention_input(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (H, n, M), and an envelope (n, M) that is 1 for an atom with itself and 0 in empty slots."""
    generator = torch.Generator().manual_seed(seed)
    envelope = torch.rand(RECEIVERS, SENDERS, dtype=torch.float64, generator=generator) * _slots(NEIGHBOURS)
    return 2 * _random(HEADS, RECEIVERS, SENDERS, seed=seed), envelope + _slots(SELVES)


def _weights(logits: Tensor, envelope: Tensor, norm: str = "softmax") -> Tensor:
    return attention_weights(logits, envelope, log_envelope(envelope), norm)  # type: ignore[arg-type]


def test_segment_sum_is_a_loop() -> None:
    values, index = _random(7, 2, 3), torch.tensor([4, 0, 0, 2, 4, 4, 1])
    expected = torch.zeros(6, 2, 3, dtype=torch.float64)
    for row, i in zip(values, index, strict=True):
        expected[i] += row
    assert torch.allclose(segment_sum(values, index, 6), expected, rtol=0, atol=1e-15)
    assert segment_sum(values[:0], index[:0], 2).shape == (2, 2, 3)


def test_log_envelope_is_the_logarithm_and_ends_at_nobody() -> None:
    envelope = torch.tensor([1.0, 0.5, 1e-30, 0.0], dtype=torch.float64, requires_grad=True)
    values = log_envelope(envelope)
    assert torch.allclose(values[:3], envelope[:3].log(), rtol=1e-15)
    assert values[3] == NOBODY
    (slope,) = torch.autograd.grad(values.sum(), envelope, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), envelope)
    assert torch.allclose(slope[:3], 1 / envelope[:3], rtol=1e-14)
    assert torch.allclose(curvature[:3], -1 / envelope[:3].square(), rtol=1e-14)
    assert slope[3] == curvature[3] == 0


def test_softmax_is_the_printed_formula() -> None:
    logits, envelope = _attention_input()
    weights = _weights(logits, envelope)
    for head in range(HEADS):
        for i in range(RECEIVERS):
            terms = [envelope[i, j].item() * math.exp(logits[head, i, j].item()) for j in range(SENDERS)]
            for j in range(SENDERS):
                assert weights[head, i, j].item() == pytest.approx(terms[j] / sum(terms), rel=1e-13)


def test_softmax_rows_sum_to_one_and_nothing_is_negative() -> None:
    weights = _weights(*_attention_input())
    assert torch.allclose(weights.sum(-1), torch.ones(HEADS, RECEIVERS, dtype=torch.float64), atol=1e-14)
    assert (weights >= 0).all()


def test_other_norms_have_no_denominator() -> None:
    logits, envelope = _attention_input()
    assert torch.allclose(_weights(logits, envelope, "silu"), envelope * logits * torch.sigmoid(logits), atol=1e-15)
    assert torch.allclose(_weights(logits, envelope, "sum"), envelope * logits.exp(), atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_slot_has_no_weight_and_no_slope_whatever_it_holds(norm: str) -> None:
    logits, envelope = _attention_input()
    empty = ~_slots([*NEIGHBOURS, *SELVES])
    other = torch.where(empty, 50 * _random(*logits.shape, seed=5), logits).requires_grad_()
    weights = _weights(other, envelope, norm)
    assert (weights[:, empty] == 0).all()
    assert torch.equal(weights, _weights(logits, envelope, norm))
    (slope,) = torch.autograd.grad(weights.square().sum(), other, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), other)
    assert (slope[:, empty] == 0).all()
    assert (curvature[:, empty] == 0).all()
    assert (slope[:, _slots(NEIGHBOURS)] != 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_leaving_neighbour_takes_nothing_with_it(norm: str) -> None:
    """With its envelope at zero a neighbour may as well not be listed, however large its logit."""
    logits, envelope = _attention_input()
    logits[:, 0, 4] = 12.0
    envelope[0, 4] = 0.0  # nobody else has sender 4
    with_it = _weights(logits, envelope, norm)
    without = _weights(logits[..., :4], envelope[:, :4], norm)
    assert torch.allclose(with_it[..., :4], without, rtol=1e-13)
    assert (with_it[..., 4] == 0).all()


def test_weights_of_the_last_neighbour_vanish_with_its_envelope() -> None:
    """Atom 3 has one neighbour: beside the atom itself its weight falls as the envelope, alone it would stay 1."""
    logits, envelope = _attention_input()
    ratios = []
    for u in (1e-2, 1e-4, 1e-6):
        envelope[3, 2] = u
        ratios.append(_weights(logits, envelope)[:, 3, 2] / u)
    assert torch.allclose(ratios[1], ratios[2], rtol=1e-2)
    assert (ratios[2] * 1e-6 < 1e-3).all()


def test_softmax_survives_large_logits_in_float32() -> None:
    logits, envelope = _attention_input()
    logits = (logits * 500).float().requires_grad_()
    weights = _weights(logits, envelope.float())
    assert torch.isfinite(weights).all()
    (slope,) = torch.autograd.grad(weights.square().sum(), logits)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("norm", NORMS)
def test_attention_derivatives(norm: str) -> None:
    """By logits and envelopes, of the slots that hold somebody (a negative envelope has no meaning)."""
    logits, envelope = _attention_input()
    somebody = _slots([*NEIGHBOURS, *SELVES])

    def function(logits: Tensor, inside: Tensor) -> Tensor:
        return _weights(logits, envelope.masked_scatter(somebody, inside), norm)

    inputs = (logits.requires_grad_(), envelope[somebody].requires_grad_())
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


CROSSING = [1.3, 4.9999, 5.0, 5.3, 4.0]
"""Å, of `NEIGHBOURS` under a cutoff of 5 Å: within, about to leave, just there, gone, within."""


def _crossing(distance: Tensor) -> Tensor:
    """Envelope (n, M) of the neighbours' distances; the rest as in `_attention_input`."""
    zeros = torch.zeros(RECEIVERS, SENDERS, dtype=distance.dtype)
    return zeros.masked_scatter(_slots(NEIGHBOURS), smooth_cutoff(distance, 5.0)) + _slots(SELVES)


@pytest.mark.parametrize("norm", NORMS)
def test_attention_derivatives_at_the_cutoff_and_in_empty_slots(norm: str) -> None:
    def function(logits: Tensor, distance: Tensor) -> Tensor:
        return _weights(logits, _crossing(distance), norm)

    distance = torch.tensor(CROSSING, dtype=torch.float64, requires_grad=True)
    inputs = (_attention_input()[0].requires_grad_(), distance)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_second_derivatives_next_to_the_cutoff_are_finite_in_float32(norm: str) -> None:
    """As in training, where the loss holds first derivatives: however close a neighbour is to leaving."""
    below = torch.nextafter(torch.tensor(5.0), torch.tensor(0.0)).item()
    found = []
    for dtype in (torch.float32, torch.float64):
        distance = torch.tensor([1.3, below, 5.0, 4.9999, 4.0], dtype=dtype, requires_grad=True)
        logits = _attention_input()[0].to(dtype).requires_grad_()
        energy = (_weights(logits, _crossing(distance), norm) * _random(HEADS, RECEIVERS, SENDERS, seed=7)).sum()
        (force,) = torch.autograd.grad(energy, distance, create_graph=True)
        found.append([slope.double() for slope in torch.autograd.grad((force - 1).square().sum(), (logits, distance))])
    for rounded, exact in zip(*found, strict=True):
        assert torch.isfinite(rounded).all()
        assert (rounded - exact).abs().max() < 1e-4 * max(1.0, exact.abs().max().item())


# Equivariant norm

CHANNELS = 12


def _vectors(case: str) -> Tensor:
    """Vectors (5, 3, d) of unit RMS in a generic or special arrangement."""
    z = _random(5, 3, CHANNELS, seed=1)
    if case == "isotropic":
        z = z - z.mean(-1, keepdim=True)
        u, _, v = torch.linalg.svd(z, full_matrices=False)
        return u @ v * math.sqrt(CHANNELS)
    if case in ("planar", "planar + 1e-4"):
        z[:, 2] = 0 if case == "planar" else 1e-4 * z[:, 2]
    if case == "linear":
        z[:, 1:] = 0
    if case == "zero":
        z = torch.zeros_like(z)
    return z


CASES = ["generic", "isotropic", "planar", "planar + 1e-4", "linear", "zero"]
MODES = ["rms", "whiten"]


def _norm(mode: str, dtype: torch.dtype = torch.float64, floor: float = 0.05) -> EquivariantNorm:
    norm = EquivariantNorm(CHANNELS, mode, floor).to(dtype)
    norm.weight.data = 1 + 0.3 * _random(CHANNELS, seed=2, dtype=dtype)
    return norm


def _turned(z: Tensor, rotation: Tensor) -> Tensor:
    return torch.einsum("ij,njd->nid", rotation, z)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sign", [1, -1])
def test_norm_is_equivariant(mode: str, case: str, sign: int) -> None:
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.float32, 2e-5)]:
        norm, z, rotation = _norm(mode, dtype), _vectors(case).to(dtype), sign * _rotation().to(dtype)
        after, expected = norm(_turned(z, rotation)), _turned(norm(z), rotation)
        assert (after - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_norm_derivatives_are_right_and_bounded(mode: str, case: str) -> None:
    norm, z = _norm(mode), _vectors(case)[:2].requires_grad_()
    assert gradcheck(norm, (z,))
    assert gradgradcheck(norm, (z,))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_norm_second_derivatives_agree_in_float32(mode: str, case: str) -> None:
    slopes = []
    for dtype in (torch.float64, torch.float32):
        norm, z = _norm(mode, dtype), _vectors(case).to(dtype).requires_grad_()
        readout = torch.tanh(norm(z) @ _random(CHANNELS, seed=3, dtype=dtype)).sum()
        (first,) = torch.autograd.grad(readout, z, create_graph=True)
        (second,) = torch.autograd.grad((first * _random(*z.shape, seed=4, dtype=dtype)).sum(), z)
        slopes.append((first.detach().double(), second.double()))
    for exact, rounded in zip(*slopes, strict=True):
        assert torch.isfinite(rounded).all()
        assert exact.abs().max() < 1e3
        assert (exact - rounded).abs().max() < 1e-3 * max(1.0, exact.abs().max().item())


def test_rms_is_the_printed_formula() -> None:
    norm, z = _norm("rms"), _vectors("generic")
    centred = z - z.mean(-1, keepdim=True)
    for atom in range(len(z)):
        trace = torch.trace(centred[atom] @ centred[atom].T / CHANNELS)
        expected = centred[atom] / torch.sqrt(trace / 3 + norm.floor) * norm.weight
        assert torch.allclose(norm(z)[atom], expected, atol=1e-14)


def test_whitening_is_the_inverse_square_root() -> None:
    norm, z = _norm("whiten"), _vectors("generic")
    centred = z - z.mean(-1, keepdim=True)
    covariance = centred @ centred.mT / CHANNELS + norm.floor * torch.eye(3, dtype=torch.float64)
    values, axes = torch.linalg.eigh(covariance)
    exact = axes @ torch.diag_embed(values.rsqrt()) @ axes.mT @ centred * norm.weight
    assert torch.allclose(norm(z), exact, atol=1e-10)


def test_whitening_makes_the_covariance_the_identity() -> None:
    norm = EquivariantNorm(64, "whiten", floor=1e-6).double()
    stretch = torch.tensor([[1.0, 0.4, 0.2], [0.0, 1.3, -0.3], [0.1, 0.0, 0.7]], dtype=torch.float64)
    z = norm(stretch @ _random(4, 3, 64) + 0.5)
    covariance = z @ z.mT / 64
    assert torch.allclose(covariance, torch.eye(3, dtype=torch.float64).expand(4, 3, 3), atol=1e-5)
    assert z.mean(-1).abs().max() < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_the_floor_lets_small_vectors_stay_small(mode: str) -> None:
    """Around a site whose symmetry forbids vectors the output is linear in the input: no crease."""
    norm, z = _norm(mode), _vectors("generic")
    small, smaller = norm(1e-3 * z), norm(1e-4 * z)
    assert (small - 10 * smaller).abs().max() < 1e-4 * small.abs().max()
    assert norm(torch.zeros_like(z)).abs().max() == 0


@pytest.mark.parametrize("mode", MODES)
def test_no_norm_amplifies(mode: str) -> None:
    """Norms follow each other through all layers: one that stretched small vectors would make a crease of them."""
    norm = EquivariantNorm(CHANNELS, mode).double()
    for size in (1e-6, 1e-2, 1.0, 100.0):
        z = size * _vectors("generic")
        centred = z - z.mean(-1, keepdim=True)
        assert (norm(z).square().sum((1, 2)) <= centred.square().sum((1, 2)) * (1 + 1e-9)).all()


# Radial basis and readouts


def test_gaussian_basis_is_the_printed_formula() -> None:
    basis = GaussianBasis(6, 5.0, 3).double()
    for parameter in basis.parameters():
        parameter.data += 0.1 * _random(*parameter.shape)
    basis.width.data[2] *= -1  # a width may pass through zero in training; its size counts
    distance, kind = torch.tensor([0.7, 2.0, 4.9], dtype=torch.float64), torch.tensor([2, 0, 1])
    values = basis(distance, kind)
    for e in range(3):
        for k in range(6):
            width = abs(basis.width[k].item()) + 1e-5
            x = basis.scale[kind[e]] * distance[e] + basis.offset[kind[e]] - basis.centre[k]
            expected = math.exp(-0.5 * (x.item() / width) ** 2) / (math.sqrt(2 * math.pi) * width)
            assert values[k, e].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("make", [GaussianBasis, ExponentialBasis])
def test_kernels_are_never_denormal_and_the_printed_formula(make, monkeypatch) -> None:
    distance = torch.linspace(0.3, 12.0, 400)
    kind = torch.zeros_like(distance, dtype=torch.long)
    basis = make(24, 5.0, 1)

    def denormal_numbers() -> int:
        """Among the kernels and the slopes of each, of a loss that hardly depends on them."""
        values = basis.float()(distance.requires_grad_(), kind)
        slopes = [torch.autograd.grad(1e-9 * row.sum(), distance, retain_graph=True)[0] for row in values]
        numbers = torch.stack([*values, *slopes]).detach()
        return int(((numbers != 0) & (numbers.abs() < torch.finfo(torch.float32).tiny)).sum())

    assert denormal_numbers() == 0
    exact = basis.double()(distance.double(), kind)
    monkeypatch.setattr(radial, "LEAST_EXPONENT", -math.inf)
    assert torch.allclose(exact, basis.double()(distance.double(), kind), rtol=0, atol=1e-21)
    assert denormal_numbers() > 0


def test_gaussian_basis_puts_kernels_first() -> None:
    basis = GaussianBasis(6, 5.0, 3).double()
    distance, kind = _random(2, 4, 3).abs(), torch.arange(24).view(2, 4, 3) % 3
    values = basis(distance, kind)
    assert values.shape == (6, 2, 4, 3)
    assert torch.equal(values[:, 1, 2], basis(distance[1, 2], kind[1, 2]))


def test_gaussian_basis_starts_on_a_grid() -> None:
    basis = GaussianBasis(11, 5.0, 4)
    assert torch.allclose(basis.centre, torch.linspace(0, 5, 11))
    assert torch.allclose(basis.width, torch.full((11,), 0.5))
    assert (basis.scale == 1).all()
    assert (basis.offset == 0).all()


def test_gaussian_basis_derivatives() -> None:
    basis = GaussianBasis(5, 4.0, 1).double()
    distance = torch.tensor([0.3, 1.9, 3.9], dtype=torch.float64, requires_grad=True)

    def function(r: Tensor) -> Tensor:
        return basis(r, torch.zeros(3, dtype=torch.long))

    assert gradcheck(function, (distance,))
    assert gradgradcheck(function, (distance,))


@pytest.mark.parametrize("length", [1.0, 2.5])
def test_exponential_basis_is_the_printed_formula(length: float) -> None:
    basis = ExponentialBasis(6, 5.0, 3, length).double()
    for parameter in basis.parameters():
        parameter.data += 0.1 * _random(*parameter.shape)
    distance, kind = torch.tensor([[0.7, 2.0, 4.9]], dtype=torch.float64), torch.tensor([[2, 0, 1]])
    values = basis(distance, kind)
    assert values.shape == (6, 1, 3)
    least = math.exp(-5.0 / length)
    width = math.sqrt(2) * (1 - least) / 6
    for e in range(3):
        for k in range(6):
            x = basis.scale[kind[0, e]] * distance[0, e] + basis.offset[kind[0, e]]
            centre = least + k * (1 - least) / 5
            expected = math.exp(-(((math.exp(-x.item() / length) - centre) / width) ** 2) / 2)
            assert values[k, 0, e].item() == pytest.approx(expected, rel=1e-12)


def test_exponential_basis_derivatives() -> None:
    basis = ExponentialBasis(5, 4.0, 1, 2.0).double()
    distance = torch.tensor([0.0, 1.9, 3.9], dtype=torch.float64, requires_grad=True)

    def function(r: Tensor) -> Tensor:
        return basis(r, torch.zeros(3, dtype=torch.long))

    assert gradcheck(function, (distance,))
    assert gradgradcheck(function, (distance,))


def test_scalar_readout_shape() -> None:
    assert ScalarReadout(8)(torch.randn(5, 8)).shape == (5,)


def test_vector_readout_is_equivariant_and_smooth_at_zero() -> None:
    torch.manual_seed(0)
    readout = VectorReadout(CHANNELS).double()
    scalars, vectors, rotation = _random(5, CHANNELS), _vectors("generic"), -_rotation()
    after = readout(scalars, _turned(vectors, rotation))
    assert torch.allclose(after, readout(scalars, vectors) @ rotation.T, atol=1e-13)
    assert after.shape == (5, 3)
    zero = torch.zeros(2, 3, CHANNELS, dtype=torch.float64, requires_grad=True)
    assert readout(scalars[:2], zero).abs().max() == 0
    assert gradgradcheck(lambda v: readout(scalars[:2], v), (zero,))
