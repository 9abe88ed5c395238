"""What every energy model takes and gives."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class ModelOutput(NamedTuple):
    """Result of a model.

    Attributes:
        energies: (N,) dimensionless energy of each atom; the potential scales and shifts it.
        scalars: (N, d) invariant features.
        vectors: (N, 3, d) equivariant features; a network without a head for vectors may leave out their last update.
        forces: (N, 3) from a direct head, dimensionless, or None where the model has none.
    """

    energies: Tensor
    scalars: Tensor
    vectors: Tensor
    forces: Tensor | None


class EnergyModel(Protocol):
    """A module that maps a graph's tensors to energies of atoms.

    Attributes:
        elements: atomic numbers that the model knows.
        cutoff: Å, or None for a model that connects all atoms.
        has_direct_forces: whether it has a head that predicts forces without a gradient.
    """

    elements: tuple[int, ...]
    cutoff: float | None
    has_direct_forces: bool

    def __call__(self, numbers: Tensor, system: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> ModelOutput:
        """Map numbers (N,), structure (N,), receiver and sender (2, E) and vectors receiver → sender (E, 3) in Å."""
        ...
