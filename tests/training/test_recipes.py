"""Recipes: every shipped one is valid, and a wrong one says where and why."""

from __future__ import annotations

import shlex
import sys
from itertools import pairwise
from pathlib import Path

import geomol_training
import pytest
import yaml
from geomol_training.cli import app, main
from geomol_training.fit import fit
from geomol_training.recipe import load_recipe
from rich.console import Console
from typer.testing import CliRunner

from ase_geomol.checkpoint import form_of, load_checkpoint
from ase_geomol.errors import ConfigError, MissingExtraError

RECIPES = Path(__file__).parents[2] / "training/recipes"
OF_FITS = [path for path in sorted(RECIPES.rglob("*.yaml")) if "model" in yaml.safe_load(path.read_text())]
RMD17 = Path(__file__).parents[3] / "shared/data/rmd17"


@pytest.mark.parametrize("path", OF_FITS, ids=lambda path: path.stem)
def test_every_recipe_says_what_it_would_do(path, tmp_path, monkeypatch):
    """In a folder without data: what is missing is told, and no error."""
    recipe = load_recipe(path)
    assert recipe.name.startswith(path.stem.replace("_", "-"))
    if recipe.model.architecture == "ditmc":
        pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")
    monkeypatch.chdir(tmp_path)
    done = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(app, ["fit", str(path), "--dry-run"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    missing = "missing: " in done.output or "unusable: " in done.output
    assert done.exit_code == (1 if missing else 0), done.output
    for words in ("data to train", "learns", "parameters", "MB for weights", "batches", "ends"):
        assert words in done.output
    assert not list(tmp_path.iterdir())


def test_the_command_for_molecule3d_trains_what_its_comment_says():
    path = RECIPES / "pcqm4mv2_gap.yaml"
    header = path.read_text().split("\nname: ")[0].replace("# ", "").replace("\\\n", "")
    (command,) = (line for line in header.splitlines() if "molecule3d-gap" in line)
    words = shlex.split(command)
    recipe = load_recipe(path, [word for flag, word in pairwise(words) if flag == "--set"])
    config = recipe.model.config
    assert (config["layers"], config["channels"], config["ffn_channels"], config["heads"]) == (12, 768, 768, 48)
    assert (recipe.optimiser.lr, recipe.schedule.warmup_steps, recipe.training.max_steps) == (3e-4, 60_000, 10**6)
    assert "PCQM4Mv2" not in recipe.metadata.training_data + recipe.description
    assert "MMFF94s" not in recipe.metadata.theory


def test_a_dry_run_says_what_would_run(tmp_path, xyz):
    (tmp_path / "a.yaml").write_text(VALID.replace("data.extxyz", str(xyz)))
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    done = runner.invoke(app, ["fit", str(tmp_path / "a.yaml"), "--dry-run", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    for words in ("1 files", "a potential", "geomformer", "100 pairs", "1 steps", "MB for weights"):
        assert words in done.output
    assert not (tmp_path / "run").exists()
    missing = ["fit", str(tmp_path / "a.yaml"), "--dry-run", "--set", "data.train=nothing.extxyz"]
    done = runner.invoke(app, missing)
    assert done.exit_code == 1
    assert "missing: 'nothing.extxyz' is no file" in done.output


def test_a_dry_run_looks_at_all_that_a_fine_tuning_needs(tmp_path, xyz, make_checkpoint):
    start = make_checkpoint(seed=1)
    form = form_of(load_checkpoint(start).potential)
    fields = yaml.safe_load(VALID.replace("data.extxyz", str(xyz)))
    fields["model"] = {"architecture": form["architecture"], "config": form["config"], "start": str(start)}
    fields |= {"finetune": {"replay": str(xyz)}, "training": {"batch_frames": 8, "parts": 4, "max_steps": 1}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(fields))

    def dry_run(*changes: str) -> tuple[int, str]:
        changed = [word for change in changes for word in ("--set", change)]
        runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
        done = runner.invoke(app, ["fit", str(tmp_path / "a.yaml"), "--dry-run", *changed])
        return done.exit_code, done.output

    code, told = dry_run()
    assert code == 0, told
    for words in ("data to replay", f"small-1, {start}", "8 structures, in 4 parts"):
        assert words in told
    for change, words in {
        "finetune.replay=nothing.extxyz": "missing: 'nothing.extxyz' is no file",
        "model.start=nothing.safetensors": "unusable: 'nothing.safetensors' is neither a shipped potential",
        "model.config.layers=7": "unusable: model.start: the 'layers' of",
    }.items():
        code, told = dry_run(change)
        assert code == 1
        assert words in told


def write_recipe(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


VALID = """
name: tiny
data: {train: data.extxyz}
model: {config: {channels: 8}}
training: {batch_edges: 100, max_steps: 1}
metadata: {theory: EMT, training_data: some}
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("max_steps: 1", "max_step: 1", "training.max_step: Extra inputs are not permitted"),
        ("max_steps: 1", "max_steps: 0", "training.max_steps: Input should be greater than or equal to 1"),
        ("batch_edges: 100, ", "", "training: give one of batch_edges, batch_atoms and batch_frames"),
        ("metadata: {theory: EMT, training_data: some}", "", "metadata: Field required"),
        ("name: tiny", "name: tiny\nloss: {energy: 0, forces: 0}", "loss: every weight is zero"),
        (
            "name: tiny",
            "name: tiny\nrelaxation: {energy: 0, displacement: [1, 0]}",
            "relaxation: energy and the last weight of displacement are zero",
        ),
        ("name: tiny", "name: tiny\nloss: {kind: l3}", "loss.kind: Input should be 'l1', 'l2' or 'huber'"),
        ("name: tiny", "name: tiny\nloss: {direct_forces: 1}", "with model.config.direct_forces"),
        ("name: tiny", "name: tiny\noptimiser: {betas: [1.5, 0.9]}", "optimiser.betas.0: Input should be less than 1"),
        ("model: {", "model: {architecture: mace, ", "architecture: this version knows"),
        ("channels: 8", "elements: 6", "model: config.elements: Input should be a valid tuple"),
        ("channels: 8", "elements: [H, C]", "config.elements.0: Input should be a valid integer, unable to parse"),
        ("channels: 8", "channels: 7", "channels (7) must be a multiple of heads (8)"),
        ("channels: 8", "colour: red", "config.colour: Extra inputs are not permitted"),
        (
            "model: {config: {channels: 8}}",
            "model: {config: {elements: [1, 6]}}\npotential: {reference_energies: {1: -13.6}}",
            "potential.reference_energies lacks the atomic numbers [6]",
        ),
        ("name: tiny", "name: tiny\npotential: {reference_energies: {119: 0}}", "should be less than or equal to 118"),
        (
            "model: {",
            "potential: {scale: 2.0}\nmodel: {start: some.safetensors, ",
            "model.start brings its own reference energies and scale",
        ),
        (
            "model: {config: {",
            "potential: {reference_energies: {1: 0}}\nmodel: {start: some.safetensors, config: {elements: [1], ",
            "model.start brings its own reference energies and scale",
        ),
        ("model: {", "model: {start: some.safetensors, ", "must be named in model.config.elements"),
        ("name: tiny", "name: [", "not valid YAML"),
        (VALID, "- a list", "must be a mapping of fields, not list"),
    ],
)
def test_wrong_recipes(old, new, sentence, tmp_path):
    path = write_recipe(tmp_path / "wrong.yaml", VALID.replace(old, new))
    with pytest.raises(ConfigError, match=r"wrong\.yaml") as caught:
        load_recipe(path)
    assert sentence in str(caught.value)


def test_missing_recipe(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.yaml cannot be read"):
        load_recipe(tmp_path / "absent.yaml")


def test_changes(tmp_path):
    path = write_recipe(tmp_path / "tiny.yaml", VALID)
    recipe = load_recipe(
        path, ("data.train=other/folder", "optimiser.lr=1e-4", "data.split.by=frame", "model.config.layers=2")
    )
    assert recipe.data.train == "other/folder"
    assert recipe.optimiser.lr == 1e-4
    assert recipe.data.split.by == "frame"
    assert recipe.model.config == {"channels": 8, "layers": 2}
    with pytest.raises(ConfigError, match="write it like"):
        load_recipe(path, ("data.train",))
    with pytest.raises(ConfigError, match="'name' has no fields"):
        load_recipe(path, ("name.first=1",))


@pytest.mark.skipif(not RMD17.exists(), reason="the rMD17 files are not at ../shared/data/rmd17")
@pytest.mark.parametrize("molecule", ["ethanol", "uracil"])
def test_rmd17_recipe_runs_with_the_molecule_as_its_only_change(tmp_path, molecule):
    recipe = load_recipe(
        RECIPES / "rmd17.yaml",
        (
            f"variables.molecule={molecule}",
            f"data.train={RMD17}/rmd17_{{molecule}}_train_01.npz",
            f"data.test={RMD17}/rmd17_{{molecule}}_test_01.npz",
            "training.max_steps=3",
            "model.config.channels=8",
            "model.config.layers=1",
        ),
    )
    assert recipe.name == f"rmd17-{molecule}"
    result = fit(recipe, tmp_path, console=Console(quiet=True))
    assert result.step == 3
    assert {"validation_energy_MAE_meV", "test_energy_MAE_meV"} <= set(result.errors)
    assert load_checkpoint(result.model).metadata.errors == result.errors
    assert load_checkpoint(result.model).metadata.theory == "PBE/def2-SVP"


def test_variables_fill_every_text(tmp_path):
    path = tmp_path / "recipe.yaml"
    write_recipe(path, VALID + "variables: {what: water, where: here}")
    changes = ("name='{what}-1'", "data.train=['a/{what}/{where}', 'b/{other}']", "variables.where=there")
    recipe = load_recipe(path, changes)
    assert recipe.name == "water-1"
    assert recipe.data.train == ("a/water/there", "b/{other}")
    with pytest.raises(ConfigError, match=r"has no \{wat\} that the variable 'wat' could replace"):
        load_recipe(path, (*changes, "variables.wat=ice"))


def test_errors_keep_their_brackets(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["geomol-train", "fit", str(tmp_path / "[bold]absent.yaml")])
    with pytest.raises(SystemExit):
        main()
    assert "[bold]absent.yaml cannot be read" in capsys.readouterr().err


def test_missing_packages_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    # The import below makes the package anew; put both its entry and its name in the parent back afterwards.
    monkeypatch.setattr(geomol_training, "labelling", getattr(geomol_training, "labelling", None), raising=False)
    for name in [name for name in sys.modules if name.startswith("geomol_training.labelling")]:
        monkeypatch.delitem(sys.modules, name)
    found = CliRunner().invoke(app, ["label", "any.yaml"]).exception
    assert isinstance(found, MissingExtraError)
    assert "Labelling needs rdkit: install it with  pip install 'ase_geomol[labels]'" in str(found)


def test_command(make_recipe, tmp_path):
    path = write_recipe(tmp_path / "tiny.yaml", yaml.safe_dump(make_recipe().model_dump(mode="json")))
    arguments = ["fit", str(path), "--out", str(tmp_path / "run"), "--set", "training.max_steps=2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 steps" in result.output
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)
    assert "Examples" in CliRunner().invoke(app, ["fit", "--help"]).output
