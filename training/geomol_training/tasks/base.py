"""What all tasks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ase_geomol.checkpoint import Predictor
from ase_geomol.models import EnergyModel

from ..batches import Batch, Survey
from ..frames import Frames
from ..metrics import Part, Predicted, gather, mean_errors
from ..recipe import Loss

Pairs = dict[tuple[str, str, float], tuple[np.ndarray, np.ndarray]]
"""Values and labels by quantity, shown unit, and the factor to that unit."""


class Goal(ABC):
    """What a training needs to know of what it learns, whatever its data and its batches are."""

    @abstractmethod
    def loss(self, predictor: Any, batch: Any, progress: float = 0.0) -> Tensor:
        """Loss of this share of a batch; those of all shares add up to that of the batch.

        ``progress`` is the share of the training that is done.
        """

    @abstractmethod
    def predict(self, predictor: Any, batch: Any) -> Any:
        """What is compared with the labels of a batch."""

    @abstractmethod
    def measure(self, valid: Any, parts: Sequence[Part]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Errors of predictions for all data of the validation, and those of each source of data."""

    @abstractmethod
    def score(self, found: dict[str, float]) -> float:
        """One number by which weights are compared: the smaller, the better."""


class Task(Goal):
    """One kind of thing that is learned from `Frames`.

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

    def disturb(self, frames: Frames, random: np.random.Generator) -> Frames:
        """Frames as they are learned from: as they are, or moved."""
        return frames

    @abstractmethod
    def predict(self, predictor: Predictor, batch: Batch) -> Predicted:
        """What is compared with the labels of a batch."""

    @abstractmethod
    def pairs(self, frames: Frames, predicted: Predicted, index: np.ndarray) -> Pairs:
        """Values and labels of the frames ``index``."""

    def measure(self, valid: Frames, parts: Sequence[Part]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Errors over all frames, and over those of each source."""
        predicted = gather(valid, parts)
        return self.errors(valid, predicted), self.errors_by(valid, predicted, valid.source, valid.source_names)

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
