"""What the terminal shows while a training runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .batches import Batch
from .inspection import Inspection
from .objective import Fitting

REFRESH = 0.5


class Display(lightning.Callback):
    """A progress bar with rate and time left, and a line for every validation."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.percentage:5.1f} %"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=1.0, left="?")
        self._since = self._drawn = time.monotonic()
        self._atoms = 0
        self._from = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bar."""
        self._since = time.monotonic()
        self._from = _done(pl_module)
        if self.console.is_terminal:
            self._progress.start()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the bar away."""
        self._progress.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._progress.stop()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count atoms, and redraw now and then."""
        now = time.monotonic()
        if batch.last:  # each part of a batch knows of the atoms of the whole
            self._atoms += batch.whole.atoms
        if now - self._drawn > REFRESH:
            self._drawn = now
            done = _done(pl_module)
            self._progress.update(
                self._task, completed=done, description=self._describe(pl_module), left=self._left(done, now)
            )

    def _describe(self, module: lightning.LightningModule) -> str:
        assert isinstance(module, Fitting)
        spent = time.monotonic() - self._since
        words = [f"step {module.standing.step}", f"{self._atoms / spent:.0f} atoms/s"]
        if "loss" in module.recent:
            words.append(f"loss {module.recent['loss']:.4f}")
        return ", ".join(words)

    def _left(self, done: float, now: float) -> str:
        if done <= self._from:
            return "?"
        return duration((now - self._since) * (1 - done) / (done - self._from))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """One line with errors, rate and time left."""
        assert isinstance(pl_module, Fitting)
        found, now = pl_module.errors, time.monotonic()
        words = [self._describe(pl_module), f"rate {pl_module.recent.get('learning_rate', 0.0):.1e}"]
        words += [f"{name.replace('_', ' ')} {value:.2f}" for name, value in found.items() if "RMSE" not in name]
        best = " [green]best[/]" if pl_module.score <= pl_module.standing.best else ""
        left = self._left(_done(pl_module), now)
        self.console.print(f"{', '.join(words)}, {left} left{best}", highlight=False, soft_wrap=True)


def _done(module: lightning.LightningModule) -> float:
    assert isinstance(module, Fitting)
    return module.extent.progress(module.standing.step, module.standing.elapsed)


def inspection_tables(found: Inspection) -> list[Table]:
    """What `geomol_training.inspection` found, as two tables."""
    counts = Table(title="Frames")
    for name in found.counts:
        counts.add_column(name, justify="right")
    counts.add_row(*(f"{count:,}" for count in found.counts.values()))
    ranges = Table(title="  ".join(f"{symbol} {count:,}" for symbol, count in found.elements.items()))
    for name in ("", "smallest", "median", "largest"):
        ranges.add_column(name, justify="right" if name else "left")
    for name, values in found.ranges.items():
        ranges.add_row(name, *(f"{value:.4g}" for value in values))
    return [counts, ranges]


class FilesBar:
    """A progress bar over files and parts of databases, with frames; lines now and then where there is no terminal."""

    def __init__(self, console: Console, every: int = 50) -> None:
        self.console, self.every = console, every
        self._bar = Progress(
            TextColumn("reading"),
            BarColumn(),
            TextColumn("{task.completed} of {task.total} parts, {task.fields[frames]} frames"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("reading", total=None, frames=0)

    def __enter__(self) -> FilesBar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, done: int, parts: int, frames: int) -> None:
        """Show parts done and frames read by this call."""
        self._bar.update(self._task, completed=done, total=parts, frames=frames)
        if not self.console.is_terminal and done % self.every == 0:
            self.console.print(f"{done} of {parts} parts, {frames} frames")


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def results_table(title: str, results: dict[str, float]) -> Table:
    """A table of two columns: names of results, and their values."""
    table = Table(title=escape(title), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in results.items():
        table.add_row(name.replace("_", " "), f"{value:.3g}")
    return table


def errors_table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    """A table of MAE / RMSE, cosines and percentages with a row for each name in ``rows``."""
    names = [name for row in rows.values() for name in row if "_MAE_" in name]
    quantities = list(dict.fromkeys(names))
    table = Table(title=escape(title))
    table.add_column("")
    if any("frames" in row for row in rows.values()):
        table.add_column("frames", justify="right")
    for name in quantities:
        quantity, unit = name.split("_MAE_")
        unit = unit.replace("_per_", "/").replace("A3", "Å³").replace("/A", "/Å")
        unit = "Å" if unit == "A" else unit
        table.add_column(f"{quantity}\nMAE / RMSE\n{unit}", justify="right")
    shares = list(dict.fromkeys(name for row in rows.values() for name in row if "_percent" in name))
    for name in shares:
        what, _, note = name.partition("_percent")
        table.add_column(f"{what}\n{note.replace('_', ' ').strip()}\n%", justify="right")
    cosines = list(dict.fromkeys(name for row in rows.values() for name in row if name.endswith("_cosine")))
    for name in cosines:
        table.add_column(name.replace("_", "\n"), justify="right")
    for title_of_row, row in rows.items():
        cells = [f"{row['frames']:.0f}"] if "frames" in row else []
        for name in quantities:
            if name in row:
                cells.append(f"{row[name]:.2f} / {row[name.replace('_MAE_', '_RMSE_')]:.2f}")
            else:
                cells.append("-")
        cells += [f"{row[name]:.1f}" if name in row else "-" for name in shares]
        cells += [f"{row[name]:.3f}" if name in row else "-" for name in cosines]
        table.add_row(escape(title_of_row), *cells)
    return table


def named_rows(title: str, headings: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """A table of text with a name for each row."""
    table = Table(title=escape(title))
    for name in ("", *headings):
        table.add_column(name, justify="right" if name else "left")
    for row, cells in rows.items():
        table.add_row(row, *cells)
    return table
