"""Functions on the unit sphere: point rules, and transforms between coefficients of harmonics and values at points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .exact import ExactConstants

GOLDEN = (1 + math.sqrt(5)) / 2
LEBEDEV = {26: 7, 38: 9, 50: 11, 86: 15, 110: 17, 146: 19, 170: 21, 194: 23, 302: 29}
"""Points and degree of the Lebedev rules of a useful size without a negative weight."""
_VERTEX, _FACE = (0.0, 1.0, GOLDEN), (1.0, 1.0, 1.0)
ICOSAHEDRAL: dict[int, tuple[int, tuple[tuple[tuple[float, float, float], float], ...]]] = {
    12: (5, ((_VERTEX, math.pi / 3),)),
    32: (9, ((_VERTEX, 0.37399912542735636), (_FACE, 0.4039190554615449))),
    72: (
        14,
        (
            (_VERTEX, 0.15583296892806509),
            ((0.9133300319507995, -0.3158383529422516, 0.2570493873703592), 0.17827291645370658),
        ),
    ),
    132: (
        19,
        (
            (_VERTEX, 0.0799143430400334),
            ((-0.983321247170681, -0.17398561893219702, -0.05299367195691479), 0.09869951756695511),
            ((0.822224563260333, 0.29881162603132155, 0.48441550317869936), 0.09475712406435784),
        ),
    ),
}
"""Points: degree, and for each orbit of the 60 rotations of the icosahedron one point and its weight."""


Analysis = Literal["least_squares", "quadrature"]


class PointRule(NamedTuple):
    """Points on the sphere whose weighted sum stands for an integral.

    Attributes:
        points: (N, 3) unit vectors, float64.
        weights: (N,) positive, they sum up to 4 pi.
        degree: of the polynomials that it integrates exactly; 0 for the Fibonacci lattice, which is exact for none.
    """

    points: np.ndarray
    weights: np.ndarray
    degree: int


def fibonacci(count: int) -> PointRule:
    """Fibonacci lattice of bands of equal area (González 2010), equal weights."""
    index = np.arange(count)
    height = 1 - (2 * index + 1) / count
    turn = 2 * np.pi * index / GOLDEN
    return PointRule(_around_y(height, turn), np.full(count, 4 * np.pi / count), 0)


def icosahedral(count: int) -> PointRule:
    """Rules with the rotations of the icosahedron: 12, 32, 72 or 132 points."""
    degree, orbits = _listed(ICOSAHEDRAL, count)
    turns = _icosahedral_rotations()
    points, weights = [], []
    for start, weight in orbits:
        orbit = turns @ (np.array(start) / np.linalg.norm(start))
        orbit = orbit[np.sort(np.unique(orbit.round(9), axis=0, return_index=True)[1])]
        points.append(orbit)
        weights.append(np.full(len(orbit), weight))
    return PointRule(np.concatenate(points), np.concatenate(weights), degree)


def lebedev(count: int) -> PointRule:
    """Lebedev rules (octahedral); those with a negative weight, which no softmax can use, are left out."""
    from scipy.integrate import lebedev_rule

    degree = _listed(LEBEDEV, count)
    points, weights = lebedev_rule(degree)
    return PointRule(points.T.copy(), weights, degree)


def product(count: int) -> PointRule:
    """n Gauss-Legendre nodes in height times 2n even azimuths: 2n² points, dense at the poles."""
    n = math.isqrt(count // 2)
    if n < 1 or 2 * n * n != count:
        raise ConfigError(f"A product rule has 2n² points (8, 18, 32, 50, 72, 98, 128 …), not {count}.")
    nodes, weights = np.polynomial.legendre.leggauss(n)
    height, turn = np.repeat(nodes, 2 * n), np.tile(np.pi * (np.arange(2 * n) + 0.5) / n, n)
    return PointRule(_around_y(height, turn), np.repeat(weights, 2 * n) * np.pi / n, 2 * n - 1)


POINT_RULES: dict[str, Callable[[int], PointRule]] = {
    "fibonacci": fibonacci,
    "icosahedral": icosahedral,
    "lebedev": lebedev,
    "product": product,
}


def point_rule(name: str) -> PointRule:
    """The rule of a name such as "icosahedral-72"; raises :class:`ConfigError` where there is none."""
    kind, _, count = name.partition("-")
    if kind not in POINT_RULES or not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"No point rule '{name}': give {', '.join(POINT_RULES)} and a number, as icosahedral-72.")
    return POINT_RULES[kind](int(count))


def harmonics(lmax: int, vectors: Tensor) -> Tensor:
    """Orthonormal real spherical harmonics (…, (lmax+1)²) of directions (…, 3); degree 1 is (x, y, z), as in e3nn."""
    from e3nn.o3 import spherical_harmonics

    return spherical_harmonics(list(range(lmax + 1)), vectors, normalize=True, normalization="integral")


class Sphere(ExactConstants):
    """Points of a rule, and the transforms to and from degrees up to ``lmax``; nothing in it is learned.

    Analysis by least squares, ``(Yᵀ W Y)⁻¹ Yᵀ W``, undoes synthesis to rounding for any points, and is the quadrature
    ``Yᵀ W`` where the rule is exact to degree ``2 lmax``. Quadrature with other rules is here to be measured.

    Even and odd degrees are not kept apart, which at pairs of opposite points halves the products: the icosahedral
    rules of 72 and 132 points have no such pairs but the 12 vertices. On others it would make the transforms 1.1 to 1.2
    times as fast, which are a sixth of an update's time (`tests/benchmarks/layers.py`).

    Attributes:
        points: (N, 3) unit vectors.
        weights: (N,), they sum up to 4 pi.
        synthesis: Y (N, K), harmonics at the points.
        analysis: M (K, N).
    """

    points: Tensor
    weights: Tensor
    synthesis: Tensor
    analysis: Tensor

    def __init__(self, rule: PointRule, lmax: int, analysis: Analysis = "least_squares") -> None:
        super().__init__()
        self.lmax = lmax
        points = torch.tensor(rule.points, dtype=torch.float64)
        weights = torch.tensor(rule.weights, dtype=torch.float64)
        y = harmonics(lmax, points)
        gram = y.T @ (weights[:, None] * y)
        if len(points) < y.shape[1] or float(torch.linalg.cond(gram)) > WORST_CONDITION:
            raise ConfigError(f"{len(points)} points are too few for degrees up to {lmax}: take a larger point rule.")
        least_squares = torch.linalg.solve(gram, y.T * weights)
        self.keep(
            points=points,
            weights=weights,
            synthesis=y,
            analysis=least_squares if analysis == "least_squares" else y.T * weights,
        )

    def to_points(self, coefficients: Tensor) -> Tensor:
        """Values (n, N, C) of functions with coefficients (n, K, C)."""
        return self.synthesis @ coefficients

    def to_coefficients(self, values: Tensor) -> Tensor:
        """Coefficients (n, K, C) of functions with values (n, N, C)."""
        return self.analysis @ values


WORST_CONDITION = 1e3
"""Of the Gram matrix of the harmonics at the points."""


def _around_y(height: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Points (N, 3) of heights and turns about the y axis, which is the polar axis of e3nn's harmonics."""
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.sin(turn), height, radius * np.cos(turn)], axis=1)


def _icosahedral_rotations() -> np.ndarray:
    """All 60, generated by a fifth of a turn about (0, 1, golden) and a third of a turn about (1, 1, 1)."""
    from scipy.spatial.transform import Rotation

    def turn(axis: tuple[float, float, float], angle: float) -> np.ndarray:
        return Rotation.from_rotvec(angle * np.array(axis) / np.linalg.norm(axis)).as_matrix()

    generators = (turn(_VERTEX, 2 * np.pi / 5), turn(_FACE, 2 * np.pi / 3))
    found, new = [np.eye(3)], [np.eye(3)]
    while new:
        products = [g @ r for r in new for g in generators]
        new = []
        for candidate in products:
            if all(np.abs(candidate - known).max() > 1e-6 for known in found):
                found.append(candidate)
                new.append(candidate)
    return np.array(found)


def _listed(rules: dict, count: int):
    if count not in rules:
        raise ConfigError(f"There is no such rule of {count} points; there are: {', '.join(map(str, rules))}.")
    return rules[count]
