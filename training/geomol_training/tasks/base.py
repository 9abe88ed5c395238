"""What all tasks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from ase_geomol.models import EnergyModel
from ase_geomol.potential import Potential
from ase_geomol.property import ScalarProperty

from ..batches import Batch, Survey
from ..frames import Frames
from ..metrics import Predicted, mean_errors
from ..recipe import Loss

Predictor = Potential | ScalarProperty


class Task(ABC):
    """One kind of thing that is learned.

    Attributes:
        weights: of the parts of the loss, and its kind.
        repulsion: reach of the repulsion of what is made, in sums of covalent radii.
    """

    repulsion = 0.0

    def __init__(self, weights: Loss) -> None:
        self.weights = weights

    @abstractmethod
    def make(self, model: EnergyModel) -> Predictor:
        """Put a network to its use."""

    @abstractmethod
    def fit_units(self, predictor: Predictor, train: Frames, seen: Survey) -> str:
        """Set references and scale from the data; return them in words."""

    @abstractmethod
    def loss(self, predictor: Predictor, batch: Batch) -> Tensor:
        """Loss of this share of a batch; those of all shares add up to that of the batch."""

    @abstractmethod
    def predict(self, predictor: Predictor, batch: Batch) -> Predicted:
        """What is compared with the labels of a batch."""

    @abstractmethod
    def pairs(self, frames: Frames, predicted: Predicted, index: np.ndarray) -> dict[tuple[str, str, float], tuple]:
        """Values and labels of the frames ``index``, by quantity, shown unit, and the factor to that unit."""

    @abstractmethod
    def score(self, found: dict[str, float]) -> float:
        """One number by which weights are compared: the smaller, the better."""

    def errors(self, frames: Frames, predicted: Predicted, index: np.ndarray | None = None) -> dict[str, float]:
        """MAE and RMSE over the frames ``index`` (default: all), named ``quantity_MAE_unit``."""
        index = np.arange(len(frames)) if index is None else index
        return mean_errors(self.pairs(frames, predicted, index))

    def errors_by(self, frames: Frames, predicted: Predicted, codes: np.ndarray, names: np.ndarray) -> dict[str, dict]:
        """Errors of the frames of each name, such as each source; names without frames are left out."""
        found = {}
        for code, name in enumerate(names):
            index = np.flatnonzero(codes == code)
            if len(index) and name:
                found[str(name)] = {"frames": len(index), **self.errors(frames, predicted, index)}
        return found
