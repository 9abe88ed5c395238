"""What all providers share: seeds, further attempts, checks, time limits, what is said of missing structures."""

from __future__ import annotations

import pickle
import time
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.lj import LennardJones

from ase_geomol import GeoMolCalculator, RDKitProvider
from ase_geomol.errors import ConfigError, InputError, ProviderError, ProviderWarning
from ase_geomol.providers.base import TIME, Candidate, Limits, Provider
from ase_geomol.providers.drawing import HOPELESS
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.refine import clusters, families, representatives, superimposed
from ase_geomol.providers.rmsd import rmsd_matrix, rmsd_to_each, symmetry

WATER = np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])


class Shaker(Provider):
    """Water, shaken; some candidates are torn, more the larger ``torn``."""

    name = "shaker"
    version = "1"

    def __init__(self, torn: float = 0.0, batch: int = 1, seconds: float = 0.0) -> None:
        self.limits = Limits(atoms=3, elements=(1, 8))
        self.torn, self.batch, self.seconds = torn, batch, seconds
        self.drawn = 0

    def at_once(self, molecule):
        return self.batch

    def draw(self, molecule, seeds, deadline):
        for seed in seeds:
            time.sleep(self.seconds)
            rng = np.random.default_rng(seed)
            self.drawn += 1
            positions = WATER + rng.normal(0, 0.02, (3, 3))
            positions[1] *= 5 if rng.random() < self.torn else 1
            yield Candidate(positions, {"method": "shaken"})


@pytest.fixture(scope="module")
def rdkit() -> RDKitProvider:
    return RDKitProvider()


@pytest.mark.parametrize("torn", [0.0, 0.4])
def test_a_structure_depends_on_its_number_and_the_seed_alone(torn):
    few = Shaker(torn).sample("O", 3, seed=5, attempts=50)
    many = Shaker(torn, batch=4).sample("O", 11, seed=5, attempts=50)
    assert [atoms.info["index"] for atoms in many] == list(range(11))
    for first, second in zip(few, many[:3], strict=True):
        np.testing.assert_array_equal(first.positions, second.positions)
    other = Shaker(torn).sample("O", 3, seed=6, attempts=50)
    assert np.abs(few[0].positions - other[0].positions).max() > 1e-3
    assert len({atoms.positions.tobytes() for atoms in many}) == 11


def test_failed_candidates_are_replaced_and_counted():
    provider = Shaker(torn=0.5)
    ensemble = provider.sample("O", 20, attempts=50)
    assert len(ensemble) == ensemble.requested == 20
    assert not ensemble.shortage
    assert ensemble.failures == {"broken or new bonds": provider.drawn - 20}
    assert provider.drawn > 25


def test_missing_structures_are_told():
    with pytest.warns(
        ProviderWarning, match=r"Only \d+ of 20 structures of 'O' were made \(broken or new bonds: \d+\)"
    ):
        ensemble = Shaker(torn=0.5).sample("O", 20, attempts=1)
    assert 0 < len(ensemble) < 20
    assert ensemble.failures["broken or new bonds"] == 20 - len(ensemble)
    assert ensemble.shortage.startswith("Only")
    copied = pickle.loads(pickle.dumps(ensemble))
    assert (copied.failures, copied.requested, len(copied)) == (ensemble.failures, 20, len(ensemble))


def test_nothing_at_all_is_an_error_that_counts():
    provider = Shaker(torn=1.0)
    with pytest.raises(ProviderError, match="There is no structure of 'O'") as caught:
        provider.sample("O", 1000)
    assert provider.drawn == 4 * HOPELESS  # it gives up early
    assert caught.value.failures == {"broken or new bonds": provider.drawn}
    assert pickle.loads(pickle.dumps(caught.value)).failures == caught.value.failures


def test_an_iterator_draws_as_it_is_read():
    provider = Shaker(batch=4)
    drawing = provider.iterate("O", 10**6)
    first = [next(drawing) for _ in range(6)]
    assert provider.drawn == 8
    assert [atoms.info["index"] for atoms in first] == list(range(6))
    with pytest.warns(ProviderWarning, match="Only"):
        assert 0 < len(list(Shaker(torn=0.5).iterate("O", 20, attempts=1))) < 20
    drawing = Shaker(torn=1.0).iterate("O", 3)
    with pytest.raises(ProviderError):
        next(drawing)
    assert drawing.failures == {"broken or new bonds": 12}


