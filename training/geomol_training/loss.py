"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ase_geomol.potential import Prediction

from .batches import Batch
from .recipe import Loss


def total_loss(prediction: Prediction, batch: Batch, weights: Loss) -> Tensor:
    """Weighted sum of the mean errors in eV/atom, eV/Å and eV/Å³.

    Energies are averaged over structures, forces and atoms' energies over atoms, stress over structures that have one,
    all of the whole batch: the losses of its shares add up to that of the batch.

    Args:
        prediction: of the potential.
        batch: the labels.
        weights: the recipe's loss.
    """
    atoms = torch.bincount(batch.graph.system, minlength=batch.graph.n_systems)
    per_atom = (prediction.energy - batch.energy) / atoms
    loss = weights.energy * mean_error(per_atom, batch.whole.frames, weights)
    if weights.energies > 0:
        error = (prediction.energies - batch.energies)[batch.has_energies[batch.graph.system]]
        loss = loss + weights.energies * mean_error(error, batch.whole.atoms_with_energies, weights)
    for forces, weight in ((prediction.forces, weights.forces), (prediction.direct_forces, weights.direct_forces)):
        if forces is not None and weight > 0:
            labelled, count = batch.has_forces[batch.graph.system], batch.whole.atoms_with_forces
            if weights.free_atoms_only:
                labelled, count = labelled & batch.free, batch.whole.free_atoms_with_forces
            error = (forces - batch.forces)[labelled]
            loss = loss + weight * _force_error(error, count, weights)
    if prediction.stress is not None:
        error = (prediction.stress - batch.stress)[batch.has_stress]
        loss = loss + weights.stress * mean_error(error, batch.whole.frames_with_stress, weights)
    return loss


def _force_error(error: Tensor, atoms: int, weights: Loss) -> Tensor:
    if weights.kind == "l1" and weights.force_norm:
        # The smallest number under the root keeps the slope finite where an error is exactly zero.
        return torch.sqrt(error.square().sum(-1) + 1e-12).sum() / max(atoms, 1)
    return mean_error(error, atoms, weights)


def mean_error(error: Tensor, rows: int, weights: Loss) -> Tensor:
    """Mean over all components of ``rows`` rows, of which ``error`` holds this share's."""
    if weights.kind == "l1":
        values = error.abs()
    elif weights.kind == "l2":
        values = error.square()
    else:
        values = functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=weights.huber_delta)
    return values.sum() / max(rows * error.shape[1:].numel(), 1)
