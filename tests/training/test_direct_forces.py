"""Forces that a direct head alone has learned (S2EF): the test, evaluations and submissions are about these."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from geomol_training.cards import facts
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.evaluate import evaluate
from geomol_training.finetune import Options, finetune
from geomol_training.fit import Fitted, fit
from geomol_training.readers import Keys
from geomol_training.recipe import Recipe
from geomol_training.rigidity import add_rigidity, agreement, deviations
from geomol_training.submission import submit
from rich.console import Console

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.graph import from_atoms

HELD = [0, 1, 2, 3]
CONFIG = {"elements": [8, 29], "cutoff": 4.0, "layers": 1, "channels": 8, "heads": 2, "direct_forces": True}


@pytest.fixture(scope="module")
def slabs() -> list[Atoms]:
    """Oxygen on copper with the lowest layer fixed, atoms moved at random."""
    random, made = np.random.default_rng(0), []
    for index in range(12):
        atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0, periodic=True)
        add_adsorbate(atoms, "O", 1.4, "fcc")
        atoms.set_constraint(FixAtoms(HELD))
        atoms.positions[4:] += random.normal(0, 0.08, (5, 3))
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        atoms.info = {"split": "test" if index < 3 else "train"}
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def trained(slabs: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("direct")
    write(folder / "train.extxyz", slabs[3:])
    write(folder / "test.extxyz", slabs[:3])
    recipe = Recipe.model_validate(
        {
            "name": "direct",
            "data": {
                "train": f"{folder}/train.extxyz",
                "test": f"{folder}/test.extxyz",
                "split": {"by": "frame", "valid": 2},
            },
            "model": {"config": CONFIG},
            "loss": {"forces": 0.0, "direct_forces": 1.0, "free_atoms_only": True},
            "optimiser": {"lr": 0.01},
            "training": {"batch_frames": 4, "max_steps": 30, "validate_every": 10, "ema": 0.5},
            "metadata": {"theory": "EMT", "training_data": "nine slabs"},
        }
    )
    return fit(recipe, folder / "run", console=Console(quiet=True), threads=1)


def by_hand(trained: Fitted, slabs: list[Atoms]) -> dict[str, float]:
    """Errors and cosine of the direct head's forces on free atoms, and those of the gradient."""
    potential = load_checkpoint(trained.model).potential
    predictions = [potential(from_atoms(atoms, potential.cutoff)) for atoms in slabs]
    labels = np.concatenate([atoms.get_forces(apply_constraint=False)[4:] for atoms in slabs])
    direct = np.concatenate([prediction.direct_forces.numpy()[4:] for prediction in predictions])
    gradient = np.concatenate([prediction.forces.numpy()[4:] for prediction in predictions])
    lengths = np.linalg.norm(direct, axis=1) * np.linalg.norm(labels, axis=1)
    return {
        "direct_forces_MAE_meV_per_A": 1e3 * np.abs(direct - labels).mean(),
        "forces_cosine": float(((direct * labels).sum(1) / lengths).mean()),
        "gradient": 1e3 * np.abs(gradient - labels).mean(),
    }


def test_the_test_of_a_training_is_about_what_it_learned(trained, slabs):
    expected = by_hand(trained, slabs[:3])
    assert expected["direct_forces_MAE_meV_per_A"] < expected["gradient"]
    for name in ("direct_forces_MAE_meV_per_A", "forces_cosine"):
        assert trained.errors[f"test_{name}"] == pytest.approx(expected[name], rel=1e-4)
    assert "test_EFwT_percent" in trained.errors
    for part in ("test", "validation"):
        assert f"{part}_forces_MAE_meV_per_A" not in trained.errors
    potential, card, *_ = load_checkpoint(trained.model)
    assert card.forces == "direct"
    assert "learned by a direct head alone" in facts(potential, card)


def test_an_evaluation_knows_it_from_the_weights(trained, slabs, tmp_path):
    write(tmp_path / "test.extxyz", slabs[:3])
    found = evaluate(trained.model, f"{tmp_path}/test.extxyz", tmp_path, free_atoms_only=True).errors
    assert found == pytest.approx(
        {name.removeprefix("test_"): value for name, value in trained.errors.items() if name.startswith("test_")}
    )


def test_a_fine_tuning_learns_as_they_were_learned(trained, slabs, tmp_path):
    write(tmp_path / "new.extxyz", slabs)
    options = Options(valid=2, max_steps=2, validate_every=1)
    result = finetune(
        str(trained.model), f"{tmp_path}/new.extxyz", tmp_path / "run", options, console=Console(quiet=True)
    )
    assert load_checkpoint(result.model).metadata.forces == "direct"
    assert not any("_forces_MAE" in name and "direct" not in name for name in result.errors)


def test_a_rigidity_is_compared_with_errors_of_these_forces(trained, slabs, tmp_path):
    held_out = [atoms.copy() for atoms in slabs[:3]]
    for atoms, source in zip(held_out, slabs, strict=False):
        atoms.calc, atoms.info = source.calc, {"split": "valid"}
    write(tmp_path / "train.extxyz", slabs[3:])
    write(tmp_path / "valid.extxyz", held_out)
    out = tmp_path / "rigid.safetensors"
    add_rigidity(trained.model, f"{tmp_path}/train.extxyz", tmp_path, save_as=out, valid=f"{tmp_path}/valid.extxyz")
    potential = load_checkpoint(out).potential
    frames = load(f"{tmp_path}/valid.extxyz", Keys(), Limits()).frames
    direct = deviations(potential, frames, lambda *_: None, direct_forces=True).atoms[:, 1]
    gradient = deviations(potential, frames, lambda *_: None).atoms[:, 1]
    assert direct.mean() < gradient.mean()
    told = json.loads((tmp_path / "rigidity.json").read_text())
    by_atoms = deviations(potential, frames, lambda *_: None, direct_forces=True)
    assert told["results"]["spearman_force_of_atoms"] == pytest.approx(
        agreement(by_atoms, calibrated_on=True)["spearman_force_of_atoms"]
    )


def test_a_submission_knows_it_too(trained, slabs, tmp_path):
    pytest.importorskip("lmdb")
    for number, atoms in enumerate(frames := [atoms.copy() for atoms in slabs[:3]]):
        atoms.calc, atoms.info = slabs[number].calc, {}
    write(tmp_path / "0.extxyz", frames, format="extxyz")
    (tmp_path / "0.txt").write_text("".join(f"random{number},frame0,0.0\n" for number in range(3)))
    submit(trained.model, {"id": f"{tmp_path}/0.extxyz"}, tmp_path / "plain.npz")
    submit(trained.model, {"id": f"{tmp_path}/0.extxyz"}, tmp_path / "asked.npz", direct_forces=True)
    with np.load(tmp_path / "plain.npz") as plain, np.load(tmp_path / "asked.npz") as asked:
        found = plain["id_forces"]
        np.testing.assert_array_equal(found, asked["id_forces"])
    labels = np.concatenate([atoms.get_forces(apply_constraint=False)[4:] for atoms in slabs[:3]])
    error = 1e3 * np.abs(found - labels).mean()
    assert error == pytest.approx(by_hand(trained, slabs[:3])["direct_forces_MAE_meV_per_A"], rel=1e-4)
