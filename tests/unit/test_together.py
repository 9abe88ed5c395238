"""Structures that are relaxed together end where each of them ends alone."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms

from ase_geomol import ConfigError, GeoMolCalculator
from ase_geomol.simulate import relax, relax_together, together


@pytest.fixture(scope="module")
def calculator() -> GeoMolCalculator:
    return GeoMolCalculator("geomformer-organic", dtype="float64")


@pytest.fixture
def structures():
    made = []
    for seed, name in enumerate(("CH3OH", "C2H6", "H2O", "CH3OH")):
        made.append(molecule(name))
        made[-1].rattle(0.08, seed=seed)
    made[0].set_constraint(FixAtoms([0, 1]))
    return made


@pytest.mark.parametrize("at_once", [1000, 9, 1])
def test_as_one_by_one(structures, calculator, monkeypatch, at_once):
    monkeypatch.setattr(together, "ATOMS_AT_ONCE", at_once)
    before = [atoms.positions.copy() for atoms in structures]
    ends = relax_together(structures, calculator, fmax=0.05, steps=60)
    for atoms, start, end in zip(structures, before, ends, strict=True):
        assert np.array_equal(atoms.positions, start)
        alone = atoms.copy()
        alone.calc = calculator
        alone = relax(alone, fmax=0.05, steps=60).atoms
        np.testing.assert_allclose(end.positions, alone.positions, atol=1e-6)
        assert end.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-8)
        assert np.linalg.norm(end.get_forces(), axis=1).max() < 0.05
    assert np.array_equal(ends[0].positions[:2], before[0][:2])


def test_steps_are_counted(structures, calculator):
    (still,) = relax_together(structures[1:2], calculator, steps=0)
    assert np.array_equal(still.positions, structures[1].positions)
    (once,) = relax_together(structures[1:2], calculator, steps=1)
    alone = structures[1].copy()
    alone.calc = calculator
    np.testing.assert_allclose(once.positions, relax(alone, steps=1).atoms.positions, atol=1e-9)


def test_refused_ones_do_not_stop_the_others(structures, calculator):
    structures[1].positions[0] = structures[1].positions[1]
    structures[2].numbers[0] = 2
    ends = relax_together(structures, calculator, steps=3)
    assert [end is None for end in ends] == [False, True, True, False]
    assert relax_together([], calculator) == []


def test_wrong_arguments(structures, calculator):
    for wrong in ({"fmax": 0.0}, {"steps": -1}):
        with pytest.raises(ConfigError):
            relax_together(structures, calculator, **wrong)
    with pytest.raises(ConfigError, match="committee"):
        relax_together(structures, GeoMolCalculator(["geomformer-organic", "geomformer-organic"]))
