"""Results that are kept as they are computed."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.optimize import BFGS

from ase_geomol.errors import DataError
from ase_geomol.simulate import ResumableCalculator


class Counted(EMT):
    """EMT that counts what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def calculate(self, *given):
        self.calls += 1
        super().calculate(*given)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calculated.jsonl"


def relaxed(calculator, steps=100):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=steps)
    return atoms


def test_a_job_retraces_its_steps(path):
    whole = Counted()
    expected = relaxed(whole)
    relaxed(ResumableCalculator(Counted(), path), steps=3)
    rest = Counted()
    resumed = ResumableCalculator(rest, path)
    assert resumed.known == 4
    atoms = relaxed(resumed)
    assert rest.calls == whole.calls - 4 > 0
    assert np.allclose(atoms.positions, expected.positions, rtol=0, atol=1e-10), "EMT's list of neighbours begins anew"
    assert np.allclose(atoms.get_forces(), expected.get_forces(), rtol=0, atol=1e-10)


def test_a_job_that_had_ended_computes_nothing(path):
    first = relaxed(ResumableCalculator(Counted(), path))
    nothing = Counted()
    second = relaxed(ResumableCalculator(nothing, path))
    assert nothing.calls == 0
    assert np.array_equal(first.positions, second.positions)
    assert np.array_equal(first.get_forces(), second.get_forces())
    assert first.get_potential_energy() == second.get_potential_energy()


def test_it_has_the_name_of_its_calculator(path):
    assert ResumableCalculator(EMT(), path).name == EMT().name == "emt"


def test_a_property_that_was_not_asked_for_is_computed(path):
    argon = bulk("Ar", cubic=True, a=2.0)
    first = ResumableCalculator(LennardJones(), path)
    first.get_property("energy", argon)
    second = ResumableCalculator(LennardJones(), path)
    stress = second.get_property("stress", argon)
    assert np.linalg.norm(stress) > 0
    assert np.array_equal(stress, LennardJones().get_property("stress", argon))


def test_half_a_line_is_cut_off(path):
    relaxed(ResumableCalculator(EMT(), path), steps=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    cut = ResumableCalculator(EMT(), path)
    assert cut.known == 2
    relaxed(cut, steps=2)
    assert len(path.read_bytes().splitlines()) == len(whole.splitlines())
    assert ResumableCalculator(EMT(), path).known == 3


def test_charges_are_told_apart(path):
    calculator = ResumableCalculator(Counted(), path)
    atoms = bulk("Cu")
    for charge in (0, 1, 1):
        atoms.info["charge"] = charge
        calculator.get_potential_energy(atoms)
    assert len(path.read_text().splitlines()) == 3, "the head, and two structures"


@pytest.mark.parametrize("content", ["1\n", "no JSON\n", '{"identity": {}}\n[]\n', "\xff\n"])
def test_other_files_are_left_alone(path, content):
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match="holds no results that could be looked up"):
        ResumableCalculator(EMT(), path)
    assert path.read_bytes() == content.encode("latin-1")


def test_results_of_another_calculator_are_refused(path):
    relaxed(ResumableCalculator(EMT(), path), steps=1)
    with pytest.raises(DataError, match="results of another calculator"):
        ResumableCalculator(LennardJones(), path)
