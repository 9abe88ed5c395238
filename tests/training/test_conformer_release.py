"""The card of a conformer model says of every comparison what it is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")
pytest.importorskip("yaml", reason="recipes need the extra 'train'")

from geomol_training import release as potentials
from geomol_training.conformers import release as conformers
from geomol_training.conformers.methods import CHOSEN, ETKDG, MODEL
from geomol_training.conformers.summary import DRAWN, RELAXED
from geomol_training.release import release

from ase_geomol import checkpoint
from ase_geomol.checkpoint import Metadata, load_conformers, save_checkpoint
from ase_geomol.errors import ConfigError, DataError
from ase_geomol.models.ditmc import ConformerFlow, DiTMC, DiTMCConfig, FlowForm

NOTES = Path(__file__).parents[2] / "training/recipes/shipped/ditmc_small_card.yaml"
VALUES = {
    "molecules": 7,
    "COV-R 0.5 Å mean %": 50.0,
    "AMR-P mean Å": 0.5,
    "AMR-P median Å": 0.25,
    "dipole error D": 0.1,
    "made %": 99.0,
    "s per conformer": 0.5,
}


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    flow = ConformerFlow(DiTMC(DiTMCConfig(channels=32, layers=1)), FlowForm())
    save_checkpoint(path, flow, Metadata(name="tiny", theory="none", training_data="none"))
    return path


@pytest.fixture
def evaluation(weights, tmp_path) -> dict:
    return {
        "fingerprint": load_conformers(weights).fingerprint,
        "split": "test",
        "rows": 7,
        "processor": "abacus",
        "device": "cpu",
        "remarks": {"distances that came too late or failed, not covered": 3},
        "methods": {
            **{name: {DRAWN: VALUES, RELAXED: {**VALUES, "AMR-P median Å": None}} for name in (MODEL, ETKDG)},
            CHOSEN: {RELAXED: VALUES},
        },
        "differences": [
            {
                **{"stage": DRAWN, "of": MODEL, "beside": ETKDG},
                "AMR-R Å": {"mean": -0.0812, "standard error": 0.0123, "molecules": 7},
                "AMR-P Å": {"mean": None, "standard error": None, "molecules": 0},
            }
        ],
    }


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    for module in (checkpoint, potentials, conformers):
        monkeypatch.setattr(module, "WEIGHTS", folder)
    return folder


def write(folder: Path, evaluation: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def test_every_comparison_is_called_by_its_references(weights, evaluation, shop, tmp_path):
    release(weights, NOTES, write(tmp_path / "e", {**evaluation, "device": "GPU 1"}))
    errors = load_conformers(shop / "tiny.safetensors").metadata.errors
    assert errors == {
        "test_molecules": 7.0,
        "test_surrogate COV-R 0.5 Å mean %": 50.0,
        "test_surrogate AMR-P mean Å": 0.5,
        "test_surrogate AMR-P median Å": 0.25,
        "test_surrogate dipole error D": 0.1,
        "test_surrogate made %": 99.0,
        "test_s per conformer": 0.5,
    }
    card = (shop / "tiny.md").read_text()
    assert "## Measured with surrogate references on molecules" in card
    assert (
        "| | molecules | surrogate COV-R 0.5 Å % | surrogate AMR-P Å | surrogate dipole error D | surrogate made % "
        "| s per conformer |" in card
    )
    assert f"| {MODEL}, {DRAWN} | 7 | 50 | 0.5 (0.25) | 0.1 | 99 | 0.5 |" in card
    assert f"| {MODEL}, {RELAXED} | 7 | 50 | 0.5 | 0.1 | 99 | 0.5 |" in card
    assert f"| {CHOSEN}, {RELAXED} | 7 | 50 | 0.5 (0.25) | 0.1 | 99 | 0.5 |" in card
    assert f"{CHOSEN}, {DRAWN}" not in card
    assert "| | surrogate AMR-R Å | surrogate AMR-P Å |" in card
    assert f"| {MODEL} − {ETKDG}, {DRAWN} | -0.0812 ± 0.012 |  |" in card
    assert "- distances that came too late or failed, not covered: 3" in card
    assert "on GPU 1 and abacus" in card


def test_notes_without_a_name_of_the_references(weights, evaluation, shop, tmp_path):
    notes = tmp_path / "notes.yaml"
    notes.write_text(NOTES.read_text(encoding="utf-8").replace("references: surrogate\n", ""))
    with pytest.raises(ConfigError, match="references"):
        release(weights, notes, write(tmp_path / "e", evaluation))
    assert not list(shop.iterdir())


def test_only_what_was_measured_on_these_weights(weights, evaluation, shop, tmp_path):
    for change, message in (({"fingerprint": "other"}, "other weights"), ({"split": None}, "test split")):
        with pytest.raises(DataError, match=message):
            release(weights, NOTES, write(tmp_path / "e", {**evaluation, **change}))
    assert not list(shop.iterdir())