def test_checks_can_be_left_out():
    assert len(Shaker(torn=1.0).sample("O", 3, checks=())) == 3


def test_time_limit_between_candidates():
    begin = time.monotonic()
    with pytest.warns(ProviderWarning, match=f"{TIME}: "):
        ensemble = Shaker(seconds=0.05).sample("O", 1000, time_limit=0.3)
    assert time.monotonic() - begin < 1
    assert 1 < len(ensemble) < 10
    assert ensemble.failures == {TIME: 1000 - len(ensemble)}


def test_what_a_structure_carries():
    (atoms,) = Shaker().sample("O", seed=7)
    np.testing.assert_array_equal(atoms.info.pop("bonds"), [[0, 1, 1], [0, 2, 1]])
    np.testing.assert_array_equal(atoms.arrays["formal_charge"], [0, 0, 0])
    assert atoms.info == {
        "smiles": "O",
        "charge": 0,
        "spin": 1,
        "seed": 7,
        "index": 0,
        "provider": "shaker",
        "model_version": "1",
        "method": "shaken",
    }


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("OO", "has 4 atoms; this provider makes up to 3"),
        ("S", r"Atom 0 is S, which this provider does not know: H O\."),
        ("[OH3+]", r"has 4 atoms"),
    ],
)
def test_limits(smiles, message):
    with pytest.raises(InputError, match=message):
        Shaker().sample(smiles)


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0},
        {"n": 2.5},
        {"seed": -1},
        {"seed": "0"},
        {"attempts": 0},
        {"checks": ("beauty",)},
        {"checks": "stereo"},
        {"time_limit": 0},
        {"rank": True},
        {"unique": 0},
        {"oversample": 0},
        {"window": 0.1},
        {"window": 0, "relax": LennardJones()},
        {"fmax": 0},
        {"relax_steps": -1},
    ],
)
def test_arguments_that_make_no_sense(options):
    with pytest.raises(ConfigError):
        Shaker().sample("O", **{"n": 1, **options})


def test_duplicates_are_left_out_and_no_reason_to_warn(rdkit):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        water = rdkit.sample("O", 5, unique=0.1)
        xylene = rdkit.sample("Cc1ccc(C)cc1", 6, unique=0.1)
        butane = rdkit.sample("CCCC", 30, unique=0.1)
    assert (len(water), water.failures) == (1, {"duplicate": 4})
    assert len(xylene) == 1
    assert len(butane) == 3  # anti, and gauche in both hands
    assert [atoms.info["index"] for atoms in butane] == sorted(atoms.info["index"] for atoms in butane)


def test_representatives_are_far_from_each_other(rdkit):
    molecule = parse("CCCCCC")
    many = list(rdkit.iterate("CCCCCC", 24))
    chosen = rdkit.sample("CCCCCC", 6, oversample=4)
    assert len(chosen) == 6
    drawn = {atoms.positions.tobytes() for atoms in many}
    assert {atoms.positions.tobytes() for atoms in chosen} <= drawn

    def nearest(structures: list[Atoms]) -> float:
        """Mean distance from each of the many to the nearest of the chosen."""
        matrix = rmsd_matrix(symmetry(molecule), *(np.array([a.positions for a in s]) for s in (many, structures)))
        return float(matrix.min(1).mean())

    assert nearest(chosen) < nearest(many[:6])
    assert representatives(symmetry(molecule), np.array([a.positions for a in many[:2]]), 5).tolist() == [0, 1]


def test_representatives_do_not_depend_on_labels(rdkit):
    molecule = parse("FC(F)(F)CCCO")
    shapes = [atoms.positions for atoms in rdkit.sample("FC(F)(F)CCCO", 20, unique=0.5)[:2]]
    fluorines = np.flatnonzero(molecule.numbers == 9)
    many = []
    for turn in range(3):
        for shape in shapes:
            many.append(shape.copy())
            many[-1][np.roll(fluorines, turn)] = shape[fluorines]
    chosen = representatives(symmetry(molecule), np.array(many), 2)
    assert {int(index) % 2 for index in chosen} == {0, 1}


