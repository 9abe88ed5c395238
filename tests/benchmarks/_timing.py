"""How a call is timed, in the benchmarks and in their peers alike.

Peers run in environments of their own, so this file needs nothing but the standard library and numpy.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def timed(call: Callable[[], Any], seconds: float = 0.2) -> float:
    """Median seconds of a call: one call to warm up, then calls until ``seconds`` have passed."""
    call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def time_in_turns(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median of what each turn returns; turns alternate, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name].append(turn())
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def mover(atoms: Any, calculator: Any) -> Callable[[], None]:
    """A call that moves every atom by about 0.001 Å and asks for energy and forces, as a step of MD does.

    A structure with ``info["with_stress"]`` is asked for its stress too, as a step at constant pressure does.
    """
    moving = atoms.copy()
    moving.calc = calculator
    random = np.random.default_rng(0)

    def call() -> None:
        moving.positions += random.normal(0, 1e-3, moving.positions.shape)
        moving.get_potential_energy()
        moving.get_forces()
        if moving.info.get("with_stress"):
            moving.get_stress()

    return call


def serve(measure: Mapping[str, Callable[[], float]], about: Mapping[str, Any]) -> None:
    """Be a peer: print one JSON line about oneself, then one for each name on standard input.

    An answer is ``{"value": number}`` or ``{"error": sentence}``. Whatever libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"value": measure[line.strip()]()}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
