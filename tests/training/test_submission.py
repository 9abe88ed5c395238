"""Predictions in the layout of OC20's leaderboard."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from geomol_training import batches, submission
from geomol_training.cli import app
from geomol_training.frames import Row
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.submission import submit
from typer.testing import CliRunner

from ase_geomol import GeoMolCalculator, RelaxedPredictor
from ase_geomol.checkpoint import Metadata, save_checkpoint
from ase_geomol.errors import ConfigError, DataError
from ase_geomol.models import build_model
from ase_geomol.relaxed import RelaxedForm, RelaxedState

pytest.importorskip("lmdb")
CONFIG = {"elements": (8, 29), "cutoff": 4.0, "layers": 1, "channels": 8, "heads": 2, "direct_forces": True}


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    """Five slabs of two sizes, with fixed atoms; no labels."""
    made = []
    for index in range(5):
        atoms = fcc111("Cu", (2, 1 + index % 2, 2), vacuum=6.0, periodic=True)
        add_adsorbate(atoms, "O", 1.3 + 0.1 * index, "fcc")
        atoms.set_constraint(FixAtoms(range(1 + index)))
        made.append(atoms)
    return made


def write_test_set(path: Path, structures: list[Atoms], names: list[str], *, tagged: bool = True) -> None:
    fixed = [np.isin(np.arange(len(atoms)), atoms.constraints[0].index) for atoms in structures]
    rows = [
        Row(
            atoms.numbers,
            atoms.positions,
            atoms.cell.array,
            atoms.pbc,
            energy=None,
            name=name,
            tags=np.where(atoms.numbers == 8, 2, 1).astype(np.int32) * tagged,
            fixed=held,
        )
        for atoms, name, held in zip(structures, names, fixed, strict=True)
    ]
    write_aselmdb(path, rows)


@pytest.fixture
def potential(make_checkpoint) -> Path:
    return make_checkpoint(3, **CONFIG)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("at_once", [2, 10_000])
def test_energies_and_forces(structures, potential, tmp_path, direct, at_once, monkeypatch):
    """In the order of names as text, as the leaderboard's own code writes them."""
    monkeypatch.setattr(submission, "ROWS_AT_ONCE", at_once)
    (tmp_path / "ads").mkdir()
    write_test_set(tmp_path / "ads" / "0.aselmdb", structures[:3], ["9_0", "11_70", "12_3"])
    write_test_set(tmp_path / "ads" / "1.aselmdb", structures[3:], ["11_8", "102_2"])
    structures = [structures[number] for number in (4, 1, 3, 2, 0)]
    write_test_set(tmp_path / "id.aselmdb", structures[-1:], ["5_1"])
    out = tmp_path / "new" / "submission.npz"
    counts = submit(
        potential, {"id": str(tmp_path / "id.aselmdb"), "ood_ads": str(tmp_path / "ads")}, out, direct_forces=direct
    )
    assert counts == {"id": 1, "ood_ads": 5}
    with np.load(out) as found:
        parts = ("ids", "energy", "forces", "chunk_idx")
        assert set(found) == {f"{split}_{part}" for split in counts for part in parts}
        assert found["ood_ads_ids"].tolist() == ["102_2", "11_70", "11_8", "12_3", "9_0"]
        assert len(found["id_chunk_idx"]) == 0
        forces = np.split(found["ood_ads_forces"], found["ood_ads_chunk_idx"])
        energies = found["ood_ads_energy"]
    for atoms, energy, of_free in zip(structures, energies, forces, strict=True):
        moved = atoms.copy()
        moved.calc = GeoMolCalculator(potential, direct_forces=direct)
        free = np.setdiff1d(np.arange(len(atoms)), atoms.constraints[0].index)
        assert energy == pytest.approx(moved.get_potential_energy(), rel=1e-5)
        np.testing.assert_allclose(of_free, moved.get_forces(apply_constraint=False)[free], atol=1e-4)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked")
def test_workers_change_nothing(structures, potential, tmp_path, monkeypatch):
    used, loader = [], batches.loader
    monkeypatch.setattr(batches, "loader", lambda data, workers: used.append(workers) or loader(data, workers))
    write_test_set(tmp_path / "id.aselmdb", structures, list("abcde"))
    found = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}.npz"
        submit(potential, {"id": str(tmp_path / "id.aselmdb")}, out, workers=workers)
        with np.load(out) as arrays:
            found.append(dict(arrays))
    assert all(np.array_equal(values, found[1][name]) for name, values in found[0].items())
    assert used == [0, 2]
    with pytest.raises(ConfigError, match="workers must not be negative"):
        submit(potential, {"id": str(tmp_path / "id.aselmdb")}, tmp_path / "out.npz", workers=-1)


