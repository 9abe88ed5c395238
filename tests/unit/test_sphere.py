"""Point rules, harmonics and transforms against what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from ase_geomol.errors import ConfigError
from ase_geomol.nn.degrees import wigner
from ase_geomol.nn.sphere import ICOSAHEDRAL, LEBEDEV, PointRule, Sphere, fibonacci, harmonics, point_rule

RULES = (
    *(f"icosahedral-{count}" for count in ICOSAHEDRAL),
    *(f"lebedev-{count}" for count in LEBEDEV),
    "product-50",
    "product-98",
)
# Largest element of Y^T W Y - I for the Fibonacci lattice: design specification of EST, section 2.3.
ROUND_TRIP = {
    1: {32: 1.3e-2, 50: 6.3e-3, 72: 2.3e-3, 90: 2.2e-3, 128: 1.5e-3, 182: 5.8e-4, 256: 3.4e-4, 512: 1.2e-4},
    2: {32: 3.9e-2, 50: 1.9e-2, 72: 9.3e-3, 90: 6.4e-3, 128: 4.5e-3, 182: 2.3e-3, 256: 1.3e-3, 512: 4.5e-4},
    3: {32: 7.8e-2, 50: 4.0e-2, 72: 2.1e-2, 90: 1.3e-2, 128: 9.4e-3, 182: 5.0e-3, 256: 2.7e-3, 512: 9.8e-4},
    4: {32: 1.7e-1, 50: 6.9e-2, 72: 3.9e-2, 90: 2.4e-2, 128: 1.7e-2, 182: 8.9e-3, 256: 4.8e-3, 512: 1.7e-3},
    6: {50: 3.5e-1, 72: 1.3e-1, 90: 6.2e-2, 128: 4.0e-2, 182: 2.1e-2, 256: 1.0e-2, 512: 3.8e-3},
}
EXACT = {1: "icosahedral-12", 2: "icosahedral-12", 3: "lebedev-26", 4: "icosahedral-32", 6: "icosahedral-72"}


def gram_error(rule: PointRule, lmax: int) -> float:
    y = harmonics(lmax, torch.tensor(rule.points))
    gram = y.T @ (torch.tensor(rule.weights)[:, None] * y)
    return float((gram - torch.eye(len(gram), dtype=torch.float64)).abs().max())


def largest_integral(rule: PointRule, degree: int) -> float:
    """Of all harmonics of one degree, by an implementation that is not ours nor e3nn's."""
    x, y, z = rule.points.T
    values = sph_harm_y(degree, np.arange(degree + 1)[:, None], np.arccos(z.clip(-1, 1)), np.arctan2(y, x))
    return float(np.abs(values @ rule.weights).max())


@pytest.mark.parametrize("name", RULES)
def test_rule_integrates_to_its_degree_and_no_further(name: str):
    rule = point_rule(name)
    assert len(rule.points) == int(name.split("-")[1]) == len(np.unique(rule.points.round(6), axis=0))
    assert np.allclose(np.linalg.norm(rule.points, axis=1), 1, atol=1e-14)
    assert (rule.weights > 0).all()
    assert abs(rule.weights.sum() - 4 * np.pi) < 1e-12
    integrals = [largest_integral(rule, degree) for degree in range(1, rule.degree + 4)]
    assert max(integrals[: rule.degree]) < 1e-13
    assert max(integrals[rule.degree :]) > 1e-3, "the rule is better than it says"


@pytest.mark.parametrize("count", ICOSAHEDRAL)
def test_icosahedral_rules_have_the_rotations_of_the_icosahedron(count: int):
    points = point_rule(f"icosahedral-{count}").points
    golden = (1 + math.sqrt(5)) / 2
    for axis, fold in (((0, 1, golden), 5), ((1, 1, 1), 3), ((1, 0, 0), 2)):
        turn = Rotation.from_rotvec(2 * np.pi / fold * np.array(axis) / np.linalg.norm(axis))
        assert np.linalg.norm(turn.apply(points)[:, None] - points[None], axis=-1).min(1).max() < 1e-9


@pytest.mark.parametrize(("name", "count"), [("icosahedral-32", 32), ("icosahedral-72", 12), ("lebedev-50", 50)])
def test_how_many_points_have_an_opposite(name: str, count: int):
    """Only these could be transformed in halves, by even and odd degrees."""
    points = point_rule(name).points
    nearest = np.linalg.norm(points[:, None] + points[None], axis=-1).min(1)
    assert (nearest < 1e-9).sum() == count
    assert len(points) == count or nearest.max() > 0.1


def test_fibonacci_lattice_has_bands_of_equal_area():
    rule = fibonacci(90)
    heights = np.sort(rule.points[:, 1])
    assert np.allclose(np.diff(heights), 2 / 90)
    assert heights[0] == pytest.approx(-1 + 1 / 90)
    assert np.ptp(rule.weights) == 0


def test_harmonics_are_orthonormal():
    assert gram_error(point_rule("lebedev-302"), 8) < 1e-12


def test_degree_one_is_x_y_z():
    vectors = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1)
    assert torch.allclose(harmonics(1, vectors)[:, 1:], math.sqrt(3 / (4 * math.pi)) * vectors, atol=1e-14)


