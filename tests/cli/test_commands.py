import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import typer
from ase.build import bulk, molecule
from ase.calculators.calculator import get_calculator_class
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from ase_geomol import GeoMolCalculator, simulate
from ase_geomol.cli import common

MD = ("--time", "20fs", "--no-relax")


@pytest.mark.parametrize("command", ["", "relax", "md", "models", "evaluate"])
def test_help_teaches_by_example(cli, command):
    result = cli(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert f"ase-geomol {command}".strip() in result.stdout


def test_version_and_unknown_command(cli):
    assert cli("--version").stdout.startswith("ase-geomol 0.")
    assert cli("nonsense").exit_code == 2


def test_console_script():
    script = "from ase_geomol.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("ase-geomol")


def test_calculator_is_registered(weights):
    assert isinstance(get_calculator_class("geomol")(weights), GeoMolCalculator)


@pytest.mark.parametrize(("text", "femtoseconds"), [("1ps", 1e3), ("500fs", 500), ("0.1 ns", 1e5), ("1e-3ps", 1)])
def test_times(text, femtoseconds):
    assert common.parse_time(text) == pytest.approx(femtoseconds)


@pytest.mark.parametrize("text", ["1", "ps", "1 h", "1.2.3ps", "-"])
def test_bad_times(text):
    with pytest.raises(typer.BadParameter):
        common.parse_time(text)


def test_bad_time_is_a_usage_error(cli, weights):
    assert cli("md", "C6H6", "-m", weights, "--time", "1").exit_code == 2


@pytest.mark.parametrize(("text", "formula"), [("CCO", "C2H6O"), ("C6H6", "C6H6"), ("g2:CO", "CO"), ("in.xyz", "H2O")])
def test_relax_smiles_g2_and_file(cli, here, weights, text, formula):
    write("in.xyz", molecule("H2O"))
    result = cli("relax", text, "-m", weights)
    assert result.exit_code == 0, result.output
    (folder,) = here.glob("*-relax")
    assert {p.name for p in folder.iterdir()} == {"relaxed.extxyz", "trajectory.extxyz", "summary.png"}
    relaxed = read(folder / "relaxed.extxyz")
    assert relaxed.get_chemical_formula() == formula
    assert np.abs(relaxed.get_forces()).max() < 0.01
    again = cli("relax", text, "-m", weights)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert cli("relax", text, "-m", weights, "--overwrite").exit_code == 0


def test_relax_into_a_file_with_cell(cli, here, weights):
    write("in.cif", bulk("C", "diamond", a=3.0))
    result = cli("relax", "in.cif", "-m", weights, "--cell", "--steps", "2", "--out", "out.cif")
    assert result.exit_code == 0, result.output
    assert read("out.cif").get_volume() > 3.0**3 / 4
    assert "Not converged" in result.output
    assert not list(here.glob(".*"))


def test_md_writes_everything(cli, here, weights):
    result = cli("md", "C6H6", "-m", weights, "--time", "20fs")
    assert result.exit_code == 0, result.output
    folder = here / "C6H6-md"
    names = {"trajectory.extxyz", "final.extxyz", "log.csv", "state.json", "summary.png"}
    assert {p.name for p in folder.iterdir()} == names
    frames = read(folder / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 10, 20, 30, 40]
    assert (folder / "log.csv").read_text().startswith("step,time_fs,potential_eV,kinetic_eV,total_eV,temperature_K")
    assert "ns/day" in result.stdout
    assert "tiny" in result.stdout


def test_md_of_a_committee_logs_its_spread(cli, weights):
    result = cli("md", "H2O", "-m", weights, "-m", weights, *MD)
    assert result.exit_code == 0, result.output
    assert np.all(simulate.read_log(common.Path("H2O-md"))["energy_std_eV"] == 0)


def test_md_never_overwrites_silently_and_resumes(cli, weights):
    assert cli("md", "H2O", "-m", weights, *MD).exit_code == 0
    refused = cli("md", "H2O", "-m", weights, *MD)
    assert refused.exit_code == 1
    assert "--resume" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert "Traceback" not in refused.output
    longer = cli("md", "H2O", "-m", weights, "--time", "40fs", "--resume")
    assert longer.exit_code == 0, longer.output
    assert len(read("H2O-md/trajectory.extxyz", ":")) == 9
    other = cli("md", "H2O", "-m", weights, "--time", "40fs", "--resume", "-T", "500")
    assert other.exit_code == 1
    assert "temperature 300.0, not 500.0" in other.stderr
    assert cli("md", "H2O", "-m", weights, *MD, "--overwrite").exit_code == 0


def test_ctrl_c_saves_and_says_how_to_go_on(cli, weights, monkeypatch):
    def interrupt(live, row):
        if row["step"] == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ase_geomol.cli.md._Live.__call__", interrupt)
        result = cli("md", "H2O", "-m", weights, *MD)
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    assert len(read("H2O-md/trajectory.extxyz", ":")) == 2
    assert cli("md", "H2O", "-m", weights, *MD, "--resume").exit_code == 0
    assert len(read("H2O-md/trajectory.extxyz", ":")) == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("relax", "C1CC("), "cannot be parsed as a SMILES"),
        (("relax", "nothing.xyz"), "There is no file"),
        (("relax", "CO"), "g2:CO"),
        (("relax", "[Xe]"), "which this potential does not know"),
        (("md", "H2O", "--resume"), "no run that could be resumed"),
        (("md", "H2O", "--ensemble", "npt"), "Constant pressure needs"),
        (("md", "H2O", "--ensemble", "nvp"), "ensemble is 'nvp'"),
        (("relax", "H2O", "--optimizer", "magic"), "optimizer is 'magic'"),
        (("evaluate", "nothing.xyz"), "There is no file"),
        (("models", "--card", "nothing"), "no shipped potential 'nothing'"),
    ],
)
def test_errors_are_one_line(cli, weights, words, sentence):
    model = () if words[0] == "models" else ("-m", weights)
    result = cli(*words, *model)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_unknown_model(cli):
    result = cli("relax", "H2O", "-m", "nonsense")
    assert result.exit_code == 1
    assert "neither a shipped potential" in result.stderr


