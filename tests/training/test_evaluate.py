"""Evaluation agrees with a computation by hand, and leaves a JSON file and a picture."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training import evaluate as evaluation
from geomol_training import portions
from geomol_training.checks import Limits
from geomol_training.cli import app
from geomol_training.data import load
from geomol_training.display import errors_table
from geomol_training.evaluate import compared, evaluate, plot_parity, predict_frames
from geomol_training.frames import Row
from geomol_training.readers import Keys
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.tasks import task_of_weights
from rich.console import Console
from typer.testing import CliRunner

from ase_geomol.checkpoint import Metadata, load_checkpoint, save_checkpoint
from ase_geomol.errors import DataError, GeoMolError, OutputError
from ase_geomol.graph import from_atoms
from ase_geomol.models import build_model
from ase_geomol.potential import Potential
from ase_geomol.relaxed import RelaxedForm, RelaxedState

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
    assert stored["fingerprint"] == load_checkpoint(checkpoint).fingerprint
    assert (tmp_path / "new/folder/parity.png").read_bytes()[:8] == PNG


def test_a_killed_evaluation_goes_on_where_it_was(checkpoint, xyz, tmp_path, monkeypatch):
    whole = evaluate(checkpoint, str(xyz), tmp_path / "whole")
    monkeypatch.setattr(portions, "PORTION", 15)
    sizes = []

    def predict(predictor, frames, *rest):
        sizes.append(len(frames))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return predict_frames(predictor, frames, *rest)

    monkeypatch.setattr(evaluation, "predict_frames", predict)
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, str(xyz), tmp_path / "killed")
    told = []
    again = evaluate(checkpoint, str(xyz), tmp_path / "killed", report=lambda done, frames: told.append((done, frames)))
    assert sizes == [15, 15, 15, 10], "the first portion is not computed again"
    assert (told[0], told[-1]) == ((15, 40), (40, 40))
    for name, value in whole.errors.items():
        assert again.errors[name] == pytest.approx(value, rel=1e-5)
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"evaluation.json", "parity.png"}


def test_errors_of_a_direct_head_stand_beside_those_of_the_gradient(structures, xyz, tmp_path):
    config = {"elements": (1, 6, 8), "cutoff": 3.5, "layers": 1, "channels": 8, "direct_forces": True}
    potential = Potential(build_model("geomformer", config)).eval()  # type: ignore[arg-type]
    path = tmp_path / "direct.safetensors"
    save_checkpoint(path, potential, Metadata(name="direct", theory="EMT", training_data="none"))
    result = evaluate(path, str(xyz), tmp_path / "out")
    found = [potential(from_atoms(atoms, 3.5)).direct_forces.numpy() - atoms.get_forces() for atoms in structures]
    error = 1e3 * np.concatenate(found)
    assert result.errors["direct_forces_MAE_meV_per_A"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert result.errors["direct_forces_RMSE_meV_per_A"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
    expected = by_hand(path, structures)
    assert result.errors["forces_MAE_meV_per_A"] == pytest.approx(expected["forces_MAE_meV_per_A"], rel=1e-4)


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


def test_a_folder_that_cannot_be_written_is_noticed_at_once(checkpoint, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot make the folder"):
        evaluate(checkpoint, "absent", tmp_path / "file/out")


def test_charge_of_the_checkpoint_is_the_limit(checkpoint, structures, tmp_path):
    ion = structures[0].copy()
    ion.calc, ion.info = structures[0].calc, {"charge": 1}
    write(tmp_path / "ions.extxyz", [structures[0], ion])
    with pytest.raises(DataError, match=r"row 1: unknown charge or spin .* --skip-bad in an evaluation"):
        evaluate(checkpoint, str(tmp_path / "ions.extxyz"), tmp_path)
    result = evaluate(checkpoint, str(tmp_path / "ions.extxyz"), tmp_path, bad_rows="skip")
    assert (result.n_frames, result.skipped) == (1, "1 rows left out: 1 unknown charge or spin")


def test_names_of_labels_and_of_the_folder(checkpoint, structures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = structures[0].copy()
    atoms.info["dft_energy"] = structures[0].get_potential_energy()
    atoms.arrays["dft_forces"] = structures[0].get_forces()
    (tmp_path / "some.data").mkdir()
    write(tmp_path / "some.data/a.extxyz", atoms)
    arguments = ["evaluate", str(checkpoint), "some.data/*.extxyz"]
    assert isinstance(CliRunner().invoke(app, arguments).exception, DataError)
    result = CliRunner().invoke(app, [*arguments, "--energy-key", "dft_energy", "--forces-key", "dft_forces"])
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "evaluation/some.data/evaluation.json").read_text())
    expected = by_hand(checkpoint, structures[:1])
    assert stored["errors"]["forces_MAE_meV_per_A"] == pytest.approx(expected["forces_MAE_meV_per_A"], rel=1e-4)


def test_sets_whose_files_have_one_name(checkpoint, structures, tmp_path, monkeypatch):
    """As OC20's: one after the other, or in one call that compares them."""
    monkeypatch.chdir(tmp_path)
    sets = {"is2re/val_id/data.extxyz": structures[:3], "is2re/val_ood_ads/data.extxyz": structures[3:8]}
    for path, frames in sets.items():
        (tmp_path / path).parent.mkdir(parents=True)
        write(path, frames)
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    for path in sets:
        assert runner.invoke(app, ["evaluate", str(checkpoint), path]).exit_code == 0
    result = runner.invoke(app, ["evaluate", str(checkpoint), *sets, "--out", "together"])
    assert result.exit_code == 0, result.output
    for path, frames in sets.items():
        expected = by_hand(checkpoint, frames)
        for folder in ("evaluation", "together"):
            stored = json.loads((tmp_path / folder / path).with_suffix("").joinpath("evaluation.json").read_text())
            assert (stored["data"], stored["n_frames"]) == (path, len(frames))
            assert stored["errors"]["energy_MAE_meV"] == pytest.approx(expected["energy_MAE_meV"], rel=1e-4)
        (row,) = [line for line in result.output.splitlines() if path in line and "│" in line]
        assert f"{expected['energy_MAE_meV']:.2f} / " in row


