from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import pytest
from ase.io import read
from rdkit import Chem
from rich.progress import Progress

import ase_geomol
from ase_geomol.checkpoint import Metadata, save_checkpoint
from ase_geomol.cli import common, conformers
from ase_geomol.models.ditmc import ConformerFlow, DiTMC, DiTMCConfig, FlowForm
from ase_geomol.providers.base import Provider


def test_one_molecule(cli, here):
    result = cli("conformers", "CCCC", "-n", "6", "--seed", "2")
    assert result.exit_code == 0, result.output
    folder = here / "C4H10-conformers"
    assert {path.name for path in folder.iterdir()} == {f"conformers.{x}" for x in ("extxyz", "png", "html")}
    frames = read(folder / "conformers.extxyz", ":")
    assert 1 <= len(frames) <= 3
    assert frames[0].info["seed"] == 2
    assert "duplicate" in result.stdout
    assert "family" in result.stdout
    assert "meV" not in result.stdout
    again = cli("conformers", "CCCC", "-n", "6")
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert cli("conformers", "CCCC", "-n", "2", "--unique", "0", "--overwrite").exit_code == 0
    assert len(read(folder / "conformers.extxyz", ":")) == 2


@pytest.mark.parametrize("suffix", ["sdf", "extxyz", "db"])
def test_relaxed_into_a_file(cli, here, weights, suffix):
    result = cli(
        "conformers", "CO", "-n", "2", "--relax", "-m", weights, "--steps", "2", "--unique", "0", "--out", f"x.{suffix}"
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in here.iterdir()} == {f"x.{suffix}", "x.png", "x.html"}
    assert "tiny" in result.stdout
    assert "kcal/mol" in result.stdout
    if suffix != "sdf":
        assert len(read(f"x.{suffix}", ":")) == 2
    else:
        first, second = Chem.SDMolSupplier("x.sdf")
        assert float(first.GetProp("energy_eV")) <= float(second.GetProp("energy_eV"))


def test_what_cannot_be_made_is_one_sentence(cli, here):
    for words, message in (
        (("C.C",), "2 separate molecules"),
        (("missing.smi",), "There is no file 'missing.smi'."),
        (("nonsense",), "cannot be understood"),
        (("C", "--out", "x.pdb"), "not to '.pdb' files"),
        (("C", "--provider", "other"), "'other' is neither a shipped conformer model"),
        (("C", "--relax", "-m", "none"), "none"),
        (("[SiH4]", "--relax"), "Si"),
    ):
        result = cli("conformers", *words)
        assert result.exit_code == 1, words
        assert message in result.stderr
        assert result.stderr.startswith("Error: ")
    assert not [path for path in here.rglob("*") if path.is_file()]


