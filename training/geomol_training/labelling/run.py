"""All jobs of a plan on several processes: resumable, stoppable at any time, with a manifest."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ase_geomol.errors import OutputError
from ase_geomol.files import make_folder

from ..alone import alone_in
from ..pool import in_processes
from .engine import import_tblite
from .jobs import Outcome, counts_of, run_and_write, run_job, write_json
from .plan import Job, Plan, make_plan
from .recipe import Labelling, LabelRecipe

MANIFEST = "manifest.json"
MANIFEST_INTERVAL = 30.0  # s


@dataclass(frozen=True)
class Progress:
    """Where a run stands: jobs done of all, and the frames that this run has added."""

    jobs_done: int
    jobs: int
    new_frames: int


def make_labels(
    recipe: LabelRecipe,
    folder: Path,
    workers: int = 1,
    time_budget: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    first: int | None = None,
) -> dict:
    """Run every job of ``recipe`` whose shard is not in ``folder`` and return the manifest.

    ``time_budget`` is in seconds of wall time: no job starts after it. ``first`` ends the plan after that many
    jobs; they are interleaved, so that any beginning is a balanced sample. A KeyboardInterrupt leaves the folder
    valid and is raised again. Raises :class:`ConfigError` when another process works in the folder,
    :class:`OutputError` when it cannot be written or holds the shards of another recipe, and :class:`DataError` when a
    worker process dies or the recipe cannot be filled.
    """
    import_tblite()
    stop = None if time_budget is None else time.monotonic() + time_budget
    return run_plan(make_plan(recipe), recipe, partial(run_job, recipe=recipe), folder, workers, stop, report, first)


def run_plan(
    plan: Plan,
    recipe: Labelling,
    work: Callable[[Job], Outcome],
    folder: Path,
    workers: int,
    stop: float | None,
    report: Callable[[Progress], None],
    first: int | None,
) -> dict:
    """Do the ``work`` of the ``first`` jobs of ``plan``, as `make_labels` says; none starts at ``stop`` or later."""
    started = time.monotonic()
    plan = replace(plan, jobs=plan.jobs[:first])
    open_folder(folder, plan)
    with alone_in(folder):
        todo = [job for job in plan.jobs if counts_of(folder, job) is None]
        record = _Record(recipe, plan, folder, started)
        record.write()
        try:
            new_frames = 0
            to_shards = partial(run_and_write, work=work, folder=folder)
            with closing(in_processes(to_shards, todo, workers, stop)) as finished:
                for done, frames in enumerate(finished, start=1):
                    new_frames += frames
                    report(Progress(len(plan.jobs) - len(todo) + done, len(plan.jobs), new_frames))
                    record.write_now_and_then()
        finally:
            manifest = record.write()
    return manifest


def open_folder(folder: Path, plan: Plan) -> None:
    """Create ``folder``, or check that its shards come from the same plan."""
    manifest = folder / MANIFEST
    make_folder(folder)
    try:
        before = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else None
        if before is not None:
            float(before["wall_seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"The folder {folder} cannot be used for labels: {error}") from error
    if before is None and any(folder.glob("*.extxyz")):
        raise OutputError(f"{folder} holds .extxyz files but no {MANIFEST}: choose an empty folder with --out.")
    if before is not None and before.get("fingerprint") != plan.fingerprint:
        raise OutputError(
            f"{folder} holds the labels of another recipe or checkpoint, or of other molecules to leave out: "
            "choose another folder with --out."
        )
    if not os.access(folder, os.W_OK):
        raise OutputError(f"No permission to write into {folder}.")


class _Record:
    """The manifest: what was asked, with which packages, and what came out."""

    def __init__(self, recipe: Labelling, plan: Plan, folder: Path, started: float) -> None:
        self._recipe, self._plan, self._folder, self._started = recipe, plan, folder, started
        self._written = started
        path = folder / MANIFEST
        self._earlier = json.loads(path.read_text(encoding="utf-8"))["wall_seconds"] if path.exists() else 0.0

    def write_now_and_then(self) -> None:
        if time.monotonic() - self._written > MANIFEST_INTERVAL:
            self.write()

    def write(self) -> dict:
        """Write the manifest of all finished jobs, and return its content."""
        self._written = time.monotonic()
        totals = {"source": Counter(), "split": Counter(), "rejected": Counter()}
        kinds: defaultdict[str, Counter] = defaultdict(Counter)
        done = [(job, counts) for job in self._plan.jobs if (counts := counts_of(self._folder, job)) is not None]
        for job, counts in done:
            for name, total in totals.items():
                total.update(counts[name])
            kinds[job.kind].update({"frames": counts["frames"], **counts.get("sums", {})})
        manifest = {
            "recipe": self._recipe.model_dump(mode="json"),
            "fingerprint": self._plan.fingerprint,
            "left_out": self._plan.excluded,
            "versions": {name: version(name) for name in self._recipe.packages},
            "frames": sum(counts["frames"] for _, counts in done),
            "counts": {name: dict(sorted(total.items())) for name, total in totals.items()},
            "kinds": {kind: dict(sums) for kind, sums in sorted(kinds.items())},
            "shards": {"done": len(done), "planned": len(self._plan.jobs)},
            "wall_seconds": round(self._earlier + time.monotonic() - self._started, 1),
        }
        write_json(self._folder / MANIFEST, manifest)
        return manifest
