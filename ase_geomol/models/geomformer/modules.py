"""The modules of a GeoMFormer block: attention within and between the streams, feed-forward networks, norms.

Scalars z^I are (A, d), vectors z^E (A, 3, d), with A = B n slots of atoms (`ase_geomol.nn.Blocks`); linear maps act
on channels and have no bias where vectors go through. Attention is computed for each head in each block by products
of matrices; whatever depends on the distance of a pair, bias and filters alike, is one number per head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...nn import Blocks, EquivariantNorm, attention_weights
from ...nn.attention import AttentionNorm
from .config import GeoMFormerConfig


class Geometry(NamedTuple):
    """What attention reads of the pairs, in the slots of B blocks with n receivers and M senders.

    Attributes:
        blocks: the slots.
        envelope: (B, n, M), 1 for an atom with itself, 0 in empty slots.
        log_envelope: (B, n, M), its logarithm, finite.
        radial: (K, B n M) functions of the distance, from which bias and filters are made.
        direction: (B, 3, n, M) unit vectors from receiver to sender, 0 of an atom with itself; what empty slots
            hold is never seen.
        quadrupole: (B, 5, n, M) spherical harmonics of degree 2 of these directions; None where nobody reads them.
    """

    blocks: Blocks
    envelope: Tensor
    log_envelope: Tensor
    radial: Tensor
    direction: Tensor
    quadrupole: Tensor | None


class HeadwiseModule(nn.Module):
    """Base of what sums over neighbours: splits channels into H heads of width c and makes radial functions."""

    def __init__(self, config: GeoMFormerConfig, radial_functions: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.radial = (
            nn.Linear(config.radial_channels or config.kernels, radial_functions * config.heads)
            if radial_functions
            else None
        )

    def radial_functions(self, geometry: Geometry) -> list[Tensor]:
        """Bias and filters of the module, each (H B, n, M)."""
        if self.radial is None:
            return []
        blocks = geometry.blocks
        values = torch.addmm(self.radial.bias[:, None], self.radial.weight, geometry.radial)
        return list(values.view(-1, self.heads * blocks.count, blocks.receivers, blocks.senders).unbind(0))

    def receive(self, features: Tensor, blocks: Blocks) -> Tensor:
        """Split (A, d) or (A, 3, d) of receivers into (H B, n, c) or (H B, n, 3 c)."""
        return self._by_head(features).reshape(self.heads * blocks.count, blocks.receivers, -1)

    def send(self, features: Tensor, blocks: Blocks) -> Tensor:
        """Split (A, d) or (A, 3, d) of senders into (H B, M, c) or (H B, M, 3 c)."""
        by_head = self._by_head(features)
        if blocks.sources is not None:
            by_head = by_head.flatten(2).index_select(1, blocks.sources)
        return by_head.reshape(self.heads * blocks.count, blocks.senders, -1)

    def _by_head(self, features: Tensor) -> Tensor:
        """(H, A, c), or (H, A, 3, c) of vectors."""
        return features.unflatten(-1, (self.heads, -1)).movedim(-2, 0)

    def join(self, sums: Tensor, blocks: Blocks, rows: int = 1) -> Tensor:
        """Put the heads of (H B, n, rows c) side by side: (A, d), or (A, rows, d) for several rows."""
        split = sums.view(self.heads, blocks.count, blocks.receivers, rows, -1)
        joined = split.permute(1, 2, 3, 0, 4).reshape(blocks.count * blocks.receivers, rows, -1)
        return joined[:, 0] if rows == 1 else joined

    def moments(self, weights: Tensor, harmonics: Tensor, features: Tensor, blocks: Blocks) -> Tensor:
        """``sum_j w_ij Y_m(r_ij) x_j``: weights (H B, n, M), harmonics (B, m, n, M), x (A, d) to (A, m, d)."""
        rows = harmonics.shape[1]
        weights = weights.view(self.heads, blocks.count, 1, blocks.receivers, blocks.senders)
        weights = (weights * harmonics).view(self.heads * blocks.count, rows * blocks.receivers, blocks.senders)
        sums = weights @ self.send(features, blocks)
        sums = sums.view(self.heads, blocks.count, rows, blocks.receivers, -1)
        return sums.permute(1, 3, 2, 0, 4).reshape(blocks.count * blocks.receivers, rows, -1)


class Attention(HeadwiseModule):
    """Base of the four attention modules: adds the weights."""

    def __init__(self, config: GeoMFormerConfig, filters: int = 0) -> None:
        self.has_bias = "structural_bias" not in config.without
        super().__init__(config, filters * (config.cutoff is not None) + self.has_bias)
        self.norm: AttentionNorm = config.attention_norm
        self.local = config.cutoff is not None
        self.dropout = nn.Dropout(config.attention_dropout)

    def weights(self, query: Tensor, key: Tensor, geometry: Geometry) -> tuple[Tensor, list[Tensor]]:
        """Weights (H B, n, M) from queries and keys (A, d) or (A, 3, d), and the filters of the values."""
        functions = self.radial_functions(geometry)
        query, key = self.receive(query, geometry.blocks), self.send(key, geometry.blocks)
        scale = 1 / math.sqrt(query.shape[-1])
        if self.has_bias:
            logits = torch.baddbmm(functions.pop(0), query, key.mT, alpha=scale)
        else:
            logits = query @ key.mT * scale
        by_block = logits.view(self.heads, *geometry.envelope.shape)
        weights = attention_weights(by_block, geometry.envelope, geometry.log_envelope, self.norm)
        return self.dropout(weights.view_as(logits)), functions


class InvariantSelf(Attention):
    """Scalars attend to scalars; in the local form values are filtered by distance."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config, filters=1)
        d = config.channels
        self.query_key_value = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)

    def forward(self, scalars: Tensor, geometry: Geometry) -> Tensor:
        """Map (A, d) to an update (A, d)."""
        query, key, value = self.query_key_value(scalars).chunk(3, -1)
        weights, filters = self.weights(query, key, geometry)
        if self.local:
            weights = weights * filters[0]
        return self.out(self.join(weights @ self.send(value, geometry.blocks), geometry.blocks))


