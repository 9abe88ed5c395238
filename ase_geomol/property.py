"""From what a model says of atoms to one property of a whole molecule: a polarisability, a gap, a dipole moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from .graph import AtomGraph, edge_vectors
from .models import EnergyModel, OfModel
from .nn import segment_sum

Pooling = Literal["sum", "mean", "dipole", "extent"]


class PropertyForm(BaseModel):
    """Which property, and how atoms make up the whole.

    Attributes:
        name: such as "polarisability".
        unit: of the values, such as "bohr^3".
        pooling: "sum" for what grows with the molecule, "mean" for what does not (a gap); "dipole" for the length of
            a dipole moment, "extent" for <R²>.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: str
    pooling: Pooling = "sum"


class ScalarProperty(OfModel):
    """One number for each structure, from the model's outputs e_i and vectors v_i of its atoms.

    * sum: ``sum_i [scale e_i + r_Z(i)]``; mean: that divided by the number of atoms;
    * dipole: ``|sum_i scale [(e_i - mean e) x_i + v_i]|``: charges that sum up to zero, and dipoles of atoms
      (TorchMD-NET, arXiv 2202.02541). The model needs its head for vectors;
    * extent: ``sum_i scale e_i |x_i - c|²`` about the centre c of nuclear charge.

    Geometry and sums are float64; the network runs in the dtype of its weights.

    Args:
        model: the network.
        form: which property.
        references: of each element {atomic number: value}, for sums and means.
        scale: what the model's unit stands for, in the property's unit (for an extent divided by Å²).
    """

    references: Tensor
    scale: Tensor

    def __init__(
        self,
        model: EnergyModel,
        form: PropertyForm,
        references: Mapping[int, float] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(model)
        self.form = form
        table = torch.zeros(119, dtype=torch.float64)
        for number, value in (references or {}).items():
            table[number] = value
        self.register_buffer("references", table)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    @property
    def periodic(self) -> bool:
        """Whether the property has a meaning for a structure that repeats itself."""
        return self.cutoff is not None and self.form.pooling in ("sum", "mean")

    def forward(self, graph: AtomGraph) -> Tensor:
        """Values (S,) of the structures of a graph made with this cutoff."""
        with torch.set_grad_enabled(self.training):
            vectors = edge_vectors(graph, graph.positions, graph.cell)
            output = self.output(graph, vectors)
            atoms = output.energies.double()
            if self.form.pooling in ("sum", "mean"):
                total = segment_sum(self.scale * atoms + self.references[graph.numbers], graph.system, graph.n_systems)
                return total if self.form.pooling == "sum" else total / _counts(graph)
            if self.form.pooling == "extent":
                centre = _mean(graph, graph.positions, graph.numbers.double())
                square = (graph.positions - centre[graph.system]).square().sum(-1)
                return segment_sum(self.scale * atoms * square, graph.system, graph.n_systems)
            assert output.forces is not None  # a recipe and a checkpoint make sure of it
            charges = atoms - _mean(graph, atoms[:, None], torch.ones_like(atoms))[graph.system, 0]
            moments = segment_sum(
                charges[:, None] * graph.positions + output.forces.double(), graph.system, graph.n_systems
            )
            return self.scale * torch.sqrt(moments.square().sum(-1) + 1e-12)  # the root has no slope at zero


def _counts(graph: AtomGraph) -> Tensor:
    return torch.bincount(graph.system, minlength=graph.n_systems)


def _mean(graph: AtomGraph, values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean (S, k) of values (N, k) in each structure."""
    total = segment_sum(weights[:, None] * values, graph.system, graph.n_systems)
    return total / segment_sum(weights, graph.system, graph.n_systems)[:, None]
