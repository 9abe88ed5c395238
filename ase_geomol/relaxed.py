"""From the start of a relaxation to its end at once: energy and displacements (OC20's IS2RE and IS2RS)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from .graph import AtomGraph, edge_vectors
from .models import EnergyModel, OfModel
from .models.base import TAGS
from .nn import segment_sum


class RelaxedForm(BaseModel):
    """What was learned of the end, and how the energy is read from the atoms.

    Attributes:
        tagged: it is a sum over atoms with tags above 0, each tag with a factor of its own; otherwise over all.
        energy: whether the energy was learned.
        structure: whether the displacements were learned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tagged: bool = True
    energy: bool = True
    structure: bool = True


class RelaxedPrediction(NamedTuple):
    """What is said of the end of S relaxations of N atoms in all.

    Attributes:
        energy: (S,) eV.
        displacement: (N, 3) Å, from where the atoms are to where they end.
    """

    energy: Tensor
    displacement: Tensor


class RelaxedState(OfModel):
    """``E = mean + sum_i [scale f_tag(i) e_i + r_Z(i)]`` and displacements ``reach v_i``, v of the model's head.

    Args:
        model: the network, with its head for vectors.
        form: how the energy is read.
        mean: eV, of all energies.
        scale: eV that the model's unit stands for.
        reach: Å that a unit of its vectors stands for.
        references: eV of each element {atomic number: energy}, for energies that are no differences already.
    """

    mean: Tensor
    scale: Tensor
    reach: Tensor
    references: Tensor

    def __init__(
        self,
        model: EnergyModel,
        form: RelaxedForm,
        mean: float = 0.0,
        scale: float = 1.0,
        reach: float = 1.0,
        references: Mapping[int, float] | None = None,
    ) -> None:
        super().__init__(model)
        self.form = form
        self.factors = nn.Parameter(torch.full((TAGS,), 0.1, dtype=torch.float64))
        for name, value in (("mean", mean), ("scale", scale), ("reach", reach)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        table = torch.zeros(119, dtype=torch.float64)
        for number, energy in (references or {}).items():
            table[number] = energy
        self.register_buffer("references", table)

    @property
    def periodic(self) -> bool:
        """Whether structures may repeat themselves."""
        return self.cutoff is not None

    def forward(self, graph: AtomGraph) -> RelaxedPrediction:
        """Predict the end of relaxations that start at a graph made with this cutoff."""
        with torch.set_grad_enabled(self.training):
            vectors = edge_vectors(graph, graph.positions, graph.cell)
            output = self.output(graph, vectors)
            assert output.forces is not None  # a recipe and a checkpoint make sure of it
            tags = graph.tags.clamp(0, TAGS - 1) if self.form.tagged else torch.ones_like(graph.tags)
            energies = self.scale * self.factors[tags] * output.energies.double() * (tags > 0)
            energies = energies + self.references[graph.numbers]
            total = self.mean + segment_sum(energies, graph.system, graph.n_systems)
            return RelaxedPrediction(total, self.reach * output.forces.double())
