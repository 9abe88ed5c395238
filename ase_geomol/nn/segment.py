"""Sums over the atoms of a structure, or the neighbours of an atom."""

from __future__ import annotations

from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows (E, …) that share an index (E,) into (size, …)."""
    return values.new_zeros(size, *values.shape[1:]).index_add_(0, index, values)
