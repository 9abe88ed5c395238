"""Energies, forces and stresses of a potential."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ase_geomol.checkpoint import choose_device
from ase_geomol.errors import ConfigError, DataError
from ase_geomol.graph import AtomGraph
from ase_geomol.models import EnergyModel
from ase_geomol.potential import Potential, Prediction

from ..batches import SURVEY_FRAMES, Batch, Survey, make_batch
from ..frames import Frames
from ..loss import total_loss
from ..metrics import MILLI, Predicted
from ..recipe import Loss, Physics
from ..references import change_of_references, fit_references, force_scale, mean_shares
from .base import Pairs, Predictor, Task

ENERGY_WITHIN, FORCES_WITHIN = 0.02, 0.03
"""eV and eV/Å; OC20's EFwT is the share of structures with energy and all force components closer than that."""
BONDED = 1.0
"""eV of the ZBL repulsion in a frame: more means that atoms are on top of each other, or that it reaches into bonds."""


class PotentialTask(Task):
    """Energies with what the loss asks for: forces, stresses, direct forces."""

    def __init__(self, weights: Loss, physics: Physics = Physics()) -> None:
        super().__init__(weights)
        self.physics, self.repulsion = physics, physics.repulsion

    def make(self, model: EnergyModel) -> Potential:
        """Put a network to its use."""
        return Potential(model, repulsion=self.repulsion)

    def fit_units(self, predictor: Predictor, train: Frames, seen: Survey) -> str:
        """Set reference energies and scale, as the recipe has them or as the data."""
        assert isinstance(predictor, Potential)
        if train.has_relaxed.any():
            raise DataError(
                "The data are starts of relaxations with energies of their ends (IS2RE): a potential cannot learn "
                "these; the recipe needs relaxation."
            )
        physics = self.physics
        if physics.reference_energies == "fit" and self.weights.energies > 0:
            references = mean_shares(train, seen.repulsion)
        elif physics.reference_energies == "fit":
            references = fit_references(train, seen.repulsion)
        else:
            references = physics.reference_energies
            missing = sorted(set(train.elements) - set(references))
            if missing:
                raise ConfigError(f"potential.reference_energies lacks the atomic numbers {missing}.")
        scale = force_scale(train, references, seen.repulsion) if physics.scale == "fit" else physics.scale
        for number, energy in references.items():
            predictor.reference_energies[number] = energy
        predictor.scale.fill_(scale)
        words = ", ".join(f"{number}: {energy:.3f}" for number, energy in references.items())
        return f"Reference energies (eV) {words}; scale {scale:.3f} eV.{self._close(seen.repulsion)}"

    def _close(self, repulsion: np.ndarray) -> str:
        """A sentence on frames (F,) whose repulsion in eV is too much for atoms that are bonded, if there are any."""
        close = int((repulsion > BONDED).sum())
        if not close:
            return ""
        return (
            f" {close} of {len(repulsion)} frames have more than {BONDED:g} eV of the ZBL repulsion (up to "
            f"{repulsion.max():.3g} eV), which no network makes up for: where their closest atoms are bonded, lower "
            f"potential.repulsion from {self.repulsion:g}."
        )

    def refit_references(self, predictor: Predictor, train: Frames) -> dict[int, float]:
        """Fit the reference energies to labels of another theory, the network as it is; return their change (eV)."""
        assert isinstance(predictor, Potential)
        change = change_of_references(train, train.energy - _energies(predictor, train))
        for number, energy in change.items():
            predictor.reference_energies[number] += energy
        return change

    def loss(self, predictor: Predictor, batch: Batch, progress: float = 0.0) -> Tensor:
        """Weighted sum of the mean errors in eV/atom, eV/Å and eV/Å³."""
        return total_loss(self._predict(predictor, batch), batch, self.weights)

    def predict(self, predictor: Predictor, batch: Batch) -> Predicted:
        """Energies, and what else the loss asks for."""
        prediction = self._predict(predictor, batch)
        values = {name: getattr(prediction, name) for name in Predicted._fields}
        if self.weights.energies == 0:
            del values["energies"]
        return Predicted(**{k: v.detach().cpu().numpy() for k, v in values.items() if v is not None})

    def _predict(self, predictor: Predictor, batch: Batch) -> Prediction:
        assert isinstance(predictor, Potential)
        stress = self.weights.stress > 0
        graph = with_volume(batch.graph) if stress else batch.graph
        return predictor(graph, forces=self.weights.forces > 0, stress=stress)

    def pairs(self, frames: Frames, predicted: Predicted, index: np.ndarray) -> Pairs:
        """Energies of whole frames in meV and per atom in meV/atom, shares of single atoms in meV, force components in
        meV/Å (also of the direct head), stress components in meV/Å³; a quantity that was not predicted is left out.
        """
        atoms = self._compared(frames, index)
        stressed = index[frames.has_stress[index]]
        n_atoms = frames.counts(index)
        pairs: Pairs = {
            ("energy", "meV", MILLI): (predicted.energy[index], frames.energy[index]),
            ("energy", "meV_per_atom", MILLI): (predicted.energy[index] / n_atoms, frames.energy[index] / n_atoms),
        }
        if predicted.energies is not None:
            shared = frames.atoms_of(index[frames.has_energies[index]])
            pairs["atom_energies", "meV", MILLI] = predicted.energies[shared], frames.energies[shared]
        if predicted.forces is not None:
            pairs["forces", "meV_per_A", MILLI] = predicted.forces[atoms], frames.forces[atoms]
        if predicted.direct_forces is not None:
            pairs["direct_forces", "meV_per_A", MILLI] = predicted.direct_forces[atoms], frames.forces[atoms]
        if predicted.stress is not None:
            pairs["stress", "meV_per_A3", MILLI] = predicted.stress[stressed], frames.stress[stressed]
        return pairs

    def errors(self, frames: Frames, predicted: Predicted, index: np.ndarray | None = None) -> dict[str, float]:
        """MAE and RMSE; where free atoms only are compared, OC20's cosine and EFwT too.

        These are of the gradient, or of the direct head where the loss asks for that alone.
        """
        index = np.arange(len(frames)) if index is None else index
        found = super().errors(frames, predicted, index)
        forces = predicted.forces if self.weights.forces > 0 else predicted.direct_forces
        if self.weights.free_atoms_only and forces is not None:
            atoms = self._compared(frames, index)
            if not len(atoms):
                return found
            lengths = np.linalg.norm(forces[atoms], axis=1) * np.linalg.norm(frames.forces[atoms], axis=1)
            found["forces_cosine"] = float(((forces * frames.forces)[atoms].sum(1) / np.maximum(lengths, 1e-12)).mean())
            apart = np.abs(forces - frames.forces).max(1) * ~frames.fixed
            near = np.maximum.reduceat(apart, frames.offsets[:-1])[index] < FORCES_WITHIN
            near &= np.abs(predicted.energy - frames.energy)[index] < ENERGY_WITHIN
            found["EFwT_percent"] = 100 * float(near[frames.has_forces[index]].mean())
        return found

    def _compared(self, frames: Frames, index: np.ndarray) -> np.ndarray:
        """Positions of the atoms whose forces are compared."""
        atoms = frames.atoms_of(index[frames.has_forces[index]])
        return atoms[~frames.fixed[atoms]] if self.weights.free_atoms_only else atoms

    def score(self, found: dict[str, float]) -> float:
        """The MAEs (eV), weighted as in the loss."""
        weights = self.weights
        parts = (
            (weights.energy, "energy_MAE_meV_per_atom"),
            (weights.energies, "atom_energies_MAE_meV"),
            (weights.forces, "forces_MAE_meV_per_A"),
            (weights.direct_forces, "direct_forces_MAE_meV_per_A"),
            (weights.stress, "stress_MAE_meV_per_A3"),
        )
        return sum(weight * found.get(name, 0.0) / MILLI for weight, name in parts)


def _energies(potential: Potential, frames: Frames) -> np.ndarray:
    """Energies (F,) in eV as the potential is."""
    training, home, device = potential.training, next(potential.parameters()).device, choose_device(None)
    potential.eval().to(device)
    portions = np.split(np.arange(len(frames)), range(SURVEY_FRAMES, len(frames), SURVEY_FRAMES))
    batches = (make_batch(frames, index, potential.cutoff) for index in portions)
    energies = [potential(batch.to(device).graph, forces=False).energy.cpu().numpy() for batch in batches]
    potential.train(training).to(home)
    return np.concatenate(energies)


def with_volume(graph: AtomGraph) -> AtomGraph:
    """Give structures without a cell a unit cell: their stress is not read, but must not be infinite."""
    flat = torch.linalg.det(graph.cell).abs() < 1e-6
    identity = torch.eye(3, dtype=graph.cell.dtype, device=graph.cell.device)
    return dataclasses.replace(graph, cell=torch.where(flat[:, None, None], identity, graph.cell))
