"""Predictions for many frames and their errors, in meV and meV/Å."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ase_geomol.potential import Prediction

from .batches import Batch
from .frames import Frames

MILLI = 1000.0


class Predicted(NamedTuple):
    """What a potential says about F frames of N atoms; None where it was not asked.

    Attributes:
        energy: (F,) eV.
        forces: (N, 3) eV/Å, gradients of the energy.
        stress: (F, 3, 3) eV/Å³.
        direct_forces: (N, 3) eV/Å, of the direct head.
    """

    energy: np.ndarray
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    direct_forces: np.ndarray | None = None


class Part(NamedTuple):
    """What a potential says about the frames ``index``, in this order."""

    index: np.ndarray
    predicted: Predicted


def as_part(batch: Batch, prediction: Prediction) -> Part:
    """The numbers of a prediction, without their tensors."""
    values = {name: getattr(prediction, name) for name in Predicted._fields}
    numbers = {name: value.detach().cpu().numpy() for name, value in values.items() if value is not None}
    return Part(batch.frame.cpu().numpy(), Predicted(**numbers))


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
    )


def _placed(table: np.ndarray, places: list[np.ndarray], values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Put each of ``values`` at its places of ``table``; None where there are none."""
    for index, value in zip(places, values, strict=True):
        if value is None:
            return None
        table[index] = value
    return table


def errors(frames: Frames, predicted: Predicted, index: np.ndarray | None = None) -> dict[str, float]:
    """MAE and RMSE over the frames ``index`` (default: all).

    Keys are ``quantity_MAE_unit``: energies of whole frames in meV and per atom in meV/atom, force components
    in meV/Å (also of the direct head), stress components in meV/Å³; a quantity that was not predicted, or that no
    frame has a label for, is left out.
    """
    index = np.arange(len(frames)) if index is None else index
    atoms = frames.atoms_of(index[frames.has_forces[index]])
    stressed = index[frames.has_stress[index]]
    n_atoms = frames.n_atoms[index]
    pairs = {
        ("energy", "meV"): (predicted.energy[index], frames.energy[index]),
        ("energy", "meV_per_atom"): (predicted.energy[index] / n_atoms, frames.energy[index] / n_atoms),
    }
    if predicted.forces is not None:
        pairs["forces", "meV_per_A"] = predicted.forces[atoms], frames.forces[atoms]
    if predicted.direct_forces is not None:
        pairs["direct_forces", "meV_per_A"] = predicted.direct_forces[atoms], frames.forces[atoms]
    if predicted.stress is not None:
        pairs["stress", "meV_per_A3"] = predicted.stress[stressed], frames.stress[stressed]
    found = {}
    for (quantity, unit), (values, labels) in pairs.items():
        if labels.size:
            error = MILLI * (values - labels)
            found[f"{quantity}_MAE_{unit}"] = float(np.abs(error).mean())
            found[f"{quantity}_RMSE_{unit}"] = float(np.sqrt(np.square(error).mean()))
    return found


def errors_by(frames: Frames, predicted: Predicted, codes: np.ndarray, names: np.ndarray) -> dict[str, dict]:
    """Errors of the frames of each name, such as each source; names without frames are left out."""
    found = {}
    for code, name in enumerate(names):
        index = np.flatnonzero(codes == code)
        if len(index) and name:
            found[str(name)] = {"frames": len(index), **errors(frames, predicted, index)}
    return found