class ByHeight(Calculator):
    """The energy is the first atom's z in eV; nothing moves."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's class attribute)
    seconds = 0.0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        time.sleep(self.seconds)
        self.results = {"energy": self.atoms.positions[0, 2], "forces": np.zeros((len(self.atoms), 3))}


class Ladder(Provider):
    """Water, structure k at height ``heights[k]``; its angle is opened where that is told."""

    name, version = "ladder", "1"

    def __init__(self, heights, opened=()) -> None:
        self.limits, self.heights, self.opened, self.drawn = Limits(atoms=3), heights, opened, 0

    def draw(self, molecule, seeds, deadline):
        for _ in seeds:
            positions = WATER + np.array([0, 0, self.heights[self.drawn]])
            positions[1:, 1] *= 1.4 if self.drawn in self.opened else 1
            self.drawn += 1
            yield Candidate(positions)


def heights(ensemble) -> list[float]:
    return [round(atoms.get_potential_energy() - WATER[0, 2], 6) for atoms in ensemble]


def test_what_is_above_the_window_is_left_out_and_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble = Ladder([0.5, 0.1, 0.2, 0.11]).sample("O", 4, relax=ByHeight(), window=0.1)
    assert heights(ensemble) == [0.1, 0.11, 0.2]
    assert [atoms.info["index"] for atoms in ensemble] == [1, 3, 2]
    assert ensemble.failures == {"above the energy window": 1}
    assert "boltzmann_weight" not in ensemble[0].info


def test_each_step_is_a_filter_and_the_choice_is_the_last():
    """Eight are made; one is too high, four repeat a lower one; two of three remain, each the lowest of its kind."""
    seen: list[Atoms] = []
    levels, opened = [0.9, 0.05, 0.03, 0.04, 0.02, 0.06, 0.01, 0.07], (2, 5)
    options = {"relax": ByHeight(), "oversample": 4, "on_structure": seen.append}
    ensemble = Ladder(levels, opened).sample("O", 2, **options, rank=True, window=0.1, unique=0.05)
    assert len(seen) == 8
    assert heights(ensemble) == [0.01, 0.03]
    assert ensemble.failures == {"above the energy window": 1, "duplicate": 5}
    assert sum(atoms.info["boltzmann_weight"] for atoms in ensemble) == pytest.approx(1)
    unsorted = Ladder(levels, opened).sample("O", 2, **options)
    assert heights(unsorted) == [0.03, 0.01], "the lowest of each kind, in the order of their numbers"


def test_a_time_limit_in_the_middle_gives_the_low_ones_of_what_is_finished():
    slow = ByHeight()
    slow.seconds = 0.05
    levels = [1 / (k + 1) for k in range(100)]
    Ladder(levels).sample("O", relax=slow, relax_steps=0)  # imports what it needs
    with pytest.warns(ProviderWarning, match=f"{TIME}: "):
        ensemble = Ladder(levels).sample("O", 50, oversample=2, relax=slow, rank=True, window=0.4, time_limit=0.5)
    assert 1 < len(ensemble) < 10
    made = 100 - ensemble.failures[TIME]
    assert heights(ensemble) == sorted(round(level, 6) for level in levels[:made] if level <= 0.4 + 1 / made)
    assert ensemble.failures["above the energy window"] == made - len(ensemble)
    few = Ladder(levels).sample("O", 3, oversample=30, relax=slow, rank=True, time_limit=0.5)
    made = 90 - few.failures[TIME]
    assert heights(few) == [round(level, 6) for level in levels[made - 3 : made][::-1]], "there was no time to choose"


class Ending(Ladder):
    """A ladder whose time is over after its last height."""

    def draw(self, molecule, seeds, deadline):
        for seed in seeds:
            yield from super().draw(molecule, [seed], deadline) if self.drawn < len(self.heights) else [TIME]


def test_what_is_left_out_of_fewer_than_were_to_be_made_is_told():
    levels, options = [0.5, 0.1, 0.2, 0.6, 0.7], {"relax": ByHeight(), "window": 0.15, "attempts": 1}
    with pytest.warns(ProviderWarning, match=r"Only 2 of 4 .* \(time limit: 15; above the energy window: 3\)"):
        ensemble = Ending(levels).sample("O", 4, oversample=5, **options)
    assert heights(ensemble) == [0.1, 0.2]
    assert ensemble.shortage == ensemble.remarks != ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble = Ending(levels).sample("O", 2, oversample=5, **options)
    assert (len(ensemble), ensemble.shortage) == (2, "")
    counts = "time limit: 5; above the energy window: 3"
    assert ensemble.remarks == f"Only 5 of 10 structures to choose from were made ({counts})."


def test_duplicates_of_fewer_than_were_to_be_made_are_told():
    with pytest.warns(ProviderWarning, match=r"Only 1 of 4 structures of 'O' were made \(broken or new bonds: "):
        ensemble = Shaker(torn=0.5).sample("O", 4, oversample=5, attempts=1, unique=0.5)
    assert ensemble.failures["duplicate"] > 4
    assert ensemble.made == 1 + ensemble.failures["duplicate"] < ensemble.sought == 20


def test_clusters_have_first_members_that_are_apart(rdkit):
    molecule = parse("CCCCCC")
    symmetric = symmetry(molecule)
    positions = np.array([atoms.positions for atoms in rdkit.iterate("CCCCCC", 20)])
    labels = clusters(symmetric, positions, 0.4)
    matrix = rmsd_matrix(symmetric, positions, positions)
    leaders = np.unique(labels)
    assert 1 < len(leaders) < 20
    assert matrix[np.ix_(leaders, leaders)][~np.eye(len(leaders), dtype=bool)].min() >= 0.4
    assert all(matrix[index, label] < 0.4 for index, label in enumerate(labels))
    assert (clusters(symmetric, positions, 0.4, deadline=time.monotonic() - 1) == -1).all()


def test_the_time_limit_holds_within_a_comparison(rdkit, monkeypatch):
    """Each of the distances to those that began a cluster takes a while."""

    def slowly(symmetric, conformer, others):
        for distance in rmsd_to_each(symmetric, conformer, others):
            time.sleep(0.05)
            yield distance

    positions = np.array([atoms.positions for atoms in rdkit.iterate("CCCCCC", 20)])
    monkeypatch.setattr("ase_geomol.providers.refine.rmsd_to_each", slowly)
    begin = time.monotonic()
    labels = clusters(symmetry(parse("CCCCCC")), np.repeat(positions, 10, 0), 10.0, begin + 0.3)
    assert 1 < (labels >= 0).sum() < 10
    apart = positions + 1e-3 * np.arange(20)[:, None, None]
    monkeypatch.setattr("ase_geomol.providers.refine._shape", lambda points: np.zeros(3))
    begin = time.monotonic()
    labels = clusters(symmetry(parse("CCCCCC")), apart, 1e-6, begin + 0.3)
    assert 1 < (labels >= 0).sum() < 6
    assert time.monotonic() - begin < 0.5


def test_what_only_looks_nicer_ends_with_its_time(rdkit, monkeypatch):
    structures = list(rdkit.iterate("CCCCCC", 6))
    numbers = families(structures, 0.4)
    assert sorted(set(numbers.tolist())) == list(range(numbers.max() + 1))
    laid = superimposed(structures)
    assert np.abs(laid[1] - structures[1].positions).max() > 0.1
    monkeypatch.setattr("ase_geomol.providers.refine.TO_LOOK_AT", -1.0)
    assert families(structures, 0.4).tolist() == [-1] * 6
    assert (superimposed(structures) == np.array([atoms.positions for atoms in structures])).all()


def test_relaxed_and_ranked(rdkit):
    calculator = GeoMolCalculator("geomformer-organic")
    seen: list[Atoms] = []
    with pytest.warns(ProviderWarning, match="not relaxed to the end"):
        ensemble = rdkit.sample(
            "CCCC", 4, relax=calculator, relax_steps=3, rank=True, unique=0.2, seed=1, on_structure=seen.append
        )
    assert sorted(atoms.info["index"] for atoms in seen) == [0, 1, 2, 3]
    assert all(any(atoms is one for one in seen) for atoms in ensemble)
    assert 2 <= len(ensemble) < 4
    energies = [atoms.get_potential_energy() for atoms in ensemble]
    assert energies == sorted(energies)
    assert [atoms.info["relative_energy"] for atoms in ensemble] == pytest.approx(np.array(energies) - energies[0])
    weights = np.array([atoms.info["boltzmann_weight"] for atoms in ensemble])
    assert weights.sum() == pytest.approx(1)
    expected = np.exp(-(np.array(energies) - energies[0]) / (8.617333e-5 * 298.15))
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-4)
    for atoms in ensemble:
        assert atoms.info["converged"] is False
        again = atoms.copy()
        again.calc = calculator
        assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    start = rdkit.sample("CCCC", 1, seed=1, relax=calculator, relax_steps=0)[0]
    moved = rdkit.sample("CCCC", 1, seed=1, relax=calculator, fmax=0.1)[0]
    np.testing.assert_array_equal(start.positions, rdkit.sample("CCCC", 1, seed=1)[0].positions)
    assert moved.info["converged"] is True
    assert np.linalg.norm(moved.get_forces(), axis=1).max() < 0.1
    assert moved.get_potential_energy() < start.get_potential_energy()


def test_a_calculator_that_does_not_know_the_molecule_says_so(rdkit):
    calculator = GeoMolCalculator("geomformer-organic")
    with pytest.raises(InputError, match="Si"):
        rdkit.sample("C[SiH3]", relax=calculator)
    with pytest.raises(InputError, match=r"charge.*1"):
        rdkit.sample("C[NH3+]", relax=calculator)
    with pytest.raises(InputError, match=r"spin.*2"):
        rdkit.sample("[CH3]", relax=calculator)


@pytest.mark.parametrize(
    ("smiles", "charge", "unpaired"), [("C[NH3+]", 1, 0), ("C(=O)[O-]", -1, 0), ("[CH3]", 0, 1), ("[O][O]", 0, 2)]
)
def test_other_calculators_know_ions_and_radicals(rdkit, smiles, charge, unpaired):
    tblite = pytest.importorskip("tblite.ase")
    (atoms,) = rdkit.sample(smiles, relax=tblite.TBLite(method="GFN2-xTB", verbosity=0), relax_steps=0)
    bare = Atoms(atoms.numbers, atoms.positions)
    bare.calc = tblite.TBLite(method="GFN2-xTB", charge=charge, multiplicity=unpaired + 1, verbosity=0)
    assert atoms.get_potential_energy() == pytest.approx(bare.get_potential_energy(), abs=1e-4)


def test_neutral_molecules_have_no_initial_charges_or_moments(rdkit):
    (atoms,) = rdkit.sample("O")
    assert not {"initial_charges", "initial_magmoms"} & set(atoms.arrays)


class Tearing(Calculator):
    """Pulls the last atom away."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's class attribute)
    fails = False

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.fails and atoms.positions[-1, 1] < -2:
            raise CalculationFailed("no convergence")
        away = atoms.positions[-1, 1] + 30
        forces = np.zeros((len(atoms), 3))
        forces[-1, 1] = -away
        self.results = {"energy": away**2 / 2, "forces": forces}