def test_a_conformer_model_is_set_as_asked_for(cli, here, monkeypatch):
    from ase_geomol.providers import conformers as provider

    save_checkpoint(
        here / "tiny.safetensors",
        ConformerFlow(DiTMC(DiTMCConfig(layers=1, channels=32)), FlowForm()),
        Metadata(name="tiny", theory="none", training_data="none"),
    )
    monkeypatch.setattr(provider.ConformerProvider, "sample", sample_unchecked)
    words = ("C", "-n", "1", "--provider", "tiny.safetensors", "--device", "cpu", "--out", "x.extxyz")
    result = cli("conformers", *words, "--sampler-steps", "3", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    assert "float64, 3 uniform euler steps" in read("x.extxyz").info["model_version"]
    result = cli("conformers", "C[Se]C", *words[1:-1], "z.extxyz", "--fallback")
    assert result.exit_code == 0, result.output
    assert read("z.extxyz").info["provider"] == "rdkit"
    (here / "in.smi").write_text("C[Se]C\n")
    many = ("conformers", "in.smi", *words[1:-2], "--fallback")
    assert cli(*many).exit_code == 0
    assert cli(*many, "--resume").exit_code == 0
    with monkeypatch.context() as later:
        later.setattr(ase_geomol.RDKitProvider, "version", "another")
        assert "other settings" in cli(*many, "--resume").stderr
    drawn = provider.ConformerProvider.draw

    def draw(self, molecule, seeds, deadline):
        for place, candidate in enumerate(drawn(self, molecule, seeds, deadline)):
            yield candidate if place < 2 else "nothing"

    monkeypatch.setattr(provider.ConformerProvider, "draw", draw)
    mixed = ("C", "-n", "5", *words[3:-1], "mixed.extxyz", "--fallback", "--attempts", "1", "--unique", "0")
    result = cli("conformers", *mixed)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert "ditmc (tiny " in told
    assert "steps): 2; rdkit (RDKit " in told
    assert "MMFF94s): 3" in told
    result = cli("conformers", "C", "--sampler-steps", "3", "--out", "y.sdf")
    assert result.exit_code == 1
    assert "--sampler-steps are those of a conformer model" in result.stderr


def sample_unchecked(self, *arguments, **options):
    """What an untrained network draws would pass no check."""
    return Provider.sample(self, *arguments, **options, checks=())


def test_a_shortage_is_told(cli, here, monkeypatch):
    from ase_geomol.providers import etkdg
    from ase_geomol.providers.drawing import TIME

    drawn = etkdg.RDKitProvider.draw

    def draw(self, molecule, seeds, deadline):
        for candidate in drawn(self, molecule, seeds, deadline):
            yield candidate if seeds[0] % 2 else TIME

    monkeypatch.setattr(etkdg.RDKitProvider, "draw", draw)
    result = cli("conformers", "C", "-n", "12", "--unique", "0", "--out", "x.sdf")
    assert result.exit_code == 0, result.output
    assert "time limit" in result.output


def test_duplicates_of_lines_are_in_the_table_and_no_remark(cli, here):
    (here / "in.smi").write_text("C\n")
    result = cli("conformers", "in.smi", "-n", "3", "--out", "x.sdf")
    assert result.exit_code == 0, result.output
    assert "line 1" not in result.stdout
    (row,) = csv.DictReader((here / "x.csv").open())
    assert row["message"] == "Kept 1 of 3 structures (duplicate: 2)."


def test_lines_with_fewer_than_asked_are_told(cli, here, monkeypatch):
    from ase_geomol.providers import etkdg
    from ase_geomol.providers.drawing import TIME

    drawn = etkdg.RDKitProvider.draw

    def draw(self, molecule, seeds, deadline):
        for candidate in drawn(self, molecule, seeds, deadline):
            yield candidate if seeds[0] % 2 else TIME

    monkeypatch.setattr(etkdg.RDKitProvider, "draw", draw)
    (here / "in.smi").write_text("C\n" + "C.C\n" * 22)
    result = cli("conformers", "in.smi", "-n", "12", "--unique", "0", "--attempts", "1", "--out", "x.sdf")
    assert result.exit_code == 0, result.output
    assert "line 1 Only " in result.stdout
    assert "with remarks" in result.stdout
    assert "line 21 'C.C'" in result.stdout
    assert "line 22 'C.C'" not in result.stdout
    assert "and 2 more" in result.stdout


def test_a_file_of_molecules_is_resumed(cli, here):
    (here / "in.smi").write_text("CCO ethanol\nC.C two\nO\n")
    result = cli("conformers", "in.smi", "-n", "2")
    assert result.exit_code == 0, result.output
    folder = here / "in-conformers"
    assert {path.name for path in folder.iterdir()} == {f"conformers.{x}" for x in ("extxyz", "csv", "json")}
    assert "line 2 'C.C' is 2 separate molecules" in result.stdout
    assert "1 molecules" in result.stdout
    rows = list(csv.DictReader((folder / "conformers.csv").open()))
    assert [row["name"] for row in rows] == ["ethanol", "two", ""]
    assert json.loads((folder / "conformers.json").read_text())["calculator"] is None
    (here / "in.smi").write_text("CCO ethanol\nC.C two\nO\nN\n")
    assert cli("conformers", "in.smi", "-n", "2").exit_code == 1
    assert "other settings" in cli("conformers", "in.smi", "-n", "3", "--resume").stderr
    both = cli("conformers", "in.smi", "-n", "2", "--resume", "--overwrite")
    assert both.exit_code == 1
    assert "which --overwrite replaces: leave one of them out" in both.stderr
    again = cli("conformers", "in.smi", "-n", "2", "--resume", "--time-limit", "100")
    assert again.exit_code == 0, again.output
    assert "of 4 molecules" in again.stdout
    assert read(folder / "conformers.extxyz").get_chemical_formula() == "H3N"


def test_a_file_without_molecules_is_an_error(cli, here):
    (here / "notes.md").write_text("# Notes\nsome words\n")
    result = cli("conformers", "notes.md")
    assert result.exit_code == 1
    assert "line 2" in result.stdout
    assert "Error: No line of notes.md gave a structure." in result.stderr


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("mols.csv", ("mols.csv", "--out", "mols.sdf", "--overwrite"), "mols.csv holds the molecules"),
        ("mols.csv", ("mols.csv", "--out", "mols.sdf", "--resume"), "mols.csv holds the molecules"),
        ("mols.sdf", ("mols.sdf", "--out", "mols.sdf", "--overwrite"), "mols.sdf holds the molecules"),
        ("all.json", ("all.json", "--out", "all.db", "--overwrite"), "all.json holds the molecules"),
    ],
)
def test_the_file_of_molecules_is_never_replaced(cli, here, source, words, message):
    (here / source).write_text("CCO ethanol\n")
    result = cli("conformers", *words, "-n", "1")
    assert result.exit_code == 1
    assert message in result.stderr
    assert (here / source).read_text() == "CCO ethanol\n"
    assert [path.name for path in here.iterdir()] == [source]


