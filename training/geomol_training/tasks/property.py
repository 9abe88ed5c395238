"""One property of whole molecules."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ase_geomol.models import EnergyModel
from ase_geomol.property import PropertyForm, ScalarProperty

from ..batches import Batch, Survey
from ..frames import Frames
from ..loss import mean_error
from ..metrics import MILLI, Predicted
from ..recipe import Loss
from ..references import composition
from .base import Pairs, Predictor, Task


class PropertyTask(Task):
    """A property in the place of the energy: of frames, of predictions, and of the loss, in its own unit.

    The loss is the error in units of the predictor's scale.
    """

    def __init__(self, weights: Loss, form: PropertyForm) -> None:
        super().__init__(weights)
        self.form = form

    def make(self, model: EnergyModel) -> ScalarProperty:
        """Put a network to its use."""
        return ScalarProperty(model, self.form)

    def fit_units(self, predictor: Predictor, train: Frames, seen: Survey) -> str:
        """Set references by least squares where there are any, and the scale from what they leave."""
        assert isinstance(predictor, ScalarProperty)
        values = train.energy
        if self.form.pooling in ("sum", "mean"):
            elements, counts = composition(train)
            if self.form.pooling == "mean":
                counts = counts / train.n_atoms[:, None]
            references = np.linalg.lstsq(counts, values, rcond=None)[0]
            for number, value in zip(elements, references, strict=True):
                predictor.references[int(number)] = float(value)
            left = values - counts @ references
            scale = float(np.std(left / train.n_atoms if self.form.pooling == "sum" else left))
        elif self.form.pooling == "dipole":
            scale = float(np.std(values))
        else:
            scale = float(np.median(values / _extents(train)))
        scale = scale if scale > 1e-9 else 1.0
        predictor.scale.fill_(scale)
        return f"{self.form.name}: mean {values.mean():.4g}, scale {scale:.4g} {self.form.unit}."

    def loss(self, predictor: Predictor, batch: Batch, progress: float = 0.0) -> Tensor:
        """Mean error in units of the scale."""
        assert isinstance(predictor, ScalarProperty)
        error = (predictor(batch.graph) - batch.energy) / predictor.scale
        return mean_error(error, batch.whole.frames, self.weights)

    def predict(self, predictor: Predictor, batch: Batch) -> Predicted:
        """Values of the structures."""
        assert isinstance(predictor, ScalarProperty)
        return Predicted(predictor(batch.graph).detach().cpu().numpy())

    def pairs(self, frames: Frames, predicted: Predicted, index: np.ndarray) -> Pairs:
        """Values in the property's unit, or in meV where that is eV."""
        unit, factor = ("meV", MILLI) if self.form.unit == "eV" else (self.form.unit, 1.0)
        return {(self.form.name, unit, factor): (predicted.energy[index], frames.energy[index])}

    def score(self, found: dict[str, float]) -> float:
        """The MAE."""
        return next(value for name, value in found.items() if "_MAE_" in name)


def _extents(frames: Frames) -> np.ndarray:
    """Sum of squared distances (F,) in Å² of all atoms from the centre of nuclear charge."""
    starts = frames.offsets[:-1]
    charge = np.add.reduceat(frames.numbers, starts)
    centre = np.add.reduceat(frames.numbers[:, None] * frames.positions, starts) / charge[:, None]
    apart = frames.positions - np.repeat(centre, frames.n_atoms, axis=0)
    return np.maximum(np.add.reduceat(np.square(apart).sum(1), starts), 1e-9)
