"""Results that are kept as they are computed."""

import copy
import pickle
from typing import ClassVar

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.optimize import BFGS

from ase_geomol import GeoMolCalculator
from ase_geomol.errors import ConfigError, DataError, OutputError
from ase_geomol.simulate import ResumableCalculator


class Counted(EMT):
    """EMT that counts what it computes, and tells what decides its results."""

    identity: ClassVar = {"name": "emt"}

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def calculate(self, *given):
        self.calls += 1
        super().calculate(*given)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calculated.jsonl"


def opened(path, calculator=None):
    return ResumableCalculator(calculator or Counted(), path)


def relaxed(calculator, steps=100):
    """Copper's atoms after so many steps; the file is closed."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=steps)
    atoms.get_potential_energy()
    if isinstance(calculator, ResumableCalculator):
        calculator.close()
    return atoms


def test_a_job_retraces_its_steps(path):
    whole = Counted()
    expected = relaxed(whole)
    relaxed(opened(path), steps=3)
    rest = Counted()
    resumed = opened(path, rest)
    assert resumed.known == 4
    atoms = relaxed(resumed)
    assert rest.calls == whole.calls - 4 > 0
    assert np.allclose(atoms.positions, expected.positions, rtol=0, atol=1e-10), "EMT's list of neighbours begins anew"
    assert np.allclose(atoms.get_forces(), expected.get_forces(), rtol=0, atol=1e-10)


def test_a_job_that_had_ended_computes_nothing(path):
    first = relaxed(opened(path))
    nothing = Counted()
    second = relaxed(opened(path, nothing))
    assert nothing.calls == 0
    assert np.array_equal(first.positions, second.positions)
    assert np.array_equal(first.get_forces(), second.get_forces())
    assert first.get_potential_energy() == second.get_potential_energy()


def test_results_of_single_precision_are_the_same_when_looked_up(path):
    class Single(Counted):
        def calculate(self, *given):
            super().calculate(*given)
            self.results["forces"] = self.results["forces"].astype(np.float32)

    first = relaxed(opened(path, Single()))
    nothing = Single()
    second = relaxed(opened(path, nothing))
    assert nothing.calls == 0
    assert np.array_equal(first.positions, second.positions)


def test_results_are_nobody_elses(path):
    emt = Counted()
    ours, others = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    for number, atoms in enumerate((ours, others)):
        atoms.rattle(0.1, seed=number)
    ours.calc, others.calc = opened(path, emt), emt
    before = ours.get_forces()
    others.get_forces()
    assert np.array_equal(ours.get_forces(), before)


def test_a_property_that_was_not_asked_for_is_computed(path):
    argon, identity = bulk("Ar", cubic=True, a=2.0), {"name": "lj"}
    for wanted in ("energy", "stress"):
        calculator = ResumableCalculator(LennardJones(), path, identity=identity)
        found = calculator.get_property(wanted, argon)
        calculator.close()
    assert np.linalg.norm(found) > 0
    assert np.array_equal(found, LennardJones().get_property("stress", argon))


@pytest.mark.parametrize("damage", ["half a line", "a line of zeros", "no numbers"])
def test_what_stands_from_a_damaged_line_on_is_computed_again(path, damage):
    relaxed(opened(path), steps=3)
    lines = path.read_bytes().splitlines(keepends=True)
    bad = {"half a line": lines[3][:-20], "a line of zeros": b"\0" * 50 + b"\n", "no numbers": b'{"results": []}\n'}
    path.write_bytes(b"".join([*lines[:3], bad[damage], *(lines[4:] if damage != "half a line" else [])]))
    cut = opened(path)
    assert cut.known == 2
    relaxed(cut, steps=3)
    assert len(path.read_bytes().splitlines()) == len(lines)
    assert opened(path).known == 4


@pytest.mark.parametrize("what", ["charge", "spin", "charges", "moments", "tags"])
def test_structures_that_differ_in_what_calculators_read_are_told_apart(path, what):
    emt = Counted()
    emt.ignored_changes = set()
    calculator = opened(path, emt)
    atoms = bulk("Cu")
    set_value = {
        "charge": lambda value: atoms.info.update(charge=value),
        "spin": lambda value: atoms.info.update(spin=value),
        "charges": lambda value: atoms.set_initial_charges([value]),
        "moments": lambda value: atoms.set_initial_magnetic_moments([value]),
        "tags": lambda value: (calculator.reset(), atoms.set_tags([value])),
    }[what]
    for value in (0, 1):
        set_value(value)
        calculator.get_potential_energy(atoms)
    assert len(path.read_text().splitlines()) == 3, "the head, and two structures"


@pytest.mark.parametrize("content", ["1\n", "no JSON\n", '{"precious": 1}', '{"identity": {}}\n[]\n', "\xff\n"])
def test_other_files_are_left_alone(path, content):
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match="holds other things than are asked for"):
        opened(path)
    assert path.read_bytes() == content.encode("latin-1")


def test_results_of_another_calculator_are_refused(path):
    relaxed(opened(path), steps=1)
    with pytest.raises(DataError, match="holds other things than are asked for"):
        ResumableCalculator(EMT(), path, identity={"name": "emt", "version": 2})
    with pytest.raises(DataError, match="holds other things than are asked for"):
        ResumableCalculator(Counted(), path, about="another job")


def test_a_calculator_must_tell_what_decides_its_results(path):
    with pytest.raises(ConfigError, match="EMT does not tell what decides its results"):
        ResumableCalculator(EMT(), path)
    with pytest.raises(ConfigError, match="identity of EMT cannot be written as JSON"):
        ResumableCalculator(EMT(), path, identity={("Si", "Si"): object()})
    assert not path.exists()


def test_one_calculator_writes_one_file(path):
    first = opened(path)
    with pytest.raises(ConfigError, match="Another calculator writes"):
        opened(path)
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            copied(first)
    first.close()
    opened(path)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="Cannot write"):
        opened(tmp_path / "missing/calculated.jsonl")


def test_a_result_that_cannot_be_kept(path):
    class Odd(Counted):
        def calculate(self, *given):
            super().calculate(*given)
            self.results["forces"] = [[1.0], [1.0, 2.0]]

    with pytest.raises(DataError, match="A result of odd cannot be kept"):
        opened(path, Odd()).get_property("forces", bulk("Cu"))


def test_potentials_of_this_package_tell_what_they_are(path, make_checkpoint):
    calculator = ResumableCalculator(GeoMolCalculator(make_checkpoint(seed=0)), path)
    assert calculator.identity["weights"]
    assert set(calculator.implemented_properties) == {"energy", "free_energy", "energies", "forces", "stress"}
    calculator.close()
    with pytest.raises(DataError):
        ResumableCalculator(GeoMolCalculator(make_checkpoint(seed=1)), path)
    with pytest.raises(DataError):
        ResumableCalculator(GeoMolCalculator(make_checkpoint(seed=0), dtype="float64"), path)
