"""Ends of relaxations from their starts: OC20's IS2RE and IS2RS."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from ase_geomol.errors import ConfigError, DataError
from ase_geomol.models import EnergyModel
from ase_geomol.relaxed import RelaxedForm, RelaxedState

from ..batches import Batch, Survey
from ..frames import Frames, displacements
from ..loss import mean_error
from ..metrics import MILLI, Predicted
from ..recipe import Loss, Relaxation
from ..references import composition, fit_references
from .base import Pairs, Predictor, Task

SMALLEST_SCALE = 0.1
"""eV, where references leave nothing of the energies of few structures."""
WITHIN = 0.02
"""eV; the share of energies that are closer is the metric EwT of OC20."""
THRESHOLDS = 0.01 + 0.001 * np.arange(490)
"""Å, up to 0.499 as in OC20's own evaluator; ADwT is the mean over these of the share of structures whose atoms are
closer on average."""


class RelaxationTask(Task):
    """Energies and displacements, weighted as the recipe's section ``relaxation`` says.

    With noisy nodes (arXiv 2106.07971) the atoms of a random half of the structures start somewhere on the way, each
    at a point of its own, and off it by a normal deviate; the energy to learn stays that of the end.
    """

    def __init__(self, weights: Loss, relaxation: Relaxation, *, tagged: bool = True) -> None:
        super().__init__(weights)
        self.relaxation = relaxation
        self.form = RelaxedForm(tagged=tagged, energy=relaxation.energy > 0, structure=relaxation.displacement[1] > 0)

    def make(self, model: EnergyModel) -> RelaxedState:
        """Put a network to its use."""
        return RelaxedState(model, self.form)

    def fit_units(self, predictor: Predictor, train: Frames, seen: Survey) -> str:
        """Mean and scale of energies, and the root mean square of displacements."""
        assert isinstance(predictor, RelaxedState)
        if self.form.structure and not train.has_relaxed.any():
            raise DataError(
                "No structure has a relaxed one beside it: displacements cannot be learned from these data."
            )
        self.check_tags(train)
        energies = train.energy
        if self.relaxation.references:
            elements, counts = composition(train)
            references = fit_references(train)
            for number, energy in references.items():
                predictor.references[number] = energy
            energies = energies - counts @ np.array([references[int(number)] for number in elements])
        predictor.mean.fill_(float(energies.mean()))
        predictor.scale.fill_(max(float(energies.std()), SMALLEST_SCALE))
        words = f"Relaxed energies: mean {energies.mean():.3f}, deviation {energies.std():.3f} eV"
        if self.form.structure:
            moved = displacements(train)[~train.fixed & np.repeat(train.has_relaxed, train.n_atoms)]
            reach = max(float(np.sqrt(np.square(moved).mean())), 1e-6)
            predictor.reach.fill_(reach)
            words += f"; displacements: {reach:.3f} Å"
        return words + "."

    def check_tags(self, frames: Frames) -> None:
        """Refuse structures without tags where the energy is read from them; raises :class:`ConfigError`."""
        tagged = np.maximum.reduceat(frames.tags, frames.offsets[:-1]) > 0
        if self.form.tagged and not tagged.all():
            raise ConfigError(
                f"{(~tagged).sum()} of {len(frames)} structures have no atom with a tag above 0, from which the energy "
                "is read: set relaxation.tagged to false, or give data with tags."
            )

    def disturb(self, frames: Frames, random: np.random.Generator) -> Frames:
        """Put some structures on their way."""
        if not self.relaxation.noisy_nodes:
            return frames
        chosen = np.repeat((random.random(len(frames)) < 0.5) & frames.has_relaxed, frames.n_atoms) & ~frames.fixed
        share = random.random((len(chosen), 1))
        noise = random.normal(0, self.relaxation.noise, (len(chosen), 3))
        moved = frames.positions + np.where(chosen[:, None], share * displacements(frames) + noise, 0.0)
        return dataclasses.replace(frames, positions=moved)

    def loss(self, predictor: Predictor, batch: Batch, progress: float = 0.0) -> Tensor:
        """Energies in units of their deviation, displacements in units of their size; both weighted."""
        assert isinstance(predictor, RelaxedState)
        energy, displacement = predictor(batch.graph)
        loss = self.relaxation.energy * mean_error(
            (energy - batch.energy) / predictor.scale, batch.whole.frames, self.weights
        )
        start, end = self.relaxation.displacement
        weight = start + progress * (end - start)
        if weight > 0 or self.form.structure:
            told = batch.free & batch.has_relaxed[batch.graph.system]
            error = (displacement - batch.displacement)[told] / predictor.reach
            loss = loss + weight * mean_error(error, batch.whole.free_atoms_with_ends, self.weights)
        return loss

    def predict(self, predictor: Predictor, batch: Batch) -> Predicted:
        """Energies, and displacements in the place of forces."""
        assert isinstance(predictor, RelaxedState)
        energy, displacement = (x.detach().cpu().numpy() for x in predictor(batch.graph))
        return Predicted(energy, displacement)

    def pairs(self, frames: Frames, predicted: Predicted, index: np.ndarray) -> Pairs:
        """Energies in meV, displacements of free atoms in Å."""
        pairs: Pairs = {}
        if self.form.energy:
            pairs["energy", "meV", MILLI] = predicted.energy[index], frames.energy[index]
        if self.form.structure and predicted.forces is not None:
            atoms = frames.atoms_of(index[frames.has_relaxed[index]])
            atoms = atoms[~frames.fixed[atoms]]
            pairs["displacement", "A", 1.0] = predicted.forces[atoms], displacements(frames)[atoms]
        return pairs

    def errors(self, frames: Frames, predicted: Predicted, index: np.ndarray | None = None) -> dict[str, float]:
        """MAE and RMSE; EwT and ADwT in percent, the latter beside that of no motion."""
        index = np.arange(len(frames)) if index is None else index
        self.check_tags(frames)
        found = super().errors(frames, predicted, index)
        if self.form.energy:
            found["EwT_percent"] = 100 * float((np.abs(predicted.energy - frames.energy)[index] < WITHIN).mean())
        if self.form.structure and predicted.forces is not None and frames.has_relaxed[index].any():
            apart = predicted.forces - displacements(frames)
            found["ADwT_percent"] = _adwt(frames, apart, index)
            found["ADwT_percent_without_motion"] = _adwt(frames, displacements(frames), index)
        return found

    def score(self, found: dict[str, float]) -> float:
        """MAEs in eV and Å, weighted as at the end of the training."""
        energy = self.relaxation.energy * found.get("energy_MAE_meV", 0.0) / MILLI
        return energy + self.relaxation.displacement[1] * found.get("displacement_MAE_A", 0.0)


def _adwt(frames: Frames, apart: np.ndarray, index: np.ndarray) -> float:
    """Mean over thresholds of the percentage of structures whose free atoms are closer on average."""
    distances = np.linalg.norm(apart, axis=1) * ~frames.fixed
    free = np.add.reduceat((~frames.fixed).astype(float), frames.offsets[:-1])
    told = index[(free[index] > 0) & frames.has_relaxed[index]]
    mean = np.add.reduceat(distances, frames.offsets[:-1])[told] / free[told]
    return 100 * float((mean[:, None] < THRESHOLDS).mean()) if len(told) else 0.0
