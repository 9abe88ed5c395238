"""What the benchmarks of points on the sphere stand on, and their statements in small."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule

from ase_geomol.graph import from_atoms
from ase_geomol.models.est import EST, ESTConfig
from ase_geomol.nn.sphere import harmonics, point_rule
from ase_geomol.potential import Potential

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A benchmark as a module, by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def make(points: str) -> Potential:
    torch.manual_seed(0)
    config = {"elements": (1, 6, 8), "points": points, "channels": 16, "layers": 2, "message": "attention"}
    return Potential(EST(ESTConfig.model_validate(config))).eval().set_dtype(torch.float64)  # pyright: ignore[reportArgumentType]


def test_other_points_are_those_of_a_network_made_with_them(script) -> None:
    sphere = script("_sphere")
    graph = from_atoms(molecule("CH3CH2OH"), 5.0)
    plain, other = make("icosahedral-32"), make("icosahedral-72")
    changed = make("icosahedral-32")
    sphere.use_points(changed, sphere.Variant("72", point_rule("icosahedral-72"), "least_squares"), 2)
    energies = [float(potential(graph, forces=False).energy) for potential in (plain, other, changed)]
    assert energies[2] == pytest.approx(energies[1], abs=1e-12)
    assert abs(energies[0] - energies[1]) > 1e-9


@pytest.mark.parametrize("lmax", [1, 2, 4])
def test_the_product_grid_integrates_products_of_harmonics(script, lmax: int) -> None:
    grid = script("_sphere").e3nn_grid(72 if lmax < 4 else 132, lmax)
    values = harmonics(lmax, torch.tensor(grid.points)).numpy()
    gram = values.T @ (grid.weights[:, None] * values)
    assert np.allclose(gram, np.eye((lmax + 1) ** 2), atol=1e-12)


@pytest.mark.parametrize(("lmax", "points", "goal"), [(2, "icosahedral-72", 10), (4, "icosahedral-132", 2)])
def test_exact_points_turn_better_than_as_many_of_a_lattice(script, lmax: int, points: str, goal: float) -> None:
    rotations: Any = script("rotations")
    found = rotations._changes((rotations.Case("exact", "gata", lmax, points, 2, 4), 2))
    assert found["lattice, quadrature"] > goal * found["exact"]
    assert found["exact"] > 1e-12, "or rounding is compared"


def test_a_star_and_its_turn_differ_on_the_lattice_alone(script) -> None:
    star: Any = script("star")
    _, exact = star._trial(1, 3, "coefficients", 0, epochs=1)
    _, lattice = star._trial(1, 3, "lattice", 0, epochs=1)
    _, seen = star._trial(3, 3, "coefficients", 0, epochs=1)
    assert exact < 1e-3 * lattice
    assert seen > 1e-2
