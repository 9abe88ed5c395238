"""EST with each of its messages obeys physics, as exactly as its points allow."""

from __future__ import annotations

import pytest
from physics.mixin import PotentialPhysics

from ase_geomol.potential import Potential


class TestZonal(PotentialPhysics):
    """The message of the paper, the default; with few points, since each edge has all of them."""

    options: dict[str, object] = {"points": "icosahedral-72", "zonal_nodes": 8}  # noqa: RUF012
    rotation_tolerance = 1e-4
    seed = 5

    @pytest.fixture
    def potential(self, make_potential) -> Potential:
        return make_potential(self.seed, "est", **self.options)


class TestGata(TestZonal):
    options = {"message": "gata"}  # noqa: RUF012
    rotation_tolerance = 1e-6


class TestSO2(TestGata):
    options = {"message": "so2"}  # noqa: RUF012
    seed = 8


class TestGraphAttention(TestGata):
    options = {"message": "graph_attention"}  # noqa: RUF012
    seed = 13


class TestAttention(TestGata):
    options = {"message": "attention"}  # noqa: RUF012
    seed = 12


class TestSingleAtoms(TestAttention):
    """Molecules, too, are computed as single atoms with their neighbours, like everything periodic."""

    @pytest.fixture(autouse=True)
    def single_atoms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ase_geomol.nn.blocks.LARGEST_BLOCK", 0)


class TestPointNorm(TestGata):
    """The paper's norm at each point, with enough points."""

    options = {"message": "gata", "norm": "point"}  # noqa: RUF012
    rotation_tolerance = 1e-3


class TestPaper(TestZonal):
    """The paper's mode as a whole: its message, its norm, its 30 points; all but rotations is exact all the same."""

    options = {"mode": "paper", "heads": 1, "zonal_nodes": 8}  # noqa: RUF012
    rotation_tolerance = 0.15
