"""The shipped weights obey the same physics as any potential."""

from __future__ import annotations

import pytest
import torch
from physics.mixin import PotentialPhysics

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.potential import Potential


class TestGeoMFormerOrganic(PotentialPhysics):
    crystals = ("dry_ice", "carbon", "graphene", "chain")
    perfect_crystals = ("perfect_carbon",)
    tiny_crystal = "carbon"
    layer = "graphene"

    @pytest.fixture
    def potential(self) -> Potential:
        return load_checkpoint("geomformer-organic").potential.set_dtype(torch.float64).eval()
