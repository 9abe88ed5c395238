"""What all trainings have in common around their loop: the run's folder, what must stay the same, the end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ase_geomol.errors import ConfigError
from ase_geomol.files import make_folder, write_atomically

from .batches import Plan
from .display import Display
from .keeper import LAST, MODEL, RECIPE, STOPPED, TIME_USED, Keeper, read_state
from .loop import Supply, train
from .objective import Fitting
from .processes import Crew
from .result import RESULT, write_result
from .schedule import Extent, out_of_patience
from .sections import TrainingRecipe

NOTHING_LEFT = "nothing was left to do"


class Fitted(NamedTuple):
    """Where a training ended.

    Attributes:
        model: the exported weights with the lowest validation score.
        step: steps done over all runs.
        elapsed: s over all runs.
        stopped_by: what ended this run.
        ended_by: what ended the training: this run, or where nothing was left to do, an earlier one.
        errors: of the exported weights, named ``validation_…`` and, where the recipe has a test, ``test_…``.
        before: likewise of the weights where a fine-tuning began, with the new reference energies.
        frames: how many were there to learn, to replay, to validate and to test.
        elements: atomic numbers of those to learn.
        start: fingerprint of ``model.start``.
        learned: how many numbers the training chose.
    """

    model: Path
    step: int
    elapsed: float
    stopped_by: str
    ended_by: str
    errors: dict[str, float]
    before: dict[str, float]
    frames: dict[str, int]
    elements: tuple[int, ...]
    start: str | None
    learned: int


def open_run(out: Path, recipe: TrainingRecipe, resume: bool) -> dict[str, Any] | None:
    """Make the folder, write the recipe there; return the state to resume, if any."""
    make_folder(out)
    if resume:
        state = read_state(out / LAST, "identity")
        _same(state["identity"]["recipe"], fixed(recipe))
    else:
        state = None
        if (out / LAST).exists():
            raise ConfigError(f"{out} holds a run: go on with --resume, or choose another folder with --out.")
        if (out / MODEL).exists():
            raise ConfigError(
                f"{out} holds {MODEL}, but no {LAST} to go on with: choose another folder with --out, or move it away."
            )
    write_atomically(out / RECIPE, recipe.model_dump_json(indent=1).encode())
    return state


def fixed(recipe: TrainingRecipe) -> dict[str, Any]:
    """What of a recipe must not change when a run is resumed."""
    content = recipe.model_dump(mode="json")
    fields = {f"{part}.{name}": content[part][name] for part, names in recipe.fixed_fields.items() for name in names}
    return {section: content[section] for section in recipe.fixed_sections} | fields


def _same(before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name, value in before.items() if name not in now or value != now[name]]
    if changed:
        raise ConfigError(
            f"The run was started with another '{changed[0]}' in its recipe: start anew in another folder, or "
            f"resume with the recipe it had ({RECIPE} in its folder)."
        )


@dataclass(frozen=True)
class Times:
    """How long things may take.

    Attributes:
        budget: s, of all runs together; a cosine schedule ends with it.
        run: s, of this run alone.
        started: monotonic time of its beginning.
    """

    budget: float | None = None
    run: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def stop_at(self) -> float:
        """Monotonic time at which this run is over."""
        return math.inf if self.run is None else self.started + self.run


def check_end(recipe: TrainingRecipe, times: Times) -> None:
    """Refuse a training without an end, or without time."""
    if times.budget is None and recipe.training.max_steps is None and recipe.training.max_epochs is None:
        raise ConfigError("Nothing ends this training: give training.max_steps, max_epochs or --time-budget.")
    for what, seconds in (("A time budget", times.budget), ("A run", times.run)):
        if seconds is not None and seconds <= 0:
            raise ConfigError(f"{what} of {seconds:g} s leaves no time: give a longer one.")


def extent_of(recipe: TrainingRecipe, plan: Plan, time_budget: float | None) -> Extent:
    """Steps and seconds after which a training is over."""
    steps = [recipe.training.max_steps] if recipe.training.max_steps is not None else []
    if recipe.training.max_epochs is not None:
        steps.append(plan.steps(recipe.training.max_epochs))
    return Extent(min(steps, default=None), time_budget)


def run_to_end(
    fitting: Fitting, supply: Supply, keeper: Keeper, display: Display, crew: Crew, state: dict[str, Any] | None
) -> None:
    """Train from ``state`` on, if there is one, where anything is left to do.

    Raises:
        ConfigError: there are no weights, and no time to learn any.
    """
    out, standing = keeper.run.out, fitting.standing
    if state is not None:
        keeper.restore(fitting, state)
    unfinished = fitting.extent.progress(standing.step, standing.elapsed) < 1
    if keeper.ended_before == TIME_USED:  # before its last second, to leave time for a validation
        unfinished &= fitting.extent.seconds is None or fitting.extent.seconds > keeper.budget_before
    unfinished &= not out_of_patience(standing, fitting.recipe.training.patience)
    if unfinished:
        (out / RESULT).unlink(missing_ok=True)  # of a shorter training that goes on
        train(fitting, supply, keeper, display, crew)
    elif not (out / MODEL).exists():
        raise ConfigError(
            "Nothing was learned: the time budget (or the number of steps) was used up before a first validation. Run "
            f"again with a larger --time-budget{' and --resume' if (out / LAST).exists() else ''}."
        )


def write_run_result(
    recipe: TrainingRecipe,
    fitted: Fitted,
    parameters: int,
    time_budget: float | None,
    crew: Crew,
    more: dict[str, Any],
) -> None:
    """Write ``result.json`` into the run's folder, with what ``more`` there is to tell.

    Not where it is there already, nor where someone stopped the training, which then goes on later. A training that
    ended, but was killed before this, is told of by the next run, for which nothing else is left to do.
    """
    out = fitted.model.parent
    if fitted.stopped_by in STOPPED or (out / RESULT).exists():
        return
    result = {
        "recipe": recipe.model_dump(mode="json"),
        "start": fitted.start,
        "parameters": parameters,
        "steps": fitted.step,
        "seconds": round(fitted.elapsed, 1),
        "time_budget": time_budget,
        "processes": crew.processes,
        "stopped_by": fitted.ended_by,
        "errors": fitted.errors,
        **more,
    }
    write_result(out, result)
