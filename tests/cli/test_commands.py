import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import typer
from ase import Atoms
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


@pytest.mark.parametrize("text", ["1", "ps", "1 h", "1.2.3ps", "-", "1e400ps", "1e308ns"])
def test_bad_times(text):
    with pytest.raises(typer.BadParameter):
        common.parse_time(text)


def test_bad_time_is_a_usage_error(cli, weights):
    assert cli("md", "C6H6", "-m", weights, "--time", "1").exit_code == 2
    assert cli("md", "C6H6", "-m", weights, "--time", "1e400ps").exit_code == 2


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


def test_md_of_a_committee_logs_its_spread(cli, weights, other_weights):
    result = cli("md", "H2O", "-m", weights, "-m", other_weights, *MD, "--dtype", "float64")
    assert result.exit_code == 0, result.output
    log = simulate.read_log(common.Path("H2O-md"))
    frames = read("H2O-md/trajectory.extxyz", ":")
    members = [GeoMolCalculator(path, dtype="float64") for path in (weights, other_weights)]
    first, second = np.array([[member.get_potential_energy(frame) for frame in frames] for member in members])
    assert np.all(np.abs(first - second) > 1e-3)
    np.testing.assert_allclose(log["energy_std_eV"], np.abs(first - second) / np.sqrt(2), atol=1e-5)
    np.testing.assert_allclose(log["potential_eV"], (first + second) / 2, atol=1e-5)


def test_md_stops_where_the_potential_no_longer_knows(cli, here, rigid_weights):
    """The limit is between what is met first and what is met later; a run without a limit is the same run, longer."""
    words = ("md", "CH4", "-m", rigid_weights, "--no-relax", "--time", "15fs", "-T", "2000", "--interval", "7")
    words += ("--dtype", "float64")
    assert cli(*words, "--out", "free").exit_code == 0
    calc = GeoMolCalculator(rigid_weights, dtype="float64")
    assert "energy_std_eV" not in simulate.read_log(here / "free")  # nobody asked
    largest = [calc.get_property("energies_std", frame).max() for frame in read("free/trajectory.extxyz", ":")]
    limit = (largest[0] + max(largest)) / 2
    stopped = cli(*words, "--out", "limited", "--stop-above", str(limit))
    assert stopped.exit_code == 1, stopped.output
    assert "The run left what the potential knows at 0.0" in stopped.stderr
    assert "--resume" in stopped.stderr
    last = read("limited/final.extxyz")
    deviations = calc.get_property("energies_std", last)
    atom = int(deviations.argmax())
    assert deviations[atom] > limit
    assert f"the energy of {last.symbols[atom]}{atom} is uncertain by {deviations[atom]:.3g} eV" in stopped.stderr
    frames = read("limited/trajectory.extxyz", ":")
    np.testing.assert_allclose(frames[-1].positions, last.positions, atol=1e-7)
    assert all(calc.get_property("energies_std", frame).max() <= limit for frame in frames[:-1])
    assert (here / "limited/summary.png").exists()
    assert "energy_std_eV" in simulate.read_log(here / "limited")

    again = cli(*words, "--out", "limited", "--resume", "--stop-above", str(limit))
    assert again.exit_code == 1
    assert again.stderr == stopped.stderr
    assert len(read("limited/trajectory.extxyz", ":")) == len(frames)
    assert cli(*words, "--out", "limited", "--resume").exit_code == 0
    free, resumed = (read(f"{folder}/trajectory.extxyz", ":") for folder in ("free", "limited"))
    assert len(free) == len(resumed)
    np.testing.assert_array_equal(free[-1].positions, resumed[-1].positions)
    log = simulate.read_log(here / "limited")
    assert np.isnan(log["energy_std_eV"][-1])  # nobody asked again
    assert log["potential_eV"].tolist() == simulate.read_log(here / "free")["potential_eV"].tolist()


def test_md_stops_at_once(cli, here, rigid_weights):
    result = cli("md", "H2O", "-m", rigid_weights, *MD, "--stop-above", "1e-6")
    assert result.exit_code == 1
    assert "at 0 ps" in result.stderr
    assert len(read("H2O-md/trajectory.extxyz", ":")) == 1


@pytest.mark.parametrize(("limit", "words"), [("0.1", "cannot tell how uncertain"), ("0", "must be a positive number")])
def test_md_with_a_limit_that_means_nothing(cli, weights, limit, words):
    result = cli("md", "H2O", "-m", weights, *MD, "--stop-above", limit)
    assert result.exit_code == 1
    assert words in result.stderr
    assert "Traceback" not in result.output


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


def test_resume_with_another_precision_or_other_weights(cli, weights, other_weights):
    assert cli("md", "H2O", "-m", weights, *MD).exit_code == 0
    for options in (("-m", weights, "--dtype", "float64"), ("-m", other_weights)):
        refused = cli("md", "H2O", *options, *MD, "--resume")
        assert refused.exit_code == 1
        assert "H2O-md was made with" in refused.stderr
    assert cli("md", "H2O", "-m", weights, *MD, "--resume", "--skin", "1").exit_code == 0


