"""Labels of crystals by a teacher in another process; here it is ASE's EMT in the same Python."""

from __future__ import annotations

import lzma
import os
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.collections import dcdft
from ase.data import atomic_numbers, covalent_radii
from ase.io import iread, write
from ase.neighborlist import neighbor_list
from geomol_training.cli import app
from geomol_training.crystals.recipe import CrystalRecipe, load_crystal_recipe
from geomol_training.crystals.run import frames_of_start, make_crystal_labels, make_crystal_plan, run_crystal_job
from geomol_training.crystals.sampling import DIMER_REACH, CrystalTray, enlarged, make_variants, slab_of, strained
from geomol_training.crystals.structures import (
    LATTICES,
    NONMETALS,
    binary,
    ground_states,
    known_crystals,
    originals,
    pair,
    prototype,
    salt,
    simple_lattice,
    split_of_composition,
)
from geomol_training.crystals.teacher import Teacher, TeacherError
from geomol_training.crystals.volumes import CONTACT, OVERLAP, at_contact, at_predicted_volume
from typer.testing import CliRunner

from ase_geomol import ConfigError, DataError, OutputError

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "shipped" / "est_crystal_labels.yaml"
PYTHON = Path(sys.executable)
EMT_TEACHER = ("teacher.calculator=ase.calculators.emt:EMT", "teacher.arguments={}")
SMALL = (
    *EMT_TEACHER,
    "elements=[Cu, Ni, Al, Au]",
    "starts.files=[]",
    "starts.known=0",
    "starts.prototypes=4",
    "starts.prototype_atoms=4",
    "starts.binaries=2",
    "starts.element_repeats=1",
    "starts.dimers=4",
    "starts.atoms=true",
    "starts.originals=0",
    "starts.ground_states=0",
    "starts.salts=0",
    "variants.relax_steps=2",
    "variants.relax_frames=1",
    "variants.strained=3",
    "variants.rattled=6",
    "variants.gentle=0",
    "variants.hot=3",
    "variants.vacancy_share=0.15",
    "variants.surface_share=0.15",
    "variants.interval=2",
    "variants.largest=8",
)


@pytest.fixture(scope="module")
def recipe() -> CrystalRecipe:
    return load_crystal_recipe(RECIPE, SMALL)


@pytest.fixture
def teacher():
    teacher = Teacher(PYTHON, "ase.calculators.emt:EMT", {})
    yield teacher
    teacher.close()


def test_the_second_recipe_has_all_pairs_of_the_same_elements_and_few_frames_of_each():
    second = load_crystal_recipe(RECIPE.with_name("est_crystal_labels_2.yaml"), ["starts.known=0", "starts.files=[]"])
    assert second.elements == load_crystal_recipe(RECIPE).elements
    jobs = make_crystal_plan(second).jobs
    frames: Counter[str] = Counter()
    for job in jobs:
        frames[job.kind] += len(job.tasks) * frames_of_start(second, job.kind)  # pyright: ignore[reportArgumentType]
        assert len(job.tasks) * frames_of_start(second, job.kind) <= 60  # pyright: ignore[reportArgumentType]
    assert set(frames) == {"original", "ground_state", "salt", "dimer", "prototype", "pair", "element", "atom"}
    assert 36_000 < frames.total() < 44_000
    pairs = Counter(frozenset(task.numbers) for job in jobs if job.kind == "pair" for task in job.tasks)
    assert set(pairs) == {frozenset(both) for both in combinations(numbers_of(second.elements), 2)}
    assert set(pairs.values()) == {2}
    assert {task.numbers[0] for job in jobs if job.kind == "atom" for task in job.tasks} == numbers_of(second.elements)
    dimers = [tuple(sorted(task.numbers)) for job in jobs if job.kind == "dimer" for task in job.tasks]
    assert len(set(dimers)) == len(dimers)


def numbers_of(symbols: tuple[str, ...]) -> set[int]:
    return {atomic_numbers[symbol] for symbol in symbols}


def test_the_shipped_recipe_is_valid_and_covers_many_elements():
    shipped = load_crystal_recipe(RECIPE)
    assert len(shipped.elements) >= 60
    assert shipped.teacher.calculator == "sevenn.calculator:SevenNetCalculator"


