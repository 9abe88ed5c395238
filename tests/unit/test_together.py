"""Structures that are relaxed together end where each of them ends alone."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from ase_geomol import ConfigError, GeoMolCalculator
from ase_geomol.simulate import relax, relax_together, together
from ase_geomol.simulate.together import relax_in_turn


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


def test_calculators_that_take_one_at_a_time(structures, calculator):
    """A committee of equals is no other potential, and EMT is none of ours."""
    ends = relax_together(structures[:2], calculator, fmax=0.2)
    others = relax_together(structures[:2], GeoMolCalculator(["geomformer-organic"] * 2, dtype="float64"), fmax=0.2)
    for end, other in zip(ends, others, strict=True):
        np.testing.assert_allclose(end.positions, other.positions, atol=1e-6)
    water = structures[2].copy()
    water.calc = EMT()
    alone = relax(water, fmax=0.05)
    for end in relax_in_turn([structures[2]] * 2, EMT(), fmax=0.05):
        assert end.converged
        assert end.steps == alone.steps > 0
        np.testing.assert_allclose(end.atoms.positions, alone.atoms.positions)


def test_structures_are_read_as_there_is_room(structures, calculator, monkeypatch):
    read = []

    def reading():
        for place in range(6):
            read.append(place)
            yield structures[place % 4]

    monkeypatch.setattr(together, "ATOMS_AT_ONCE", 15)
    ends = relax_in_turn(reading(), calculator, fmax=0.05, steps=0)
    assert [next(ends).place for _ in range(3)] == [0, 1, 2]
    assert read == [0, 1, 2]  # 6 + 8 + 3 atoms
    assert next(ends).place == 3
    assert read == [0, 1, 2, 3, 4, 5]  # 6 + 6 + 8 atoms
    assert [end.place for end in ends] == [4, 5]


def test_the_deadline_ends_all_where_they_are(structures, calculator, monkeypatch):
    clock = iter([0.0] * 5)
    monkeypatch.setattr(together, "ATOMS_AT_ONCE", 30)
    monkeypatch.setattr(together.time, "monotonic", lambda: next(clock, 99.0))
    waiting = iter(structures * 10)
    ends = list(relax_in_turn(waiting, calculator, fmax=1e-6, deadline=50.0))
    assert len(ends) == len(structures) * 10 - len(list(waiting)) > 4
    assert {end.converged for end in ends} == {False}
    assert {end.steps for end in ends} == {2}
    assert all(np.isfinite(end.atoms.get_potential_energy()) for end in ends)


def test_what_cannot_be_computed_says_why(structures, calculator):
    structures[1].positions[0] = structures[1].positions[1]
    found = {end.place: end for end in relax_in_turn(structures, calculator, steps=2)}
    assert "coincide" in str(found[1].error)
    assert [found[place].error for place in (0, 2, 3)] == [None] * 3
