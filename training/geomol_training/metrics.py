"""Predictions for many frames and their errors, in meV and meV/Å."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torchmetrics.functional import mean_absolute_error, mean_squared_error

from ase_geomol.potential import Prediction

from .batches import Batch
from .frames import Frames

MILLI = 1000.0


class Predicted(NamedTuple):
    """What a potential says about F frames of N atoms: (F,) eV, (N, 3) eV/Å, (F, 3, 3) eV/Å³ or None."""

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None = None


def gather(frames: Frames, parts: Iterable[tuple[Batch, Prediction]]) -> Predicted:
    """Put the predictions of batches that cover ``frames`` in the frames' order."""
    energy, forces, stress = np.zeros(len(frames)), np.zeros_like(frames.forces), None
    for batch, prediction in parts:
        index = batch.frame.cpu().numpy()
        energy[index] = prediction.energy.detach().cpu().numpy()
        if prediction.forces is not None:
            forces[frames.atoms_of(index)] = prediction.forces.detach().cpu().numpy()
        if prediction.stress is not None:
            stress = np.zeros_like(frames.stress) if stress is None else stress
            stress[index] = prediction.stress.detach().cpu().numpy()
    return Predicted(energy, forces, stress)


def errors(frames: Frames, predicted: Predicted, index: np.ndarray | None = None) -> dict[str, float]:
    """MAE and RMSE over the frames ``index`` (default: all).

    Keys are ``quantity_MAE_unit``: energies of whole frames in meV and per atom in meV/atom, force components
    in meV/Å, stress components in meV/Å³; a quantity that no frame has a label for is left out.
    """
    index = np.arange(len(frames)) if index is None else index
    atoms = frames.atoms_of(index[frames.has_forces[index]])
    stressed = index[frames.has_stress[index]]
    n_atoms = frames.n_atoms[index]
    pairs = {
        ("energy", "meV"): (predicted.energy[index], frames.energy[index]),
        ("energy", "meV_per_atom"): (predicted.energy[index] / n_atoms, frames.energy[index] / n_atoms),
        ("forces", "meV_per_A"): (predicted.forces[atoms], frames.forces[atoms]),
    }
    if predicted.stress is not None:
        pairs["stress", "meV_per_A3"] = predicted.stress[stressed], frames.stress[stressed]
    found = {}
    for (quantity, unit), (values, labels) in pairs.items():
        if labels.size:
            # the labels are subtracted in float64: total energies are large
            error = torch.from_numpy(MILLI * (values - labels)).reshape(-1)
            zero = torch.zeros_like(error)
            found[f"{quantity}_MAE_{unit}"] = float(mean_absolute_error(error, zero))
            found[f"{quantity}_RMSE_{unit}"] = float(mean_squared_error(error, zero, squared=False))
    return found


def errors_by(frames: Frames, predicted: Predicted, codes: np.ndarray, names: np.ndarray) -> dict[str, dict]:
    """Errors of the frames of each name, such as each source; names without frames are left out."""
    found = {}
    for code, name in enumerate(names):
        index = np.flatnonzero(codes == code)
        if len(index) and name:
            found[str(name)] = {"frames": len(index), **errors(frames, predicted, index)}
    return found
