"""Which tensor products of two features can spherical attention and networks at points learn (theorem 1 of the paper)?

Two layers, each spherical attention and a network added to what came in, learn all Clebsch-Gordan products of degrees
up to 2 at once, from random features of unit length; at the end they are asked for those of features, and of their
mirror images, that they have not seen. "Error": root mean square over that of the products. The paper's theorem names
all paths. Its proof holds for those whose degrees have an even sum: what two functions multiply at points are Gaunt
coefficients, which are zero for the rest, and on true tensors nothing that acts at points alike makes a pseudo-tensor.
"""

from __future__ import annotations

import numpy as np
from _frame import Answer, answer, progress
from _products import PATHS, learn

SEEDS, STEPS, RATE = 3, 2000, 1e-2


def run(smoke: bool) -> Answer:
    """One row for each path."""
    seeds = range(1 if smoke else SEEDS)
    found = [learn(PATHS, 20 if smoke else STEPS, seed, rate=RATE) for seed in progress(seeds, "networks")]
    rows = [
        {
            "degrees": f"{path.first} x {path.second} -> {path.third}",
            "sum": "even" if path.even else "odd",
            "error": float(np.mean([errors[path] for errors in found])),
            "largest error": max(errors[path] for errors in found),
            "least error": min(errors[path] for errors in found),
        }
        for path in PATHS
    ]
    return Answer(
        rows,
        {
            "largest error of an even path": max(row["largest error"] for row in rows if row["sum"] == "even"),
            "least error of an odd path (theory: 1)": min(row["least error"] for row in rows if row["sum"] == "odd"),
        },
    )


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["e3nn"], settings={"seeds": SEEDS, "steps": STEPS, "learning rate": RATE})
