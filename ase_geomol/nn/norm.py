"""Normalisation of vector features that is safe to differentiate twice, for any geometry."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

EquivariantNormMode = Literal["rms", "whiten"]


class EquivariantNorm(nn.Module):
    """EquLN (GeoMFormer, App. A) in the two forms that never meet an eigen-decomposition.

    With ``Z`` the vectors minus their mean over channels and ``S = Z Z^T / d`` (3, 3):

    * ``rms``: ``Z / sqrt(tr(S)/3 + floor)``;
    * ``whiten``: ``(S + floor I)^(-1/2) Z`` by 12 coupled Newton-Schulz steps.

    ``floor`` is absolute. At sites whose symmetry forbids vectors (perfect crystals, linear molecules) every norm
    stretches what appears when the symmetry breaks by ``floor ** -0.5``, and the norms of all layers multiply: a
    small floor makes a crease of the energy there (measured in training/README.md). With 1, what potentials use, no
    norm amplifies, and large vectors are scaled down to RMS 1 as before.
    """

    STEPS = 12

    def __init__(self, channels: int, mode: EquivariantNormMode = "rms", floor: float = 1.0) -> None:
        super().__init__()
        self.mode, self.floor = mode, floor
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalise (N, 3, d)."""
        centred = vectors - vectors.mean(-1, keepdim=True)
        if self.mode == "rms":
            mean_square = centred.square().mean((-2, -1), keepdim=True)
            return centred * (torch.rsqrt(mean_square + self.floor) * self.weight)
        return self._inverse_square_root(centred) @ centred * self.weight

    def _inverse_square_root(self, centred: Tensor) -> Tensor:
        identity = torch.eye(3, dtype=centred.dtype, device=centred.device)
        covariance = centred @ centred.mT / centred.shape[-1] + self.floor * identity
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        y, z = covariance / trace, identity.expand_as(covariance)
        for _ in range(self.STEPS):
            step = 0.5 * (3 * identity - z @ y)
            y, z = y @ step, step @ z
        return z * torch.rsqrt(trace)
