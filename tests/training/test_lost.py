"""Nothing is lost: a process that is killed in the middle of an epoch, a disk that is full in the middle of a run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from geomol_training.fit import fit
from geomol_training.keeper import read_state
from rich.console import Console

from ase_geomol import files
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import OutputError

KILLED_AT, KEPT_AT = 11, 8
"""Steps of an epoch of eight that is done for the second time, and of the checkpoint before."""
CHILD = f"""
import os, signal, sys
from pathlib import Path
from geomol_training.fit import fit
from geomol_training.objective import Fitting
from geomol_training.recipe import Recipe

step = Fitting.training_step

def killed(self, batch, batch_idx):
    loss = step(self, batch, batch_idx)
    if self.standing.step == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss

Fitting.training_step = killed
recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
fit(recipe, Path(sys.argv[2]), threads=1)
"""


def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture
def recipe(make_recipe):
    """Three steps of eight in each of two and a half epochs, with dropout; a checkpoint with each validation."""
    training = {"batch_edges": None, "batch_frames": 3, "max_steps": 20, "validate_every": KEPT_AT}
    return make_recipe(training=training, model={"hidden_dropout": 0.2}, schedule={"kind": "plateau"})


def same_state(first: Path, second: Path) -> None:
    """Weights, running mean and optimiser, to the bit; and the exported weights."""
    one, two = (read_state(out / "last.pt", "identity") for out in (first, second))
    assert one["standing"]["step"] == two["standing"]["step"]
    for part in ("predictor", "averaged"):
        assert all(torch.equal(value, two[part][name]) for name, value in one[part].items())
    for number, moments in one["optimiser"]["state"].items():
        assert all(torch.equal(value, two["optimiser"]["state"][number][name]) for name, value in moments.items())
    assert len({load_checkpoint(out / "model.safetensors").fingerprint for out in (first, second)}) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals")
def test_a_process_that_is_killed_in_the_middle_of_an_epoch(recipe, tmp_path):
    fit(recipe, tmp_path / "whole", console=quiet(), threads=1)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    words = [sys.executable, "-c", CHILD, str(tmp_path / "recipe.json"), str(tmp_path / "killed")]
    child = subprocess.run(words, capture_output=True, timeout=600, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert read_state(tmp_path / "killed/last.pt", "identity")["standing"]["step"] == KEPT_AT
    fit(recipe, tmp_path / "killed", resume=True, console=quiet(), threads=1)
    same_state(tmp_path / "whole", tmp_path / "killed")


def test_a_disk_that_is_full_leaves_the_last_checkpoint_whole(recipe, tmp_path, monkeypatch):
    """The disk is full from the second checkpoint on, until somebody makes room."""
    fit(recipe, tmp_path / "whole", console=quiet(), threads=1)
    last, fdopen = tmp_path / "full/last.pt", files.os.fdopen

    class Full:
        """A file of which a part was written."""

        def __init__(self, handle: int, mode: str) -> None:
            self.file = fdopen(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fdopen", lambda *how: Full(*how) if last.exists() else fdopen(*how))
        with pytest.raises(OutputError, match=r"Cannot write .*(last\.pt|model\.safetensors): No space left"):
            fit(recipe, tmp_path / "full", console=quiet(), threads=1)
    assert read_state(last, "identity")["standing"]["step"] == KEPT_AT
    assert not list(last.parent.glob(".last.pt*"))
    fit(recipe, tmp_path / "full", resume=True, console=quiet(), threads=1)
    same_state(tmp_path / "whole", tmp_path / "full")
