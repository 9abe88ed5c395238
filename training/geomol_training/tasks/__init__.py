"""What can be learned: energies with forces, or a property. One class each, chosen by the recipe or the weights."""

from __future__ import annotations

from ase_geomol.potential import Potential
from ase_geomol.property import ScalarProperty

from ..recipe import Loss, Recipe
from .base import Predictor, Task
from .potential import PotentialTask
from .property import PropertyTask

__all__ = ["PotentialTask", "Predictor", "PropertyTask", "Task", "task_of", "task_of_weights"]


def task_of(recipe: Recipe) -> Task:
    """What a recipe learns."""
    if recipe.target is not None:
        return PropertyTask(recipe.loss, recipe.target)
    return PotentialTask(recipe.loss, recipe.potential)


def task_of_weights(predictor: Predictor, *, stress: bool) -> Task:
    """What finished weights predict; ``stress``: of a potential, stresses too."""
    if isinstance(predictor, ScalarProperty):
        return PropertyTask(Loss(), predictor.form)
    assert isinstance(predictor, Potential)
    return PotentialTask(Loss(stress=float(stress)))
