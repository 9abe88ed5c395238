"""Training of properties, and QM9 as it is published."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.io import read, write
from geomol_training.checks import Limits
from geomol_training.cli import app
from geomol_training.data import load
from geomol_training.fit import fit
from geomol_training.readers import Keys, read_rows
from geomol_training.readers.qm9 import PROPERTIES
from geomol_training.recipe import load_recipe
from geomol_training.sources import find_files
from typer.testing import CliRunner

from ase_geomol import DataError, PropertyPredictor
from ase_geomol.errors import ConfigError

QM9_FILE = (
    "5\n"
    "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t"
    "0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\n"
    "C\tC\t\n"
    "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)
HARTREE = 27.211386


def recipe_text(data: Path, pooling: str = "sum", name: str = "count", **config: object) -> str:
    config = {"cutoff": 3.0, "layers": 1, "channels": 16, "heads": 2, "kernels": 8, "ffn_channels": 16, **config}
    return json.dumps(
        {
            "name": "property",
            "data": {"train": str(data), "split": {"by": "frame", "valid": 10, "test": 10}},
            "model": {"architecture": "geomformer", "config": config},
            "target": {"name": name, "unit": "eV" if name == "gap" else "things", "pooling": pooling},
            "loss": {"kind": "l1"},
            "optimiser": {"name": "muon", "lr": 0.01},
            "training": {"batch_frames": 10, "max_steps": 200, "validate_every": 100, "ema": 0.9},
            "metadata": {"theory": "counting", "training_data": "g2"},
        }
    )


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules of H, C, N and O with a sum over all pairs, and a dipole."""
    path = tmp_path_factory.mktemp("data") / "g2.extxyz"
    frames = []
    for name in g2.names:
        atoms = molecule(name)
        if len(atoms) > 2 and set(atoms.symbols) <= set("HCNO"):
            near = np.exp(-atoms.get_all_distances()).sum()
            plain = Atoms(atoms.numbers, atoms.positions)
            charges = np.where(atoms.numbers == 1, 0.2, 0.0)
            moment = np.linalg.norm((charges - charges.mean()) @ atoms.positions)
            plain.info = {"count": 5 * float(near) + 100 * len(atoms), "moment": float(moment)}
            frames.append(plain)
    write(path, frames)
    assert len(frames) > 40
    return path


