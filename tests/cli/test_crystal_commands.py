"""Commands about crystals and paths, with a calculator whose answers are known."""

import json
import re
import sys
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write

from ase_geomol import simulate
from ase_geomol.cli import common
from ase_geomol.errors import InputError, OutputError


class KnownEMT(EMT):
    """It tells what decides its results, and counts what it computes."""

    identity: ClassVar = {"models": ["emt"]}
    name = "emt"
    calls, stop_at = 0, 0

    def calculate(self, *given):
        KnownEMT.calls += 1
        if KnownEMT.calls == KnownEMT.stop_at:
            raise KeyboardInterrupt
        super().calculate(*given)


@pytest.fixture
def copper(here, monkeypatch):
    """A file, and EMT instead of every potential."""
    monkeypatch.setattr(common, "calculator", lambda *_, **__: KnownEMT())
    monkeypatch.setattr(KnownEMT, "calls", 0)
    monkeypatch.setattr(KnownEMT, "stop_at", 0)
    write("Cu.cif", bulk("Cu", cubic=True, a=3.62))
    return "Cu.cif"


@pytest.mark.parametrize(
    ("words", "files", "key"),
    [
        (["eos"], {"equation_of_state.csv", "summary.png"}, "bulk modulus (GPa)"),
        (["elastic"], {"elastic_constants.csv"}, "shear modulus (GPa)"),
        (
            ["phonons", "--supercell", "2", "2", "2"],
            {"phonopy.yaml", "bands.csv", "dos.csv", "thermal.csv", "summary.png"},
            "highest frequency (THz)",
        ),
        (["surface", "1", "1", "1", "--layers", "3"], {"slab.extxyz", "summary.png"}, "surface energy (J/m²)"),
    ],
)
def test_properties(cli, here, copper, words, files, key):
    command = words[0]
    result = cli(command, copper, *words[1:])
    assert result.exit_code == 0, result.output
    folder = here / f"Cu-{command}"
    assert {path.name for path in folder.iterdir()} == {"relaxed.extxyz", "results.json", *files}
    assert key in result.stdout
    assert json.loads((folder / "results.json").read_text())[key] > 0
    again = cli(command, copper, *words[1:])
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert np.allclose(read(folder / "relaxed.extxyz").cell.lengths(), 3.59, atol=0.01)


def test_as_it_is(cli, here, copper):
    assert cli("eos", copper, "--as-it-is", "--out", "here", "--points", "5").exit_code == 0
    assert not (here / "here" / "relaxed.extxyz").exists()


def test_neb(cli, here, copper):
    first = bulk("Cu", cubic=True, a=3.59).repeat((2, 2, 1))
    hole = first.positions[0].copy()
    del first[0]
    last = first.copy()
    last.positions[0] = hole
    write("first.xyz", first)
    write("last.xyz", last)
    result = cli("neb", "first.xyz", "last.xyz", "--images", "1", "--steps", "3")
    assert result.exit_code == 0, result.output
    assert "barrier (eV)" in result.stdout
    path, told = read(here / "first-neb" / "path.extxyz", ":"), results(here / "first-neb")
    assert len(path) == 3
    energies = np.array([image.get_potential_energy() for image in path])
    assert energies.max() - energies[0] == pytest.approx(told["barrier (eV)"])
    assert told["converged"] is False
    assert told["largest force at the ends (eV/Å)"] < 0.05
    assert "no minimum" not in result.stderr
    assert np.abs(path[0].positions - first.positions).max() > 1e-3
    again = cli("neb", "first.xyz", "last.xyz", "--images", "1", "--steps", "1", "--as-it-is", "--overwrite")
    assert "An end of the path is no minimum" in again.stderr
    kept = (here / "first-neb" / "results.json").read_bytes()
    assert "no file" in cli("neb", "first.xyz", "lost.xyz", "--overwrite").stderr
    assert (here / "first-neb" / "results.json").read_bytes() == kept


