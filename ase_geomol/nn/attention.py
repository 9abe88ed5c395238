"""Weights of attention that come and go smoothly with the neighbours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

AttentionNorm = Literal["softmax", "silu", "sum"]
NOBODY = -1e9
"""Logarithm of the envelope of a slot without a pair: its weight is exactly 0."""


def log_envelope(envelope: Tensor) -> Tensor:
    """Logarithm of an envelope in [0, 1], `NOBODY` where it is 0; derivatives stay finite everywhere."""
    inside = envelope > 0
    return torch.where(inside, torch.where(inside, envelope, 1.0).log(), NOBODY)


def attention_weights(logits: Tensor, envelope: Tensor, logarithm: Tensor, norm: AttentionNorm = "softmax") -> Tensor:
    """Weights (…, n, M) of M senders in each of n receivers' sums, smooth as a neighbour comes or goes.

    ``softmax``: ``u_ij exp(l_ij) / sum_k u_ik exp(l_ik)``, the softmax of ``l_ij + log u_ij``. The envelope u
    multiplies the exponential, not only the probability, so a neighbour that leaves takes nothing else with it.
    Each receiver needs one pair that never leaves (with itself, envelope 1), or the denominator could vanish.
    ``sum``: ``u_ij exp(l_ij)`` (PaiNN). ``silu``: ``u_ij SiLU(l_ij)`` (TorchMD-Net).

    Args:
        logits: (…, n, M).
        envelope: in [0, 1], of a shape that broadcasts to the logits.
        logarithm: its `log_envelope`.
        norm: one of the three forms.
    """
    if norm == "silu":
        return envelope * functional.silu(logits)
    if norm == "sum":
        return (logits + logarithm).exp()
    return torch.softmax(logits + logarithm, -1)
