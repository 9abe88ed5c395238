"""PaiNN and TorchMD-Net as special cases of GeoMFormer's modules (GeoMFormer, App. C.1).

Both filter by distance in every channel, GeoMFormer in every head: bias and filters are one number per head and
pair. So there are as many heads as channels here, each head one channel wide; a filter per head is then a filter
per channel. The attention of TorchMD-Net has the same heads, one channel wide as well.

**PaiNN** (Schütt, Unke, Gastegger, arXiv 2102.03150, eqs. 7-10). With the maps of queries and keys and the bias set
to zero, ``attention_norm="sum"`` gives every pair its envelope as weight, and then

* the scalar message ``sum_j phi_s(s_j) * W_s(r_ij)`` is `InvariantSelf`, the second layer of the atom-wise network
  ``phi`` being its value map and ``W_s`` its radial filter;
* the vector message ``sum_j v_j * phi_vv(s_j) * W_vv(r_ij) + phi_vs(s_j) * W_vs(r_ij) r̂_ij`` is `EquivariantCross`:
  value gate and value filter, direction gate and direction filter;
* the update's scalar product ``<U v_i, V v_i>`` of an atom with itself is `InvariantCross` where every atom has no
  pair but with itself;
* the update's ``a_vv * U v_i`` is `EquivariantFeedForward`. Its gate is GELU(x); two hidden units of opposite sign
  make it linear exactly, since ``GELU(x) - GELU(-x) = x``.

What has no counterpart, and is written out here in the test: the first layer of the networks ``phi`` and ``a``
(atom-wise, with the norms ``|V v|`` among the inputs of ``a``) and the final ``a_ss + a_sv * <U v, V v>``, which
multiplies the module's result by a scalar of the same atom.

A whole `Block` adds each module's result before the next reads it; PaiNN's message reads the same scalars twice.
So its message is two blocks with one module each, equivariant cross first.

**TorchMD-Net ET** (Thölke, De Fabritiis, arXiv 2202.02541). Its attention ``sum_j u_ij SiLU(q_i · k_j) (v_j * D^V_ij)``
is `InvariantSelf` with ``attention_norm="silu"`` and no bias, where the filter of the keys D^K is one (GeoMFormer puts
the distance into an additive bias instead) and that of the values is linear; the module's 1/sqrt(d_h) is 1 here. Its
vector message, which attention does not weigh, is `EquivariantCross` with the bias at the constant c for which
SiLU(c) = 1.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ase_geomol.models import GeoMFormerConfig
from ase_geomol.models.geomformer.modules import (
    Attention,
    EquivariantCross,
    EquivariantFeedForward,
    Geometry,
    InvariantCross,
    InvariantSelf,
    degree_two,
)
from ase_geomol.models.geomformer.network import Block
from ase_geomol.nn import log_envelope, make_blocks

N, D, K, CUTOFF = 6, 8, 5, 4.0
TOLERANCE = 1e-10


def _config(**options: object) -> GeoMFormerConfig:
    sizes = {"elements": (1,), "channels": D, "heads": D, "ffn_channels": 2 * D, "kernels": K, "cutoff": CUTOFF}
    return GeoMFormerConfig.model_validate({**sizes, **options})


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.fixture
def cloud(random) -> tuple[Tensor, list[tuple[int, int]]]:
    """Positions, and pairs within the cutoff."""
    positions = 1.6 * random(N, 3)
    pairs = [(i, j) for i in range(N) for j in range(N) if i != j and torch.norm(positions[j] - positions[i]) < CUTOFF]
    assert N < len(pairs) < N * (N - 1), "some but not all atoms are neighbours"
    return positions, pairs


def _rbf(r: Tensor) -> Tensor:
    """PaiNN's radial basis (K,)."""
    return torch.sin(torch.arange(1, K + 1, dtype=torch.float64) * math.pi * r / CUTOFF) / r


def _fcut(r: Tensor) -> Tensor:
    return 0.5 * (torch.cos(math.pi * r / CUTOFF) + 1)