def test_debug_shows_where(cli):
    assert type(cli("--debug", "relax", "H2O", "-m", "nonsense").exception).__name__ == "CheckpointError"


@pytest.mark.parametrize("command", [("relax", "H2O"), ("md", "H2O", *MD)])
def test_unwritable_folder(cli, here, weights, command):
    (here / "taken").write_text("a file where a folder should be")
    result = cli(*command, "-m", weights, "--out", "taken/results")
    assert result.exit_code == 1
    assert "taken" in result.stderr


def test_missing_rdkit(cli, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    result = cli("relax", "CCO", "-m", weights)
    assert result.exit_code == 1
    assert "pip install 'ase_geomol[providers]'" in result.stderr
    assert cli("relax", "H2O", "-m", weights).exit_code == 0


def test_models(cli, weights, monkeypatch, here):
    from ase_geomol import checkpoint

    shutil.copy(weights, here / "tiny.safetensors")
    (here / "tiny.md").write_text("# tiny\nknown failures: all")
    monkeypatch.setattr(checkpoint, "WEIGHTS", here)
    checkpoint.register(here / "tiny.safetensors")
    listed = cli("models")
    assert "H C N O" in listed.stdout
    assert "ZBL" in listed.stdout
    (described,) = json.loads(cli("models", "--json").stdout)
    assert described["name"] == "tiny"
    assert described["cutoff"] == 4.0
    assert "known failures" in cli("models", "--card", "tiny").stdout


def test_evaluate(cli, here, weights):
    frames = []
    for name in ("H2O", "CH4"):
        atoms = molecule(name)
        atoms.calc = GeoMolCalculator(weights)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy + 0.003, forces=forces - 0.01)
        frames.append(atoms)
    write("data.extxyz", frames)
    result = cli("evaluate", "data.extxyz", "-m", weights)
    assert result.exit_code == 0, result.output
    assert "10.00" in result.stdout
    lines = (here / "data-evaluate" / "errors.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("-1.0000,10.0000")
    assert (here / "data-evaluate" / "parity.png").stat().st_size > 5000