@pytest.mark.parametrize(
    ("molecules", "taken"), [("C", "x.png"), ("C", "x.html"), ("in.smi", "x.csv"), ("in.smi", "x.json")]
)
def test_other_files_are_replaced_only_if_asked(cli, here, molecules, taken):
    (here / "in.smi").write_text("C\n")
    (here / taken).write_text("precious")
    result = cli("conformers", molecules, "-n", "1", "--out", "x.sdf")
    assert result.exit_code == 1
    assert f"{taken} exists already" in result.stderr
    assert (here / taken).read_text() == "precious"
    assert not (here / "x.sdf").exists()
    assert cli("conformers", molecules, "-n", "1", "--out", "x.sdf", "--overwrite").exit_code == 0
    assert (here / taken).read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--number=0", "n is 0"),
        ("--seed=-1", "seed is -1"),
        ("--fmax=0", "fmax is 0"),
        ("--unique=-1", "unique is -1"),
        ("--oversample=0", "oversample is 0"),
        ("--attempts=0", "attempts is 0"),
        ("--window=-1", "window is -1"),
        ("--window=0.2", "--window needs energies: add --relax"),
        ("--model=geomformer-organic", "--model is about the relaxation: add --relax"),
        ("--steps=1000", "--steps is about the relaxation: add --relax"),
        ("--fmax=0.1", "--fmax is about the relaxation: add --relax"),
        ("--skin=0.1", "--skin is about the relaxation: add --relax"),
        ("--fallback", "--fallback lets RDKit help a conformer model"),
        ("--time-limit=0", "time_limit is 0"),
    ],
)
@pytest.mark.parametrize("molecules", ["C", "in.smi"])
def test_options_are_checked_before_the_first_molecule(cli, here, molecules, option, message):
    (here / "in.smi").write_text("nonsense\nC\n")
    result = cli("conformers", molecules, option)
    assert result.exit_code == 1
    assert message in result.stderr
    assert [path.name for path in here.iterdir()] == ["in.smi"]


