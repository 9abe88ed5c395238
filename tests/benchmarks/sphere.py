"""How exact are the points of a sphere: the round trip, and one layer under rotations?

"Round trip": the largest element of ``M Y - 1`` with the quadrature ``M = Yᵀ W``. The other columns: relative error of
the increment by spherical attention and a network (random weights, mean over seeds and rotations, see `_sphere`) with
the layer norm at each point (paper) or the norm of coefficients. "Quadrature" is the Fibonacci lattice as in the paper,
"least squares" the same with the analysis that undoes synthesis, "exact" the named rule, with as many points. The last
columns have logits twice as large, with the norm of coefficients. The specification has many of these errors, of one
seed, 6 to 12 rotations and other random features; below the table stands how far ours are from them.
"""

from __future__ import annotations

import torch
from _frame import Answer, Row, answer, progress
from _sphere import layer_error

from ase_geomol.nn.sphere import PointRule, Sphere, fibonacci, point_rule

EXACT = {
    2: ("icosahedral-32", "lebedev-50", "icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194"),
    4: ("icosahedral-32", "lebedev-50", "icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194"),
    6: ("icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194", "lebedev-302"),
}
SEEDS = 8
POINT, COEFFICIENT = "point norm", "coefficient norm"
SPECIFICATION = {
    (POINT, 2, "icosahedral-32"): (5.9e-2, 4.7e-2, 3.0e-2),
    (POINT, 2, "lebedev-50"): (2.7e-2, 1.9e-2, 1.1e-2),
    (POINT, 2, "icosahedral-72"): (1.2e-2, 8.6e-3, 3.4e-3),
    (POINT, 2, "lebedev-110"): (6.5e-3, 4.0e-3, 9.2e-4),
    (POINT, 2, "icosahedral-132"): (4.8e-3, 3.0e-3, 3.7e-4),
    (POINT, 2, "lebedev-194"): (2.7e-3, 1.6e-3, 1.1e-4),
    (POINT, 4, "icosahedral-32"): (3.9e-1, 3.5e-1, 3.2e-1),
    (POINT, 4, "lebedev-50"): (1.7e-1, 1.6e-1, 1.5e-1),
    (POINT, 4, "icosahedral-72"): (7.8e-2, 6.9e-2, 5.3e-2),
    (POINT, 4, "lebedev-110"): (3.2e-2, 2.6e-2, 2.0e-2),
    (POINT, 4, "icosahedral-132"): (2.2e-2, 1.8e-2, 1.0e-2),
    (POINT, 4, "lebedev-194"): (9.4e-3, 6.6e-3, 3.8e-3),
    (COEFFICIENT, 2, "icosahedral-72"): (1.0e-2, 6.6e-3, 5.0e-4),
    (COEFFICIENT, 2, "lebedev-110"): (6.2e-3, 3.6e-3, 9.2e-5),
    (COEFFICIENT, 2, "icosahedral-132"): (4.5e-3, 2.7e-3, 3.1e-5),
    (COEFFICIENT, 2, "lebedev-194"): (2.7e-3, 1.5e-3, 4.9e-6),
    (COEFFICIENT, 4, "icosahedral-72"): (6.8e-2, 5.6e-2, 3.7e-2),
    (COEFFICIENT, 4, "icosahedral-132"): (1.6e-2, 1.1e-2, 4.9e-3),
    (COEFFICIENT, 4, "lebedev-194"): (8.1e-3, 4.9e-3, 1.5e-3),
    (COEFFICIENT, 6, "icosahedral-72"): (2.8e-1, 2.5e-1, 2.4e-1),
    (COEFFICIENT, 6, "icosahedral-132"): (6.5e-2, 5.9e-2, 4.2e-2),
    (COEFFICIENT, 6, "lebedev-194"): (2.5e-2, 2.0e-2, 1.6e-2),
    (COEFFICIENT, 6, "lebedev-302"): (8.9e-3, 6.1e-3, 3.3e-3),
}
"""Its errors by norm, degree and rule: of the lattice by quadrature and by least squares, of the rule."""
KINDS = ("quadrature", "least squares", "exact")


def run(smoke: bool) -> Answer:
    """One row for each degree and rule."""
    wanted = [(lmax, name) for lmax, names in EXACT.items() for name in names]
    rows = [
        _row(lmax, name, 1 if smoke else SEEDS) for lmax, name in progress(wanted[:2] if smoke else wanted, "rules")
    ]
    return Answer(rows, beside_specification(rows))


def beside_specification(rows: list[Row]) -> dict[str, float | None]:
    """How many errors are within a factor of 1.5 of the specification's, and the ratio of each that is not."""
    found = {(row["lmax"], row["rule"]): row for row in rows}
    ratios = {
        f"{norm}, degree {lmax}, {rule}, {kind}": found[lmax, rule][f"{norm}: {kind}"] / expected
        for (norm, lmax, rule), errors in SPECIFICATION.items()
        if (lmax, rule) in found
        for kind, expected in zip(KINDS, errors, strict=True)
    }
    far = {name: ratio for name, ratio in ratios.items() if not 1 / 1.5 <= ratio <= 1.5}
    counts: dict[str, float | None] = {
        "errors that the specification has, too": len(ratios),
        "within a factor of 1.5 of it": len(ratios) - len(far),
    }
    return counts | {f"{name}: ours / the specification's": ratio for name, ratio in far.items()}


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