def test_a_teacher_says_what_its_calculator_says(teacher):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    here = atoms.copy()
    atoms.calc, here.calc = teacher, EMT()
    assert atoms.get_potential_energy() == here.get_potential_energy()
    assert np.array_equal(atoms.get_forces(), here.get_forces())
    assert np.array_equal(atoms.get_stress(), here.get_stress())
    assert np.array_equal(atoms.get_potential_energies(), here.get_potential_energies())
    alone = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]], calculator=teacher)
    assert alone.get_forces().shape == (2, 3)
    assert "stress" not in teacher.results


def test_what_a_teacher_cannot(teacher):
    iron = bulk("Fe")
    iron.calc = teacher
    with pytest.raises(TeacherError, match=r"denser than an atom in 1\.5 Å³"):
        teacher.get_potential_energy(bulk("Cu", a=1.8))
    with pytest.raises(TeacherError, match=r"No EMT-potential|Fe"):
        iron.get_potential_energy()
    copper = bulk("Cu")
    copper.calc = teacher
    assert np.isfinite(copper.get_potential_energy()), "it goes on after a refusal"
    teacher.close()
    copper.rattle(0.1)
    with pytest.raises(DataError, match="The teacher ended"):
        copper.get_potential_energy()
    with pytest.raises(DataError, match="no_such_module"):
        Teacher(PYTHON, "no_such_module:Calculator", {})
    with pytest.raises(DataError, match="cannot be run"):
        Teacher(PYTHON.parent / "no-python", "ase.calculators.emt:EMT", {})


