"""Nothing is lost: resumable checkpoints, the best weights so far, and orderly ends."""

from __future__ import annotations

import io
import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import lightning
import torch

from ase_geomol.checkpoint import Metadata, save_checkpoint
from ase_geomol.errors import CheckpointError
from ase_geomol.files import write_atomically

from .batches import Batch
from .objective import Fitting
from .schedule import note_score, out_of_patience

PAUSED = "paused"
"""What ended a run whose own time was over, while its training goes on later."""
STOPPED = ("interrupted", "terminated", PAUSED)
"""What ends a run, and not its training."""
TIME_USED = "time budget used"
LAST = "last.pt"
RECIPE = "recipe.json"
MODEL = "model.safetensors"


class Run(NamedTuple):
    """What belongs to a run and not to its weights.

    Attributes:
        out: its folder.
        metadata: of the exported potential, without errors.
        identity: what must be the same when it is resumed, as plain values.
    """

    out: Path
    metadata: Metadata
    identity: dict[str, Any]


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all; raises :class:`OutputError`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def read_state(path: Path, key: str) -> dict[str, Any]:
    """Read what `write_state` wrote, without executing anything.

    Raises:
        CheckpointError: no file, a damaged one, or one of another command, without ``key``.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is nothing to resume: {path} does not exist. Leave --resume out.") from error
    except Exception as error:  # torch and pickle have many ways to say that a file is damaged
        raise CheckpointError(f"{path} is damaged: start the run anew in another folder ({error}).") from error
    if not isinstance(state, dict) or key not in state:
        raise CheckpointError(f"{path} was written by another command: it cannot be resumed here.")
    return state


class Keeper(lightning.Callback):
    """Ends a training in time, and writes what must not be lost.

    Args:
        run: what it keeps.
        stop_at: of ``time.monotonic``; the run pauses in time for that, the training goes on later.

    Attributes:
        run: what it keeps.
        stopped_by: what ended this run, empty while it goes on.
        ended_before: what ended the run before.
        budget_before: s that it had over all runs; 0: no limit, or it did not come to its end.
        elapsed: s over all runs, at the last checkpoint.
    """

    def __init__(self, run: Run, stop_at: float = math.inf) -> None:
        self.run = run
        self._stop_at = stop_at
        self.stopped_by = self.ended_before = ""
        self.elapsed = self.budget_before = 0.0
        self._written = time.monotonic()
        self._after_first_step = 0.0
        self._atoms: int | None = None
        self._validation_began = 0.0
        self._validation_seconds: float | None = None
        self._save_seconds = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Catch Ctrl-C and termination; Lightning puts the former handlers back at the end."""
        self._atoms = None
        try:
            signal.signal(signal.SIGINT, self._on_signal)
            signal.signal(signal.SIGTERM, self._on_signal)
        except ValueError:
            pass  # not in the main thread: whoever runs it there takes care of signals

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Whoever asks a whole group of processes to terminate asks twice: torchrun passes it on.
        self.stopped_by = self.stopped_by or ("interrupted" if number == signal.SIGINT else "terminated")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Stop where steps or time are over (a last validation follows), or where someone wants it (none does)."""
        if not batch.last:
            return
        fitting = _fitting(pl_module)
        standing, extent = fitting.standing, fitting.extent
        if self._atoms is None:
            self._atoms, self._after_first_step = 0, time.monotonic()
        else:
            self._atoms += batch.whole.atoms
        # Callbacks are called before the module counts the step.
        if extent.steps is not None and standing.step + 1 >= extent.steps:
            self.stopped_by = self.stopped_by or "all steps done"
        if extent.seconds is not None and standing.elapsed + self._reserve(fitting) >= extent.seconds:
            self.stopped_by = self.stopped_by or TIME_USED
        if time.monotonic() + self._reserve_of_pause(fitting) >= self._stop_at:
            self.stopped_by = self.stopped_by or PAUSED
        trainer.should_stop = bool(self.stopped_by)
        fitting.unmeasured = self.stopped_by in STOPPED and not self._is_measured(fitting, standing.step + 1)

    def _is_measured(self, fitting: Fitting, step: int) -> bool:
        """Whether a validation follows a step at which someone stops the run: a regular one, or the very first."""
        return step % fitting.recipe.training.validate_every == 0 or not (self.run.out / MODEL).exists()

    def _reserve_of_pause(self, fitting: Fitting) -> float:
        """Seconds for the checkpoint, and for the validation that the next step may bring."""
        validation = self._reserve(fitting) if self._is_measured(fitting, fitting.standing.step + 2) else 0.0
        return 1.2 * self._save_seconds + validation

    def _reserve(self, fitting: Fitting) -> float:
        """Seconds for one more validation: somewhat more than the last one took, before it half of what training on
        as many atoms takes (it needs one derivative less). The first step tells nothing: it may compile the network.
        """
        if self._validation_seconds is not None:
            return 1.2 * self._validation_seconds
        if not self._atoms:
            return 0.0
        seconds_per_atom = (time.monotonic() - self._after_first_step) / self._atoms
        return 0.5 * seconds_per_atom * len(fitting.valid.numbers)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Write a checkpoint every few minutes, between two steps."""
        fitting = _fitting(pl_module)
        if batch.part == 0 and time.monotonic() - self._written > 60 * fitting.recipe.training.save_minutes:
            self.save(fitting)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock for `_reserve`; what must survive a second Ctrl-C is written before the last validation."""
        if trainer.should_stop:
            self.save(_fitting(pl_module))
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Export better weights."""
        fitting = _fitting(pl_module)
        self._validation_seconds = time.monotonic() - self._validation_began
        regular = fitting.standing.step % fitting.recipe.training.validate_every == 0
        counts = regular or self.stopped_by not in STOPPED  # a stop must not change which weights are kept in the end
        better = counts and note_score(fitting.standing, fitting.score, fitting.recipe.schedule, regular=regular)
        if better or not (self.run.out / MODEL).exists():
            # First, so that a resumed run has the best weights even where a kill comes before they are exported.
            self.save(fitting, not_exported=fitting.named_errors)
            self._export(fitting, fitting.named_errors)
        if self.stopped_by in ("", PAUSED) and out_of_patience(fitting.standing, fitting.recipe.training.patience):
            self.stopped_by = "no better validation"
            trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the last checkpoint."""
        self.save(_fitting(pl_module), ended=True)

    def save(self, fitting: Fitting, not_exported: dict[str, float] | None = None, *, ended: bool = False) -> None:
        """Write the resumable checkpoint; ``not_exported`` are the errors of its mean weights where they come next.

        ``ended`` says that nothing comes behind it, no validation either.
        """
        began = time.monotonic()
        more = {"identity": self.run.identity, "stopped_by": self.stopped_by, "not_exported": not_exported}
        more["time_budget"] = fitting.extent.seconds if ended else None
        state = fitting.saved() | more
        write_state(self.run.out / LAST, state)
        self.elapsed = state["standing"]["elapsed"]
        self._written = time.monotonic()
        self._save_seconds = self._written - began

    def restore(self, fitting: Fitting, state: dict[str, Any]) -> None:
        """Continue from what `save` wrote; best weights that a kill kept from being exported are exported now."""
        fitting.restore(state)
        self.elapsed = state["standing"]["elapsed"]
        self.ended_before, errors = state.get("stopped_by", ""), state.get("not_exported")  # older ones lack them
        self.budget_before = state.get("time_budget") or 0.0
        if errors is not None:
            self._export(fitting, errors)
        if not (self.run.out / MODEL).exists():
            fitting.standing.best = math.inf

    def _export(self, fitting: Fitting, errors: dict[str, float]) -> None:
        card = self.run.metadata.model_copy(update={"errors": errors})
        save_checkpoint(self.run.out / MODEL, fitting.averaged, card)


def _fitting(module: lightning.LightningModule) -> Fitting:
    assert isinstance(module, Fitting)
    return module