def test_atoms_that_the_first_structure_fixes_stay(cli, here, copper):
    first = bulk("Cu", cubic=True, a=3.6).repeat((2, 2, 1))
    del first[0]
    last = first.copy()
    last.positions[0] -= 0.5
    first.set_constraint(FixAtoms([8]))
    last.positions[8] += last.cell[0]  # the same atom, in the next cell
    write("first.extxyz", first)
    write("last.extxyz", last)
    result = cli("neb", "first.extxyz", "last.extxyz", "--images", "1", "--steps", "1")
    assert result.exit_code in (0, 1), result.output
    assert "stand elsewhere" not in result.stderr


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_miller_indices_are_of_the_conventional_cell_and_may_be_negative(cli, here, copper):
    write("primitive.cif", bulk("Cu", a=3.62))
    energies = []
    for name in ("Cu", "primitive"):
        done = cli("surface", f"{name}.cif", "1", "0", "0", "--layers", "3")
        assert done.exit_code == 0, done.output
        energies.append(results(here / f"{name}-surface")["surface energy (J/m²)"])
    assert energies[0] == pytest.approx(energies[1], rel=1e-3)
    told = results(here / "primitive-surface")
    assert told["cell that the indices refer to"] == "the conventional one, 4 atoms"
    assert told["is of"] == "one surface"
    assert told["settings"]["layers"] == 3
    as_it_is = cli("surface", "primitive.cif", "1", "0", "0", "--as-it-is", "--overwrite")
    assert as_it_is.exit_code == 0, as_it_is.output
    assert results(here / "primitive-surface")["cell that the indices refer to"] == "as given, 1 atoms"
    negative = cli("surface", copper, "1", "-1", "0", "--layers", "2", "--out", "negative")
    assert negative.exit_code == 0, negative.output
    assert "(1 -1 0)" in negative.stdout
    assert cli("surface", copper, "1", "1", "1", "--layrs", "2").exit_code == 2


def test_what_was_computed_before_ctrl_c_is_there_and_nothing_old(cli, here, copper, monkeypatch):
    assert cli("eos", copper, "--points", "5").exit_code == 0
    rescaled, calls = simulate.eos.rescaled, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rescaled(*given)

    monkeypatch.setattr(simulate.eos, "rescaled", interrupted)
    stopped = cli("eos", copper, "--points", "5", "--overwrite")
    assert stopped.exit_code == 130
    kept = "written so far: Cu-eos/relaxed.extxyz, Cu-eos/equation_of_state.csv."
    assert kept in stopped.stderr
    assert len((here / "Cu-eos/equation_of_state.csv").read_text().splitlines()) == 3
    assert not (here / "Cu-eos/results.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        "eos Cu.cif --points 5",
        "elastic Cu.cif --points 2",
        "phonons Cu.cif --supercell 2 2 2",
        "surface Cu.cif 1 1 1 --layers 3",
        "neb first.xyz last.xyz --images 3 --fmax 0.1",
    ],
)
def test_an_interrupted_command_goes_on(cli, here, copper, monkeypatch, words):
    for name, place in (("first", 0.0), ("last", 0.5)):
        slab = fcc100("Al", (2, 1, 3), vacuum=6)
        add_adsorbate(slab, "Au", 1.7, "hollow", offset=(place, 0))
        slab.set_constraint(FixAtoms(mask=slab.get_tags() > 1))
        write(f"{name}.xyz", slab, format="extxyz")
    assert cli(*words.split(), "--out", "whole").exit_code == 0
    whole = KnownEMT.calls
    KnownEMT.calls, KnownEMT.stop_at = 0, 6
    stopped = cli(*words.split(), "--out", "parts")
    assert stopped.exit_code == 130
    assert "go on with the same command and --resume" in stopped.stderr
    again = cli(*words.split(), "--out", "parts")
    assert again.exit_code == 1
    assert "interrupted run: continue it with --resume" in again.stderr
    KnownEMT.calls = 10
    resumed = cli(*words.split(), "--out", "parts", "--resume")
    assert resumed.exit_code == 0, resumed.output
    seen = 2 if "neb" in words else 1  # structures that are computed again, to see whether they can be
    assert f"{6 - seen} structures were computed before" in resumed.stdout
    # of a path some are looked up more than once
    assert whole - 10 < KnownEMT.calls - 10 <= whole - 5 + seen
    parts, whole = (json.loads((here / name / "results.json").read_text()) for name in ("parts", "whole"))
    assert parts.keys() == whole.keys()
    for key, value in whole.items():
        assert parts[key] == (pytest.approx(value, rel=1e-6, abs=1e-6) if isinstance(value, float) else value)
    ended = cli(*words.split(), "--out", "parts", "--resume")
    assert ended.exit_code == 1
    assert "no run that could be resumed: it has ended" in ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eos Cu.cif --resume --overwrite", "--resume keeps what --overwrite replaces"),
        ("eos Al.cif --resume", "holds other things than are asked for"),
        ("elastic Cu.cif --resume", "holds other things than are asked for"),
        ("eos Cu.cif --as-it-is", "holds an interrupted run"),
        ("eos Cu.cif --resume --out elsewhere", "it has no calculated.jsonl"),
    ],
)
def test_another_run_is_not_resumed(cli, here, copper, words, message):
    write("Al.cif", bulk("Al", cubic=True))
    KnownEMT.stop_at = 4
    assert cli("eos", copper, "--out", "run").exit_code == 130
    kept = (here / "run/calculated.jsonl").read_bytes()
    refused = cli(*words.split()[:2], "--out", "run", *words.split()[2:])
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert (here / "run/calculated.jsonl").read_bytes() == kept


