"""Which share of a training is spent outside the network's forward and backward passes?

`geomol-train fit` runs with the recipe of the shipped potential on frames made on the spot, with clocks around its
parts; each clock stops while another one, inside, runs. Validation comes as often per step, on as many frames per step,
as in the recipe; its predictions count as forward passes. This is one process: where several share the work, waiting
for each other comes on top. It is one training of about four minutes, whose validation comes last: Ctrl-C leaves
nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from _clock import Clock
from _frame import Answer, answer
from _training import labelled_structures
from ase.io import write
from geomol_training import batches, fit, keeper, objective
from geomol_training.recipe import Recipe, load_recipe
from geomol_training.tasks import potential as potential_task

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import ConfigError
from ase_geomol.potential import Potential

MODEL = "geomformer-organic"
RECIPES = Path(__file__).parents[2] / "training/recipes/shipped"
STEPS, TRAIN_FRAMES = 400, 500
FORWARD, BACKWARD, REST = "forward and loss", "backward", "all else in the loop"
BEFORE_AND_AFTER = "reading the data before it, files after it"
PARTS: tuple[tuple[Any, str, str], ...] = (
    (fit, "fit", BEFORE_AND_AFTER),
    (lightning.Trainer, "fit", REST),
    (batches, "make_batch", "making batches"),
    (Potential, "forward", FORWARD),
    (potential_task, "total_loss", FORWARD),
    (torch.Tensor, "backward", BACKWARD),
    (objective.Fitting, "optimizer_step", "optimiser, clipping"),
    (objective.Fitting, "on_train_batch_end", "mean of the weights, logs"),
    (objective.Fitting, "on_validation_epoch_end", "errors of the validation"),
    (keeper, "save_checkpoint", "saving"),
    (keeper.Keeper, "save", "saving"),
)
"""Functions by owner and name, and the part of a training that each belongs to."""


def run(smoke: bool, model: str) -> Answer:
    """One row a part of a training."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        recipe = _recipe(model, Path(folder), steps=4 if smoke else STEPS)
        clock = Clock(loop=REST, outside=BEFORE_AND_AFTER)
        for owner, name, part in PARTS:
            stack.enter_context(clock.around(owner, name, part))
        fitted = fit.fit(recipe, Path(folder) / "run", threads=torch.get_num_threads())
    if fitted.stopped_by == "interrupted":
        raise KeyboardInterrupt
    loop = sum(seconds for part, seconds in clock.seconds.items() if part != BEFORE_AND_AFTER)
    rows = [
        {"part": part, "seconds": seconds, "share of the loop": None if part == BEFORE_AND_AFTER else seconds / loop}
        for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])
    ]
    outside = 1 - (clock.seconds[FORWARD] + clock.seconds[BACKWARD]) / loop
    return Answer(rows, {"share outside forward and backward (target: 0.1 or less)": outside})


def _recipe(model: str, folder: Path, steps: int) -> Recipe:
    """The recipe of the shipped potential, on frames of our own and with few steps."""
    name = load_checkpoint(model).metadata.name
    path = RECIPES / f"{name.replace('-', '_')}.yaml"
    if not path.exists():
        raise ConfigError(f"There is no recipe {path}: measure a potential that has one there.")
    training = load_recipe(path).training
    valid = max(2, round((training.valid_frames or 1000) * steps / training.validate_every))
    frames = list(labelled_structures(model, valid + min(TRAIN_FRAMES, 20 * steps)))
    for index, atoms in enumerate(frames):
        atoms.info |= {"split": "valid" if index < valid else "train"}
    write(folder / "frames.extxyz", frames)
    elements = sorted({int(number) for atoms in frames for number in atoms.numbers})
    return load_recipe(
        path,
        (
            f"data.train={folder / 'frames.extxyz'}",
            "data.valid=null",
            "data.test=null",
            "data.split={by: key}",
            f"model.config.elements={elements}",
            f"training.max_steps={steps}",
            f"training.validate_every={steps}",
            f"training.valid_frames={valid}",
        ),
    )


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, packages=["lightning"])