SLOW_CALCULATOR = """
import time
from ase.calculators.emt import EMT


class Slow(EMT):
    def calculate(self, atoms=None, *arguments, **keywords):
        if "Au" in atoms.symbols:
            time.sleep(1000)
        super().calculate(atoms, *arguments, **keywords)
"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """The name of a calculator that never ends where there is gold."""
    (tmp_path / "slow.py").write_text(SLOW_CALCULATOR)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return "slow:Slow"


def test_a_teacher_that_hangs_is_replaced(slow):
    teacher = Teacher(PYTHON, slow, {}, seconds=0.5)
    with pytest.raises(TeacherError, match="no answer in time"):
        teacher.get_potential_energy(bulk("Au"))
    copper, nickel = EMT().get_potential_energy(bulk("Cu")), EMT().get_potential_energy(bulk("Ni"))
    assert teacher.get_potential_energy(bulk("Cu")) == copper, "another one has started"
    teacher.limit(0.0)
    with pytest.raises(TeacherError, match="no time left for this job"):
        teacher.get_potential_energy(bulk("Ni"))
    teacher.limit(60.0)
    assert teacher.get_potential_energy(bulk("Ni")) == nickel
    teacher.close()


def test_a_teacher_is_not_given_what_takes_long(teacher):
    with pytest.raises(TeacherError, match="more than 8000 neighbours"):
        teacher.get_potential_energy(bulk("Cu", cubic=True).repeat(5))
    assert teacher.get_forces(bulk("Cu", cubic=True).repeat(3)).shape == (108, 3)


def test_what_a_job_has_no_time_for_is_counted(recipe, slow):
    changes = {"calculator": slow, "seconds": 30.0, "job_seconds": 0.5}
    hasty = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update=changes)})
    job = next(job for job in make_crystal_plan(recipe).jobs if job.kind == "element")
    gold = next(task for task in job.tasks if set(task.numbers) == {atomic_numbers["Au"]})
    at_predicted_volume(gold.atoms())  # its imports are no part of the job's half second
    outcome = run_crystal_job(replace(job, tasks=(gold, gold)), hasty, PYTHON)
    assert not outcome.frames
    assert outcome.rejected["teacher: no answer in time"] == 1
    assert outcome.rejected["teacher: no time left for this job"] >= 2 * 9, "what each is strained and rattled"


@pytest.mark.parametrize(
    ("symbol", "lattice", "volume"), [("Cu", "fcc", 11.8), ("W", "bcc", 15.9), ("Si", "diamond", 20.0)]
)
def test_elements_take_the_volume_that_they_have(symbol, lattice, volume):
    atoms = at_predicted_volume(simple_lattice(symbol, lattice))
    assert atoms.get_volume() / len(atoms) == pytest.approx(volume, rel=0.2)


@pytest.mark.parametrize(
    ("first", "second", "lattice", "edge"),
    [
        ("Na", "Cl", "rocksalt", 5.64),
        ("Mg", "O", "rocksalt", 4.21),
        ("Ga", "As", "zincblende", 5.65),
        ("Ni", "Al", "cesiumchloride", 2.88),
        ("Ca", "F", "fluorite", 5.46),
    ],
)
def test_binaries_take_the_volume_that_they_have(first, second, lattice, edge):
    atoms = at_predicted_volume(binary(first, second, lattice))
    assert set(atoms.get_chemical_symbols()) == {first, second}
    primitive = edge**3 if lattice == "cesiumchloride" else edge**3 / 4
    assert atoms.get_volume() == pytest.approx(primitive, rel=0.25)


@pytest.mark.parametrize("lattice", LATTICES)
def test_lattices_of_large_atoms_are_no_gas_and_do_not_overlap(lattice):
    ratio = shortest(at_predicted_volume(simple_lattice("Ti", lattice)))
    assert OVERLAP - 1e-9 <= ratio < CONTACT


def test_prototypes_have_other_elements_and_are_dense():
    rng = np.random.default_rng(0)
    found = [prototype(("Li", "O", "Fe", "S"), 8, rng) for _ in range(20)]
    assert len({atoms.get_chemical_formula() for atoms in found}) > 10
    assert {len(set(atoms.numbers)) for atoms in found} >= {2, 3}
    volumes = []
    for atoms in found:
        assert len(atoms) <= 8
        assert set(atoms.get_chemical_symbols()) <= {"Li", "O", "Fe", "S"}
        scaled = at_predicted_volume(atoms)
        assert shortest(scaled) >= OVERLAP - 1e-9
        assert scaled.get_scaled_positions(wrap=False) == pytest.approx(
            atoms.get_scaled_positions(wrap=False), abs=1e-9
        )
        assert scaled.get_volume() < 1.01 * at_contact(atoms).get_volume()
        volumes.append(scaled.get_volume() / len(scaled))
    assert 9 < np.median(volumes) < 18, "Å³ of an atom; Li, Fe and S take 11 to 20, Li2O 8, FeS 15"


def test_pairs_are_of_both_elements_in_many_shapes():
    rng = np.random.default_rng(0)
    found = [pair("Cu", "Au", 8, rng) for _ in range(40)]
    assert all(set(atoms.symbols) == {"Cu", "Au"} and len(atoms) <= 8 for atoms in found)
    assert len({atoms.get_chemical_formula() for atoms in found}) > 6


def test_volumes_of_elements_without_a_known_bond():
    with pytest.warns(UserWarning, match="electronegativity"):
        argon = at_predicted_volume(simple_lattice("Ar", "fcc"))
    assert argon.get_volume() == pytest.approx(dcdft["Ar"].get_volume() / len(dcdft["Ar"]))


def shortest(atoms: Atoms) -> float:
    first, second, distance = neighbor_list("ijd", atoms, 6.0)
    return float((distance / (covalent_radii[atoms.numbers][first] + covalent_radii[atoms.numbers][second])).min())


def test_crystals_that_exist_keep_their_elements_and_cells():
    elements = load_crystal_recipe(RECIPE).elements
    by_formula = {atoms.get_chemical_formula(): atoms for atoms in originals(elements, 24)}
    assert len(by_formula) > 150
    assert all(set(atoms.symbols) <= set(elements) and len(atoms) <= 24 for atoms in by_formula.values())
    assert neighbor_list("d", by_formula["ClNa"], 3.2) == pytest.approx(2.82, abs=0.01)  # Å, half the cube's edge
    stable = {atoms.get_chemical_formula(): atoms for atoms in ground_states(elements, 24)}
    assert neighbor_list("d", stable["Cu4"], 3.0) == pytest.approx(2.57, abs=0.02)
    assert not any(atoms.calc for atoms in stable.values())


def test_salts_are_a_metal_and_a_nonmetal():
    rng, elements = np.random.default_rng(0), load_crystal_recipe(RECIPE).elements
    for _ in range(30):
        kinds = set(salt(elements, rng).symbols)
        assert len(kinds) == 2
        assert len(kinds & set(NONMETALS)) == 1


def test_a_tiny_cell_sees_its_own_images():
    assert shortest(at_contact(Atoms("Cu", cell=[1.0, 1.0, 30.0], pbc=True))) == pytest.approx(CONTACT)


def test_known_crystals_are_read_whole_and_filtered(tmp_path):
    frames = [bulk("NaCl", "rocksalt", a=5.6), bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6).repeat(4)]
    write(tmp_path / "some.extxyz", frames)
    packed = tmp_path / "some.extxyz.xz"
    packed.write_bytes(lzma.compress((tmp_path / "some.extxyz").read_bytes()))
    for path in (packed, tmp_path / "some.extxyz"):
        found = known_crystals((path,), ("Na", "Cl"), 10)
        assert [atoms.get_chemical_formula() for atoms in found] == ["ClNa"]
    with pytest.raises(DataError, match=r"There is no file"):
        known_crystals((tmp_path / "none.extxyz",), ("Na",), 10)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        known_crystals((packed,), ("Na", "Cl"), 10)


def test_splits_are_by_composition():
    one = bulk("NaCl", "rocksalt", a=5.6)
    assert (
        split_of_composition(one)
        == split_of_composition(one.repeat((2, 1, 3)))
        == split_of_composition(bulk("NaCl", "cesiumchloride", a=4.0))
    )
    assert split_of_composition(bulk("Fe")) == "train"
    elements = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Al", "O", "S", "Se", "F", "Cl", "Br", "I")
    splits = Counter(
        split_of_composition(Atoms(f"{a}{b}{n}")) for a in elements for b in elements for n in (1, 2, 3) if a != b
    )
    assert 0.02 < splits["test"] / splits.total() < 0.09
    assert 0.02 < splits["valid"] / splits.total() < 0.09


def test_splits_are_those_of_all_labels_ever_made():
    """Whatever is held out in one set of labels is in all: the hash of the formula decides, no seed, no recipe."""
    first = {"CrN2": "test", "MoSn": "test", "IrZr": "valid", "O4SmV": "valid", "AuI3K": "valid", "AuZr": "train"}
    assert {formula: split_of_composition(Atoms(formula)) for formula in first} == first


def test_variants_of_a_start(recipe, teacher):
    settings = recipe.model_copy(
        update={"variants": recipe.variants.model_copy(update={"vacancy_share": 1.0, "surface_share": 1.0})}
    )
    tray = CrystalTray(settings, teacher)
    make_variants(bulk("CuNi", "rocksalt", a=4.6), settings.variants, tray, np.random.default_rng(0))
    sources = Counter(frame.info["source"] for frame in tray.frames)
    assert set(sources) >= {"strain", "rattle", "hot", "vacancy", "surface", "relax"}
    assert sum(sources.values()) + sum(tray.rejected.values()) >= 10
    for frame in tray.frames:
        again = frame.copy()
        again.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-9)
        assert np.linalg.norm(frame.get_forces(), axis=1).max() <= settings.max_force


def test_kinds_have_variants_of_their_own_and_nothing_is_relaxed(teacher):
    settings = load_crystal_recipe(
        RECIPE,
        [
            *SMALL,
            "variants.relax_steps=0",
            "variants.hot=0",
            "variants.vacancy_share=0",
            "variants.surface_share=0",
            "variants.kinds={original: {strained: 1, rattled: 0, gentle: 20}}",
        ],
    )
    assert frames_of_start(settings, "original") == 21
    assert frames_of_start(settings, "salt") == settings.variants.strained + settings.variants.rattled
    tray, start = CrystalTray(settings, teacher), bulk("Cu")
    make_variants(start, settings.variants.of("original"), tray, np.random.default_rng(0))
    assert Counter(frame.info["source"] for frame in tray.frames) == {"strain": 1, "gentle": 20}
    gentle = [frame for frame in tray.frames if frame.info["source"] == "gentle"]
    for frame in gentle:
        assert len(frame) == 8
        assert frame.get_volume() / len(frame) / start.get_volume() == pytest.approx(1, abs=0.15)
        ideal = frame.cell.scaled_positions(frame.positions)
        moved = ideal - np.round(2 * ideal) / 2  # eight atoms at halves of the repeated cell
        assert 0.003 < (moved @ frame.cell.array).std() < 0.1  # Å


def test_nothing_is_made_of_a_known_crystal_that_is_rejected(recipe):
    job = next(job for job in make_crystal_plan(recipe).jobs if job.kind == "element")
    sound, squeezed = (
        replace(
            job.tasks[0], numbers=(29,), positions=(0.0, 0.0, 0.0), cell=tuple(bulk("Cu", a=edge).cell.array.ravel())
        )
        for edge in (3.6, 2.6)
    )
    outcome = run_crystal_job(replace(job, kind="known", tasks=(squeezed,)), recipe, PYTHON)
    assert not outcome.frames
    assert sum(outcome.rejected.values()) == 1
    outcome = run_crystal_job(replace(job, kind="known", tasks=(sound,)), recipe, PYTHON)
    assert outcome.frames[0].info["source"] == "known"
    assert outcome.frames[0].cell.array == pytest.approx(bulk("Cu", a=3.6).cell.array)
    assert len(outcome.frames) > 5


def test_geometry_of_variants():
    rng = np.random.default_rng(1)
    atoms = bulk("Cu", cubic=True)
    volumes = [strained(atoms, (0.7, 1.5), 0.02, rng).get_volume() / atoms.get_volume() for _ in range(200)]
    assert 0.65 < min(volumes) < 0.75
    assert 1.4 < max(volumes) < 1.6
    assert 0.4 < np.mean(np.array(volumes) < np.sqrt(0.7 * 1.5)) < 0.6, "as many below as above the middle"
    assert len(enlarged(bulk("Cu"), 4, 24)) == 4
    assert len(enlarged(atoms, 8, 6)) == 4, "never more than the largest"
    slab = slab_of(atoms, 24, rng)
    assert slab is not None
    assert slab.cell.lengths().max() > 12


def test_a_folder_of_labels_goes_on_where_it_was_left(recipe, tmp_path):
    plan = make_crystal_plan(recipe)
    assert make_crystal_plan(recipe).fingerprint == plan.fingerprint
    begun = make_crystal_labels(recipe, PYTHON, tmp_path, first=2)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.extxyz")}
    done = make_crystal_labels(recipe, PYTHON, tmp_path)
    assert begun["shards"]["done"] == 2
    assert done["shards"]["done"] == len(plan.jobs)
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    frames = [frame for path in tmp_path.glob("*.extxyz") for frame in iread(path)]
    assert len(frames) == done["frames"]
    assert {"dimer", "strain", "rattle", "hot", "atom"} <= {frame.info["source"] for frame in frames}
    assert_free_atoms_and_dimers(frames)
    assert set(done["versions"]) == {"ase", "numpy", "pymatgen"}
    with pytest.raises(OutputError, match="another recipe"):
        make_crystal_labels(recipe.model_copy(update={"seed": 99}), PYTHON, tmp_path)


def assert_free_atoms_and_dimers(frames: list[Atoms]) -> None:
    alone = {str(frame.symbols): frame.get_potential_energy() for frame in frames if frame.info["source"] == "atom"}
    expected = {symbol: EMT().get_potential_energy(Atoms(symbol)) for symbol in ("Cu", "Ni", "Al", "Au")}
    assert alone == pytest.approx(expected, abs=1e-9)
    dimers = [frame for frame in frames if frame.info["source"] == "dimer"]
    assert max(frame.get_distance(0, 1) for frame in dimers) > 0.8 * DIMER_REACH
    assert {frame.info["split"] for frame in dimers} == {"train"}


def test_command(tmp_path):
    options = [word for change in SMALL for word in ("--set", change)]
    words = ["crystals", str(RECIPE), "--out", str(tmp_path / "out"), "--workers", "1", "--first", "1", *options]
    result = CliRunner().invoke(app, [*words, "--teacher", str(PYTHON)])
    assert result.exit_code == 0, result.output
    assert "1 of" in result.output
    result = CliRunner().invoke(app, [*words, "--teacher", str(tmp_path / "python")])
    assert isinstance(result.exception, ConfigError)
    assert "There is no Python" in str(result.exception)


@pytest.mark.parametrize(
    "change",
    [
        "elements=[Xx, Cu]",
        "elements=[Cu, Cu]",
        "teacher.calculator=emt",
        "starts.known=-1",
        "variants.kinds={salt: {rattled: -1}}",
        "variants.kinds={sugar: {rattled: 1}}",
    ],
)
def test_wrong_recipes(change):
    with pytest.raises(ConfigError, match=r"elements|calculator|known|rattled|sugar"):
        load_crystal_recipe(RECIPE, [change])
