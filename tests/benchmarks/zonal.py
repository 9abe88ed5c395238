"""How many nodes does the message of EST need on an edge, where keys at points of a sphere are many more?

Keys and values of the message are functions of the angle to the edge alone. Their integral about the edge is known, and
Gauss-Legendre nodes integrate the rest ("zonal"); without that, keys stand at the points of a Fibonacci lattice.
Relative error of what attention gives (random weights and queries, mean over seeds, see `_sphere`) against keys on a
grid of 80 x 160 points, with the layer norm at each point (paper) and without, as in the exact mode. Without it, nodes
are exact to rounding at L = 2. The specification's own draw, with that norm, has for 24 nodes and 256 points 3.7e-4 and
3.9e-4 at L = 2, 1.4e-4 and 7.6e-4 at L = 4, 6.8e-3 and 7.7e-3 at L = 6: ours has less of the high degrees.
"""

from __future__ import annotations

from _frame import Answer, Row, answer, progress
from _sphere import zonal_errors

from ase_geomol.nn.sphere import fibonacci

DEGREES, SEEDS = (2, 4, 6), 8
NODES, POINTS = (16, 24, 32), (128, 256)


def run(smoke: bool) -> Answer:
    """One row for each norm and degree."""
    wanted = [(norm, lmax) for norm in ("point", "coefficient") for lmax in DEGREES]
    seeds = 1 if smoke else SEEDS
    rows = [_row(norm, lmax, seeds) for norm, lmax in progress(wanted[: 1 if smoke else None], "degrees")]
    ratios = {f"{row['norm']} norm, L = {row['lmax']}": row["256 points"] / row["24 nodes"] for row in rows}
    return Answer(rows, {f"{title}: error of 256 points / 24 nodes": ratio for title, ratio in ratios.items()})


def _row(norm: str, lmax: int, seeds: int) -> Row:
    of_nodes, of_points = zonal_errors(norm, lmax, NODES, [fibonacci(count) for count in POINTS], seeds)
    return {
        "norm": norm,
        "lmax": lmax,
        **{f"{count} points": error for count, error in zip(POINTS, of_points, strict=True)},
        **{f"{count} nodes": error for count, error in zip(NODES, of_nodes, strict=True)},
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["e3nn"], settings={"seeds": SEEDS, "channels": 32, "heads": 4, "edges": 4})
