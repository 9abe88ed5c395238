"""Where a training stands and which learning rate belongs there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from .sections import Optimiser, Schedule

LEAST_GAIN = 1e-6
"""Of a score, relative to the best one, to count as better: less is rounding."""


@dataclass
class Standing:
    """How far a training is, over all resumed runs; the one thing that changes while it runs.

    Attributes:
        step: optimiser steps done.
        earlier: s that earlier runs took.
        best: lowest validation score, eV.
        best_regular: the same among regular validations: what the plateau schedule compares with.
        waited: regular validations since then, or since the plateau schedule acted last.
        without_better: regular validations since then.
        rate_factor: what the plateau schedule multiplies the rate with.
        skipped: steps without an update, because a gradient was not finite.
        started: monotonic time at which this run began.
    """

    step: int = 0
    earlier: float = 0.0
    best: float = math.inf
    best_regular: float = math.inf
    waited: int = 0
    without_better: int = 0
    rate_factor: float = 1.0
    skipped: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds of all runs together."""
        return self.earlier + time.monotonic() - self.started

    def saved(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {
            "step": self.step,
            "elapsed": self.elapsed,
            "best": self.best,
            "best_regular": self.best_regular,
            "waited": self.waited,
            "without_better": self.without_better,
            "rate_factor": self.rate_factor,
            "skipped": self.skipped,
        }

    def restore(self, saved: dict[str, float]) -> None:
        """Continue from what `saved` gave; the clock of this run goes on."""
        self.step, self.waited, self.skipped = int(saved["step"]), int(saved["waited"]), int(saved["skipped"])
        self.earlier, self.best, self.rate_factor = saved["elapsed"], saved["best"], saved["rate_factor"]
        self.best_regular = saved.get("best_regular", self.best)  # older checkpoints lack it and the next
        self.without_better = int(saved.get("without_better", 0))


@dataclass(frozen=True)
class Extent:
    """How long a training lasts: ``steps`` in all, ``seconds`` in all, whichever is over first."""

    steps: int | None = None
    seconds: float | None = None

    def progress(self, step: int, elapsed: float) -> float:
        """Share that is done, from 0 to 1."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            shares.append(elapsed / self.seconds)
        return min(max(shares), 1.0)


def learning_rate(standing: Standing, extent: Extent, optimiser: Optimiser, schedule: Schedule) -> float:
    """Rate of the step that comes next."""
    rate = optimiser.lr
    if schedule.kind in ("cosine", "linear"):
        elapsed = 0.0 if extent.seconds is None else standing.elapsed
        progress = extent.progress(standing.step, elapsed)
        fall = 1 - progress if schedule.kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        rate = schedule.floor + (optimiser.lr - schedule.floor) * fall
    elif schedule.kind == "plateau":
        rate = max(schedule.floor, optimiser.lr * standing.rate_factor)
    return rate * min(1.0, (standing.step + 1) / max(schedule.warmup_steps, 1))


def note_score(standing: Standing, score: float, schedule: Schedule, *, regular: bool) -> bool:
    """Note a validation score (eV); returns whether it is the best so far, by more than `LEAST_GAIN`.

    Only ``regular`` validations count for the plateau and for patience: one more at an interruption must not change the
    course.
    """
    better = score < (1 - LEAST_GAIN) * standing.best
    if better:
        standing.best = score
    if regular and score < (1 - LEAST_GAIN) * standing.best_regular:
        standing.best_regular, standing.waited, standing.without_better = score, 0, 0
    elif regular:
        standing.waited += 1
        standing.without_better += 1
        if schedule.kind == "plateau" and standing.waited >= schedule.patience:
            standing.rate_factor *= schedule.factor
            standing.waited = 0
    return better


def out_of_patience(standing: Standing, patience: int | None) -> bool:
    """Whether too many regular validations in a row were without a better score."""
    return patience is not None and standing.without_better >= patience