def test_a_property_is_learned(molecules: Path, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(recipe_text(molecules))
    result = fit(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run", threads=1)
    assert {"validation_count_MAE_things", "test_count_MAE_things"} <= set(result.errors)
    frames = read(molecules, ":")
    counts = np.array([atoms.info["count"] for atoms in frames])
    values = PropertyPredictor(result.model).predict(frames)
    atoms = np.array([[sum(f.numbers == z) for z in (1, 6, 7, 8)] for f in frames])
    by_composition = counts - atoms @ np.linalg.lstsq(atoms, counts, rcond=None)[0]
    assert np.abs(values - counts).mean() < 0.5 * np.abs(by_composition).mean()


def test_a_dipole_is_learned(molecules: Path, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(recipe_text(molecules, "dipole", "moment", direct_forces=True))
    result = fit(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run", threads=1)
    frames = read(molecules, ":")
    moments = np.array([atoms.info["moment"] for atoms in frames])
    values = PropertyPredictor(result.model).predict(frames)
    assert np.abs(values - moments).mean() < 0.5 * np.abs(moments - np.median(moments)).mean()


def test_properties_are_evaluated_and_predicted_by_command(molecules: Path, tmp_path: Path, monkeypatch):
    from ase_geomol.cli import app as use

    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(recipe_text(molecules))
    runner = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"})
    ran = runner.invoke(app, ["fit", "recipe.yaml", "--threads", "1", "--set", "training.max_steps=10"])
    assert ran.exit_code == 0, ran.output
    weights = "runs/property/model.safetensors"
    ran = runner.invoke(app, ["evaluate", weights, str(molecules), "--out", "evaluation"])
    assert ran.exit_code == 0, ran.output
    assert "count" in ran.output
    written = json.loads(Path("evaluation/evaluation.json").read_text())
    assert written["errors"]["count_MAE_things"] > 0
    assert Path("evaluation/parity.png").stat().st_size > 10_000
    ran = runner.invoke(use, ["predict", str(molecules), "-m", weights])
    assert ran.exit_code == 0, ran.output
    lines = Path("g2-count.csv").read_text().splitlines()
    assert lines[0] == "structure,formula,count (things)"
    assert len(lines) == len(read(molecules, ":")) + 1
    ran = runner.invoke(use, ["predict", str(molecules), "-m", weights])
    assert ran.exit_code == 1
    ran = runner.invoke(use, ["relax", "CCO", "-m", weights])
    assert ran.exit_code == 1
    assert "is no potential" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("potential.repulsion=0.5", "potential belongs to energies"),
        ("loss.forces=2.0", "loss gives its kind only"),
        ("target.pooling=dipole", "model.config.direct_forces is for"),
        ("target.pooling=median", "pooling"),
        ("model.start=geomformer-organic", "potentials only"),
    ],
)
def test_recipes_that_make_no_sense(molecules: Path, tmp_path: Path, change: str, sentence: str):
    (tmp_path / "recipe.yaml").write_text(recipe_text(molecules))
    with pytest.raises(ConfigError, match=sentence):
        load_recipe(tmp_path / "recipe.yaml", [change])


# --- QM9


def test_a_file_of_qm9(tmp_path: Path):
    path = tmp_path / "dsgdb9nsd_000001.xyz"
    path.write_text(QM9_FILE)
    values = {name: next(read_rows(path, Keys(energy=name))) for name in PROPERTIES}
    row = values["gap"]
    assert row.energy == pytest.approx(0.5048 * HARTREE, rel=1e-6)
    assert values["alpha"].energy == 13.21
    assert values["mu"].energy == 0.0
    assert values["U0"].energy == pytest.approx(-40.47893 * HARTREE, rel=1e-6)
    assert values["Cv"].energy == 6.469
    assert row.numbers.tolist() == [6, 1, 1, 1, 1]
    assert row.positions[2, 2] == pytest.approx(2.765748e-4)
    assert row.group == "C"
    with pytest.raises(DataError, match="no 'colour'"):
        list(read_rows(path, Keys(energy="colour")))
    path.write_text(QM9_FILE[:200])
    with pytest.raises(DataError, match="row 0: damaged row"):
        load(str(path), Keys(energy="gap"), Limits())


def test_molecules_that_failed_the_check_of_qm9_are_bad_rows(tmp_path: Path):
    for number in (1, 2, 3):
        text = QM9_FILE.replace("gdb 1\t", f"gdb {number}\t")
        assert f"gdb {number}\t" in text
        (tmp_path / f"dsgdb9nsd_{number:06d}.xyz").write_text(text)
    (tmp_path / "uncharacterized.txt").write_text("3054 molecules\n\n Index  SMILES\n     2  C1=CC\n")
    with pytest.raises(DataError, match="molecule 2 failed QM9's own check"):
        load(f"{tmp_path}/*.xyz", Keys(energy="gap"), Limits())
    loaded = load(f"{tmp_path}/*.xyz", Keys(energy="gap"), Limits(), bad_rows="skip")
    assert (len(loaded.frames), sum(loaded.skipped.values())) == (2, 1)


def test_the_tables_of_qm9pack_say_the_same():
    if find_spec("qm9pack") is None:
        pytest.skip("qm9pack is not installed")
    files = find_files("qm9pack")
    assert [file.name for file in files] == ["qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv"]
    first = next(read_rows(files[0], Keys(energy="gap")))
    assert first.energy == pytest.approx(0.5048 * HARTREE, rel=1e-6)
    assert first.numbers.tolist() == [6, 1, 1, 1, 1]


def test_ordinary_xyz_files_are_read_as_before(tmp_path: Path):
    atoms = molecule("H2O")
    atoms.info["energy"] = 1.5
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    assert load(str(tmp_path / "a.xyz"), Keys(), Limits()).frames.energy.tolist() == [1.5]
