"""Activation checkpointing, in training to save memory, in large systems to save time as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PART = {"cpu": 2**8, "cuda": 2**14}
"""Atoms, or edges, that are computed at once. On processors the system takes blocks of memory above 32 MB back after
each use, and gives them page by page: at thousands of atoms that takes longer than the arithmetic."""
FEW_PARTS = 4
"""Up to so many are computed as one."""


def part_size(rows: int, device: torch.device) -> int:
    """How many of so many atoms, or edges, are computed at once."""
    size = PART.get(device.type, PART["cpu"])
    return rows if rows <= FEW_PARTS * size else size


def forgetting(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """``function(*inputs)``, without random numbers; what it keeps for derivatives is computed again for them."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def evaluate(block: nn.Module, *inputs: Any, again: bool) -> Any:
    """``block(*inputs)``; in training, with ``again``, what it keeps for derivatives is computed again for them."""
    if again and block.training:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
