"""From energies of atoms to physics: the only place with derivatives by positions and strain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .graph import AtomGraph, edge_vectors
from .models import EnergyModel, ModelOutput, OfModel
from .nn import segment_sum
from .repulsion import REACH, ZBLRepulsion
from .rigidity import Rigidity


class Prediction(NamedTuple):
    """What a potential gives for S structures of N atoms in all.

    Attributes:
        energy: (S,) eV.
        energies: (N,) eV, they sum up to ``energy``.
        forces: (N, 3) eV/Å, or None if not asked for.
        stress: (S, 3, 3) eV/Å³ in ASE's sign (positive under tension), or None if not asked for.
        direct_forces: (N, 3) eV/Å of the model's direct head (no gradient, not conservative), or None if it has none.
        energy_std: (S,) eV, standard deviation of ``energy``, or None if not asked for.
        energies_std: (N,) eV, standard deviations of ``energies``, or None if not asked for.
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None
    direct_forces: Tensor | None = None
    energy_std: Tensor | None = None
    energies_std: Tensor | None = None


class Potential(OfModel):
    """An interatomic potential: ``E = sum_i [scale * model_i + e_Z(i)] + repulsion``.

    Geometry and sums are float64; the network runs in the dtype of its weights.

    Attributes:
        rigidity: what standard deviations of energies come from, or None.

    Args:
        model: the network.
        reference_energies: eV of each element {atomic number: energy}.
        scale: eV that the model's unit stands for.
        repulsion: reach of `ZBLRepulsion` in sums of covalent radii, below which the network sees distances held;
            0: without it.
    """

    reference_energies: Tensor
    scale: Tensor

    def __init__(
        self,
        model: EnergyModel,
        reference_energies: Mapping[int, float] | None = None,
        scale: float = 1.0,
        repulsion: float = REACH,
    ) -> None:
        super().__init__(model)
        table = torch.zeros(119, dtype=torch.float64)
        for number, energy in (reference_energies or {}).items():
            table[number] = energy
        self.register_buffer("reference_energies", table)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.repulsion = ZBLRepulsion(model.cutoff, repulsion) if repulsion > 0 else None
        self.rigidity: Rigidity | None = None

    @property
    def has_direct_forces(self) -> bool:
        """Whether the model has a head that predicts forces without a gradient."""
        return self.model.has_direct_forces

    def forward(self, graph: AtomGraph, *, forces: bool = True, stress: bool = False, std: bool = False) -> Prediction:
        """Evaluate a batch.

        Forces are exact gradients of the energy; in training mode they can be differentiated once more.

        Args:
            graph: made with this potential's cutoff.
            forces: return forces.
            stress: return stress; every structure needs a cell of finite volume.
            std: return standard deviations of the energies; the potential needs its ``rigidity``.
        """
        with torch.set_grad_enabled(forces or stress or self.training):
            positions = graph.positions.detach().requires_grad_(forces or stress)
            strain = torch.zeros_like(graph.cell, requires_grad=stress)
            output, energies = self._energies(graph, *_strained(graph, positions, strain))
            energy = segment_sum(energies, graph.system, graph.n_systems)
            inputs = [tensor for tensor in (positions, strain) if tensor.requires_grad]
            slopes = _gradient(energy.sum(), inputs, create_graph=self.training)
            prediction = Prediction(
                energy=energy,
                energies=energies,
                forces=-slopes[0] if forces else None,
                stress=slopes[-1] / torch.linalg.det(graph.cell).abs()[:, None, None] if stress else None,
                direct_forces=None if output.forces is None else self.scale * output.forces.double(),
            )
        if std:
            assert self.rigidity is not None
            with torch.no_grad():
                total, local = self.rigidity(self._last_features(output), graph.system, graph.n_systems)
            prediction = prediction._replace(energy_std=total, energies_std=local)
        return prediction if self.training else _detached(prediction)

    def features(self, graph: AtomGraph) -> ModelOutput:
        """The model's own output, with invariant and equivariant features of each atom; no derivatives."""
        with torch.no_grad():
            return self._energies(graph, graph.positions, graph.cell)[0]

    def last_features(self, graph: AtomGraph) -> Tensor:
        """What the energies of atoms are linear in (N, k), the last a one for the last layer's bias; no derivatives."""
        with torch.no_grad():
            return self._last_features(self._energies(graph, graph.positions, graph.cell)[0])

    def hessian(self, graph: AtomGraph) -> Tensor:
        """Second derivatives (3N, 3N) in eV/Å² of one structure, row by row from exact forces."""
        with torch.enable_grad():
            positions = graph.positions.detach().requires_grad_()
            energies = self._energies(graph, positions, graph.cell)[1]
            slope = _gradient(energies.sum(), [positions], create_graph=True)[0].reshape(-1)
            rows = [_gradient(component, [positions], retain_graph=True)[0].reshape(-1) for component in slope]
        hessian = torch.stack(rows)
        return (hessian + hessian.T) / 2

    def _last_features(self, output: ModelOutput) -> Tensor:
        features = self.model.readout.features(output.scalars).double()
        return torch.cat([features, torch.ones_like(features[:, :1])], dim=-1)

    def _energies(self, graph: AtomGraph, positions: Tensor, cell: Tensor) -> tuple[ModelOutput, Tensor]:
        vectors = edge_vectors(graph, positions, cell)
        energies = self.reference_energies[graph.numbers]
        if self.repulsion is not None:
            repulsion, held = self.repulsion(graph.numbers, graph.edge_index, vectors)
            energies, vectors = energies + repulsion, vectors if self.cutoff is None else held
        output = self.output(graph, vectors)
        return output, energies + self.scale * output.energies.double()


def _detached(prediction: Prediction) -> Prediction:
    return prediction._replace(**{name: x.detach() for name, x in prediction._asdict().items() if x is not None})


def _strained(graph: AtomGraph, positions: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and cell under a symmetric strain (S, 3, 3)."""
    if not strain.requires_grad:
        return positions, graph.cell
    symmetric = (strain + strain.mT) / 2
    moved = positions + torch.einsum("ni,nij->nj", positions, symmetric.index_select(0, graph.system))
    return moved, graph.cell + graph.cell @ symmetric


def _gradient(
    energy: Tensor, inputs: list[Tensor], *, create_graph: bool = False, retain_graph: bool | None = None
) -> list[Tensor]:
    """Derivatives; zero where the energy does not depend on an input (an isolated atom)."""
    if not inputs:
        return []
    if not energy.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    slopes = torch.autograd.grad(
        energy, inputs, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
    )
    return [torch.zeros_like(x) if g is None else g for g, x in zip(slopes, inputs, strict=True)]
