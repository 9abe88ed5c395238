"""How do time and memory of one energy-and-forces call grow with the number of atoms?

Boxes of liquid acetic acid, each in a fresh process; the sizes take turns. "memory" is the peak of the process above
what it held, with weights and structure loaded, before its first call. Ctrl-C leaves medians of fewer rounds.
"""

from __future__ import annotations

import statistics
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _frame import Answer, Row, answer, progress
from _peers import Package, PeerError, Peers
from _structures import liquid
from ase.io import write

MODEL = "geomformer-organic"
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
ROUNDS = 5


def run(smoke: bool, model: str, peers: Peers) -> Answer:
    """One row a size."""
    sizes = (64, 128) if smoke else SIZES
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    memory: dict[int, list[float]] = {size: [] for size in sizes}
    complete = False
    with TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        for size in sizes:
            write(Path(folder) / f"{size}.extxyz", liquid(size))
        for _ in progress(range(1 if smoke else ROUNDS), "rounds"):
            for size in sizes:
                peer = peers.start(Package(f"{size} atoms", "_peer_ours.py"), f"{folder}/{size}.extxyz", model)
                if peer is not None:
                    try:
                        seconds[size].append(peer.ask("seconds"))
                        memory[size].append(peer.ask("memory"))
                    except PeerError as error:
                        peers.leave_out(f"{size} atoms", error)
                    peer.stop()
        complete = True
    rows = [
        {
            "atoms": size,
            "ms": 1e3 * statistics.median(seconds[size]),
            "µs an atom": 1e6 * statistics.median(seconds[size]) / size,
            "memory MB": statistics.median(memory[size]) / 1e6,
            "memory kB an atom": statistics.median(memory[size]) / 1e3 / size,
        }
        for size in sizes
        if memory[size]
    ]
    summary = {
        "time grows as atoms to the power of (target: 1.1 or less)": exponent(rows, "ms"),
        "the same over the last two doublings": exponent(rows[-3:], "ms"),
        "memory grows as atoms to the power of": exponent(rows, "memory MB"),
    }
    return Answer(rows, summary if complete else {}, complete=complete)


def exponent(rows: list[Row], column: str) -> float | None:
    """Slope of the straight line through the logarithms; None where fewer than two sizes have a value above zero."""
    points = [(row["atoms"], row[column]) for row in rows if row[column] > 0]
    if len(points) < 2:
        return None
    atoms, values = np.log(np.array(points)).T
    return float(np.polyfit(atoms, values, 1)[0])


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, with_peers=True)
