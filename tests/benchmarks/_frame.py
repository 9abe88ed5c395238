"""The frame of every benchmark: one question, rows of one run, a table, and the result as last measured.

A script calls `answer` with its question and a function that returns rows (dictionaries with equal keys). With
``--smoke`` the function is asked for a small version and nothing is written; otherwise the rows go to
``results/<script>.json`` with versions, hardware and, of a potential that is measured, the SHA-256 of its file. What
else a reader must know to do the same again (seed, data, goals) is given as ``settings``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import GeoMolError

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def answer(
    question: str,
    run: Callable[..., list[Row]],
    packages: Sequence[str] = (),
    model: str = "",
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Run a benchmark as a command: parse its options, print a table, keep the result.

    ``run`` is called with ``smoke`` and, where a default ``model`` is given, with the value of ``--model``.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--smoke", action="store_true", help="a small version that proves the script runs")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of the peers (default 2)")
    if model:
        parser.add_argument("--model", default=model, help=f"shipped potential or .safetensors file (default {model})")
    arguments = parser.parse_args()
    _use_threads(arguments.threads)
    started = time.perf_counter()
    try:
        measured = {"model": _identity(arguments.model)} if model else {}
        rows = run(arguments.smoke, arguments.model) if model else run(arguments.smoke)
    except GeoMolError as error:
        sys.exit(f"Error: {error}")
    seconds = time.perf_counter() - started
    about = {**measured.get("model", {}), **(settings or {})}
    _print(question, rows, {**about, "processor": _processor(), "threads": arguments.threads})
    if not arguments.smoke:
        record = {
            "question": question,
            "command": f"python tests/benchmarks/{name}.py --threads {arguments.threads}"
            + (f" --model {arguments.model}" if model else ""),
            **measured,
            "date": datetime.now(UTC).date().isoformat(),
            **({"settings": dict(settings)} if settings else {}),
            "hardware": {"processor": _processor(), "threads": arguments.threads},
            "versions": {p: version(p) for p in ("ase_geomol", "torch", "ase", *packages)},
            "seconds": round(seconds, 1),
            "rows": rows,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def _use_threads(threads: int) -> None:
    """Start the script anew if need be: libraries with OpenMP look at the environment when they are loaded."""
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})
    torch.set_num_threads(threads)


def _identity(model: str) -> dict[str, str]:
    checkpoint = load_checkpoint(model)
    return {"name": checkpoint.metadata.name, "sha256": checkpoint.sha256}


def time_in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, measured in turns so that all meet the same machine; one warm-up each."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _print(title: str, rows: list[Row], about: Mapping[str, Any]) -> None:
    caption = "; ".join(f"{name}: {value}" for name, value in about.items())
    table = Table(title=escape(title), caption=escape(caption))
    for key in rows[0]:
        table.add_column(key, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
