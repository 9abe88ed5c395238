"""Both forms of GeoMFormer, in all their variants, obey physics."""

from __future__ import annotations

import pytest
import torch
from physics.mixin import PotentialPhysics, assert_smooth_crossing

from ase_geomol.models import GeoMFormer
from ase_geomol.models.geomformer.modules import Attention
from ase_geomol.potential import Potential


class TestLocal(PotentialPhysics):
    """SiLU attention and RMS norm, the default: what is shipped."""

    options: dict[str, object] = {}  # noqa: RUF012
    seed = 5

    @pytest.fixture
    def potential(self, make_potential) -> Potential:
        return make_potential(seed=self.seed, **self.options)

    def test_smooth_where_the_leaving_neighbour_has_the_largest_logit(self, potential: Potential, make_potential):
        """A bias that grows towards the cutoff lets the leaving neighbour dominate its row until it is gone."""
        favouring = make_potential(seed=self.seed, **self.options)
        _favour_far_neighbours(favouring.model)
        assert_smooth_crossing(favouring, *self.crossing)


@torch.no_grad()
def _favour_far_neighbours(model: GeoMFormer) -> None:
    """Set the structural bias of every module to rise from about 0 of an atom with itself to about 6 at the cutoff."""
    assert model.cutoff is not None
    model.radial.scale.fill_(1.0)  # all pairs of elements have the same kernels
    model.radial.offset.fill_(0.0)
    distance = torch.linspace(0.0, 0.999, 100, dtype=torch.float64) * model.cutoff
    functions = model.radial(distance, torch.zeros(len(distance), dtype=torch.long)).T
    if model.radial_hidden is not None:
        functions = torch.nn.functional.gelu(model.radial_hidden(functions))
    rise = 6 * (distance / model.cutoff) ** 2
    weight = torch.linalg.lstsq(functions, rise[:, None], rcond=1e-5, driver="gelsd").solution.T
    modules = [module for module in model.modules() if isinstance(module, Attention)]
    assert len(modules) == 4 * model.config.layers - 1  # the last layer has no use for the equivariant cross-attention
    for module in modules:
        assert module.radial is not None
        bias = slice(0, module.heads)  # filters come behind it
        module.radial.weight[bias] = 0.0
        module.radial.bias[bias] = 0.0
        module.radial.weight[bias] = weight
        near, far = module.radial(functions[[len(distance) // 2, -1]])[:, bias]
        assert (far > near + 3).all()


class TestSoftmax(TestLocal):
    options = {"attention_norm": "softmax"}  # noqa: RUF012


class TestSum(TestLocal):
    options = {"attention_norm": "sum"}  # noqa: RUF012


class TestGaussian(TestLocal):
    options = {"radial_basis": "gaussian"}  # noqa: RUF012


class TestWhiten(TestLocal):
    """With the paper's kernels; with the default ones it amplifies rounding beyond what the mixin allows."""

    options = {"equivariant_norm": "whiten", "radial_basis": "gaussian"}  # noqa: RUF012


class TestSteepEnvelope(TestLocal):
    """Under softmax, which reads the envelope's logarithm."""

    options = {"envelope_power": 6, "attention_norm": "softmax"}  # noqa: RUF012


class TestRadialNetwork(TestLocal):
    options = {"radial_channels": 12}  # noqa: RUF012


class TestWithoutQueryProducts(TestLocal):
    options = {"query_products": False}  # noqa: RUF012
    seed = 6


class TestWithoutQuadrupole(TestLocal):
    options = {"quadrupole": False}  # noqa: RUF012


class TestSingleAtoms(TestLocal):
    """Molecules, too, are computed as single atoms with their neighbours, like everything periodic."""

    @pytest.fixture(autouse=True)
    def single_atoms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ase_geomol.nn.blocks.LARGEST_BLOCK", 0)


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
