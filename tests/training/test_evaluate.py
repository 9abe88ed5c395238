"""Evaluation agrees with a computation by hand, and leaves a JSON file and a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training.cli import app
from geomol_training.evaluate import evaluate
from typer.testing import CliRunner

from ase_geomol.checkpoint import Metadata, load_checkpoint, save_checkpoint
from ase_geomol.errors import DataError
from ase_geomol.graph import from_atoms
from ase_geomol.models import build_model
from ase_geomol.potential import Potential

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = {"elements": (1, 6, 8), "cutoff": 3.5, "layers": 1, "channels": 8}
    potential = Potential(build_model("geomformer", config), {1: -0.5, 6: 1.0, 8: 2.0})  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, potential, Metadata(name="tiny", theory="EMT", training_data="none"))
    return path


def by_hand(checkpoint, structures) -> dict[str, float]:
    potential = load_checkpoint(checkpoint).potential
    energies, forces = [], []
    for atoms in structures:
        found = potential(from_atoms(atoms, potential.cutoff))
        energies.append((found.energy.item() - atoms.get_potential_energy()) * 1e3)
        forces.append((found.forces.numpy() - atoms.get_forces()).ravel() * 1e3)
    energy, force = np.array(energies), np.concatenate(forces)
    return {
        "energy_MAE_meV": np.abs(energy).mean(),
        "energy_MAE_meV_per_atom": np.mean([abs(e) / len(a) for e, a in zip(energy, structures, strict=True)]),
        "forces_MAE_meV_per_A": np.abs(force).mean(),
        "forces_RMSE_meV_per_A": np.sqrt((force**2).mean()),
    }


def test_agrees_with_hand(checkpoint, xyz, structures, tmp_path):
    result = evaluate(checkpoint, str(xyz), tmp_path / "new/folder")
    for name, value in by_hand(checkpoint, structures).items():
        assert result.errors[name] == pytest.approx(value, rel=1e-4), name
    stored = json.loads((tmp_path / "new/folder/evaluation.json").read_text())
    assert stored["errors"] == result.errors
    assert stored["by_source"]["emt"]["frames"] == 40
    assert stored["sha256"] == load_checkpoint(checkpoint).sha256
    assert (tmp_path / "new/folder/parity.png").read_bytes()[:8] == PNG


def test_one_split(checkpoint, xyz, structures, tmp_path):
    result = evaluate(checkpoint, str(xyz), tmp_path, split="validation")
    held_out = [atoms for atoms in structures if atoms.info["split"] == "valid"]
    assert result.n_frames == len(held_out)
    expected = by_hand(checkpoint, held_out)
    assert result.errors["forces_MAE_meV_per_A"] == pytest.approx(expected["forces_MAE_meV_per_A"], rel=1e-4)
    with pytest.raises(DataError, match="No frame has the split 'test'; the data has: train, valid"):
        evaluate(checkpoint, str(xyz), tmp_path, split="test")


def test_stress(checkpoint, structures, tmp_path):
    atoms = bulk("C", a=3.6)
    stress = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * 1e-2
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((2, 3)), stress=stress)
    write(tmp_path / "mixed.extxyz", [structures[0], atoms])
    result = evaluate(checkpoint, str(tmp_path / "mixed.extxyz"), tmp_path)
    potential = load_checkpoint(checkpoint).potential
    found = potential(from_atoms(atoms, potential.cutoff), stress=True).stress[0].numpy()
    full = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]) * 1e-2
    assert result.errors["stress_MAE_meV_per_A3"] == pytest.approx(1e3 * np.abs(found - full).mean(), rel=1e-4)


def test_elements_of_the_checkpoint_are_the_limit(checkpoint, tmp_path):
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    write(tmp_path / "cu.extxyz", atoms)
    with pytest.raises(DataError, match="unknown element"):
        evaluate(checkpoint, str(tmp_path / "cu.extxyz"), tmp_path)


def test_command(checkpoint, xyz, tmp_path):
    result = CliRunner().invoke(
        app, ["evaluate", str(checkpoint), str(xyz), "--split", "train", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "MAE / RMSE" in result.output
    assert (tmp_path / "parity.png").exists()