def _geometry(positions: Tensor, pairs: list[tuple[int, int]]) -> Geometry:
    """One block with all atoms; PaiNN's radial basis and cosine envelope in the place of ours."""
    edge_index = torch.tensor(pairs).T
    blocks = make_blocks(torch.zeros(N, dtype=torch.long), edge_index, whole=True)
    vectors = positions[edge_index[1]] - positions[edge_index[0]]
    distance = vectors.norm(dim=-1)
    envelope = blocks.place_pairs(_fcut(distance), 0.0).view(1, N, N)
    direction = blocks.place_pairs(vectors / distance[:, None], 0.0).view(1, N, N, 3).movedim(-1, 1).contiguous()
    return Geometry(
        blocks=blocks,
        envelope=envelope,
        log_envelope=log_envelope(envelope),
        radial=blocks.place_pairs(torch.stack([_rbf(r) for r in distance]), 0.0).T,
        direction=direction,
        quadrupole=degree_two(direction),
    )


def _only_selves(random) -> Geometry:
    """N blocks of one atom, which has nobody but itself."""
    blocks = make_blocks(torch.arange(N), torch.zeros(2, 0, dtype=torch.long), whole=True)
    return Geometry(
        blocks=blocks,
        envelope=torch.ones(N, 1, 1, dtype=torch.float64),
        log_envelope=torch.zeros(N, 1, 1, dtype=torch.float64),
        radial=random(K, N),
        direction=torch.zeros(N, 3, 1, 1, dtype=torch.float64),
        quadrupole=torch.zeros(N, 5, 1, 1, dtype=torch.float64),
    )


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    """Write weights; a bias that the module has and the test does not name is zero."""
    assert layer.weight.shape == weight.shape
    layer.weight.data = weight
    if layer.bias is not None:
        layer.bias.data = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias
    else:
        assert bias is None


EYE = torch.eye(D, dtype=torch.float64)
ZERO = torch.zeros(D, D, dtype=torch.float64)
NONE = torch.zeros(D, dtype=torch.float64)


def _set_radial(module: Attention, weight: Tensor, offset: Tensor, bias: float = 0.0) -> None:
    """Write the filters (functions D, K) of a module; its attention bias is constant."""
    constant = torch.full((D,), bias, dtype=torch.float64)
    assert module.radial is not None
    _set(module.radial, torch.cat([torch.zeros(D, K, dtype=torch.float64), weight]), torch.cat([constant, offset]))


NO_FILTER = torch.zeros(0, K, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)


