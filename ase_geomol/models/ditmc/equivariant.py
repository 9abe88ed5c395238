"""The transformer of PE(3): features that turn with the molecule, but know left from right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import weights_of
from .conditioning import PairTable, zero_linear
from .config import HEAD_CHANNELS, DiTMCConfig
from .kinds import EquivariantFeedForward, EquivariantLinear, Features, modulate, unit_size

RADIAL = 64
"""Number of radial functions."""
SOFTENING = 1e-6
"""Å; the square of a distance is never less than its square, so that two atoms at one place have a direction, zero."""
LEAST_EXPONENT = -50.0
"""exp(-50) is far below rounding and far above numbers that processors are slow with."""


def reciprocal_bernstein(distance: Tensor) -> Tensor:
    """Bernstein polynomials (…, 64) of ``1 / (1 + r)`` for distances r > 0 (…) in Å; they sum up to 1."""
    k = torch.arange(RADIAL, dtype=distance.dtype, device=distance.device)
    top = RADIAL - 1
    binomial = math.lgamma(RADIAL) - torch.lgamma(k + 1) - torch.lgamma(top - k + 1)
    log_u = -torch.log1p(distance)[..., None]
    log_rest = distance.log()[..., None] + log_u
    return (binomial + k * log_u + (top - k) * log_rest).clamp(min=LEAST_EXPONENT).exp()


class PairBasis(NamedTuple):
    """What blocks see of where two atoms are.

    Attributes:
        radial: (2, G, S, N, N, 64) of degree 0 and degree 1.
        direction: (G, S, N, N, 3) from the receiver to the sender.
    """

    radial: Tensor
    direction: Tensor


class EquivariantAttention(nn.Module):
    """Attention with invariant weights, whose messages are products of senders' features and the pair's basis.

    ``a_ij = q_i · (k_j f_ij) / sqrt(32)`` sums over all kinds and components. Messages are the Clebsch-Gordan products
    with ``g0_ij`` and ``g1_ij r̂_ij``: as weights of attention are one number for each head, senders are summed up
    first, for each of the 4 × 8 pairs of components, and multiplied afterwards.
    """

    PRODUCTS = 10

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        d = config.channels
        self.queries_keys = EquivariantLinear(d, 2 * d)
        self.values = EquivariantLinear(d, d)
        self.pair = nn.Linear(d, d)
        self.radial = nn.Linear(RADIAL, 2 * d, bias=False)
        self.radial_vector = nn.Linear(RADIAL, d, bias=False)
        self.weights = nn.Parameter(torch.ones(self.PRODUCTS, d))
        self.out = EquivariantLinear(d, d)

    def forward(self, features: Features, basis: PairBasis, pair_filter: Tensor, pairs: Tensor) -> Features:
        """Map features to the same shapes; ``pair_filter`` is (G, 1, N, N, H), ``pairs`` (G, 1, 1, N, N)."""
        both = [x.chunk(2, -1) for x in self.queries_keys(features)]
        query, key = (torch.cat(parts, -2) for parts in zip(*both, strict=True))  # (G, S, N, 8, H)
        key_filter, scalar_filter = self.radial(basis.radial[0]).chunk(2, -1)
        alike = torch.einsum("...imc,...jmc->...ijc", query, key) * (key_filter + pair_filter)
        logits = alike.unflatten(-1, (-1, HEAD_CHANNELS)).sum(-1).movedim(-1, -3) / math.sqrt(HEAD_CHANNELS)
        attention = weights_of(logits, pairs)
        attention = attention.movedim(-3, -1).repeat_interleave(HEAD_CHANNELS, -1)  # (G, S, N, N, H)
        vector_filter = self.radial_vector(basis.radial[1])
        kernels = torch.cat(
            [
                (attention * scalar_filter)[..., None, :],
                (attention * vector_filter)[..., None, :] * basis.direction[..., None],
            ],
            -2,
        )
        senders = torch.cat(self.values(features), -2)  # (G, S, N, 8, H)
        return self.out(self._products(torch.einsum("...ijac,...jbc->...iabc", kernels, senders)))

    def _products(self, sums: Tensor) -> Features:
        """Products of degree 0 and 1 of basis (4) and features (8), from their sums over senders (…, N, 4, 8, H)."""
        plain, along = sums[..., 0, :, :], sums[..., 1:, :, :]
        w = self.weights
        scalars, vectors, pseudoscalars, pseudovectors = plain.split((1, 3, 1, 3), -2)
        by_scalars, by_vectors, by_pseudoscalars, by_pseudovectors = along.split((1, 3, 1, 3), -2)
        return Features(
            w[0] * scalars + w[1] * _trace(by_vectors),
            w[2] * vectors + w[3] * by_scalars.squeeze(-2) + w[4] * _cross(by_pseudovectors),
            w[5] * pseudoscalars + w[6] * _trace(by_pseudovectors),
            w[7] * pseudovectors + w[8] * by_pseudoscalars.squeeze(-2) + w[9] * _cross(by_vectors),
        )


def _trace(products: Tensor) -> Tensor:
    """The dot product (…, 1, H) of two vectors, from all products of their components (…, 3, 3, H)."""
    return products.diagonal(dim1=-3, dim2=-2).sum(-1)[..., None, :]


def _cross(products: Tensor) -> Tensor:
    """The cross product (…, 3, H) of two vectors, from all products of their components (…, 3, 3, H)."""
    odd = products - products.transpose(-3, -2)
    return torch.stack([odd[..., 1, 2, :], odd[..., 2, 0, :], odd[..., 0, 1, :]], -2)


class EquivariantBlock(nn.Module):
    """Attention and a feed-forward network under adaLN-Zero: at first the block changes nothing."""

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        d = config.channels
        self.modulation = zero_linear(d, 18 * d)
        self.attention = EquivariantAttention(config)
        self.feed_forward = EquivariantFeedForward(d, d)

    def forward(
        self, features: Features, condition: Tensor, basis: PairBasis, pair_filter: Tensor, pairs: Tensor
    ) -> Features:
        """Map features to the same shapes."""
        first, second = self.modulation(condition)[..., None, :].chunk(2, -1)
        shift, *rest = first.chunk(9, -1)
        update = self.attention(modulate(features, shift, rest[:4]), basis, pair_filter, pairs)
        features = features.plus(update, rest[4:])
        shift, *rest = second.chunk(9, -1)
        return features.plus(self.feed_forward(modulate(features, shift, rest[:4])), rest[4:])


class EquivariantTransformer(nn.Module):
    """Blocks and read-out of PE(3).

    The read-out adds vectors and pseudovectors, so that a mirror image is something else.
    """

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        d = config.channels
        self.radial_modulation = nn.Sequential(nn.SiLU(), zero_linear(d, 2 * RADIAL))
        blocks = nn.ModuleList(EquivariantBlock(config) for _ in range(config.layers))
        self.blocks: Sequence[EquivariantBlock] = blocks  # type: ignore[assignment]
        self.handedness = nn.Linear(1, d, bias=False)
        self.modulation = zero_linear(d, d)
        self.out = nn.Linear(d, 1, bias=False)

    def prepare(self, table: PairTable) -> list[Tensor]:
        """What is made of the pairs' features alone: of radial functions (G, 1, N, N, 128), of each block's (…, H)."""
        rows = [1 + self.radial_modulation(table.rows), *(block.attention.pair(table.rows) for block in self.blocks)]
        return [table.spread(values).unsqueeze(1) for values in rows]

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        handed: Tensor,
        condition: Tensor,
        prepared: list[Tensor],
        pairs: Tensor,
    ) -> Tensor:
        """Predict positions (G, S, N, 3); arguments as in `ase_geomol.models.ditmc.standard.Transformer`."""
        modulation, *filters = prepared
        vectors = positions[..., None, :, :] - positions[..., :, None, :]
        distance = (vectors.square().sum(-1) + SOFTENING**2).sqrt()
        radial = reciprocal_bernstein(distance)
        basis = PairBasis(
            torch.stack([radial * part for part in modulation.chunk(2, -1)]), vectors / distance[..., None]
        )
        pseudovectors = self.handedness(handed[..., None])
        features = _start(tokens.expand(*positions.shape[:-1], -1), pseudovectors)
        for block, pair_filter in zip(self.blocks, filters, strict=True):
            features = block(features, condition, basis, pair_filter, pairs)
        both = features.vectors + features.pseudovectors
        scale = self.modulation(condition)[..., None, :]
        return self.out(unit_size(both) * (1 + scale)).squeeze(-1)


def _start(tokens: Tensor, pseudovectors: Tensor) -> Features:
    scalars = tokens[..., None, :]
    return Features(scalars, torch.zeros_like(pseudovectors), torch.zeros_like(scalars), pseudovectors)
