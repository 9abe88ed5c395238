"""How exact are the points of a sphere: the round trip, and one layer under rotations?

"Round trip": the largest element of ``M Y - 1`` with the quadrature ``M = Yᵀ W``. The other columns: relative error of
the increment by spherical attention and a network (random weights, mean over seeds and rotations, see `_sphere`) with
the layer norm at each point (paper) or the norm of coefficients. "Quadrature" is the Fibonacci lattice as in the paper,
"least squares" the same with the analysis that undoes synthesis, "exact" the named rule, with as many points. The last
columns have logits twice as large, with the norm of coefficients.
"""

from __future__ import annotations

import torch
from _frame import Row, answer, progress
from _sphere import layer_error

from ase_geomol.nn.sphere import PointRule, Sphere, fibonacci, point_rule

EXACT = {
    2: ("icosahedral-32", "lebedev-50", "icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194"),
    4: ("icosahedral-32", "lebedev-50", "icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194"),
    6: ("icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194", "lebedev-302"),
}
SEEDS = 8


def run(smoke: bool) -> list[Row]:
    """One row for each degree and rule."""
    wanted = [(lmax, name) for lmax, names in EXACT.items() for name in names]
    return [
        _row(lmax, name, 1 if smoke else SEEDS) for lmax, name in progress(wanted[:2] if smoke else wanted, "rules")
    ]


def _row(lmax: int, name: str, seeds: int) -> Row:
    exact = point_rule(name)
    lattice = fibonacci(len(exact.points))
    row: Row = {"lmax": lmax, "rule": name, "round trip, lattice": _round_trip(lattice, lmax)}
    row["round trip, exact"] = _round_trip(exact, lmax)
    for norm in ("point", "coefficient"):
        row[f"{norm} norm: quadrature"] = layer_error(norm, lmax, lattice, seeds, "quadrature")
        row[f"{norm} norm: least squares"] = layer_error(norm, lmax, lattice, seeds)
        row[f"{norm} norm: exact"] = layer_error(norm, lmax, exact, seeds)
    return row | {
        "logits x 2: quadrature": layer_error("coefficient", lmax, lattice, seeds, "quadrature", 2.0),
        "logits x 2: exact": layer_error("coefficient", lmax, exact, seeds, scale=2.0),
    }


def _round_trip(rule: PointRule, lmax: int) -> float:
    sphere = Sphere(rule, lmax, "quadrature").double()
    product = sphere.analysis @ sphere.synthesis
    return float((product - torch.eye(len(product), dtype=product.dtype)).abs().max())


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["e3nn", "scipy"], settings={"seeds": SEEDS})
