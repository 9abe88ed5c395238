"""A release puts weights, card and registry entry side by side, with the errors that were measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from geomol_training import cli, release

from ase_geomol import ConfigError, checkpoint, load_checkpoint, shipped_models
from ase_geomol.errors import DataError
from ase_geomol.rigidity import Rigidity, RigidityForm

EVALUATION = {
    "errors": {"energy_MAE_meV": 12.345, "forces_MAE_meV_per_A": 67.891},
    "by_source": {"md": {"frames": 3, "energy_MAE_meV": 20.0, "forces_MAE_meV_per_A": 30.0}, "rare": {"frames": 1}},
    "n_frames": 4,
}
MANIFEST = {
    "frames": 1234,
    "counts": {"source": {"md": 1234}, "split": {"train": 1200, "test": 34}, "rejected": {"force too large": 5}},
}
RESULT = {"command": "python it.py", "hardware": {"processor": "a processor"}, "date": "2026-01-01"}
ROWS = [{"molecule": "first"}, {"molecule": "all 2", "broken bonds": 0, "mean K": 301.23}]
NOTES = Path(__file__).parents[2] / "training/recipes/shipped/geomformer_organic_card.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the package's weights."""
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setattr(checkpoint, "WEIGHTS", weights)
    monkeypatch.setattr(release, "WEIGHTS", weights)
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    return tmp_path


def evaluated(trained: Path, folder: Path, split: str = "test") -> Path:
    """The same path, after an evaluation and results of benchmarks of these weights were put into the folder."""
    fingerprint = load_checkpoint(trained).fingerprint
    for name, content in {
        "evaluation/evaluation": {**EVALUATION, "fingerprint": fingerprint, "split": split},
        "results/rows": {
            **RESULT,
            "question": "How hot?\n\nMore.",
            "model": {"fingerprint": fingerprint},
            "on the card": True,
            "summary": {"broken bonds": 0, "mean K": 301.23},
            "rows": ROWS,
        },
        "results/code": {
            **RESULT,
            "question": "How fast?",
            "model": {"fingerprint": fingerprint},
            "summary": {"ours / theirs": 0.5},
            "rows": ROWS,
        },
        "results/summary": {
            **RESULT,
            "question": "How long?",
            "model": {"fingerprint": fingerprint},
            "on the card": True,
            "summary": {"of the longest": 2.5},
            "rows": ROWS,
        },
        "results/other": {
            **RESULT,
            "question": "Other weights?",
            "model": {"fingerprint": "abc"},
            "on the card": True,
            "rows": ROWS,
        },
        "results/none": {**RESULT, "question": "No weights?", "rows": ROWS},
    }.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "evaluation/parity.png").write_bytes(b"a picture")
    return trained


