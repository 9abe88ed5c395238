"""The table of (r)MD17: files of a split in both layouts, which trainings are made, and what is compared."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.readers import Keys

from ase_geomol.errors import ConfigError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FRAMES = 6
FORCES = "valid/forces_MAE_meV_per_A"


@pytest.fixture
def rmd17(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The script, which trains below a temporary folder and knows no earlier table."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("rmd17")
    monkeypatch.setattr(found, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(found, "TABLE", tmp_path / "rmd17.json")
    return found


def archive(folder: Path) -> Path:
    """The layout of the archive of rMD17, with one molecule and two splits."""
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=(FRAMES, 2, 3)) for name in ("coords", "forces", "old_forces")}
    arrays |= {name: random.normal(size=FRAMES) for name in ("energies", "old_energies")}
    for name in ("npz_data", "splits"):
        (folder / name).mkdir(parents=True)
    np.savez(folder / "npz_data/rmd17_benzene.npz", nuclear_charges=np.array([6, 1]), **arrays)
    for split, train, test in (("01", [0, 2], [5]), ("02", [4, 1], [3, 0])):
        for part, index in (("train", train), ("test", test)):
            (folder / f"splits/index_{part}_{split}.csv").write_text("".join(f"{place}\n" for place in index))
    return folder


def test_files_are_those_of_either_layout(rmd17, tmp_path: Path) -> None:
    """A training finds the portions of the archive by the names that files of the splits have."""
    data = archive(tmp_path / "rmd17")
    assert rmd17.molecules_in(data) == ["benzene"]
    changes = rmd17.Study("benzene", "revised", "02", "geomformer").changes(data)
    recipe = rmd17.load_recipe(rmd17.RECIPES["geomformer"], changes)
    names = [Path(str(name)).name for name in (recipe.data.train, recipe.data.test)]
    assert names == ["rmd17_benzene_train_02.npz", "rmd17_benzene_test_02.npz"]
    whole = np.load(data / "npz_data/rmd17_benzene.npz")
    frames = load(str(recipe.data.train), Keys(), Limits()).frames
    assert np.array_equal(frames.positions, whole["coords"][[4, 1]].reshape(-1, 3))


def test_what_is_missing_is_trained(rmd17, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, made = archive(tmp_path / "rmd17"), []
    options = {"data": str(data), "molecules": "all", "splits": "01,02", "labels": "revised,original", "minutes": 30.0}
    studies = rmd17._studies({**options, "networks": "geomformer"})

    def fit(recipe, out, *, resume, time_budget, threads):
        assert time_budget == 1800
        made.append((out.name, recipe.data.labels, Path(recipe.data.test).name, recipe.metadata.theory, resume))
        if len(made) == 2:
            return SimpleNamespace(stopped_by="interrupted")
        out.mkdir(parents=True)
        (out / "result.json").write_text("{}")
        return SimpleNamespace(stopped_by="time budget used")

    monkeypatch.setattr(rmd17, "fit", fit)
    (tmp_path / "runs/rmd17-benzene-02").mkdir(parents=True)
    (tmp_path / "runs/rmd17-benzene-02/last.pt").touch()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on from there"):
        rmd17._train(studies, data)
    (tmp_path / "runs/rmd17-benzene-02/result.json").write_text("{}")
    rmd17._train(studies, data)
    revised, original = "PBE/def2-SVP", "PBE+vdW-TS"
    assert made == [
        ("rmd17-benzene", "revised", "rmd17_benzene_test_01.npz", revised, False),
        ("rmd17-benzene-02", "revised", "rmd17_benzene_test_02.npz", revised, True),
        ("md17-benzene", "original", "rmd17_benzene_test_01.npz", original, False),
        ("md17-benzene-02", "original", "rmd17_benzene_test_02.npz", original, False),
    ]


def test_other_lengths_have_folders_of_their_own(rmd17) -> None:
    folders = [rmd17.Study("ethanol", "revised", "01", network, 30.0).folder for network in ("geomformer", "est")]
    assert folders == ["rmd17-ethanol", "rmd17-est-ethanol"]
    assert rmd17.Study("ethanol", "original", "02", "est", 120.0).folder == "md17-est-ethanol-02-120min"


@pytest.mark.parametrize(("name", "value"), [("molecules", "benzine"), ("labels", "new"), ("networks", "mace")])
def test_unknown_names(rmd17, tmp_path: Path, name: str, value: str) -> None:
    options = {"data": str(archive(tmp_path / "rmd17")), "molecules": "all", "splits": "01", "labels": "revised"}
    options["minutes"] = 30.0
    with pytest.raises(ConfigError, match=f"'{value}' is none of"):
        rmd17._studies({**options, "networks": "geomformer", name: value})


def test_rows_of_all_trainings_meet(rmd17, tmp_path: Path) -> None:
    def result(split: str, forces: float, minutes: float = 30.0, **changes: int) -> dict:
        variables = [f"variables.split='{split}'", "variables.molecule=aspirin"]
        changed = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
        recipe = rmd17.load_recipe(rmd17.RECIPES["geomformer"], [*variables, *changed]).model_dump(mode="json")
        errors = {"test_energy_MAE_meV": 1.0, "test_forces_MAE_meV_per_A": forces}
        del recipe["optimiser"]["eps"]  # as an older version would have left it
        about = {"parameters": 1, "steps": 100, "seconds": 60 * minutes, "processes": 1}
        return {"recipe": recipe, "errors": errors, "hardware": {"processor": "a", "threads": 1}, **about}

    for name, content in {
        "first": result("01", 10.0),
        "second": result("02", 12.0, 30.01),
        "longer": result("02", 7.0, 120.02),
        "with changes": result("02", 1.0, model__config__layers=2),
    }.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "result.json").write_text(json.dumps(content))
    (tmp_path / "runs/second/logs/version_0").mkdir(parents=True)
    log = "".join(f"{step},{64 / step},\n" for step in (4, 8, 16, 32, 64))
    (tmp_path / "runs/second/logs/version_0/metrics.csv").write_text(f"step,{FORCES},train/loss\n5,,1.0\n{log}")
    none = tmp_path / "gone"
    earlier = [rmd17._of_training(none, result(split, forces)).row for split, forces in (("01", 50.0), ("03", 14.0))]
    del earlier[1][rmd17.FALL]
    (tmp_path / "rmd17.json").write_text(json.dumps({"rows": earlier}))
    found = rmd17.run(False, minutes=0)
    ours = [row for row in found.rows if row["forces by"] == "gradient"]
    assert [(row["split"], row["forces MAE (meV/Å)"], row["changes"], row[rmd17.FALL]) for row in ours] == [
        ("01", 10.0, "", None),
        ("02", 1.0, "model.config.layers=2", None),
        ("02", 12.0, "", "8, 4, 2, 1"),
        ("02", 7.0, "", None),
        ("03", 14.0, "", None),
    ]
    assert len({tuple(row) for row in found.rows}) == 1
    best = "forces, our GeoMFormer / best published, aspirin, revised labels"
    assert found.summary == pytest.approx({f"{best}, 30 min, 3 splits": 12.0 / 6.6, f"{best}, 120 min": 7.0 / 6.6})
    assert (tmp_path / "rmd17.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_curve_is_of_all_logs_of_a_run(rmd17, tmp_path: Path) -> None:
    """The first was resumed after its step 20, from where on steps were done again."""
    for number, lines in enumerate(("10,9.0,1.0\n20,8.0,2.0\n30,7.0,3.0\n", "30,6.0,4.0\n40,5.0,6.0\n")):
        folder = tmp_path / f"logs/version_{9 + number}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"step,{FORCES},valid/minutes\n{lines}")
    curve = rmd17.read_curve(tmp_path, "forces_MAE_meV_per_A", 40, 60.0)
    assert curve.minutes.tolist() == [1.0, 2.0, 4.0, 6.0]
    assert curve.values.tolist() == [9.0, 8.0, 6.0, 5.0]
    assert curve.in_words() == "–, 9, 8, 5"
    again = rmd17.Curve.from_words(curve.in_words(), 6.0)
    assert again.minutes.tolist() == [1.5, 3.0, 6.0]
    assert again.in_words() == curve.in_words()
    assert rmd17.read_curve(tmp_path, "stress_MAE_meV_per_A3", 40, 60.0) is None
