"""What the user sees of a labelling run: progress with rate and time left, a table at the end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from .run import Progress

_PLAIN_EVERY = 20  # jobs between lines where there is no terminal


class Display:
    """A progress bar on a terminal, a line now and then in a log file."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("jobs · {task.fields[frames]} frames, {task.fields[rate]:.0f}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=None, frames=0, rate=0.0)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def update(self, progress: Progress) -> None:
        """Show where the run stands."""
        elapsed = self._bar.tasks[0].elapsed or 1e-9
        rate = progress.new_frames / elapsed
        self._bar.update(
            self._task,
            completed=progress.jobs_done,
            total=progress.jobs,
            frames=progress.new_frames,
            rate=rate,
        )
        if not self._console.is_terminal and progress.jobs_done % _PLAIN_EVERY == 0:
            self._console.print(
                f"{progress.jobs_done}/{progress.jobs} jobs, {progress.new_frames} new frames, "
                f"{rate:.1f} frames/s, {elapsed:.0f} s"
            )

    def summary(self, manifest: dict, folder: Path) -> None:
        """Print the manifest's counts."""
        table = Table("group", "name", "frames", title=escape(f"{manifest['frames']} frames in {folder}"))
        for group, counts in manifest["counts"].items():
            for name, count in counts.items():
                table.add_row(group, name, str(count))
        self._console.print(table)
        shards = manifest["shards"]
        self._console.print(
            f"{shards['done']} of {shards['planned']} jobs done in {manifest['wall_seconds']:.0f} s; "
            f"left out: {manifest['left_out']}.",
            markup=False,
        )

    def explored(self, manifest: dict) -> None:
        """Print by kind what the potential's forces were like, and how many frames came of it."""
        table = Table(title="Force RMSE by kind, probe: the first few frames of each molecule")
        for name in ("", "molecules", "probe\nmeV/Å", "above\nthe limit", "broken\nruns", "labelled", "kept"):
            table.add_column(name, justify="right" if name else "left")
        for kind, sums in manifest["kinds"].items():
            probe = f"{1000 * sums['probe_error'] / sums['probe_frames']:.0f}" if sums["probe_frames"] else "-"
            counts = (str(sums[name]) for name in ("wrong", "broken", "labelled", "frames"))
            table.add_row(kind, str(sums["molecules"]), probe, *counts)
        self._console.print(table)
