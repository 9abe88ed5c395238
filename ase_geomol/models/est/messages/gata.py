"""GotenNet's message: neighbours steer their features and the harmonics of the edge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....nn import segment_sum
from ....nn.degrees import DegreeLinear, rows_above_zero
from ....nn.sphere import Sphere
from ..config import ESTConfig
from ..edges import Edges
from .base import Message


class GataMessage(Message):
    """GotenNet's attention (ICLR 2025): values of neighbours steer their features and the harmonics of the edge.

    With h the invariants, ``m_ij = a_ij v(h_j) + f(t_ij) s(h_j)``, split into a scalar, a factor of ``Y_l`` and one of
    the neighbour's ``x_l`` for each degree; ``a_ij`` is attention among neighbours of ``q(h_i)·k(h_j)·g(t_ij)``. The
    edge's own channels t begin as its radial functions; each block adds products of both atoms' features to them.
    """

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config, sphere)
        lmax, channels = config.lmax, config.channels
        self.lmax, self.heads, self.share = lmax, config.message_heads, config.average_neighbors**-0.5
        parts = 1 + 2 * lmax
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, parts * channels))
        self.signal = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, parts * channels))
        self.gate = nn.Linear(config.radial_channels, channels)
        self.filter = nn.Linear(config.radial_channels, parts * channels)
        self.left = DegreeLinear(lmax, channels, config.radial_channels, bias=False)
        self.right = DegreeLinear(lmax, channels, config.radial_channels, bias=False)
        self.mix = nn.Linear(config.radial_channels, config.radial_channels)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.rows: Tensor
        self.register_buffer("rows", rows_above_zero(lmax), persistent=False)

    def renew(self, x: Tensor, edges: Edges) -> Edges:
        """Add what the features of both atoms have in common to the channels of the edges."""
        return edges._replace(radial=edges.radial + self.mix(self._products(x, edges) * edges.radial))

    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C)."""
        h = x[:, 0]
        t = edges.radial
        q, k, g = edges.of_receivers(self.query(h)), edges.of_senders(self.key(h)), functional.silu(self.gate(t))
        logits = (q * k * g).unflatten(-1, (self.heads, -1)).sum(-1) * (x.shape[-1] // self.heads) ** -0.5
        shares = self.dropout(edges.attention(logits)).repeat_interleave(x.shape[-1] // self.heads, dim=1)
        parts = 1 + 2 * self.lmax
        attended = shares[:, None] * edges.of_senders(self.value(h)).unflatten(-1, (parts, -1))
        filtered = (self.filter(t) * edges.of_senders(self.signal(h))).unflatten(-1, (parts, -1))
        filtered = filtered * (edges.envelope * self.share)[:, None, None]
        message = attended + filtered  # (E, 1 + 2L, C)
        steered = message[:, 1 : 1 + self.lmax].index_select(1, self.rows) * edges.harmonics[:, 1:, None]
        carried = message[:, 1 + self.lmax :].index_select(1, self.rows) * edges.of_senders(x[:, 1:])
        arriving = torch.cat([message[:, :1], steered + carried], dim=1)
        return segment_sum(arriving, edges.receiver, edges.n_atoms)

    def _products(self, x: Tensor, edges: Edges) -> Tensor:
        """Inner products (E, R) of both atoms' features without what lies along the edge, over all degrees above 0."""
        left, right = edges.of_receivers(self.left(x)[:, 1:]), edges.of_senders(self.right(x)[:, 1:])
        harmonic = edges.harmonics[:, 1:, None]
        total = (left * right).sum(1)
        for degree in range(1, self.lmax + 1):
            part = slice(degree**2 - 1, (degree + 1) ** 2 - 1)
            along = (left[:, part] * harmonic[:, part]).sum(1) * (right[:, part] * harmonic[:, part]).sum(1)
            total = total - along / (2 * degree + 1)
        return total
