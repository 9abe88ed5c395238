"""Our own message: attention among neighbours by products of matrices, in the forms that `Blocks` give them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....nn import forgetting, parts_of
from ....nn.degrees import DegreeLinear
from ....nn.sphere import Sphere
from ..config import ESTConfig
from ..edges import DegreeFilter, Edges
from .base import Message


class AttentionMessage(Message):
    """Features carried by attention and harmonics steered by filters, as in GotenNet, in few products of matrices.

    ``m_i,lm = sum_j a_ij g_l(h_j) x_j,lm + sum_j u_ij f_l(r_ij) s_l(h_j) Y_lm(r_ij)`` with ``a_ij = u_ij SiLU(q_i·k_j +
    (c_i + d_j)·Y(r_ij) + b(r_ij))`` for each head. All products are over all coefficients: attention sees how both
    atoms' features lie to each other and to the edge, so that invariants learn of angles.
    """

    uses_blocks = True

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config, sphere)
        lmax, channels = config.lmax, config.channels
        self.lmax, self.heads, self.share = lmax, config.message_heads, config.average_neighbors**-0.5
        self.query_key = DegreeLinear(lmax, channels, 2 * channels)
        self.along = DegreeLinear(lmax, channels, 2 * self.heads)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.bias = nn.Linear(config.radial_channels, self.heads)
        self.value = DegreeLinear(lmax, channels, channels)
        self.sources = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 2 * (lmax + 1) * channels)
        )
        self.filter = DegreeFilter(config)
        self.projection = DegreeLinear(lmax, channels, channels)

    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C); in large systems, part by part of the receivers."""
        blocks = edges.blocks
        assert blocks is not None  # this message asks for them
        x = blocks.place_atoms(x)
        gates, sources = self.sources(x[:, 0]).unflatten(-1, (2, self.lmax + 1, -1)).unbind(1)
        query, key = self.query_key(x).chunk(2, -1)
        of_receiver, of_sender = self.along(x).chunk(2, -1)
        told = _Told(key, of_sender, self.value(x) * gates.index_select(1, self.filter.degrees), sources)
        parts = [] if self.training or blocks.sources is None else parts_of(len(x), x.device)
        if len(parts) <= 1:
            arriving = self._heard(query, of_receiver, told, edges)
        else:
            heard = (forgetting(self._heard, query[part], of_receiver[part], told, edges.part(part)) for part in parts)
            arriving = torch.cat(list(heard))
        return self.projection(arriving * self.share)

    def _heard(self, query: Tensor, of_receiver: Tensor, told: _Told, edges: Edges) -> Tensor:
        """What arrives at receivers with these queries, of what all atoms tell."""
        blocks = edges.blocks
        assert blocks is not None
        told = _Told(*(blocks.copy_to_senders(values) for values in told))
        shape = (blocks.count, blocks.receivers, blocks.senders)
        weights = self._attention(query, of_receiver, told, edges, shape)
        carried = _together(weights @ _by_head(told.values, blocks.count, self.heads), self.lmax)
        filters = self.filter.by_degree(edges.radial).view(*shape, self.lmax + 1, -1)
        filters = filters * told.sources.view(blocks.count, 1, blocks.senders, self.lmax + 1, -1)
        return blocks.take_atoms(carried) + edges.steer(filters.flatten(0, 2))

    def _attention(
        self, query: Tensor, of_receiver: Tensor, told: _Told, edges: Edges, shape: tuple[int, int, int]
    ) -> Tensor:
        """Weights (B, H, n, M) of senders in receivers' sums."""
        count, receivers, senders = shape
        query, key = _by_head(query, count, self.heads), _by_head(told.keys, count, self.heads)
        logits = query @ key.mT * query.shape[-1] ** -0.5
        along = self._along(of_receiver, told.of_sender, edges.harmonics, shape)
        logits = logits + (self.bias(edges.radial).view(*shape, -1) + along).permute(0, 3, 1, 2)
        return self.dropout(functional.silu(logits)) * edges.envelope.view(count, 1, receivers, senders)

    def _along(self, receiver: Tensor, sender: Tensor, harmonics: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Inner products (B, n, M, H) of both atoms' features with the harmonics of the edge."""
        sender = sender.view(shape[0], 1, shape[2], -1, self.heads)
        harmonics = harmonics.view(*shape, -1)
        of_receiver = harmonics @ receiver.view(*shape[:2], -1, self.heads)
        return (of_receiver + (harmonics[..., None] * sender).sum(-2)) * harmonics.shape[-1] ** -0.5


class _Told(NamedTuple):
    """What senders tell: in atoms' slots (B n, …), or copied to their own (B M, …)."""

    keys: Tensor
    of_sender: Tensor
    values: Tensor
    sources: Tensor


def _by_head(x: Tensor, count: int, heads: int) -> Tensor:
    """Features (B M, K, C) as (B, H, M, K C/H)."""
    return x.view(count, -1, x.shape[1], heads, x.shape[2] // heads).permute(0, 3, 1, 2, 4).flatten(3)


def _together(x: Tensor, lmax: int) -> Tensor:
    """The way back, from (B, H, n, K C/H) to (B n, K, C)."""
    return x.unflatten(-1, ((lmax + 1) ** 2, -1)).permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)
