"""EST with each of its messages obeys physics, as exactly as its points allow."""

from __future__ import annotations

import pytest
from physics.mixin import PotentialPhysics

from ase_geomol.potential import Potential


class TestZonal(PotentialPhysics):
    """The message of the paper, the default."""

    options: dict[str, object] = {}  # noqa: RUF012

    @pytest.fixture
    def potential(self, make_potential) -> Potential:
        return make_potential(5, "est", **self.options)


class TestGata(TestZonal):
    options = {"message": "gata"}  # noqa: RUF012


class TestSO2(TestZonal):
    options = {"message": "so2"}  # noqa: RUF012


class TestGraphAttention(TestZonal):
    options = {"message": "graph_attention"}  # noqa: RUF012
