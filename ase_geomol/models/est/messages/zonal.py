"""The message of EST itself: spherical attention between an atom and an edge."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ....nn.degrees import DegreeLinear
from ....nn.exact import ExactConstants
from ....nn.sphere import Sphere
from ..attention import Lift, PointLinear, unit
from ..config import ESTConfig
from ..edges import DegreeFilter, Edges
from .base import Message


class ZonalMessage(Message, ExactConstants):
    """Spherical attention of both atoms' features (queries) to a function of the edge (keys and values).

    That function has the symmetry of the edge, ``e(s) = sum_l R_l(r) Y_l0``-like, so that keys depend on
    ``t = s·r`` alone. The integral over the azimuth of the keys is then known: with ``c = p_a·r``,

    ``o_a = ∫ dt I0(k sqrt((1-c²)(1-t²))) exp(Q_a·K(t)/sqrt(d) + k c t) V(t) / (the same without V)``,

    k = lambda/sqrt(d), which Gauss-Legendre nodes t integrate.
    """

    nodes: Tensor
    node_weights: Tensor
    zonal: Tensor

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config, sphere)
        channels = config.channels
        self.heads, self.share = config.heads, config.average_neighbors**-0.5
        self.of_receiver = DegreeLinear(config.lmax, channels, channels)
        self.of_sender = DegreeLinear(config.lmax, channels, channels, bias=False)
        self.filter = DegreeFilter(config)
        self.edge_function = DegreeFilter(config)
        self.query = Lift(config, sphere, channels)
        self.edge_norm = nn.LayerNorm(channels) if config.norm == "point" else nn.Identity()
        self.key_value = PointLinear(channels, 2 * channels)
        self.orientation = nn.Parameter(torch.ones(config.heads))
        self.bound = config.temperature if config.bounded_attention else None
        self.temperature = nn.Parameter(torch.zeros(config.heads)) if self.bound else None
        self.projection = PointLinear(channels, channels) if config.attention_projection else None
        nodes, weights = np.polynomial.legendre.leggauss(config.zonal_nodes)
        self.keep(nodes=torch.tensor(nodes), node_weights=torch.tensor(weights), zonal=_zonal(nodes, config.lmax))

    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C)."""
        both = edges.of_receivers(self.of_receiver(x)) + edges.of_senders(self.of_sender(x))
        both = both * self.filter(edges.radial)
        attended = self._attend(self.query(both), edges)
        return edges.gather(self.sphere.to_coefficients(attended) + both) * self.share

    def _attend(self, queries: Tensor, edges: Edges) -> Tensor:
        """Queries (E, N, C) to values (E, N, C)."""
        nodes, node_weights = self.nodes, self.node_weights
        function = self.zonal @ self.edge_function.by_degree(edges.radial)
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (queries, *self.key_value(self.edge_norm(function)).chunk(2, -1))
        )
        scale = q.shape[-1] ** -0.5
        if self.temperature is not None:
            assert self.bound is not None
            q = unit(q, self.sphere.weights) * (self.bound * torch.sigmoid(self.temperature))[:, None, None]
            k = unit(k, node_weights)
        height = (edges.direction @ self.sphere.points.T)[:, None, :, None]  # (E, 1, N, 1)
        strength = scale * self.orientation[:, None, None]
        along = strength * height * nodes
        across = strength.square() * (1 - height.square()) * (1 - nodes.square())
        weights = torch.softmax(scale * (q @ k.mT) + along + log_bessel(across) + node_weights.log(), -1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return mixed if self.projection is None else self.projection(mixed)


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
