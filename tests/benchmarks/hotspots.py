"""Which operations take the time of an energy-and-forces call and of a training step?

Measured by torch.profiler: time in an operation itself, not in those that it calls. Names with "Backward" are steps of
a derivative.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from _frame import Row, answer, progress
from _structures import ASPIRIN
from _timing import mover
from _training import training_batch, training_step
from torch.profiler import ProfilerActivity, profile

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.simulate.structures import load_structure

MODEL = "geomformer-organic"
SHOWN = 12


def run(smoke: bool, model: str) -> list[Row]:
    """One row an operation, the longest first."""
    step = training_step(load_checkpoint(model).potential, training_batch(model, structures=2 if smoke else 16))
    works = {
        "energy and forces, aspirin": mover(load_structure(ASPIRIN), GeoMolCalculator(model)),
        "training step": step,
    }
    return [row for name in progress(works, "works") for row in _rows(name, works[name], calls=2 if smoke else 30)]


def _rows(work: str, call: Callable[[], None], calls: int) -> list[Row]:
    os.environ["KINETO_LOG_LEVEL"] = "99"  # no messages of the profiler between the tables
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(calls):
            call()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        {
            "work": work,
            "operation": event.key,
            "times a call": event.count / calls,
            "ms a call": event.self_cpu_time_total / 1e3 / calls,
            "share": event.self_cpu_time_total / total,
        }
        for event in events[:SHOWN]
    ]


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL)