class EquivariantSelf(Attention):
    """Vectors attend to vectors."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config)
        d = config.channels
        self.query_key_value = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, vectors: Tensor, geometry: Geometry) -> Tensor:
        """Map (A, 3, d) to an update (A, 3, d)."""
        query, key, value = self.query_key_value(vectors).chunk(3, -1)
        weights, _ = self.weights(query, key, geometry)
        return self.out(self.join(weights @ self.send(value, geometry.blocks), geometry.blocks, rows=3))


class InvariantCross(Attention):
    """Scalars attend to products of vectors: this is where the invariant stream sees angles.

    The values are ``<A_j, B_j>``; the local form adds ``<C_i, D_j>`` (``query_products``), taken after the sum as
    ``<C_i, sum_j D_j>``, which costs nothing per pair.
    """

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config)
        self.query_products = self.local and config.query_products
        d = config.channels
        self.query = nn.Linear(d, d)
        self.factors = nn.Linear(d, (6 if self.query_products else 4) * d, bias=False)
        self.out = nn.Linear(d, d)

    def forward(self, scalars: Tensor, vectors: Tensor, geometry: Geometry) -> Tensor:
        """Map (A, d), (A, 3, d) to an update (A, d)."""
        blocks = geometry.blocks
        key1, key2, value1, value2, *more = self.factors(vectors).split(self.query.in_features, -1)
        weights, _ = self.weights(self.query(scalars), _dot(key1, key2), geometry)
        update = self.join(weights @ self.send(_dot(value1, value2), blocks), blocks)
        if self.query_products:
            update = update + _dot(more[0], self.join(weights @ self.send(more[1], blocks), blocks, rows=3))
        return self.out(update)


class EquivariantCross(Attention):
    """Vectors attend to vectors gated by scalars; the local form adds directions to the neighbours."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config, filters=2)
        d = config.channels
        self.from_vectors = nn.Linear(d, 3 * d, bias=False)
        self.from_scalars = nn.Linear(d, (3 if self.local else 2) * d)
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor, geometry: Geometry) -> Tensor:
        """Map (A, d), (A, 3, d) to an update (A, 3, d)."""
        blocks = geometry.blocks
        query, key, value = self.from_vectors(vectors).chunk(3, -1)
        key_gate, value_gate, *direction_gate = self.from_scalars(scalars).chunk(3 if self.local else 2, -1)
        weights, filters = self.weights(query, key * key_gate[:, None], geometry)
        value = self.send(value * value_gate[:, None], blocks)
        if not self.local:
            return self.out(self.join(weights @ value, blocks, rows=3))
        update = self.join((weights * filters[0]) @ value, blocks, rows=3)
        return self.out(update + self.moments(weights * filters[1], geometry.direction, direction_gate[0], blocks))


