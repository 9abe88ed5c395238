"""Activation checkpointing."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def evaluate(block: nn.Module, *inputs: Any, again: bool) -> Any:
    """``block(*inputs)``; in training, with ``again``, what it keeps for derivatives is computed again for them."""
    if again and block.training:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
