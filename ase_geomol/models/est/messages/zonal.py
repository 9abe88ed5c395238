"""The message of EST itself: spherical attention between an atom and an edge."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ....nn import forgetting, part_size
from ....nn.degrees import DegreeLinear
from ....nn.exact import ExactConstants
from ....nn.sphere import Sphere
from ..attention import Lift, PointHeads, PointLinear
from ..config import ESTConfig
from ..edges import DegreeFilter, Edges
from .base import Message


class ZonalMessage(Message):
    """Spherical attention of both atoms' features (queries) to a function of the edge (keys and values)."""

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config, sphere)
        channels = config.channels
        self.share = config.average_neighbors**-0.5
        self.of_receiver = DegreeLinear(config.lmax, channels, channels)
        self.of_sender = DegreeLinear(config.lmax, channels, channels, bias=False)
        self.filter = DegreeFilter(config)
        self.query = Lift(config, sphere, channels)
        self.attention = ZonalAttention(config, sphere)

    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C); of large systems, part by part of the edges."""
        both = edges.of_receivers(self.of_receiver(x)) + edges.of_senders(self.of_sender(x))
        size = len(both) if self.training else part_size(len(both), x.device)
        if size == len(both):
            told = self._told(both, edges.radial, edges.direction)
        else:
            parts = zip(both.split(size), edges.radial.split(size), edges.direction.split(size), strict=True)
            told = torch.cat([forgetting(self._told, *part) for part in parts])
        return edges.gather(told) * self.share

    def _told(self, both: Tensor, radial: Tensor, direction: Tensor) -> Tensor:
        """What edges tell (E, K, C), of both atoms' features, radial functions (E, R) and directions (E, 3)."""
        both = both * self.filter(radial)
        return both + self.sphere.to_coefficients(self.attention(self.query(both), radial, direction))


class ZonalAttention(PointHeads):
    """Attention of queries at points to a function that has the symmetry of an edge, ``e(s) = sum_l R_l(r) Y_l0``-like.

    Keys depend on ``t = s·r`` alone. The integral over their azimuth is then known: with ``c = p_a·r``,

    ``o_a = ∫ dt I0(k sqrt((1-c²)(1-t²))) exp(Q_a·K(t)/sqrt(d) + k c t) V(t) / (the same without V)``,

    k = lambda/sqrt(d), which Gauss-Legendre nodes t integrate.
    """

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config)
        channels = config.channels
        self.sphere, self.meridian = sphere, Meridian(config.zonal_nodes, config.lmax)
        self.edge_function = DegreeFilter(config)
        self.edge_norm = nn.LayerNorm(channels) if config.norm == "point" else nn.Identity()
        self.key_value = PointLinear(channels, 2 * channels)

    def forward(self, queries: Tensor, radial: Tensor, direction: Tensor) -> Tensor:
        """Map (E, N, C), radial functions (E, R) and directions (E, 3) to (E, N, C)."""
        nodes, node_weights = self.meridian.nodes, self.meridian.weights
        function = self.meridian.zonal @ self.edge_function.by_degree(radial)
        keys, values = self.key_value(self.edge_norm(function)).chunk(2, -1)
        q, k = self.bounded(self.split(queries), self.sphere.weights, self.split(keys), node_weights)
        height = (direction @ self.sphere.points.T)[:, None, :, None]  # (E, 1, N, 1)
        strength = self.scale * self.orientation[:, None, None]
        along = strength * height * nodes
        across = strength.square() * (1 - height.square()) * (1 - nodes.square())
        bessel = forgetting(log_bessel, across)  # else each step of its series is kept for derivatives
        weights = torch.softmax(self.scale * (q @ k.mT) + along + bessel + node_weights.log(), -1)
        return self.together(weights @ self.split(values))


class Meridian(ExactConstants):
    """Gauss-Legendre nodes in height.

    Attributes:
        nodes: (T,) heights t.
        weights: (T,), they sum up to 2.
        zonal: (T, L+1) harmonics of order 0 at the nodes.
    """

    nodes: Tensor
    weights: Tensor
    zonal: Tensor

    def __init__(self, count: int, lmax: int) -> None:
        super().__init__()
        nodes, weights = np.polynomial.legendre.leggauss(count)
        self.keep(nodes=torch.tensor(nodes), weights=torch.tensor(weights), zonal=_zonal(nodes, lmax))


def _zonal(nodes: np.ndarray, lmax: int) -> Tensor:
    """Harmonics (T, L+1) of order 0 at heights t: ``sqrt((2l+1)/(4 pi)) P_l(t)``."""
    values = np.polynomial.legendre.legvander(nodes, lmax)
    return torch.tensor(values * np.sqrt((2 * np.arange(lmax + 1) + 1) / (4 * np.pi)))


def log_bessel(square: Tensor, terms: int = 20) -> Tensor:
    """``log I0(sqrt(y))`` by the series ``I0 = sum_k (y/4)^k / (k!)^2``: smooth at y = 0, where the root is not.

    Exact to rounding up to y = 30; strengths of orientation stay far below.
    """
    quarter = square / 4
    total = torch.ones_like(square)
    for k in range(terms, 0, -1):  # Horner's scheme
        total = 1 + total * quarter / k**2
    return total.log()
