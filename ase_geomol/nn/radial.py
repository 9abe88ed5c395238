"""Radial basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GaussianBasis(nn.Module):
    """Gaussian kernels of a distance that is scaled and shifted per kind of pair (or of atom).

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
        argument = (self.scale[kind] * distance + self.offset[kind] - self.centre.view(column)) * inverse
        return torch.exp(-0.5 * argument.square()) * (inverse / math.sqrt(2 * math.pi))