def test_harmonics_turn_with_the_points():
    from e3nn import o3

    rotation = torch.tensor(Rotation.random(random_state=3).as_matrix())
    points = torch.nn.functional.normalize(torch.randn(30, 3, dtype=torch.float64), dim=1)
    matrix = wigner(rotation[None], 6)[0]
    assert torch.allclose(harmonics(6, points @ rotation.T), harmonics(6, points) @ matrix.T, atol=1e-12)
    for degree in range(7):  # e3nn goes through angles in single precision
        block = matrix[degree**2 : (degree + 1) ** 2, degree**2 : (degree + 1) ** 2]
        assert torch.allclose(o3.Irrep(degree, 1).D_from_matrix(rotation), block, atol=2e-5)


@pytest.mark.parametrize("lmax", ROUND_TRIP)
def test_round_trip_of_the_fibonacci_lattice(lmax: int):
    for count, expected in ROUND_TRIP[lmax].items():
        assert gram_error(fibonacci(count), lmax) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("lmax", EXACT)
def test_round_trip_of_exact_rules(lmax: int):
    rule = point_rule(EXACT[lmax])
    assert gram_error(rule, lmax) < 7e-15
    sphere = Sphere(rule, lmax).double()
    quadrature = sphere.synthesis.T * sphere.weights
    assert torch.allclose(sphere.analysis, quadrature, atol=1e-13), (
        "least squares is the quadrature where that is exact"
    )


@pytest.mark.parametrize("name", ["fibonacci-30", "icosahedral-32", "lebedev-50"])
def test_analysis_undoes_synthesis_for_all_points(name: str):
    sphere = Sphere(point_rule(name), 2).double()
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    assert torch.allclose(sphere.to_coefficients(sphere.to_points(x)), x, atol=1e-13)


def test_a_change_of_precision_and_back_loses_nothing():
    sphere = Sphere(point_rule("icosahedral-72"), 3)
    assert sphere.analysis.dtype == torch.float32
    error = sphere.double().analysis @ sphere.synthesis - torch.eye(16, dtype=torch.float64)
    assert error.abs().max() < 1e-14
    assert sphere.float().double().weights.sum() == pytest.approx(4 * math.pi, abs=1e-13)
    assert not list(sphere.parameters())
    assert not sphere.state_dict()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cube-8", "No point rule"),
        ("fibonacci", "No point rule"),
        ("fibonacci-0", "No point rule"),
        ("icosahedral-20", "12, 32, 72, 132"),
        ("lebedev-74", "no such rule"),
        ("product-60", "2n²"),
    ],
)
def test_no_such_rule(name: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        point_rule(name)


def test_too_few_points():
    with pytest.raises(ConfigError, match="too few for degrees up to 4"):
        Sphere(point_rule("icosahedral-12"), 4)


def test_products_of_functions_are_gaunt_contractions():
    """Theorem 1 of the paper: what points multiply are the tensor products of even sum of degrees, to rounding."""
    from e3nn.o3 import wigner_3j

    generator = torch.Generator().manual_seed(0)
    first, second = torch.nn.functional.normalize(torch.randn(2, 5, generator=generator, dtype=torch.float64), dim=1)
    analysed = torch.einsum("kab,a,b->k", analysed_products("icosahedral-72"), first, second)
    for degree in range(5):
        found = analysed[degree**2 : (degree + 1) ** 2]
        three_j = torch.einsum("a,b,abc->c", first, second, wigner_3j(2, 2, degree, dtype=torch.float64))
        if degree % 2:
            expected = torch.zeros_like(found)
            assert three_j.abs().max() > 0.01, "this path exists among tensor products, not among point-wise ones"
        else:
            expected = three_j * gaunt_factor(2, 2, degree)
        assert (found - expected).abs().max() < 2e-15


@pytest.mark.parametrize(("count", "expected"), [(64, 1.1e-2), (128, 4.8e-3), (256, 1.3e-3)])
def test_products_on_the_fibonacci_lattice(count: int, expected: float):
    """Errors of one pair of functions, section 9.5 of the specification; here the largest of any two harmonics."""
    error = (analysed_products(f"fibonacci-{count}") - analysed_products("icosahedral-72")).abs().max()
    assert expected < error < 1.6 * expected


def analysed_products(points: str) -> torch.Tensor:
    """Coefficients (25, 5, 5), by quadrature, of the products of any two harmonics of degree 2."""
    sphere = Sphere(point_rule(points), 4, "quadrature").double()
    y = sphere.synthesis[:, 4:9]
    return torch.einsum("kn,na,nb->kab", sphere.analysis, y, y)


def gaunt_factor(first: int, second: int, third: int) -> float:
    """Ratio of the integral of three harmonics to Wigner's 3j symbol in e3nn's basis (up to its sign there)."""
    from e3nn.o3 import wigner_3j

    scale = math.sqrt((2 * first + 1) * (2 * second + 1) * (2 * third + 1) / (4 * math.pi))
    centre = float(wigner_3j(first, second, third, dtype=torch.float64)[first, second, third])
    return scale * centre
