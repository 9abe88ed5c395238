"""A tiny potential: repulsion between nuclei, and a network whose scale is zero."""

import pytest
import torch
from typer.testing import CliRunner

from ase_geomol.checkpoint import Metadata, save_checkpoint
from ase_geomol.cli import app
from ase_geomol.models import build_model
from ase_geomol.potential import Potential
from ase_geomol.rigidity import Rigidity, RigidityForm


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return _save(tmp_path_factory.mktemp("weights") / "tiny.safetensors", scale=0.0)


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory):
    """The same name and elements, but a network that says something."""
    return _save(tmp_path_factory.mktemp("other") / "tiny.safetensors", scale=0.1)


@pytest.fixture(scope="session")
def rigid_weights(tmp_path_factory):
    """The tiny potential with a rigidity: unit deviations along every feature."""
    return _save(tmp_path_factory.mktemp("rigid") / "rigid.safetensors", scale=0.0, rigid=True)


def _save(path, scale, rigid=False):
    config = {"elements": (1, 6, 7, 8), "cutoff": 4.0, "layers": 1, "channels": 8, "heads": 2}
    config |= {"ffn_channels": 8, "kernels": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("geomformer", config)
    potential = Potential(model, {1: -1.0, 6: -2.0, 8: -3.0}, scale=scale, repulsion=1.0)  # type: ignore[arg-type]
    if rigid:
        form = RigidityForm(frames=1, valid_frames=1, scale=1.0, regulariser=1.0)
        potential.rigidity = Rigidity(torch.eye(config["channels"] + 1), form)
    save_checkpoint(path, potential, Metadata(name="tiny", theory="ZBL", training_data="none"))
    return str(path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(here):
    """Run ``ase-geomol`` in an empty working directory; gives click's result."""
    runner = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"})
    return lambda *words: runner.invoke(app, list(words))
