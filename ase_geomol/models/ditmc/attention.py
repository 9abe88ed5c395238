"""Attention among the atoms of a molecule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...nn.attention import NOBODY
from .config import HEAD_CHANNELS, DiTMCConfig


def weights_of(logits: Tensor, pairs: Tensor) -> Tensor:
    """Softmax of logits (…, N, N) over the senders that ``pairs`` allow; zeros for an atom that is alone."""
    return torch.softmax(logits.masked_fill(~pairs, NOBODY), -1) * pairs


def by_heads(features: Tensor) -> Tensor:
    """Features (…, N, h 32) as (…, h, N, 32)."""
    return features.unflatten(-1, (-1, HEAD_CHANNELS)).transpose(-3, -2)


class PairAttention(nn.Module):
    """Attention whose keys and values are multiplied by filters of the pair.

    ``sum_j a_ij (v_j g_ij)`` with ``a_ij`` the softmax over j ≠ i of ``q_i · (k_j f_ij) / sqrt(32)``; f and g are
    linear in the pair's features.
    """

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        d = config.channels
        self.queries_keys_values = nn.Linear(d, 3 * d)
        self.pair = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, d)

    def forward(self, features: Tensor, filters: Tensor, pairs: Tensor) -> Tensor:
        """Map (G, S, N, H) to the same shape.

        Args:
            features: of S samples of each of G molecules.
            filters: (2, G, S or 1, heads, N, N, 32), see `arrange`.
            pairs: (G, 1, 1, N, N) where there is a pair.
        """
        query, key, value = map(by_heads, self.queries_keys_values(features).chunk(3, -1))
        key_filter, value_filter = filters
        keys = key[..., None, :, :] * key_filter
        logits = (keys @ query[..., None]).squeeze(-1) / math.sqrt(HEAD_CHANNELS)
        values = value[..., None, :, :] * value_filter
        sums = (weights_of(logits, pairs)[..., None, :] @ values).squeeze(-2)
        return self.out(sums.transpose(-3, -2).flatten(-2))


def arrange(filters: Tensor) -> Tensor:
    """Filters (…, N, N, 2 H) of keys and values as (2, …, heads, N, N, 32)."""
    parts = filters.unflatten(-1, (2, -1, HEAD_CHANNELS))  # (…, N, N, 2, h, 32)
    return parts.movedim((-3, -2), (0, -4)).contiguous()