def test_files_that_were_predicted_are_not_predicted_again(structures, potential, tmp_path, monkeypatch):
    for number in (0, 1):
        write_test_set(tmp_path / f"{number}.aselmdb", structures, [f"{number}_{name}" for name in "abcde"])
    splits, predicted = (
        {split: str(tmp_path / f"{number}.aselmdb") for number, split in enumerate(("id", "ood_ads"))},
        [],
    )

    def killed(predictor, frames, task, workers):
        predicted.append(len(frames))
        if len(predicted) == 2:
            raise MemoryError  # stands for a kill
        return submission.Predicted(np.zeros(len(frames)), np.zeros((len(frames.numbers), 3)))

    monkeypatch.setattr(submission, "predict_frames", killed)
    out = tmp_path / "out.npz"
    with pytest.raises(MemoryError):
        submit(potential, splits, out)
    assert not out.exists()
    assert submit(potential, splits, out) == {"id": 5, "ood_ads": 5}
    assert len(predicted) == 3
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out.npz"]


def test_ends_of_relaxations(structures, tmp_path):
    model = build_model("geomformer", CONFIG)
    path = tmp_path / "relaxed.safetensors"
    card = Metadata(name="relaxed", theory="none", training_data="none")
    save_checkpoint(path, RelaxedState(model, RelaxedForm(tagged=True, energy=True, structure=True)).eval(), card)
    write_test_set(tmp_path / "id.aselmdb", structures, list("abcde"))
    submit(path, {"id": str(tmp_path / "id.aselmdb")}, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == {"id_ids", "id_energy", "id_pos", "id_chunk_idx"}
        positions = np.split(found["id_pos"], found["id_chunk_idx"])
        energies = found["id_energy"]
    for atoms in structures:
        atoms.set_tags(np.where(atoms.numbers == 8, 2, 1))
    for end, position, energy in zip(RelaxedPredictor(path).predict(structures), positions, energies, strict=True):
        assert energy == pytest.approx(end.get_potential_energy(), rel=1e-5)
        np.testing.assert_allclose(position, end.positions, atol=1e-4)


def test_command(structures, potential, tmp_path):
    write_test_set(tmp_path / "both.aselmdb", structures, list("abcde"))
    arguments = [
        "submit",
        str(potential),
        "--ood-both",
        str(tmp_path / "both.aselmdb"),
        "--out",
        str(tmp_path / "o.npz"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "5 structures of ood_both" in result.output


def test_what_is_refused(structures, potential, make_checkpoint, tmp_path):
    write_test_set(tmp_path / "twice.aselmdb", structures, list("abbde"))
    write_test_set(tmp_path / "nameless.aselmdb", structures, ["a", "", "b", "c", "d"])
    for name, sentence in (("twice", r"id has b 2 times"), ("nameless", r"of id have no system number")):
        with pytest.raises(DataError, match=sentence):
            submit(potential, {"id": str(tmp_path / f"{name}.aselmdb")}, tmp_path / "out.npz")
    write_test_set(tmp_path / "untagged.aselmdb", structures, list("abcde"), tagged=False)
    tagged = tmp_path / "tagged.safetensors"
    relaxed = RelaxedState(build_model("geomformer", CONFIG), RelaxedForm(tagged=True, energy=True, structure=False))
    save_checkpoint(tagged, relaxed.eval(), Metadata(name="tagged", theory="none", training_data="none"))
    with pytest.raises(ConfigError, match="5 of 5 structures have no atom with a tag above 0"):
        submit(tagged, {"id": str(tmp_path / "untagged.aselmdb")}, tmp_path / "out.npz")
    with pytest.raises(ConfigError, match="one or more of the splits id, ood_ads, ood_cat, ood_both, not none"):
        submit(potential, {}, tmp_path / "out.npz")
    with pytest.raises(ConfigError, match="not \\['test'\\]"):
        submit(potential, {"test": "data"}, tmp_path / "out.npz")
    plain = make_checkpoint(4, elements=(8, 29))
    with pytest.raises(ConfigError, match="no direct head"):
        submit(plain, {"id": "data"}, tmp_path / "out.npz", direct_forces=True)
    foreign = make_checkpoint(5)
    with pytest.raises(DataError, match="unknown element"):
        submit(foreign, {"id": str(tmp_path / "twice.aselmdb")}, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