def test_a_relaxation_that_breaks_the_molecule_is_no_structure():
    with pytest.raises(ProviderError) as caught:
        Shaker().sample("O", 2, relax=Tearing(), relax_steps=20)
    assert caught.value.failures == {"broken or new bonds after relaxation": 2}
    failing = Tearing()
    failing.fails = True
    with pytest.raises(ProviderError, match=r"failed relaxation \(CalculationFailed: no convergence\)"):
        Shaker().sample("O", 2, relax=failing)


class Choosy(Tearing):
    """Leaves molecules as they are, but for some calls that fail."""

    failing = ()
    calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        Calculator.calculate(self, atoms, properties, system_changes)
        self.calls += 1
        if self.calls in self.failing:
            raise InputError("a start that is none")
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


def test_a_start_that_cannot_be_computed_does_not_lose_the_others():
    choosy = Choosy()
    choosy.failing = (2, 3)
    with pytest.warns(ProviderWarning, match="Only 3 of 5"):
        ensemble = Shaker().sample("O", 5, relax=choosy)
    assert [atoms.info["index"] for atoms in ensemble] == [0, 3, 4]
    assert ensemble.failures == {"failed relaxation (InputError: a start that is none)": 2}
    choosy = Choosy()
    choosy.failing = (1,)
    with pytest.warns(ProviderWarning, match="Only 4 of 5"):
        ensemble = Shaker().sample("O", 5, relax=choosy)
    assert [atoms.info["index"] for atoms in ensemble] == [1, 2, 3, 4]


