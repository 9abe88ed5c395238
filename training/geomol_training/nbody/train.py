"""One training on the N-body data: resumable, within steps or a time budget, measured on the test simulations."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ase_geomol.errors import ConfigError
from ase_geomol.files import make_folder

from ..keeper import LAST, read_state, write_state
from ..memory import keep_freed_memory
from ..result import RESULT, write_result
from ..schedule import Extent
from .learning import Part, Settings, Training, mean_square_error
from .simulate import Samples


def run(
    settings: Settings,
    samples: dict[str, Samples],
    out: Path,
    *,
    steps: int | None = None,
    time_budget: float | None = None,
    resume: bool = False,
    threads: int | None = None,
    console: Console | None = None,
) -> dict[str, Any] | None:
    """Train, test the weights with the lowest validation error, and write ``out/result.json``.

    Args:
        settings: what is trained.
        samples: for "train", "valid" and "test".
        out: folder of this run.
        steps: end after so many, over all resumed runs.
        time_budget: s, end after this time, over all resumed runs, regular validations included; the last validation
            and the test come on top.
        resume: go on with the run in ``out``.
        threads: of torch; None leaves its choice.
        console: where progress is shown; default: standard output.

    Returns:
        The content of the result, or None where the run was stopped by Ctrl-C or a request to terminate.

    Raises:
        ConfigError: nothing ends the training, ``out`` holds another run, or a resumed run had other settings.
        CheckpointError: there is nothing to resume.
        OutputError: ``out`` cannot be written.
    """
    if steps is None and time_budget is None:
        raise ConfigError("Nothing ends this training: give --steps or --time-budget.")
    make_folder(out)
    if not resume and (out / LAST).exists():
        raise ConfigError(f"{out} holds a run: go on with --resume, or choose another folder with --out.")
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    console = console or Console()
    parts = {name: Part(*(torch.tensor(column, dtype=torch.float32) for column in of)) for name, of in samples.items()}
    training = Training(settings, parts["train"], parts["valid"], Extent(steps, time_budget))
    if resume:
        training.restore(read_state(out / LAST, "settings"))
    if not _train(training, out, console):
        console.print("Stopped: run the same command with --resume to go on.")
        return None
    if training.standing.best == math.inf:
        raise ConfigError("Nothing was learned: no validation error was finite. Start anew with a smaller --lr.")
    result = write_result(out, _result(training, parts, {"steps": steps, "seconds": time_budget}))
    console.print(
        f"{result['steps']} steps, {result['seconds']:.0f} s: validation MSE {result['valid_mse']:.5f}, "
        f"test MSE {result['test_mse']:.5f}. Written: {out / RESULT}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    return result


def _result(training: Training, parts: dict[str, Part], asked: dict[str, float | None]) -> dict[str, Any]:
    """What the training was and how well its best weights predict."""
    standing = training.standing
    return {
        "settings": training.settings.model_dump(mode="json"),
        "asked": asked,
        "parameters": sum(parameter.numel() for parameter in training.network.parameters()),
        "steps": standing.step,
        "epochs": round(standing.step / training.steps_per_epoch, 1),
        "skipped_steps": standing.skipped,
        "seconds": round(standing.elapsed, 1),
        "best_step": min(training.history, key=lambda line: line["valid_mse"])["step"],
        "valid_mse": standing.best,
        "test_mse": mean_square_error(training.best, parts["test"]),
        "samples": {name: len(part.charges) for name, part in parts.items()},
        "history": training.history,
    }


def _train(training: Training, out: Path, console: Console) -> bool:
    """Run to the end; False where someone stopped it. Every validation, and a stop, leaves a state to resume."""
    interval = training.settings.validate_every * training.steps_per_epoch
    with _bar(console) as show, _stop_signals() as stopped:
        while training.progress < 1 and not stopped:
            training.step()
            show(training)
            if training.standing.step % interval == 0:
                _validate(training, out, console)
        if stopped:
            write_state(out / LAST, training.saved())
        elif not training.history or training.history[-1]["step"] != training.standing.step:
            _validate(training, out, console)
    return not stopped


def _validate(training: Training, out: Path, console: Console) -> None:
    line = training.validate()
    write_state(out / LAST, training.saved())
    best = " [green]best[/]" if line["valid_mse"] <= training.standing.best else ""
    console.print(
        f"step {line['step']:.0f}, {line['seconds']:.0f} s, training MSE {line['train_mse']:.5f}, "
        f"validation MSE {line['valid_mse']:.5f}{best}",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[Training], None]]:
    """A progress bar on a terminal, and the function that moves it."""
    columns = (BarColumn(), TextColumn("{task.percentage:5.1f} %"), TextColumn("{task.description}"))
    progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("starting", total=1.0)
    drawn = [0.0]

    def show(training: Training) -> None:
        if time.monotonic() - drawn[0] > 0.5:
            drawn[0] = time.monotonic()
            words = f"step {training.standing.step}, MSE {training.losses[-1]:.4f}"
            progress.update(task, completed=training.progress, description=words)

    with progress:
        yield show


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that is filled by the first Ctrl-C or request to terminate; a second one ends the program at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
