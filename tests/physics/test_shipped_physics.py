"""The shipped weights obey the same physics as any potential: all that the registry has, on the elements they know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import STRUCTURES
from physics.mixin import PotentialPhysics, evaluate, random_rotation

from ase_geomol.checkpoint import load_checkpoint, shipped_models
from ase_geomol.models.est import EST
from ase_geomol.potential import Potential

ENERGY_CHANGE, FORCE_CHANGE, STRESS_CHANGE = 1e-5, 1e-4, 1e-5
"""eV/atom, eV/Å and eV/Å³: what a turn or a mirror may change at most, in float64."""


def physics_of(shipped: Potential) -> type[PotentialPhysics]:
    """The tests of one potential."""
    elements = set(shipped.elements)
    shipped = shipped.set_dtype(torch.float64).eval()

    def known(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if set(STRUCTURES[name]().numbers.tolist()) <= elements)

    class Shipped(PotentialPhysics):
        molecules = known(*PotentialPhysics.molecules)
        crystals = known(*PotentialPhysics.crystals, "dry_ice", "carbon", "graphene")
        symmetric_molecules = known(*PotentialPhysics.symmetric_molecules)
        perfect_crystals = known(*PotentialPhysics.perfect_crystals, "perfect_carbon")
        tiny_crystal = next(iter(known("triclinic", "carbon")), None)
        layer = next(iter(known("slab", "graphene")), None)
        dimer_elements = sorted(elements)[:: -(-len(elements) // 12)]  # the benchmark `dimers` has all
        local = shipped.cutoff is not None
        rotation_tolerance = FORCE_CHANGE if isinstance(shipped.model, EST) else PotentialPhysics.rotation_tolerance

        @pytest.fixture
        def potential(self) -> Potential:
            return shipped

        @pytest.mark.parametrize("determinant", [1, -1])
        def test_turned_and_mirrored_structures_are_as_they_were(
            self, potential: Potential, make_structure, any_name: str, determinant: int
        ) -> None:
            if "squeezed" in any_name:
                pytest.skip("its forces are a hundred times those of structures that exist")
            atoms, rotation = make_structure(any_name), random_rotation(determinant)
            turned = atoms.copy()
            turned.set_cell(np.asarray(atoms.cell) @ rotation.T)
            turned.positions = atoms.positions @ rotation.T
            before, after = evaluate(potential, atoms), evaluate(potential, turned)
            assert abs(after["energy"] - before["energy"]) / len(atoms) <= ENERGY_CHANGE
            apart = np.linalg.norm(after["forces"] - before["forces"] @ rotation.T, axis=1)
            assert apart.max() <= FORCE_CHANGE
            if atoms.pbc.all():
                assert np.abs(after["stress"] - rotation @ before["stress"] @ rotation.T).max() <= STRESS_CHANGE

    return Shipped


for _name, _listed in shipped_models().items():
    if _listed.kind == "potential":
        _title = "Test" + "".join(map(str.capitalize, _name.split("-")))
        globals()[_title] = physics_of(load_checkpoint(_name).potential)


def test_the_potential_of_crystals_is_small_and_knows_most_elements() -> None:
    listed = shipped_models()["est-crystal"]
    assert len(listed.elements) >= 60
    assert listed.path.stat().st_size < 10e6