def test_a_picture_that_cannot_be_drawn_loses_nothing(cli, here, copper, monkeypatch):
    def full(*_, **__):
        raise OutputError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(simulate, "eos_picture", full)
        failed = cli("eos", copper, "--points", "5", "--out", "run")
    assert failed.exit_code == 1
    assert "Not finished; written so far" in failed.stderr
    calls = KnownEMT.calls
    assert cli("eos", copper, "--points", "5", "--out", "run", "--resume").exit_code == 0
    assert KnownEMT.calls == calls + 1
    assert (here / "run/summary.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eos Cu.cif --points 4", "at least 5"),
        ("eos Cu.cif --fmax -1", "must be positive"),
        ("elastic Cu.cif --strain 0.5", "between 0 and 0.1"),
        ("phonons Cu.cif --displacement 0", "must be positive"),
        ("surface Cu.cif 0 0 0", "make no slab"),
        ("surface Cu.cif 1 1 1 --steps 0", "must be positive"),
        ("surface Cu.cif 1 1 1 --symprec 0", "must be positive"),
        ("neb Cu.cif Cu.cif --images 0", "at least one"),
    ],
)
def test_wrong_settings_leave_earlier_results(cli, here, copper, words, message):
    (here / "run").mkdir()
    (here / "run/results.json").write_text("precious")
    refused = cli(*words.split(), "--out", "run", "--overwrite")
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert "--resume" not in refused.stderr
    assert (here / "run/results.json").read_text() == "precious"
    assert KnownEMT.calls == 0


@pytest.mark.parametrize(("words", "package"), [("surface Cu.cif 1 1 1", "spglib"), ("phonons Cu.cif", "phonopy")])
def test_an_extra_that_is_missing_is_noticed_first(cli, here, copper, monkeypatch, words, package):
    monkeypatch.setitem(sys.modules, package, None)
    refused = cli(*words.split())
    assert refused.exit_code == 1
    assert f"needs {package}: install it with  pip install 'ase_geomol[materials]'" in refused.stderr
    assert KnownEMT.calls == 0