def test_the_low_ones_of_many_are_chosen(cli, here, weights, monkeypatch):
    totals, add_task = [], Progress.add_task

    def counted(self, description, **options):
        totals.append(options["total"])
        return add_task(self, description, **options)

    monkeypatch.setattr(Progress, "add_task", counted)
    words = ("-n", "2", "--oversample", "3", "--attempts", "2", "--unique", "0")
    words += ("--relax", "-m", weights, "--steps", "0", "--dtype", "float64")
    result = cli("conformers", "CCCO", *words, "--out", "all.extxyz")
    assert result.exit_code == 0, result.output
    assert totals == [6]
    assert len(read("all.extxyz", ":")) == 2
    result = cli("conformers", "CCCO", *words, "--window", "1e-9", "--out", "low.extxyz")
    assert result.exit_code == 0, result.output
    assert "above the energy window: " in result.stdout
    (here / "in.smi").write_text("CCCO\n")
    words += ("--out", "many.extxyz")
    assert cli("conformers", "in.smi", *words, "--window", "0.3").exit_code == 0
    about = json.loads((here / "many.json").read_text())
    assert (about["oversample"], about["window"], about["attempts"]) == (3, 0.3, 2)
    assert "other settings" in cli("conformers", "in.smi", *words, "--window", "0.2", "--resume").stderr
    assert cli("conformers", "in.smi", *words, "--window", "0.3", "--resume").exit_code == 0


def test_one_molecule_is_not_resumed(cli, here):
    (here / "x.sdf").write_text("earlier")
    result = cli("conformers", "C", "-n", "1", "--out", "x.sdf", "--resume")
    assert result.exit_code == 1
    assert "--resume goes on with a file of molecules" in result.stderr
    assert (here / "x.sdf").read_text() == "earlier"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_finished_molecules(here, how):
    (here / "in.smi").write_text("O\nN\n" + "C" * 300 + "\n")
    words = ["conformers", "in.smi", "-n", "1", "--out", "all.sdf"]
    program = "import sys; from ase_geomol.cli import main; sys.argv = ['ase-geomol', *sys.argv[1:]]; main()"
    root = str(common.Path(ase_geomol.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": root},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # even where the tests ignore it
    )
    table = here / "all.csv"
    for _ in range(600):
        if table.exists() and table.read_text().count("\n") == 3:
            break
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(how)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "finished molecules are in all.sdf" in errors.replace("\n", " ")
    assert "--resume" in errors
    assert len(Chem.SDMolSupplier("all.sdf")) == 2


@pytest.mark.parametrize(("words", "kept"), [((), 3), (("--relax", "--steps", "0"), 2)])
def test_ctrl_c_keeps_finished_conformers(cli, here, monkeypatch, weights, words, kept):
    from ase_geomol.providers import etkdg
    from ase_geomol.simulate import together

    monkeypatch.setattr(together, "ATOMS_AT_ONCE", 12)  # two molecules
    drawn, calls = etkdg.RDKitProvider.draw, []

    def draw(self, molecule, seeds, deadline):
        calls.append(seeds)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return drawn(self, molecule, seeds, deadline)

    monkeypatch.setattr(etkdg.RDKitProvider, "draw", draw)
    words += ("-m", weights) if words else ()
    result = cli("conformers", "CO", "-n", "9", *words, "--out", "x.extxyz")
    assert result.exit_code == 130
    assert f"Interrupted: {kept} conformers, of which none was left out, are in x.extxyz." in result.stderr
    frames = read("x.extxyz", ":")
    assert sorted(atoms.info["index"] for atoms in frames) == list(range(kept))
    assert all(atoms.calc is not None for atoms in frames) is bool(words)
    assert [path.name for path in here.iterdir()] == ["x.extxyz"]
    for name in ("y.png", "y.html"):
        (here / name).write_text("earlier")
    again = cli("conformers", "CO", "-n", "9", "--out", "y.sdf", "--overwrite")
    assert again.exit_code == 130
    assert "Interrupted: nothing was written." in again.stderr
    assert (here / "y.png").exists()
    calls.clear()
    assert cli("conformers", "CO", "-n", "9", "--out", "y.sdf", "--overwrite").exit_code == 130
    assert sorted(path.name for path in here.iterdir()) == ["x.extxyz", "y.sdf"], "no pictures of other structures"


def test_help(cli):
    result = cli("conformers", "--help")
    assert "Examples" in result.stdout
    assert conformers.FAMILY == 0.75
