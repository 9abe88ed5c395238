"""Radial bases: functions of a distance that is scaled and shifted per kind of pair (or of atom)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


class GaussianBasis(nn.Module):
    """Gaussian kernels.

    ``psi_k = exp(-((g r + b - mu_k)/s_k)^2 / 2) / (sqrt(2 pi) s_k)`` with ``g, b`` learned per kind
    (GeoMFormer, arXiv 2406.16853, App. A). Centres start on a uniform grid from 0 to ``reach``, widths at its
    spacing.

    Args:
        n_kernels: number of kernels K.
        reach: Å, largest centre.
        n_kinds: number of kinds, each with its own scale and offset.
    """

    def __init__(self, n_kernels: int, reach: float, n_kinds: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.linspace(0.0, reach, n_kernels))
        self.width = nn.Parameter(torch.full((n_kernels,), reach / max(n_kernels - 1, 1)))
        self.scale = nn.Parameter(torch.ones(n_kinds))
        self.offset = nn.Parameter(torch.zeros(n_kinds))

    def forward(self, distance: Tensor, kind: Tensor) -> Tensor:
        """Return (K, …) for distances (…) in Å of the kinds (…)."""
        column = (-1, *[1] * distance.dim())
        inverse = 1 / (self.width.abs() + 1e-5).view(column)
        argument = (
            of_kind(self.scale, kind) * distance + of_kind(self.offset, kind) - self.centre.view(column)
        ) * inverse
        return _bell(argument) * (inverse / math.sqrt(2 * math.pi))


class ExponentialBasis(nn.Module):
    """Gaussian kernels of ``t = exp(-(g r + b) / length)``, with ``g, b`` learned per kind of pair (or of atom).

    ``psi_k = exp(-((t - c_k)/s)^2 / 2)`` with fixed centres on a uniform grid from exp(-reach/length) to 1 and ``s``
    about their spacing times the square root of 2 (PhysNet, arXiv 1902.08408). They resolve tenths of an Å where
    atoms are bonded and ever less with the distance.

    Args:
        n_kernels: number of kernels K.
        reach: Å, distance of the last centre.
        n_kinds: number of kinds, each with its own scale and offset.
        length: Å over which t falls to 1/e: the longer, the more is resolved far away.
    """

    def __init__(self, n_kernels: int, reach: float, n_kinds: int, length: float = 1.0) -> None:
        super().__init__()
        self.n_kernels, self.reach, self.length = n_kernels, reach, length
        self.scale = nn.Parameter(torch.ones(n_kinds))
        self.offset = nn.Parameter(torch.zeros(n_kinds))

    def forward(self, distance: Tensor, kind: Tensor) -> Tensor:
        """Return (K, …) for distances (…) in Å of the kinds (…)."""
        least = math.exp(-self.reach / self.length)
        centre = torch.linspace(least, 1.0, self.n_kernels, dtype=distance.dtype, device=distance.device)
        width = (1 - least) / self.n_kernels * math.sqrt(2)
        t = torch.exp((of_kind(self.scale, kind) * distance + of_kind(self.offset, kind)) * (-1 / self.length))
        return _bell((t - centre.view(-1, *[1] * distance.dim())) / width)


def of_kind(table: Tensor, kind: Tensor) -> Tensor:
    """``table[kind]``, whose derivative is not a sum that a GPU makes one row after the other where kinds repeat."""
    return table if len(table) == 1 else table.index_select(0, kind.flatten()).view(kind.shape)


LEAST_EXPONENT = -50.0
"""exp(-50) is far below the rounding of double precision, and far above the smallest normal number of single."""


def _bell(x: Tensor) -> Tensor:
    """``exp(-x^2 / 2)``, but nowhere below exp(-50), where its slope is far below rounding, too.

    Processors take up to a hundred times as long for denormal numbers, which kernels of far pairs would be.
    """
    return torch.exp((-0.5 * x.square()).clamp(min=LEAST_EXPONENT))


RadialBasis = Literal["gaussian", "exponential"]