def test_card_registry_and_weights(folder: Path, make_checkpoint, monkeypatch, capsys) -> None:
    trained = evaluated(make_checkpoint(seed=4), folder)
    options = ["--labels", f"{folder}/manifest.json"] * 2 + ["--results", f"{folder}/results"]
    monkeypatch.setattr(
        sys, "argv", ["geomol-train", "release", str(trained), str(NOTES), f"{folder}/evaluation", *options]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "small-4.safetensors" in capsys.readouterr().out
    assert shipped_models()["small-4"].metadata.errors == {
        "test_energy_MAE_meV": 12.35,
        "test_forces_MAE_meV_per_A": 67.89,
    }
    before, after = (load_checkpoint(model).potential.state_dict() for model in (trained, "small-4"))
    assert all((after[key] == value).all() for key, value in before.items())
    card = (folder / "weights/small-4.md").read_text()
    for words in (
        "# small-4",
        "| all | 4 | 12.3 | 67.9 |",
        "| md | 3 | 20.0 | 30.0 |",
        "| rare | 1 |  |  |",
        "2,468 frames",
        "| md | 2,468 |",
        "Split: test 68, train 2,400. Rejected: force too large 10.",
        "(small-4.png)",
        "### How hot?\n",
        "| broken bonds | 0 |",
        "| mean K | 301.2 |",
        yaml.safe_load(NOTES.read_text())["failures"],
    ):
        assert words in card, words
    assert "| of the longest | 2.5 |\n" in card
    assert "Other weights?" not in card
    assert "No weights?" not in card
    assert "How fast?" not in card
    assert (folder / "weights/small-4.png").read_bytes() == b"a picture"


def test_the_card_says_how_sure_the_weights_are(folder: Path, make_checkpoint) -> None:
    trained = evaluated(make_checkpoint(seed=4), folder)
    potential, metadata, _, fingerprint = load_checkpoint(trained)
    size = potential.model.readout.out.in_features + 1
    form = RigidityForm(frames=1000, valid_frames=50, scale=0.1, regulariser=1e-6)
    potential.rigidity = Rigidity(torch.eye(size, dtype=torch.float64), form)
    checkpoint.save_checkpoint(trained, potential, metadata)
    with pytest.raises(DataError, match=r"rigidity\.json is missing: run geomol-train rigidity with --out"):
        release.release(trained, NOTES, folder / "evaluation")
    measured = {"measured_on": "test", "measured_frames": 4, "results": {"spearman_force_of_frames": 0.789}}
    right = {"fingerprint": fingerprint, **form.model_dump(), **measured}
    for wrong in ({"fingerprint": "abc"}, {"scale": 0.2}):
        (folder / "evaluation/rigidity.json").write_text(json.dumps({**right, **wrong}))
        with pytest.raises(DataError, match="is about other weights"):
            release.release(trained, NOTES, folder / "evaluation")
    (folder / "evaluation/rigidity.json").write_text(json.dumps(right))
    path = release.release(trained, NOTES, folder / "evaluation")
    assert load_checkpoint(path).potential.rigidity is not None
    card = path.with_suffix(".md").read_text()
    assert "1,000 training frames and 50 validation frames. On 4 test frames:" in card
    assert "| spearman force of frames | 0.789 |" in card


def test_what_was_not_measured_is_said(folder: Path, make_checkpoint) -> None:
    path = release.release(evaluated(make_checkpoint(seed=4), folder), NOTES, folder / "evaluation")
    card = path.with_suffix(".md").read_text()
    assert "Not measured." in card
    assert "these weights have no rigidity" in card


def test_evaluation_of_other_weights_or_frames(folder: Path, make_checkpoint) -> None:
    trained = evaluated(make_checkpoint(seed=4), folder)
    with pytest.raises(DataError, match="evaluation is about other weights"):
        release.release(make_checkpoint(seed=5), NOTES, folder / "evaluation")
    evaluated(trained, folder, split="train")
    with pytest.raises(DataError, match="evaluate with --split test"):
        release.release(trained, NOTES, folder / "evaluation")
    assert not list((folder / "weights").iterdir())


@pytest.mark.parametrize("name", ["manifest", "results/summary"])
def test_foreign_files(name: str, folder: Path, make_checkpoint) -> None:
    trained = evaluated(make_checkpoint(seed=4), folder)
    (folder / f"{name}.json").write_text("{}")
    with pytest.raises(ConfigError, match=rf"{name}\.json is not valid: \w+: Field required"):
        release.release(trained, NOTES, folder / "evaluation", [folder / "manifest.json"], folder / "results")
    assert not list((folder / "weights").iterdir())


def test_notes_that_lack_a_word(folder: Path, make_checkpoint) -> None:
    (folder / "notes.yaml").write_text("intro: a potential\n")
    with pytest.raises(ConfigError, match=r"notes\.yaml is not valid: held_out: Field required"):
        release.release(make_checkpoint(seed=4), folder / "notes.yaml", folder / "evaluation")
    assert not list((folder / "weights").iterdir())