@pytest.mark.parametrize("name", ["phonopy.yaml", "bands.csv", "summary.png", "relaxed.extxyz"])
def test_files_that_are_not_ours_stay(cli, here, copper, name):
    (here / name).write_text("precious")
    refused = cli("eos", copper, "--points", "5", "--out", ".")
    assert refused.exit_code == 1
    assert f"{name} exists already" in refused.stderr
    assert (here / name).read_text() == "precious"
    assert sorted(path.name for path in here.iterdir()) == sorted([copper, name])


@pytest.mark.parametrize("words", ["eos run/relaxed.extxyz --as-it-is", "neb Cu.cif run/relaxed.extxyz"])
def test_no_structure_is_replaced_by_its_results(cli, here, copper, words):
    (here / "run").mkdir()
    moved = read(copper)
    moved.positions[0] += 0.1
    write("run/relaxed.extxyz", moved)
    kept = (here / "run/relaxed.extxyz").read_bytes()
    refused = cli(*words.split(), "--out", "run", "--overwrite")
    assert refused.exit_code == 1
    assert "run/relaxed.extxyz would be replaced" in refused.stderr
    assert (here / "run/relaxed.extxyz").read_bytes() == kept


def test_a_last_structure_that_cannot_be_computed_leaves_earlier_results(cli, here, copper, monkeypatch):
    class Careful(KnownEMT):
        def calculate(self, atoms, *given):
            if atoms.get_distance(0, 1) < 0.1:
                raise InputError("atoms coincide")
            super().calculate(atoms, *given)

    monkeypatch.setattr(common, "calculator", lambda *_, **__: Careful())
    last = read(copper)
    last.positions[1] = last.positions[0]
    write("last.extxyz", last)
    (here / "run").mkdir()
    (here / "run/results.json").write_text("precious")
    refused = cli("neb", copper, "last.extxyz", "--out", "run", "--overwrite")
    assert refused.exit_code == 1
    assert "atoms coincide" in refused.stderr
    assert (here / "run/results.json").read_text() == "precious"


def test_ends_that_relax_to_one_minimum_are_no_path(cli, here, copper):
    for name, place in (("first", 0.0), ("last", 0.1)):
        atoms = bulk("Cu", cubic=True, a=3.6).repeat((2, 2, 1))
        atoms.positions[0] += place
        write(f"{name}.extxyz", atoms)
    refused = cli("neb", "first.extxyz", "last.extxyz", "--fmax", "0.002")
    assert refused.exit_code == 1
    assert "no atom moves by more than 0.01 Å" in refused.stderr


def test_what_only_comes_again_is_not_resumed(cli, here, copper):
    write("wide.cif", bulk("Cu", cubic=True, a=3.75))
    failed = cli("eos", "wide.cif", "--as-it-is", "--strain", "0.01", "--points", "5")
    assert failed.exit_code == 1
    assert "Not finished; written so far: wide-eos/equation_of_state.csv." in failed.stderr
    assert "--resume" not in failed.stderr
    wider = cli("eos", "wide.cif", "--as-it-is", "--strain", "0.1", "--points", "7", "--resume")
    assert wider.exit_code == 0, wider.output
    assert "structures were computed before" in wider.stdout


def test_a_pressure_is_for_constant_pressure(cli, here, copper):
    result = cli("md", copper, "--pressure", "5GPa")
    assert result.exit_code == 1
    assert not (here / "Cu-md").exists()
    assert "--pressure is for --ensemble npt, and the ensemble is nvt" in result.stderr


def test_a_molecule_has_no_equation_of_state(cli, here, copper):
    result = cli("eos", "C6H6", "--as-it-is")
    assert result.exit_code == 1
    assert "periodic in three directions" in result.stderr
    assert not (here / "C6H6-eos").exists()