class PaiNN:
    """One interaction and one update of PaiNN, atom by atom and pair by pair."""

    def __init__(self, random) -> None:
        self.phi1, self.phi1_bias = random(D, D) / 3, random(D)
        self.phi2, self.phi2_bias = random(3 * D, D) / 3, random(3 * D)
        self.filter, self.filter_bias = random(3 * D, K), random(3 * D)
        self.u, self.v = random(D, D) / 3, random(D, D) / 3
        self.a1, self.a1_bias = random(D, 2 * D) / 4, random(D)
        self.a2, self.a2_bias = random(3 * D, D) / 3, random(3 * D)

    def hidden(self, s: Tensor) -> Tensor:
        return silu(self.phi1 @ s + self.phi1_bias)

    def message(self, s: Tensor, v: Tensor, positions: Tensor, pairs, hidden=None) -> tuple[Tensor, Tensor]:
        """Updates of s (N, D) and v (N, 3, D), eqs. 7 and 8."""
        hidden = hidden or self.hidden
        ds, dv = torch.zeros_like(s), torch.zeros_like(v)
        for i, j in pairs:
            r_ij = positions[j] - positions[i]
            r = r_ij.norm()
            phi = self.phi2 @ hidden(s[j]) + self.phi2_bias
            w = (self.filter @ _rbf(r) + self.filter_bias) * _fcut(r)
            x_s, x_vv, x_vs = (phi * w).split(D)
            ds[i] += x_s
            for axis in range(3):
                dv[i, axis] += v[j, axis] * x_vv + x_vs * r_ij[axis] / r
        return ds, dv

    def gates(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden layer (D,) and output (3 D,) of the update's network for one atom."""
        length = torch.stack([(v[axis] @ self.v.T) ** 2 for axis in range(3)]).sum(0).sqrt()
        hidden = silu(self.a1 @ torch.cat([s, length]) + self.a1_bias)
        return hidden, self.a2 @ hidden + self.a2_bias

    def update(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Updates of s and v, eqs. 9 and 10."""
        ds, dv = torch.zeros_like(s), torch.zeros_like(v)
        for i in range(N):
            a_vv, a_sv, a_ss = self.gates(s[i], v[i])[1].split(D)
            product = sum((self.u @ v[i, axis]) * (self.v @ v[i, axis]) for axis in range(3))
            ds[i] = a_ss + a_sv * product
            for axis in range(3):
                dv[i, axis] = a_vv * (self.u @ v[i, axis])
        return ds, dv


@pytest.fixture
def painn(random) -> PaiNN:
    return PaiNN(random)


def _scalar_message(module: InvariantSelf, painn: PaiNN) -> None:
    phi, bias = painn.phi2[:D], painn.phi2_bias[:D]
    _set(module.query_key_value, torch.cat([ZERO, ZERO, phi]), torch.cat([NONE, NONE, bias]))
    _set_radial(module, painn.filter[:D], painn.filter_bias[:D])
    _set(module.out, EYE)


def _vector_message(module: EquivariantCross, painn: PaiNN) -> None:
    _set(module.from_vectors, torch.cat([ZERO, ZERO, EYE]))
    _set(module.from_scalars, torch.cat([ZERO, painn.phi2[D:]]), torch.cat([NONE, painn.phi2_bias[D:]]))
    _set_radial(module, painn.filter[D:], painn.filter_bias[D:])
    _set(module.out, EYE)


def _scalar_product(module: InvariantCross, painn: PaiNN, *, after_the_sum: bool) -> None:
    _set(module.query, ZERO)
    _set_radial(module, *NO_FILTER)
    values, products = torch.cat([painn.u, painn.v]), torch.zeros(0, D, dtype=torch.float64)
    if module.query_products:
        products = torch.zeros_like(values)
        if after_the_sum:
            values, products = products, values
    _set(module.factors, torch.cat([ZERO, ZERO, values, products]))
    _set(module.out, math.sqrt(3) * EYE)


def _gated(module: EquivariantFeedForward, painn: PaiNN) -> None:
    a_vv, bias = painn.a2[:D], painn.a2_bias[:D]
    _set(module.hidden, torch.cat([painn.u, painn.u]))
    _set(module.gate, torch.cat([a_vv, -a_vv]), torch.cat([bias, -bias]))
    _set(module.out, torch.cat([EYE, -EYE], 1))


@pytest.mark.parametrize(("query_products", "after_the_sum"), [(False, False), (True, False), (True, True)])
def test_painn_block(random, cloud, painn: PaiNN, query_products: bool, after_the_sum: bool) -> None:
    """Message and update of PaiNN, by the four modules named in this file's text."""
    positions, pairs = cloud
    config = _config(attention_norm="sum", query_products=query_products)
    modules = [kind(config).double() for kind in (InvariantSelf, EquivariantCross, InvariantCross)]
    scalar_message, vector_message, scalar_product = modules
    gated = EquivariantFeedForward(config).double()
    _scalar_message(scalar_message, painn)
    _vector_message(vector_message, painn)
    _scalar_product(scalar_product, painn, after_the_sum=after_the_sum)
    _gated(gated, painn)
    s, v = random(N, D), random(N, 3, D)

    ds, dv = painn.message(s, v, positions, pairs)
    hidden, geometry = torch.stack([painn.hidden(row) for row in s]), _geometry(positions, pairs)
    ours_s, ours_v = scalar_message(hidden, geometry), vector_message(hidden, v, geometry)
    assert (ours_s - ds).abs().max() < TOLERANCE
    assert (ours_v - dv).abs().max() < TOLERANCE
    s, v = s + ds, v + dv

    ds, dv = painn.update(s, v)
    hidden, gates = (torch.stack(x) for x in zip(*(painn.gates(s[i], v[i]) for i in range(N)), strict=True))
    _, a_sv, a_ss = gates.split(D, dim=1)
    ours_s = a_ss + a_sv * scalar_product(s, v, _only_selves(random))
    assert (ours_s - ds).abs().max() < TOLERANCE
    assert (gated(hidden, v) - dv).abs().max() < TOLERANCE


def test_painn_message_as_whole_blocks(random, cloud, painn: PaiNN) -> None:
    """Two blocks with one module each are PaiNN's message with a linear phi."""
    positions, pairs = cloud
    attention = ("invariant_self", "invariant_cross", "equivariant_self", "equivariant_cross")
    others = ("invariant_ffn", "equivariant_ffn", "invariant_norm", "equivariant_norm", "quadrupole")
    first, second = (
        Block(_config(attention_norm="sum", without=(*(a for a in attention if a != kept), *others))).double()
        for kept in ("equivariant_cross", "invariant_self")
    )
    _vector_message(first.parts["equivariant_cross"], painn)
    _scalar_message(second.parts["invariant_self"], painn)
    s, v = random(N, D), random(N, 3, D)
    ds, dv = painn.message(s, v, positions, pairs, hidden=lambda row: row)
    geometry = _geometry(positions, pairs)
    ours_s, ours_v = second(*first(s, v, geometry), geometry)
    assert (ours_s - (s + ds)).abs().max() < TOLERANCE
    assert (ours_v - (v + dv)).abs().max() < TOLERANCE


def test_torchmd_net_attention(random, cloud) -> None:
    """``x_i = O sum_j SiLU(q_i · k_j) u_ij (v_j * D^V_ij)``, head by head, that is channel by channel."""
    positions, pairs = cloud
    q, k, v, o = (random(D, D) / 2 for _ in range(4))
    q_bias, k_bias, v_bias, o_bias = (random(D) for _ in range(4))
    dv, dv_bias = random(D, K), random(D)
    s = random(N, D)
    expected = torch.zeros(N, D, dtype=torch.float64)
    for i, j in pairs:
        r = (positions[j] - positions[i]).norm()
        query, key, value = q @ s[i] + q_bias, k @ s[j] + k_bias, v @ s[j] + v_bias
        value = value * (dv @ _rbf(r) + dv_bias)
        for head in range(D):
            expected[i, head] += silu(query[head] * key[head]) * _fcut(r) * value[head]
    expected = expected @ o.T + o_bias

    module = InvariantSelf(_config(attention_norm="silu")).double()
    _set(module.query_key_value, torch.cat([q, k, v]), torch.cat([q_bias, k_bias, v_bias]))
    _set_radial(module, dv, dv_bias)
    _set(module.out, o, o_bias)
    assert (module(s, _geometry(positions, pairs)) - expected).abs().max() < TOLERANCE


def _silu_is_one() -> float:
    """The c with SiLU(c) = 1, by Newton's method."""
    c = 1.0
    for _ in range(50):
        sigmoid = 1 / (1 + math.exp(-c))
        c -= (c * sigmoid - 1) / (sigmoid + c * sigmoid * (1 - sigmoid))
    return c


def test_torchmd_net_vector_message(random, cloud) -> None:
    """``sum_j v_j * s1_ij + s2_ij r̂_ij`` with s1, s2 from the sender's scalars and an enveloped distance filter."""
    positions, pairs = cloud
    value, value_bias, dv, dv_bias = random(2 * D, D), random(2 * D), random(2 * D, K), random(2 * D)
    s, vec = random(N, D), random(N, 3, D)
    expected = torch.zeros(N, 3, D, dtype=torch.float64)
    for i, j in pairs:
        r_ij = positions[j] - positions[i]
        r = r_ij.norm()
        s1, s2 = ((value @ s[j] + value_bias) * (dv @ _rbf(r) + dv_bias) * _fcut(r)).split(D)
        expected[i] += vec[j] * s1 + (r_ij / r)[:, None] * s2

    module = EquivariantCross(_config(attention_norm="silu")).double()
    _set(module.from_vectors, torch.cat([ZERO, ZERO, EYE]))
    _set(module.from_scalars, torch.cat([ZERO, value]), torch.cat([NONE, value_bias]))
    _set_radial(module, dv, dv_bias, bias=_silu_is_one())
    _set(module.out, EYE)
    ours = module(s, vec, _geometry(positions, pairs))
    assert (ours - expected).abs().max() < TOLERANCE