def test_ctrl_c_before_an_overwriting_run_does_not_advise_to_resume(cli, weights, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    assert cli("md", "H2O", "-m", weights, *MD).exit_code == 0
    monkeypatch.setattr(simulate, "relax", interrupt)
    result = cli("md", "H2O", "-m", weights, "--overwrite")
    assert result.exit_code == 130
    assert "the run had not begun yet" in result.stderr
    assert "--resume" not in result.stderr


def test_interrupted_relaxation_is_not_overwritten_silently(cli, weights, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulate, "write_structure", interrupt)
        assert cli("relax", "H2O", "-m", weights).exit_code == 130
    again = cli("relax", "H2O", "-m", weights)
    assert again.exit_code == 1
    assert "trajectory.extxyz exists already" in again.stderr
    assert cli("relax", "H2O", "-m", weights, "--overwrite").exit_code == 0


def test_dots_in_names_and_folders(cli, here, weights):
    write("my.mol.xyz", molecule("H2O"))
    assert cli("relax", "my.mol.xyz", "-m", weights).exit_code == 0
    assert (here / "my.mol-relax" / "relaxed.extxyz").is_file()
    assert cli("relax", "my.mol.xyz", "-m", weights, "--out", "res.v2").exit_code == 0
    assert (here / "res.v2" / "relaxed.extxyz").is_file()
    refused = cli("relax", "my.mol.xyz", "-m", weights, "--out", "a.out")
    assert refused.exit_code == 1
    assert "ASE writes no files like a.out" in refused.stderr


def test_relaxed_structure_survives_a_format_that_fails(cli, here, weights):
    result = cli("relax", "H2O", "-m", weights, "--out", "out.vasp")
    assert result.exit_code == 1
    assert "the structure is in out.vasp.extxyz instead" in result.stderr
    assert len(read("out.vasp.extxyz")) == 3


@pytest.mark.parametrize("place", ["a[bold]b", "a[/b]", "a[1, 2]", "a:smile:", "a\\"])
def test_paths_are_no_markup(cli, here, weights, place):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0)
    (here / place).parent.mkdir(exist_ok=True)
    data = f"{place.replace('/', '')}$^$.extxyz"
    write(data, atoms)
    for words in (("relax", "H2O"), ("md", "H2O", *MD), ("evaluate", data)):
        out = f"{place}-{words[0]}"
        result = cli(*words, "-m", weights, "--out", out)
        assert result.exit_code == 0, result.output
        assert out in result.stdout
    assert out in cli("evaluate", data, "-m", weights, "--out", out).stderr
    shutil.copy(weights, here / data)
    assert data in cli("relax", data, "-m", weights).stderr


def test_interrupt_tells_a_path_as_it_is(cli, weights, monkeypatch):
    def interrupt(live, row):
        raise KeyboardInterrupt

    monkeypatch.setattr("ase_geomol.cli.md._Live.__call__", interrupt)
    result = cli("md", "H2O", "-m", weights, *MD, "--out", "a[/b]")
    assert result.exit_code == 130
    assert "is in a[/b]; go on" in result.stderr


@pytest.mark.parametrize("options", [("--no-relax",), ()])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "Empty file"), ("0\n\n", "no atoms"), ("2\n\nH 0 0 0\nH nan 0 0\n", "position that is NaN or infinite")],
)
def test_md_of_bad_files(cli, here, weights, options, text, sentence):
    (here / "bad.xyz").write_text(text)
    result = cli("md", "bad.xyz", "-m", weights, "--time", "5fs", *options)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("atoms", [Atoms("O"), Atoms("H2", [[0, 0, 0], [3.5, 0, 0]])], ids=str)
@pytest.mark.parametrize("options", [("--no-relax",), ()])
def test_md_without_bonds(cli, here, weights, atoms, options):
    write("in.xyz", atoms)
    result = cli("md", "in.xyz", "-m", weights, "--time", "5fs", *options)
    assert result.exit_code == 0, result.output
    assert "all intact" in result.stdout


def test_md_shorter_than_its_interval_reports_the_last_step(cli, weights):
    result = cli("md", "H2O", "-m", weights, *MD, "--interval", "100")
    assert result.exit_code == 0, result.output
    log = simulate.read_log(common.Path("H2O-md"))
    assert list(log["step"]) == [0, 40]
    assert f"{log['total_eV'][-1]:.4f} eV total" in result.stdout


def test_evaluate_labels_that_are_not_finite(cli, weights):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=np.nan)
    write("data.extxyz", atoms)
    result = cli("evaluate", "data.extxyz", "-m", weights)
    assert result.exit_code == 1
    assert "Structure 0 has an energy that is not finite" in result.stderr


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
        (("md", "H2O", "--time", "0.1fs"), "at least one step"),
        (("md", "H2O", "--time", "1e300ps", "--timestep", "1e-300fs"), "it must be finite"),
        (("md", "H2O", "--temperature", "nan"), "temperature is nan"),
        (("relax", "H2O", "--optimizer", "magic"), "optimizer is 'magic'"),
        (("evaluate", "nothing.xyz"), "There is no file"),
        (("models", "--card", "nothing"), "no shipped model 'nothing'"),
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