def test_md_of_a_crystal_draws_its_structure(cli, here, copper):
    result = cli("md", copper, "--time", "40fs", "--timestep", "1fs", "--interval", "5", "--no-relax")
    assert result.exit_code == 0, result.output
    assert (here / "Cu-md" / "structure.png").stat().st_size > 5000


def test_an_overwriting_run_leaves_nothing_old(cli, here, copper, monkeypatch):
    words = ("md", copper, "--time", "40fs", "--timestep", "1fs", "--interval", "5", "--no-relax")
    assert cli(*words).exit_code == 0
    assert (here / "Cu-md/structure.png").exists()
    KnownEMT.calls, KnownEMT.stop_at = 0, 12
    assert cli(*words, "--overwrite").exit_code == 130
    assert {path.name for path in (here / "Cu-md").iterdir()} == {"trajectory.extxyz", "log.csv", "state.json"}


def test_a_run_does_not_replace_its_own_structure(cli, here, copper):
    assert cli("md", copper, "--time", "10fs", "--no-relax").exit_code == 0
    kept = (here / "Cu-md/final.extxyz").read_bytes()
    refused = cli("md", "Cu-md/final.extxyz", "--time", "10fs", "--out", "Cu-md", "--overwrite")
    assert refused.exit_code == 1
    assert "final.extxyz would be replaced" in refused.stderr
    assert (here / "Cu-md/final.extxyz").read_bytes() == kept


def test_a_relaxed_cell_is_told(cli, here, copper):
    told = " ".join(cli("relax", copper, "--cell", "--fmax", "0.001").stdout.split())
    lengths = read(here / "Cu-relax/relaxed.extxyz").cell.lengths()
    assert f"lengths of the cell {' '.join(f'{length:.4f}' for length in lengths)} Å" in told
    assert "angles of the cell 90.000 90.000 90.000°" in told
    assert f"volume {lengths.prod():.3f} Å³" in told
    assert re.search(r"stress, xx yy zz yz xz xy( -?0\.00\d){6} GPa", told)
    assert "largest force on an atom 0.00000 eV/Å" in told
    assert "angles" not in cli("relax", copper, "--overwrite").stdout


def test_crystals_are_files(cli):
    for command in ("eos", "elastic", "phonons", "surface"):
        told = cli(command, "--help")
        assert told.exit_code == 0
        assert "SMILES" not in told.stdout
    assert "SMILES" in cli("relax", "--help").stdout


@pytest.mark.parametrize(
    ("words", "potential"),
    [
        (["relax", "CCO", "--steps", "1"], "geomformer-organic"),
        (["relax", "boxed.xyz", "--steps", "1"], "geomformer-organic"),
        (["relax", "C.cif", "--steps", "1"], "est-crystal"),
        (["relax", "Cu.cif", "--steps", "1"], "est-crystal"),
        (["md", "Cu.cif", "--time", "1fs", "--no-relax"], "est-crystal"),
        (["eos", "C.cif", "--as-it-is", "--points", "5"], "est-crystal"),
        (["relax", "Cu.cif", "--steps", "1", "-m", "geomformer-organic"], None),
    ],
)
def test_without_a_model_the_elements_choose(cli, here, words, potential):
    write("Cu.cif", bulk("Cu", cubic=True, a=3.62))
    write("C.cif", bulk("C", cubic=True))
    write("boxed.xyz", Atoms("CO", [[0, 0, 0], [0, 0, 1.13]], cell=[6, 6, 6], pbc=True))
    result = cli(*words)
    if potential is None:
        assert result.exit_code == 1
        assert "Cu" in result.stderr
    else:
        assert result.exit_code == 0, result.output
        assert potential in result.output
        assert "do not trust" not in result.output


def test_a_molecule_that_only_the_crystal_potential_knows_is_warned_of(cli, here):
    write("SiH4.xyz", molecule("SiH4"))
    result = cli("relax", "SiH4.xyz", "--steps", "1")
    assert result.exit_code == 0, result.output
    assert "est-crystal learned no molecules" in result.stderr
