"""Short-range repulsion between nuclei, so that close contacts never collapse."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from .nn import segment_sum, smooth_cutoff

COULOMB = 14.399645
"""e^2 / (4 pi eps0) in eV Å."""
BOHR = 0.529177
COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.028171)
EXPONENTS = (3.1998, 0.94229, 0.4029, 0.20162)
REACH = 0.7
"""Sums of covalent radii at which it ends, unless told otherwise."""


class ZBLRepulsion(nn.Module):
    """Screened nuclear repulsion of Ziegler, Biersack and Littmark (1985).

    ``E_ij = k Z_i Z_j / r * phi(r/a) * u(r / R)``, ``a = 0.8854 a0 / (Z_i^0.23 + Z_j^0.23)``, with the C² envelope u
    that ends it at R, ``reach`` times the sum of the covalent radii. At 0.7 no bond that vibrates feels it (N2 has
    0.77); where it does, a smooth network must undo it, and errs more (training/README.md). Nothing in it is learned.

    Args:
        cutoff: Å, of the edges that it will see; a pair with larger radii ends there. None: there is no cutoff.
        reach: sums of covalent radii at which it ends.
    """

    radii: Tensor

    def __init__(self, cutoff: float | None = None, reach: float = REACH) -> None:
        super().__init__()
        self.cutoff = float("inf") if cutoff is None else cutoff
        self.reach = reach
        self.register_buffer("radii", torch.tensor(covalent_radii, dtype=torch.float64), persistent=False)

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> Tensor:
        """Energies (N,) in eV, half of each pair on either atom; arguments as of an `EnergyModel`."""
        first, second = numbers[edge_index]
        reach = (self.reach * (self.radii[first] + self.radii[second])).clamp(max=self.cutoff)
        distance = torch.linalg.vector_norm(edge_vectors, dim=-1)
        near = distance < reach
        first, second, distance, reach = first[near], second[near], distance[near], reach[near]
        first, second = first.double(), second.double()
        x = distance * (first**0.23 + second**0.23) / (0.8854 * BOHR)
        screening = sum(c * torch.exp(-e * x) for c, e in zip(COEFFICIENTS, EXPONENTS, strict=True))
        pair = COULOMB * first * second / distance * screening * smooth_cutoff(distance / reach, 1.0, power=6)
        return segment_sum(pair / 2, edge_index[0, near], len(numbers))
