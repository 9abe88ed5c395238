"""Commands about crystals and paths, with a calculator whose answers are known."""

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from ase_geomol.cli import common


@pytest.fixture
def copper(here, monkeypatch):
    """A file, and EMT instead of every potential."""
    monkeypatch.setattr(common, "calculator", lambda *_, **__: EMT())
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
    assert len(read(here / "first-neb" / "path.extxyz", ":")) == 3


def test_a_molecule_has_no_equation_of_state(cli, here, copper):
    result = cli("eos", "C6H6", "--as-it-is")
    assert result.exit_code == 1
    assert "periodic in three directions" in result.stderr
    assert not (here / "C6H6-eos").exists()


def test_md_of_a_crystal_draws_its_structure(cli, here, copper):
    result = cli("md", copper, "--time", "40fs", "--timestep", "1fs", "--interval", "5", "--no-relax")
    assert result.exit_code == 0, result.output
    assert (here / "Cu-md" / "structure.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "potential"),
    [
        (["relax", "CCO", "--steps", "1"], "geomformer-organic"),
        (["relax", "Cu.cif", "--steps", "1"], "est-crystal"),
        (["md", "Cu.cif", "--time", "1fs", "--no-relax"], "est-crystal"),
        (["eos", "C.cif", "--as-it-is", "--points", "5"], "est-crystal"),
        (["relax", "Cu.cif", "--steps", "1", "-m", "geomformer-organic"], None),
    ],
)
def test_without_a_model_the_elements_choose(cli, here, words, potential):
    write("Cu.cif", bulk("Cu", cubic=True, a=3.62))
    write("C.cif", bulk("C", cubic=True))
    result = cli(*words)
    if potential is None:
        assert result.exit_code == 1
        assert "Cu" in result.stderr
    else:
        assert result.exit_code == 0, result.output
        assert potential in result.output
