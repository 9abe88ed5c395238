"""Predictions for many frames, and mean errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .frames import Frames

MILLI = 1000.0


class Predicted(NamedTuple):
    """What a potential says about F frames of N atoms; None where it was not asked.

    Attributes:
        energy: (F,) eV; of a property, its values.
        forces: (N, 3) eV/Å, gradients of the energy.
        stress: (F, 3, 3) eV/Å³.
        direct_forces: (N, 3) eV/Å, of the direct head.
        energies: (N,) eV, the atoms' shares of the energy.
    """

    energy: np.ndarray
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    direct_forces: np.ndarray | None = None
    energies: np.ndarray | None = None


class Part(NamedTuple):
    """What a potential says about the frames ``index``, in this order."""

    index: np.ndarray
    predicted: Predicted


def gather(frames: Frames, parts: Sequence[Part]) -> Predicted:
    """Put the predictions of batches that cover ``frames`` in the frames' order."""
    indices = [part.index for part in parts]
    atoms = [frames.atoms_of(index) for index in indices]
    energy = _placed(np.zeros_like(frames.energy), indices, [part.predicted.energy for part in parts])
    assert energy is not None
    return Predicted(
        energy,
        _placed(np.zeros_like(frames.forces), atoms, [part.predicted.forces for part in parts]),
        _placed(np.zeros_like(frames.stress), indices, [part.predicted.stress for part in parts]),
        _placed(np.zeros_like(frames.forces), atoms, [part.predicted.direct_forces for part in parts]),
        _placed(np.zeros_like(frames.energies), atoms, [part.predicted.energies for part in parts]),
    )


def _placed(table: np.ndarray, places: list[np.ndarray], values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Put each of ``values`` at its places of ``table``; None where there are none."""
    for index, value in zip(places, values, strict=True):
        if value is None:
            return None
        table[index] = value
    return table


def mean_errors(pairs: Mapping[tuple[str, str, float], tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """MAE and RMSE of values and labels; keys ``(quantity, unit, factor)`` become ``quantity_MAE_unit``.

    Errors are multiplied by the factor; a quantity that no frame has a label for is left out.
    """
    found = {}
    for (quantity, unit, factor), (values, labels) in pairs.items():
        if labels.size:
            error = factor * (values - labels)
            found[f"{quantity}_MAE_{unit}"] = float(np.abs(error).mean())
            found[f"{quantity}_RMSE_{unit}"] = float(np.sqrt(np.square(error).mean()))
    return found
