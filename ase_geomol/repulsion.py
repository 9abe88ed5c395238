"""Short distances: a repulsion between nuclei that nothing learned can undo, so that atoms never collapse."""

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
STILL = 0.85
"""Share of the reach below which the network sees every distance as the same."""


class ZBLRepulsion(nn.Module):
    """Screened nuclear repulsion of Ziegler, Biersack and Littmark (1985), and what a network may see where it acts.

    ``E_ij = k Z_i Z_j / r * phi(r/a) * u(r / R)``, ``a = 0.8854 a0 / (Z_i^0.23 + Z_j^0.23)``, with the C² envelope u
    that ends it at R, ``reach`` times the sum of the covalent radii. Nothing in it is learned. The reach should be
    below the shortest bonds (in these sums N2 has 0.77, C≡N 0.79, C=O 0.85, but V=O 0.72 and uranyl 0.68).

    A network that was never shown two atoms so close may draw them together harder than that pushes. `held` therefore
    hands it ``f(r)`` instead of r: r down to R, and a constant below 0.85 R (`STILL`), with three continuous
    derivatives. Below 0.85 R what it says of two atoms does not depend on how close they are, and only the repulsion
    does; between 0.85 R and R it fades. Networks that connect all atoms see distances as they are: in these, one
    vector stands in for others.

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

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (N,) in eV, half of each pair on either atom, and the vectors (E, 3) in Å for the network.

        Arguments as of an `EnergyModel`.
        """
        kinds = numbers[edge_index]
        reach = (self.reach * self.radii[kinds].sum(0)).clamp(max=self.cutoff)
        distance = torch.linalg.vector_norm(edge_vectors, dim=-1)
        near = (distance < reach).nonzero()[:, 0]
        kinds, distance, reach = kinds[:, near], distance[near], reach[near]
        energies = segment_sum(_pair_energy(kinds, distance, reach) / 2, edge_index[0, near], len(numbers))
        if not len(near):
            return energies, edge_vectors
        return energies, edge_vectors.index_copy(
            0, near, edge_vectors[near] * (held(distance, reach) / distance)[:, None]
        )


def held(distance: Tensor, reach: Tensor) -> Tensor:
    """What a network sees of distances (E,) in Å below the ``reach`` (E,) in Å: see `ZBLRepulsion`."""
    y = ((distance / reach - STILL) / (1 - STILL)).clamp(min=0.0)
    return reach * (1 - (1 - STILL) * (0.5 - y**4 * (2.5 + y * (y - 3))))


def _pair_energy(kinds: Tensor, distance: Tensor, reach: Tensor) -> Tensor:
    first, second = kinds.double()
    x = distance * (first**0.23 + second**0.23) / (0.8854 * BOHR)
    screening = sum(c * torch.exp(-e * x) for c, e in zip(COEFFICIENTS, EXPONENTS, strict=True))
    return COULOMB * first * second / distance * screening * smooth_cutoff(distance / reach, 1.0, power=6)
