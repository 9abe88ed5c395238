"""Both forms of GeoMFormer, in all their variants, obey physics."""

from __future__ import annotations

import pytest
import torch
from physics.mixin import PotentialPhysics, assert_smooth_crossing

from ase_geomol.potential import Potential


class TestLocal(PotentialPhysics):
    """Softmax attention and RMS norm: what is shipped."""

    options: dict[str, object] = {}  # noqa: RUF012

    @pytest.fixture
    def potential(self, make_potential) -> Potential:
        return make_potential(seed=5, **self.options)

    def test_smooth_where_the_leaving_neighbour_has_the_largest_logit(self, potential: Potential, make_potential):
        """A bias that grows towards the cutoff lets the leaving neighbour dominate its row until it is gone."""
        favouring = make_potential(seed=5, **self.options)
        _favour_far_neighbours(favouring.model)
        assert_smooth_crossing(favouring, *self.crossing)


@torch.no_grad()
def _favour_far_neighbours(model: torch.nn.Module) -> None:
    """Set the structural bias to rise from about 0 to about 5 over the outer third of the cutoff."""
    kernels = torch.arange(len(model.radial.centre)) / (len(model.radial.centre) - 1) * model.cutoff
    model.radial.centre.copy_(kernels)
    model.radial.width.fill_(kernels[1])
    model.radial.scale.fill_(1.0)
    model.radial.offset.fill_(0.0)
    first, _, last = model.bias
    torch.nn.init.eye_(first.weight)
    torch.nn.init.zeros_(first.bias)
    torch.nn.init.zeros_(last.bias)
    torch.nn.init.zeros_(last.weight)
    last.weight[:, -3:] = 6.0
    radius = torch.tensor([0.5, 0.999], dtype=torch.float64) * model.cutoff
    near, far = model.bias(model.radial(radius, torch.zeros(2, dtype=torch.long)))
    assert (far > near + 3).all()


class TestWhiten(TestLocal):
    options = {"equivariant_norm": "whiten"}  # noqa: RUF012


class TestSilu(TestLocal):
    options = {"attention_norm": "silu"}  # noqa: RUF012


class TestSum(TestLocal):
    options = {"attention_norm": "sum"}  # noqa: RUF012


class TestSteepEnvelope(TestLocal):
    options = {"envelope_power": 6}  # noqa: RUF012


class TestWithoutQueryProducts(TestLocal):
    options = {"query_products": False}  # noqa: RUF012


class TestGlobal(PotentialPhysics):
    """The paper's form: all atoms see all, no crystals."""

    crystals = ()
    perfect_crystals = ()
    tiny_crystal = None
    layer = None
    local = False

    @pytest.fixture
    def potential(self, make_potential) -> Potential:
        return make_potential(seed=5, cutoff=None)