class Quadrupole(HeadwiseModule):
    """A sum over neighbours of degree 2, ``Q_i = sum_j u_ij f(r_ij) Y_2(r_ij) x_j``, read by both streams.

    Vectors alone cannot tell a planar or linear environment from an isotropic one (n-fold symmetry cancels
    their sum); this can. Scalars receive ``<A Q_i, B Q_i>``, vectors the product of the symmetric traceless matrix
    Q_i with a vector of the same atom, where these are read.
    """

    def __init__(self, config: GeoMFormerConfig, *, vectors_are_read: bool = True) -> None:
        super().__init__(config, 1)
        d = config.channels
        self.value = nn.Linear(d, d)
        self.factors = nn.Linear(d, 2 * d, bias=False)
        self.out_scalars = nn.Linear(d, d)
        self.vectors = nn.Linear(d, d, bias=False) if vectors_are_read else None
        self.out_vectors = nn.Linear(d, d, bias=False) if vectors_are_read else None

    def forward(self, scalars: Tensor, vectors: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor | None]:
        """Map (A, d), (A, 3, d) to updates of the same shapes; None where nobody reads the vectors."""
        (filter_,) = self.radial_functions(geometry)
        weights = (filter_.view(self.heads, *geometry.envelope.shape) * geometry.envelope).view_as(filter_)
        assert geometry.quadrupole is not None
        moments = self.moments(weights, geometry.quadrupole, self.value(scalars), geometry.blocks)
        first, second = self.factors(moments).chunk(2, -1)
        product = (first * second).sum(1) / math.sqrt(5)
        if self.vectors is None or self.out_vectors is None:
            return self.out_scalars(product), None
        return self.out_scalars(product), self.out_vectors(_matrix_times(moments, self.vectors(vectors)))


class InvariantFeedForward(nn.Module):
    """``GELU(z^I W1) W2``."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.channels, config.ffn_channels)
        self.out = nn.Linear(config.ffn_channels, config.channels)

    def forward(self, scalars: Tensor) -> Tensor:
        """Map (A, d) to an update (A, d)."""
        return self.out(functional.gelu(self.hidden(scalars)))


class EquivariantFeedForward(nn.Module):
    """``(z^E W1 * GELU(z^I W2)) W3``."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.channels, config.ffn_channels, bias=False)
        self.gate = nn.Linear(config.channels, config.ffn_channels)
        self.out = nn.Linear(config.ffn_channels, config.channels, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        """Map (A, d), (A, 3, d) to an update (A, 3, d)."""
        return self.out(self.hidden(vectors) * functional.gelu(self.gate(scalars))[:, None])


class Norms(nn.Module):
    """LayerNorm of the scalars and EquLN of the vectors."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        d, without = config.channels, config.without
        self.scalars = nn.Identity() if "invariant_norm" in without else nn.LayerNorm(d)
        self.vectors = (
            nn.Identity()
            if "equivariant_norm" in without
            else EquivariantNorm(d, config.equivariant_norm, config.norm_floor)
        )

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise both streams."""
        return self.scalars(scalars), self.vectors(vectors)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product over the three rows, scaled to unit variance: (A, 3, d) x 2 to (A, d)."""
    return (first * second).sum(1) / math.sqrt(3)


def _matrix_times(harmonics: Tensor, vectors: Tensor) -> Tensor:
    """Product (A, 3, d) of symmetric traceless matrices, given by `degree_two` (A, 5, d), and vectors (A, 3, d).

    The harmonics of a unit vector r stand for the matrix ``3/2 (r r^T - 1/3)``.
    """
    xy, yz, xz, difference, zz = harmonics.unbind(1)
    x, y, z = vectors.unbind(1)
    half = math.sqrt(3) / 2
    xx, yy = half * difference - zz / 2, -half * difference - zz / 2
    rows = (
        xx * x + half * (xy * y + xz * z),
        half * (xy * x + yz * z) + yy * y,
        half * (xz * x + yz * y) + zz * z,
    )
    return torch.stack(rows, 1)


def degree_two(direction: Tensor) -> Tensor:
    """Real spherical harmonics of degree 2 (…, 5, n, M) of unit vectors (…, 3, n, M), norm 1."""
    x, y, z = direction.unbind(-3)
    root = math.sqrt(3)
    parts = (root * x * y, root * y * z, root * x * z, root / 2 * (x * x - y * y), z * z - (x * x + y * y) / 2)
    return torch.stack(parts, -3)
