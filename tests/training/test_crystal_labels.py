"""Labels of crystals by a teacher in another process; here it is ASE's EMT in the same Python."""

from __future__ import annotations

import lzma
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.io import read, write
from ase.neighborlist import neighbor_list
from geomol_training.cli import app
from geomol_training.crystals.recipe import CrystalRecipe, load_crystal_recipe
from geomol_training.crystals.run import make_crystal_labels, make_crystal_plan
from geomol_training.crystals.sampling import CrystalTray, enlarged, make_variants, slab_of, strained
from geomol_training.crystals.structures import (
    BINARIES,
    CONTACT,
    LATTICES,
    NONMETALS,
    at_contact,
    binary,
    ground_states,
    known_crystals,
    originals,
    prototype,
    salt,
    simple_lattice,
    split_of_composition,
)
from geomol_training.crystals.teacher import Teacher, TeacherError
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
    "variants.relax_steps=2",
    "variants.relax_frames=1",
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


def test_the_second_recipe_is_of_the_same_elements_and_has_all_it_names():
    second = load_crystal_recipe(RECIPE.with_name("est_crystal_labels_2.yaml"))
    assert second.elements == load_crystal_recipe(RECIPE).elements
    kinds = Counter(job.kind for job in make_crystal_plan(second).jobs)
    assert {"original", "ground_state", "salt", "dimer"} == set(kinds)


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


@pytest.mark.parametrize("lattice", LATTICES)
def test_simple_lattices_touch(lattice):
    assert shortest(simple_lattice("Ti", lattice)) == pytest.approx(CONTACT)


@pytest.mark.parametrize("lattice", BINARIES)
def test_binaries_touch(lattice):
    atoms = binary("Na", "Cl", lattice)
    assert shortest(atoms) == pytest.approx(CONTACT)
    assert set(atoms.get_chemical_symbols()) == {"Na", "Cl"}


def test_prototypes_have_other_elements_and_touch():
    rng = np.random.default_rng(0)
    found = [prototype(("Li", "O", "Fe", "S"), 8, rng) for _ in range(12)]
    assert len({atoms.get_chemical_formula() for atoms in found}) > 6
    for atoms in found:
        assert len(atoms) <= 8
        assert set(atoms.get_chemical_symbols()) <= {"Li", "O", "Fe", "S"}
        assert shortest(atoms) == pytest.approx(CONTACT)


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


def test_variants_of_a_start(recipe, teacher):
    settings = recipe.model_copy(
        update={"variants": recipe.variants.model_copy(update={"vacancy_share": 1.0, "surface_share": 1.0})}
    )
    tray = CrystalTray(settings, teacher)
    make_variants(bulk("CuNi", "rocksalt", a=4.6), tray, np.random.default_rng(0))
    sources = Counter(frame.info["source"] for frame in tray.frames)
    assert set(sources) >= {"strain", "rattle", "hot", "vacancy", "surface", "relax"}
    assert sum(sources.values()) + sum(tray.rejected.values()) >= 10
    for frame in tray.frames:
        again = frame.copy()
        again.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-9)
        assert np.linalg.norm(frame.get_forces(), axis=1).max() <= settings.max_force


def test_geometry_of_variants():
    rng = np.random.default_rng(1)
    atoms = bulk("Cu", cubic=True)
    volumes = [strained(atoms, 0.1, rng).get_volume() / atoms.get_volume() for _ in range(200)]
    assert 0.55 < min(volumes) < 0.8
    assert 1.2 < max(volumes) < 1.6
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
    frames = [frame for path in tmp_path.glob("*.extxyz") for frame in read(path, ":")]
    assert len(frames) == done["frames"]
    assert {"dimer", "strain", "rattle", "hot"} <= {frame.info["source"] for frame in frames}
    assert set(done["versions"]) == {"ase", "numpy", "pymatgen"}
    with pytest.raises(OutputError, match="another recipe"):
        make_crystal_labels(recipe.model_copy(update={"seed": 99}), PYTHON, tmp_path)


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
    "change", ["elements=[Xx, Cu]", "elements=[Cu, Cu]", "teacher.calculator=emt", "starts.known=-1"]
)
def test_wrong_recipes(change):
    with pytest.raises(ConfigError, match=r"elements|calculator|known"):
        load_crystal_recipe(RECIPE, [change])
