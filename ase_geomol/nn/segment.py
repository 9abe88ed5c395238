"""Sums and softmax over the neighbours of each atom."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

AttentionNorm = Literal["softmax", "silu", "sum"]


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows (E, …) that share an index (E,) into (size, …)."""
    return values.new_zeros(size, *values.shape[1:]).index_add_(0, index, values)


def attention_weights(
    logits: Tensor, envelope: Tensor, receiver: Tensor, size: int, norm: AttentionNorm = "softmax"
) -> Tensor:
    """Weights (E, H) of the edges in each receiver's sum, smooth as an edge comes or goes.

    ``softmax``: ``u_ij exp(l_ij) / sum_k u_ik exp(l_ik)``. The envelope multiplies the exponential, not only the
    probability, so a neighbour that leaves takes nothing else with it. Each receiver needs one edge that never
    leaves (its self token, envelope 1), or the denominator could vanish.
    ``sum``: the same without the denominator (PaiNN). ``silu``: ``u_ij SiLU(l_ij)`` (TorchMD-Net).

    Args:
        logits: (E, H).
        envelope: (E,) in [0, 1].
        receiver: (E,) index below ``size``.
        size: number of receivers.
        norm: one of the three forms.
    """
    if norm == "silu":
        return envelope[:, None] * functional.silu(logits)
    if norm == "sum":
        return envelope[:, None] * logits.exp()
    index = receiver[:, None].expand_as(logits)
    highest = logits.new_full((size, logits.shape[1]), -torch.inf)
    highest = highest.scatter_reduce(0, index, logits.detach(), "amax")
    weights = envelope[:, None] * (logits - highest.index_select(0, receiver)).exp()
    return weights / segment_sum(weights, receiver, size).index_select(0, receiver)
