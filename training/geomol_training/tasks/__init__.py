"""What can be learned: energies with forces, a property, the ends of relaxations; one class each."""

from __future__ import annotations

from ase_geomol.checkpoint import Predictor
from ase_geomol.property import ScalarProperty
from ase_geomol.relaxed import RelaxedState

from ..recipe import Loss, Recipe, Relaxation
from .base import Goal, Task
from .potential import PotentialTask
from .property import PropertyTask
from .relaxation import RelaxationTask

__all__ = ["Goal", "PotentialTask", "Predictor", "PropertyTask", "RelaxationTask", "Task", "task_of", "task_of_weights"]


def task_of(recipe: Recipe) -> Task:
    """What a recipe learns."""
    if recipe.target is not None:
        return PropertyTask(recipe.loss, recipe.target)
    if recipe.relaxation is not None:
        return RelaxationTask(recipe.loss, recipe.relaxation, tagged=recipe.relaxation.tagged)
    return PotentialTask(recipe.loss, recipe.potential)


def task_of_weights(
    predictor: Predictor, *, stress: bool, free_atoms_only: bool = False, direct_forces: bool = False
) -> Task:
    """What finished weights predict; of a potential, ``stress`` too, and forces of which atoms are compared.

    ``direct_forces`` are those of its direct head alone, without gradients and stress.
    """
    if isinstance(predictor, ScalarProperty):
        return PropertyTask(Loss(), predictor.form)
    if isinstance(predictor, RelaxedState):
        form = predictor.form
        what = Relaxation(energy=float(form.energy), displacement=(0.0, float(form.structure)))
        return RelaxationTask(Loss(), what, tagged=form.tagged)
    if direct_forces:
        return PotentialTask(Loss(forces=0.0, direct_forces=1.0, free_atoms_only=free_atoms_only))
    return PotentialTask(Loss(stress=float(stress), free_atoms_only=free_atoms_only))
