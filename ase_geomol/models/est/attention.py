"""Attention among the points of a sphere: values of a function at one direction see those at all others."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...nn.degrees import CoefficientNorm
from ...nn.sphere import Sphere
from .config import ESTConfig


class PointLinear(nn.Linear):
    """One linear map of channels at all points, which is the same map of the coefficients of all degrees."""

    def forward(self, values: Tensor) -> Tensor:
        """At points: (n, N, C) to (n, N, C')."""
        return super().forward(values)

    def on_coefficients(self, x: Tensor) -> Tensor:
        """(n, K, C) to (n, K, C'); a constant has only the coefficient of degree 0, the root of 4 pi times it."""
        mapped = x @ self.weight.T
        if self.bias is None:
            return mapped
        return mapped + functional.pad(math.sqrt(4 * math.pi) * self.bias[None], (0, 0, 0, x.shape[1] - 1))


class Lift(nn.Module):
    """Norm, synthesis and a linear map of channels: coefficients (n, K, C) to values at points (n, N, C').

    With the norm on coefficients the map comes before synthesis, on K rows and not on N: the result is the same.
    """

    def __init__(self, config: ESTConfig, sphere: Sphere, out: int) -> None:
        super().__init__()
        self.sphere = sphere
        self.on_coefficients = config.norm == "coefficient"
        channels = config.channels
        self.norm = (
            CoefficientNorm(config.lmax, channels, config.norm_floor)
            if self.on_coefficients
            else nn.LayerNorm(channels)
        )
        self.linear = PointLinear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, C) to (n, N, C')."""
        if self.on_coefficients:
            return self.sphere.to_points(self.linear.on_coefficients(self.norm(x)))
        return self.linear(self.norm(self.sphere.to_points(x)))


class PointHeads(nn.Module):
    """What attention to directions learns for each head, and what it makes of queries, keys and mixed values.

    ``orientation`` lets nearby directions see each other (arXiv 2505.23086, eq. 13). Bounded logits are made of queries
    and keys of RMS 1 over the sphere, times a temperature that cannot exceed the configured one: sharp attention is
    what the points do not resolve. The orientation is learned without a bound.
    """

    def __init__(self, config: ESTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = (config.channels // config.heads) ** -0.5
        self.bound = config.temperature if config.bounded_attention else None
        self.orientation = nn.Parameter(torch.ones(config.heads))
        self.temperature = nn.Parameter(torch.zeros(config.heads)) if self.bound else None
        self.projection = PointLinear(config.channels, config.channels) if config.attention_projection else None

    def split(self, x: Tensor) -> Tensor:
        """(n, N, C) to (n, H, N, C/H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def bounded(self, queries: Tensor, at: Tensor, keys: Tensor, at_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (n, H, N, C/H) at points of these weights; of bounded logits, over their RMS."""
        if self.temperature is None:
            return queries, keys
        assert self.bound is not None
        factor = (self.bound * torch.sigmoid(self.temperature))[:, None, None]
        return unit(queries, at) * factor, unit(keys, at_keys)

    def together(self, mixed: Tensor) -> Tensor:
        """(n, H, N, C/H) to (n, N, C)."""
        joined = mixed.transpose(1, 2).flatten(2)
        return joined if self.projection is None else self.projection(joined)


class SphericalAttention(PointHeads):
    """Attention whose sums over key points are integrals over the sphere.

    ``o_a = sum_b w_b exp(l_ab) V_b / sum_b w_b exp(l_ab)`` with ``l_ab = (Q_a·K_b + lambda p_a·p_b) / sqrt(d)``: the
    weights w of the rule stand inside the softmax; lambda is the orientation.
    """

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config)
        self.sphere = sphere

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map three (n, N, C) to (n, N, C)."""
        sphere = self.sphere
        q, k = self.bounded(self.split(queries), sphere.weights, self.split(keys), sphere.weights)
        v = self.split(values)
        cosines = sphere.points @ sphere.points.T
        bias = self.scale * self.orientation[:, None, None] * cosines + sphere.weights.log()
        weights = torch.softmax(
            torch.baddbmm(
                bias.expand(len(q), -1, -1, -1).flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=self.scale
            ),
            -1,
        )
        return self.together((weights @ v.flatten(0, 1)).view_as(q))


FLOOR = 1e-2
"""Under the mean square of queries and keys: where they vanish, attention is even."""


def unit(x: Tensor, weights: Tensor, floor: float = FLOOR) -> Tensor:
    """Divide (…, N, d) by its RMS over all N points (of these weights) and channels."""
    mean_square = (x.square().mean(-1) * (weights / weights.sum())).sum(-1)
    return x * torch.rsqrt(mean_square + floor)[..., None, None]
