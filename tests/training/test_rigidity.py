"""Rigidity of a tiny trained potential: the pass by hand, what lies outside, the command, bad input."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training import portions
from geomol_training.cli import app
from geomol_training.fit import fit
from geomol_training.rigidity import REGULARISERS, add_rigidity, whitening
from typer.testing import CliRunner

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint, save_checkpoint
from ase_geomol.errors import CheckpointError, ConfigError, DataError, GeoMolError
from ase_geomol.graph import from_atoms

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def trained(make_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("fit")
    sections = {"model": {"channels": 16}, "training": {"max_steps": 60, "validate_every": 30}}
    return fit(make_recipe(**sections), out, threads=1).model


@pytest.fixture(scope="module")
def rigid(trained, xyz, tmp_path_factory):
    """Weights with their rigidity, and what was written about it."""
    folder = tmp_path_factory.mktemp("rigid")
    add_rigidity(trained, str(xyz), folder, save_as=folder / "rigid.safetensors")
    return folder / "rigid.safetensors"


def labelled(atoms):
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def test_agrees_with_hand(trained, rigid, structures):
    """The dense formula, atom by atom and frame by frame."""
    loaded, plain = load_checkpoint(rigid), load_checkpoint(trained)
    assert loaded.fingerprint == plain.fingerprint
    assert loaded.metadata == plain.metadata
    potential = loaded.potential
    form = potential.rigidity.form
    parts = {name: [a for a in structures if a.info["split"] == name] for name in ("train", "valid")}
    assert (form.frames, form.valid_frames) == (len(parts["train"]), len(parts["valid"]))

    def features(atoms):
        return potential.last_features(from_atoms(atoms, potential.cutoff)).numpy()

    covariance = sum(np.outer(f, f) for atoms in parts["train"] for f in features(atoms))
    one = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    sums = np.array([features(atoms).sum(0) for atoms in parts["valid"]])
    predicted = [potential(from_atoms(atoms, potential.cutoff)).energy.item() for atoms in parts["valid"]]
    errors = np.array(predicted) - [atoms.get_potential_energy() for atoms in parts["valid"]]
    scores, scales = [], []
    for relative in REGULARISERS:
        inverse = np.linalg.inv(
            covariance + relative * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        )
        variances = np.einsum("fi,ij,fj->f", sums, inverse, sums)
        scales.append(np.sqrt((errors**2 / variances).mean()))
        scores.append(np.log(scales[-1] * np.sqrt(variances)).mean())
    best = int(np.argmin(scores))
    assert form.regulariser == pytest.approx(REGULARISERS[best])
    assert form.scale == pytest.approx(scales[best], rel=1e-3)
    inverse = np.linalg.inv(covariance + REGULARISERS[best] * one)
    own = features(structures[0])
    found = potential(from_atoms(structures[0], potential.cutoff), std=True)
    local = scales[best] * np.sqrt(np.einsum("ni,ij,nj->n", own, inverse, own))
    np.testing.assert_allclose(found.energies_std.numpy(), local, rtol=1e-3)
    total = scales[best] * np.sqrt(own.sum(0) @ inverse @ own.sum(0))
    assert found.energy_std.item() == pytest.approx(total, rel=1e-3)
    results = json.loads((rigid.parent / "rigidity.json").read_text())
    assert results["measured_on"] == "validation"
    assert "energy_error_over_std_RMS" not in results["results"]  # 1 by construction, where the scale comes from
    assert results["fingerprint"] == plain.fingerprint
    assert (rigid.parent / "calibration.png").read_bytes()[:8] == PNG


def largest(calc, atoms):
    return max(calc.get_property("energies_std", atoms))


def test_it_rises_at_geometries_that_nothing_was_learned_of(rigid, structures):
    calc = GeoMolCalculator(rigid)
    inside = np.median([largest(calc, a) for a in structures if a.info["split"] == "train"])
    assert largest(calc, bulk("C", "diamond", a=3.57)) > 3 * inside
    assert largest(calc, Atoms("O3", [[0, 0, 0], [1.2, 0, 0], [0.6, 1.1, 0]])) > 3 * inside
    for atoms in structures[:2]:
        stretched = atoms.copy()
        stretched.positions *= 1.4
        assert largest(calc, stretched) > 3 * inside


def test_it_rises_at_elements_that_nothing_was_learned_of(trained, structures, tmp_path):
    """The network knows oxygen, but no frame that the rigidity comes from has any."""
    dry = [atoms for atoms in structures if 8 not in atoms.numbers]
    write(tmp_path / "dry.extxyz", dry)
    found = add_rigidity(
        trained, str(tmp_path / "dry.extxyz"), tmp_path, save_as=tmp_path / "new" / "rigid.safetensors"
    )
    calc = GeoMolCalculator(found.path)
    known = np.median([largest(calc, atoms) for atoms in dry if atoms.info["split"] == "train"])
    for name in ("H2O", "CO2", "CH3OH"):
        assert largest(calc, molecule(name)) > 3 * known


def test_command(trained, xyz, structures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(trained.read_bytes())
    write("others.extxyz", [a for a in structures if a.info["split"] == "valid"])
    write("far.extxyz", [labelled(bulk("C", "diamond", a=3.57))])
    held_out = [a.copy() for a in structures if a.info["split"] == "valid"]
    for atoms, source in zip(held_out, (a for a in structures if a.info["split"] == "valid"), strict=True):
        atoms.calc, atoms.info["split"] = source.calc, "test"
    write("held_out.extxyz", held_out)
    words = ["rigidity", str(weights), str(xyz), "--valid", "others.extxyz", "--test", "held_out.extxyz"]
    words += ["--outside", "far.extxyz", "--max-frames", "10"]
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "measured on the test" in result.output
    assert "spearman force of atoms" in result.output
    stored = json.loads((tmp_path / "evaluation" / xyz.relative_to("/").with_suffix("") / "rigidity.json").read_text())
    assert stored["results"]["outside_over_inside"] > 3
    assert load_checkpoint(weights).potential.rigidity.form.frames == 10
    before = weights.read_bytes()
    assert CliRunner().invoke(app, words).exit_code == 0  # the same again replaces it
    assert weights.read_bytes() == before


def test_a_killed_pass_goes_on_where_it_was(trained, xyz, tmp_path, monkeypatch):
    monkeypatch.setattr(portions, "PORTION", 8)
    told: list[int] = []

    def killed(what, done, frames):
        if what == "training frames" and done > 8:
            raise KeyboardInterrupt

    def report(what, done, frames):
        if what == "training frames":
            told.append(done)

    for name, reported, ends in (
        ("out", killed, pytest.raises(KeyboardInterrupt)),
        ("out", report, nullcontext()),
        ("whole", lambda *_: None, nullcontext()),
    ):
        with ends:
            add_rigidity(trained, str(xyz), tmp_path / name, save_as=tmp_path / f"{name}.safetensors", report=reported)
    assert min(told) == 8, "the first portion is not computed again"
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rigidity.json", "calibration.png"}


def test_the_frames_of_a_training(make_recipe, xyz, tmp_path):
    """As it divided them by itself."""
    recipe = make_recipe(data={"split": {"by": "frame", "valid": 4, "test": 5}}, training={"max_steps": 5})
    run = fit(recipe, tmp_path / "run", threads=1).model.parent
    found = add_rigidity(run / "model.safetensors", str(run), tmp_path, save_as=tmp_path / "rigid.safetensors")
    divided = json.loads((run / "splits.json").read_text())
    assert (found.form.frames, found.form.valid_frames) == (len(divided["train"]), 4)
    content = json.loads((tmp_path / "rigidity.json").read_text())
    assert (content["measured_on"], content["measured_frames"]) == ("test", 5)
    (run / "recipe.json").write_text("{}")
    with pytest.raises(DataError, match="holds no training of a potential: recipe"):
        add_rigidity(run / "model.safetensors", str(run), tmp_path, save_as=tmp_path / "rigid.safetensors")


def test_the_frames_of_a_training_that_replayed_others(make_recipe, tmp_path):
    """All that it learned counts; without test frames, those to validate are measured."""
    others = [labelled(molecule(name, info={"split": "train"})) for name in ("H2O", "CH4", "CH3OH")]
    write(tmp_path / "others.extxyz", others)
    first = fit(make_recipe(training={"max_steps": 3}), tmp_path / "first", threads=1).model
    sections = {"data": {"split": {"by": "frame", "valid": 4}}, "training": {"max_steps": 3}}
    recipe = make_recipe(**sections)
    section = {"method": "full", "replay": str(tmp_path / "others.extxyz"), "replay_share": 0.25}
    fields = recipe.model_dump(mode="json", exclude_unset=True) | {"finetune": section}
    fields["model"]["start"] = str(first)
    run = fit(type(recipe).model_validate(fields), tmp_path / "run", threads=1).model.parent
    found = add_rigidity(run / "model.safetensors", str(run), tmp_path, save_as=tmp_path / "rigid.safetensors")
    train = len(json.loads((run / "splits.json").read_text())["train"])
    assert (found.form.frames, found.form.valid_frames, found.measured_on) == (train + 3, 4, "validation")


def test_frames_without_forces(trained, structures, tmp_path):
    bare = []
    for atoms in structures[:10]:
        copy = atoms.copy()
        del copy.info["split"]
        copy.calc = SinglePointCalculator(copy, energy=atoms.get_potential_energy())
        bare.append(copy)
    write(tmp_path / "bare.extxyz", bare[:6])
    write(tmp_path / "others.extxyz", bare[6:])
    bare_data, others = str(tmp_path / "bare.extxyz"), str(tmp_path / "others.extxyz")
    few = tmp_path / "few.extxyz"
    write(few, [*bare[6:], bare[0], bare[1]])
    with pytest.raises(DataError, match="2 of the 6 frames to validate are among those to learn"):
        add_rigidity(trained, bare_data, tmp_path, valid=str(few), save_as=tmp_path / "rigid.safetensors")
    write(few, [*bare[6:], bare[0]])  # one may be in both by chance
    add_rigidity(trained, bare_data, tmp_path, valid=str(few), save_as=tmp_path / "rigid.safetensors")
    with pytest.raises(DataError, match="6 of the 6 frames to validate are among those to learn"):
        add_rigidity(trained, bare_data, tmp_path, valid=bare_data, save_as=tmp_path / "rigid.safetensors")
    found = add_rigidity(trained, bare_data, tmp_path, valid=others, save_as=tmp_path / "rigid.safetensors")
    assert found.form.frames == 6
    assert "spearman_energy" in found.results
    assert "spearman_force_of_atoms" not in found.results


def test_bad_input(trained, xyz, structures, tmp_path):
    unnamed = structures[0].copy()
    unnamed.calc = structures[0].calc
    del unnamed.info["split"]
    write(tmp_path / "unnamed.extxyz", unnamed)
    with pytest.raises(DataError, match=r"no frames to validate: no frame has .* Give some with --valid"):
        add_rigidity(trained, str(tmp_path / "unnamed.extxyz"), tmp_path)
    write(tmp_path / "valid.extxyz", [a for a in structures if a.info["split"] == "valid"])
    with pytest.raises(DataError, match="no frames to train: no frame has the split 'train'"):
        add_rigidity(trained, str(tmp_path / "valid.extxyz"), tmp_path)
    with pytest.raises(DataError, match="No frame has the split 'test', but some have 'valid': give data that have it"):
        add_rigidity(trained, str(xyz), tmp_path, test=str(tmp_path / "valid.extxyz"))
    write(tmp_path / "copper.extxyz", labelled(bulk("Cu")))
    with pytest.raises(DataError, match="unknown element"):
        add_rigidity(trained, str(tmp_path / "copper.extxyz"), tmp_path, valid=str(xyz))
    with pytest.raises(ConfigError, match="is shipped and stays as it is"):
        add_rigidity("geomformer-organic", str(xyz), tmp_path)
    with pytest.raises(CheckpointError, match="neither a shipped potential"):
        add_rigidity("absent", str(xyz), tmp_path)


def test_weights_that_predict_nothing_finite(trained, xyz, tmp_path):
    loaded = load_checkpoint(trained)
    loaded.potential.model.readout.hidden.bias.data.fill_(float("nan"))
    save_checkpoint(tmp_path / "broken.safetensors", loaded.potential, loaded.metadata)
    with pytest.raises(GeoMolError, match="A feature is not finite"):
        add_rigidity(tmp_path / "broken.safetensors", str(xyz), tmp_path)


def test_a_singular_covariance_needs_its_regulariser():
    one = torch.ones(3, 1, dtype=torch.float64)
    assert whitening(one @ one.T, 0.0) is None
    white = whitening(one @ one.T, 0.5)
    torch.testing.assert_close(white.T @ white, torch.linalg.inv(one @ one.T + 0.5 * torch.eye(3).double()))
