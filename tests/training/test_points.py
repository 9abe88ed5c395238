"""The weights of an EST on other points."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk
from geomol_training.cli import app
from geomol_training.points import use_points
from typer.testing import CliRunner

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import Metadata, load_checkpoint, save_checkpoint
from ase_geomol.errors import ConfigError, OutputError
from ase_geomol.models import build_model
from ase_geomol.potential import Potential

METADATA = Metadata(name="tiny", theory="none", training_data="none", errors={"test_forces": 3.0})


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    config = {"elements": [29], "channels": 8, "heads": 2, "layers": 2, "points": "icosahedral-72"}
    potential = Potential(build_model("est", config), {29: -3.0}, 1.5, 0.6)  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "tiny.safetensors", potential, METADATA)
    return tmp_path / "tiny.safetensors"


def test_weights_stay_and_energies_nearly(weights, tmp_path):
    out = use_points(str(weights), "icosahedral-32", tmp_path / "few.safetensors")
    before, after = load_checkpoint(weights), load_checkpoint(out)
    assert after.potential.model.config.points == "icosahedral-32"
    assert len(after.potential.model.sphere.points) == 32
    assert after.metadata == before.metadata.model_copy(update={"errors": {}})
    assert after.fingerprint != before.fingerprint
    states = [loaded.potential.state_dict() for loaded in (before, after)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1)
    energies = []
    for path in (weights, out):
        atoms.calc = GeoMolCalculator(path, device="cpu", dtype="float64")
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-2)
    assert energies[0] != energies[1]


def test_what_is_refused(weights, tmp_path):
    with pytest.raises(OutputError, match="exists"):
        use_points(str(weights), "icosahedral-32", weights)
    with pytest.raises(ConfigError, match="points"):
        use_points(str(weights), "icosahedral-33", tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="geomformer-organic has no points on a sphere"):
        use_points("geomformer-organic", "icosahedral-32", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_command(weights, tmp_path):
    done = CliRunner().invoke(app, ["points", str(weights), "icosahedral-12", "--out", str(tmp_path / "a.safetensors")])
    assert done.exit_code == 0, done.output
    assert load_checkpoint(tmp_path / "a.safetensors").potential.model.config.points == "icosahedral-12"