def test_a_first_start_with_coincident_atoms_is_that_start_alone():
    class Collapsing(Shaker):
        def draw(self, molecule, seeds, deadline):
            for candidate in super().draw(molecule, seeds, deadline):
                yield candidate if self.drawn > 1 else Candidate(0 * WATER)

    calculator = GeoMolCalculator("geomformer-organic")
    with pytest.warns(ProviderWarning, match=r"Only 2 of 3 .*coincide"):
        ensemble = Collapsing().sample("O", 3, relax=calculator, relax_steps=0, checks=())
    assert [atoms.info["index"] for atoms in ensemble] == [1, 2]


def test_what_the_calculator_does_not_know_is_not_drawn():
    provider = Shaker()
    provider.limits = Limits(atoms=9)
    with pytest.raises(InputError, match="Si"):
        provider.sample("[SiH4]", relax=GeoMolCalculator("geomformer-organic"))
    assert provider.drawn == 0


def test_a_calculator_that_fails_each_time_is_not_asked_for_ever():
    choosy, provider = Choosy(), Shaker(batch=4)
    choosy.failing = range(1000)
    with pytest.raises(ProviderError) as caught:
        provider.sample("O", 20, oversample=10, relax=choosy)
    assert caught.value.failures == {"failed relaxation (InputError: a start that is none)": HOPELESS}
    assert provider.drawn == 12


