"""What every energy model takes and gives."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from ..graph import AtomGraph
from ..nn import ScalarReadout

TAGS = 3
"""OC20's: 0 below the surface, 1 at the surface, 2 in the adsorbate."""


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
        reads_tags: whether it is given the atoms' tags, too.
        recompute: whether training computes again what its blocks would keep for derivatives, to save memory.
        readout: the head that maps scalars to energies.
    """

    elements: tuple[int, ...]
    cutoff: float | None
    has_direct_forces: bool
    reads_tags: bool
    recompute: bool
    readout: ScalarReadout

    def __call__(
        self, numbers: Tensor, system: Tensor, edge_index: Tensor, edge_vectors: Tensor, *tags: Tensor
    ) -> ModelOutput:
        """Map numbers (N,), structure (N,), receiver and sender (2, E) and vectors receiver → sender (E, 3) in Å; and
        tags (N,), where it reads them.
        """
        ...


class OfModel(nn.Module):
    """What is made of an energy model: a potential, a property, a relaxed state.

    Geometry and sums are float64; the network runs in the dtype of its weights.

    Args:
        model: the network.
    """

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that it knows."""
        return self.model.elements

    @property
    def cutoff(self) -> float | None:
        """Å, or None if every atom sees every other."""
        return self.model.cutoff

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return next(self.model.parameters()).dtype  # type: ignore[attr-defined]

    def output(self, graph: AtomGraph, vectors: Tensor) -> ModelOutput:
        """What the network says of a graph with these vectors of its pairs (E, 3) in Å."""
        tags = (graph.tags,) if self.model.reads_tags else ()
        return self.model(graph.numbers, graph.system, graph.edge_index, vectors.to(self.dtype), *tags)

    def set_dtype(self, dtype: torch.dtype) -> Self:
        """Set the network's precision in place; references and geometry stay float64."""
        self.model.to(dtype)  # type: ignore[attr-defined]
        return self
