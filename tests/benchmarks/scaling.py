"""How do time and memory of one energy-and-forces call grow with the number of atoms?

Boxes of liquid acetic acid, each in a fresh process; the sizes take turns. "memory" is the peak of the process above
what it held, with weights and structure loaded, before its first call.
"""

from __future__ import annotations

import statistics
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
    with TemporaryDirectory() as folder:
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
    return Answer(
        rows,
        {
            "time grows as atoms to the power of (target: 1.1 or less)": _exponent(rows, "ms"),
            "memory grows as atoms to the power of": _exponent(rows, "memory MB"),
        },
    )


def _exponent(rows: list[Row], column: str) -> float:
    """Slope of the straight line through the logarithms."""
    atoms, values = ([row[name] for row in rows] for name in ("atoms", column))
    return float(np.polyfit(np.log(atoms), np.log(values), 1)[0])


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, with_peers=True)