def test_those_that_fail_first_do_not_end_those_that_are_relaxed_with_them():
    class Collapsing(Shaker):
        def draw(self, molecule, seeds, deadline):
            for candidate in super().draw(molecule, seeds, deadline):
                yield candidate if self.drawn > HOPELESS else Candidate(0 * WATER)

    with pytest.warns(ProviderWarning, match=r"Only 2 of 12 .*coincide"):
        ensemble = Collapsing().sample("O", 12, relax=GeoMolCalculator("geomformer-organic"), fmax=0.5, checks=())
    assert [atoms.info["index"] for atoms in ensemble] == [10, 11]


class Backed(Shaker):
    """Has another shaker as its fallback."""

    name = "backed"

    def __init__(self, *arguments, fallback=None, **options):
        super().__init__(*arguments, **options)
        self.fallback = fallback or Shaker()

    @property
    def makers(self):
        return (self, self.fallback)


def test_what_a_provider_fails_at_is_made_by_the_next():
    ensemble = Backed(torn=0.5).sample("O", 20, attempts=1, seed=1)
    assert [atoms.info["index"] for atoms in ensemble] == list(range(20))
    made = [atoms.info["provider"] for atoms in ensemble]
    others = made.count("shaker")
    assert 0 < others < 20
    assert ensemble.failures == {"broken or new bonds": others}
    assert ensemble.others == {"shaker": others}
    assert ensemble.remarks == f"{others} of 20 structures were made by shaker."
    few = Backed(torn=0.5, batch=4).sample("O", 3, attempts=1, seed=1)
    for first, second in zip(few, ensemble, strict=False):
        np.testing.assert_array_equal(first.positions, second.positions)
    assert Backed().sample("O", 3).others == {}


def test_a_fallback_is_asked_for_as_many_as_it_makes_at_once():
    both = Backed(torn=1.0, batch=200, fallback=Shaker(torn=1.0))
    with pytest.raises(ProviderError):
        both.sample("O", 200)
    assert both.drawn == 4 * 200
    assert both.fallback.drawn == 4 * HOPELESS


def test_a_fallback_that_never_succeeds_is_given_up_while_the_provider_goes_on():
    both = Backed(torn=0.5, batch=5, fallback=Shaker(torn=1.0))
    with pytest.warns(ProviderWarning, match="Only"):
        ensemble = both.sample("O", 60, attempts=1)
    assert both.drawn == 60
    assert both.fallback.drawn == HOPELESS
    assert 20 < len(ensemble) < 40


