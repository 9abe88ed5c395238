"""Our own message: attention among neighbours by products of matrices, in the forms that `Blocks` give them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....nn import Blocks, forgetting, part_size
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
        self.scale = ((lmax + 1) ** 2 * channels / self.heads) ** -0.5
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
        size = len(x) if self.training or blocks.sources is None else part_size(len(x), x.device)
        if size == len(x):
            arriving = self._heard(query, of_receiver, told, edges)
        else:
            parts = zip(query.split(size), of_receiver.split(size), edges.parts(size), strict=True)
            arriving = torch.cat([forgetting(self._heard, q, r, told, part) for q, r, part in parts])
        return self.projection(arriving * self.share)

    def _heard(self, query: Tensor, of_receiver: Tensor, told: _Told, edges: Edges) -> Tensor:
        """What arrives at receivers with these queries, of what all atoms tell."""
        blocks = edges.blocks
        assert blocks is not None
        shape = (blocks.count, blocks.receivers, blocks.senders)
        along = self._along(of_receiver, blocks.copy_to_senders(told.of_sender), edges.harmonics, shape)
        bias = (self.bias(edges.radial).view(*shape, -1) + along).permute(0, 3, 1, 2)
        near, place = _different(blocks)
        if place is not None and len(near) <= MOST_TIMES * blocks.senders:
            carried = self._carried_by_all(query, told.keys[near], told.values[near], place, bias, edges)
        else:
            key = _by_head(blocks.copy_to_senders(told.keys), blocks.count, self.heads)
            logits = _by_head(query, blocks.count, self.heads) @ key.mT
            values = _by_head(blocks.copy_to_senders(told.values), blocks.count, self.heads)
            carried = self._shares(logits, bias, edges) @ values
        filters = self.filter.by_degree(edges.radial).view(*shape, self.lmax + 1, -1)
        sources = blocks.copy_to_senders(told.sources).view(blocks.count, 1, blocks.senders, self.lmax + 1, -1)
        return blocks.take_atoms(_together(carried, self.lmax)) + edges.steer((filters * sources).flatten(0, 2))

    def _carried_by_all(
        self, query: Tensor, key: Tensor, values: Tensor, place: Tensor, bias: Tensor, edges: Edges
    ) -> Tensor:
        """What attention carries (n, H, 1, K C/H), by products of all atoms with all, without copies of neighbours.

        Each image of an atom has logits and a share of its own; the shares are summed. ``place`` (n M,) is which of the
        senders, with these keys and values, stands in each slot.
        """
        n, senders = len(query), len(key)
        query, key, values = (_by_head(x, 1, self.heads)[0] for x in (query, key, values))
        place = place + senders * torch.arange(n, device=place.device).repeat_interleave(len(place) // n)
        logits = (query @ key.mT).flatten(1).index_select(1, place).view(self.heads, n, -1).transpose(0, 1)
        shares = self._shares(logits.unsqueeze(2), bias, edges).squeeze(2).transpose(0, 1).flatten(1)
        summed = shares.new_zeros(self.heads, n * senders).index_add(1, place, shares)
        return (summed.view(self.heads, n, senders) @ values).transpose(0, 1).unsqueeze(2)

    def _shares(self, logits: Tensor, bias: Tensor, edges: Edges) -> Tensor:
        """Weights (B, H, n, M) of senders in receivers' sums, from products of queries and keys."""
        shares = self.dropout(functional.silu(logits * self.scale + bias))
        return shares * edges.envelope.view(shares.shape[0], 1, *shares.shape[2:])

    def _along(self, receiver: Tensor, sender: Tensor, harmonics: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Inner products (B, n, M, H) of both atoms' features with the harmonics of the edge."""
        sender = sender.view(shape[0], 1, shape[2], -1, self.heads)
        harmonics = harmonics.view(*shape, -1)
        of_receiver = harmonics @ receiver.view(*shape[:2], -1, self.heads)
        return (of_receiver + (harmonics[..., None] * sender).sum(-2)) * harmonics.shape[-1] ** -0.5


MOST_TIMES = 32
"""Up to so many times as many senders as an atom has neighbours are multiplied with all receivers, not copied."""


def _different(blocks: Blocks) -> tuple[Tensor, Tensor | None]:
    """The atoms among all senders, and the place of each sender among them; None where senders are the receivers."""
    if blocks.sources is None:
        return blocks.atoms, None
    return torch.unique(blocks.sources, return_inverse=True)


class _Told(NamedTuple):
    """What atoms tell others, in their slots (B n, …)."""

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