def test_command(checkpoint, xyz, tmp_path):
    result = CliRunner().invoke(
        app, ["evaluate", str(checkpoint), str(xyz), "--split", "train", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "MAE / RMSE" in result.output
    assert (tmp_path / "parity.png").exists()


@pytest.mark.parametrize("command", [["inspect"], ["evaluate", "x"], ["rigidity", "x"], ["finetune", "x"]])
def test_labels_that_no_file_has(xyz, command):
    result = CliRunner().invoke(app, [*command, str(xyz), "--labels", "other"])
    assert str(result.exception) == "--labels is revised or original, not 'other'."


def test_predictions_that_are_not_finite_are_no_result(checkpoint, xyz, tmp_path):
    loaded = load_checkpoint(checkpoint)
    loaded.potential.model.readout.out.bias.data.fill_(float("nan"))
    save_checkpoint(tmp_path / "broken.safetensors", loaded.potential, loaded.metadata)
    with pytest.raises(GeoMolError, match="A prediction is not finite"):
        evaluate(tmp_path / "broken.safetensors", str(xyz), tmp_path / "out")
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))


def test_the_cosine_of_forces_is_in_the_table():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(errors_table("errors", {"all": {"forces_cosine": 0.98765, "EFwT_percent": 12.34}, "one": {}}))
    words = console.export_text()
    assert "cosine" in words
    assert "12.3 │  0.988" in words


@pytest.mark.parametrize(("energy", "structure"), [(True, False), (False, True), (True, True)])
def test_what_was_learned_of_relaxations_is_drawn(tmp_path, energy, structure):
    """Displacements of free atoms, and no energy where none was learned."""
    pytest.importorskip("lmdb")
    atoms, rows = bulk("Cu", cubic=True), []
    fixed = np.array([True, False, False, False])
    for shift in (0.1, 0.3):
        end = atoms.positions + shift * np.arange(4)[:, None] + [0, 0, atoms.cell[2, 2]]
        about = {"tags": np.ones(4), "fixed": fixed, "relaxed": end, "energy": shift}
        rows.append(Row(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **about))
    write_aselmdb(tmp_path / "ends.aselmdb", rows)
    model = build_model("geomformer", {"elements": (29,), "cutoff": 4.0, "channels": 8, "direct_forces": True})
    state = RelaxedState(model, RelaxedForm(energy=energy, structure=structure)).eval()  # type: ignore[arg-type]
    frames = load(str(tmp_path / "ends.aselmdb"), Keys(), Limits()).frames
    predicted = predict_frames(state, frames, task_of_weights(state, stress=False))
    found = compared(frames, predicted, state)
    assert list(found) == ["energy of the end (eV)"] * energy + ["displacement component (Å)"] * structure
    if structure:
        labels, values = found["displacement component (Å)"]
        np.testing.assert_allclose(labels.reshape(6, 3)[:, 0], [0.1, 0.2, 0.3, 0.3, 0.6, 0.9], atol=1e-9)
        assert values.shape == labels.shape
    plot_parity(tmp_path / "parity.png", frames, predicted, state, "ends")
    assert (tmp_path / "parity.png").read_bytes()[:8] == PNG