def test_what_a_fallback_has_made_is_seen_when_the_user_ends_it():
    class Ended(Shaker):
        def draw(self, molecule, seeds, deadline):
            if self.drawn == 3:
                raise KeyboardInterrupt
            return super().draw(molecule, seeds, deadline)

    seen: list[Atoms] = []
    with pytest.raises(KeyboardInterrupt):
        Backed(torn=1.0, batch=200, fallback=Ended()).sample("O", 200, on_structure=seen.append)
    assert [atoms.info["index"] for atoms in seen] == [0, 1, 2]


def test_structures_relaxed_together_are_those_of_their_numbers(rdkit):
    """They are ready at different times, and given by their numbers."""
    calculator, seen = GeoMolCalculator("geomformer-organic", dtype="float64"), []
    options = {"relax": calculator, "fmax": 0.1, "seed": 3}
    many = rdkit.sample("CC(O)CC", 6, on_structure=seen.append, **options)
    assert [atoms.info["index"] for atoms in many] == list(range(6))
    assert [atoms.info["index"] for atoms in seen] != list(range(6))
    assert len(seen) == 6
    for atoms, alone in zip(many, rdkit.sample("CC(O)CC", 2, **options), strict=False):
        np.testing.assert_allclose(atoms.positions, alone.positions, atol=1e-4)


def test_structures_that_are_no_minima_are_told():
    options = {"relax": LennardJones(sigma=1.2, epsilon=1e-3), "rank": True, "seed": 1}
    with pytest.warns(ProviderWarning, match="^3 of 3 structures were not relaxed to the end"):
        ensemble = Shaker().sample("O", 3, **options, relax_steps=1, fmax=1e-9)
    assert (ensemble.unrelaxed, ensemble.shortage) == (3, "")
    assert ensemble.remarks == "3 of 3 structures were not relaxed to the end (steps or time limit)."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Shaker().sample("O", 3, **options, relax_steps=1, fmax=10).remarks == ""
        assert Shaker().sample("O", 3, **options, relax_steps=0).unrelaxed == 0, "only energies were asked for"


def test_structures_left_out_before_their_minimum_are_told():
    """What is too high where its relaxation was ended may have been low in the end."""

    class Restless(ByHeight):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.results["forces"][1, 0] = self.results["energy"] > 0.4

    with pytest.warns(ProviderWarning, match="^1 of 3 structures were not relaxed to the end"):
        ensemble = Ladder([0.5, 0.1, 0.2]).sample("O", 3, relax=Restless(), relax_steps=1, window=0.15)
    assert heights(ensemble) == [0.1, 0.2]
    assert ensemble.unrelaxed == 1


def test_what_there_is_no_time_to_compare_is_kept_and_told():
    with pytest.warns(ProviderWarning):
        ensemble = Shaker(seconds=0.05).sample("O", 1000, unique=0.5, time_limit=0.3)
    assert 0 < len(ensemble) == ensemble.uncompared
    assert f"{len(ensemble)} of {len(ensemble)} structures may be duplicates (time limit)." in ensemble.remarks
    with pytest.warns(ProviderWarning, match="^2 of 2 structures may be duplicates"):
        chosen = Shaker(seconds=0.05).sample("O", 2, oversample=500, unique=0.5, time_limit=0.3)
    assert len(chosen) == chosen.uncompared == chosen.unchosen == 2
    assert "2 of 2 structures are the first ones, not representatives (time limit)." in chosen.remarks
    with pytest.warns(ProviderWarning):
        few = Shaker(seconds=0.05).sample("O", 9, unique=0.5, time_limit=0.3)
    assert few.unchosen == 0


def test_time_limit_of_relaxation():
    class Slow(LennardJones):
        def calculate(self, *args, **kwargs):
            time.sleep(0.05)
            super().calculate(*args, **kwargs)

    Shaker().sample("O", relax=LennardJones(), relax_steps=0)  # imports what it needs
    begin = time.monotonic()
    with pytest.warns(ProviderWarning, match=TIME):
        ensemble = Shaker().sample(
            "O", 50, relax=Slow(sigma=1.2, epsilon=1e-3), relax_steps=5, fmax=1e-9, time_limit=0.5
        )
    assert time.monotonic() - begin < 1.5
    assert 0 < len(ensemble) < 50
    assert ensemble.failures[TIME] == 50 - len(ensemble)
