"""Rigidity: the formula by hand, symmetries, extensivity, files, the calculator."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors.torch import load_file, save_file

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import WHITENING, Metadata, load_checkpoint, save_checkpoint, shipped_models
from ase_geomol.errors import CheckpointError
from ase_geomol.graph import collate, from_atoms
from ase_geomol.rigidity import Rigidity, RigidityForm

FORM = RigidityForm(frames=3, valid_frames=2, scale=0.5, regulariser=1e-3)
METADATA = Metadata(name="small", theory="none", training_data="none")


def rigid(potential, seed=0):
    """Give a potential the rigidity of a random covariance."""
    size = potential.model.readout.out.in_features + 1
    draw = np.random.default_rng(seed).normal(size=(40, size))
    covariance = draw.T @ draw + 1e-3 * np.eye(size)
    whitening = 0.5 * np.linalg.inv(np.linalg.cholesky(covariance))
    potential.rigidity = Rigidity(torch.from_numpy(whitening), FORM)
    return covariance


@pytest.fixture(params=["geomformer", "est"])
def potential(request, make_potential):
    points = {"points": "lebedev-194"} if request.param == "est" else {}  # as exact as these tests ask for
    return make_potential(architecture=request.param, **points)


def deviations(potential, atoms):
    found = potential(from_atoms(atoms, potential.cutoff), std=True)
    return found.energy_std.numpy(), found.energies_std.numpy()


def test_energies_are_linear_in_the_last_features(potential, make_structure):
    graph = from_atoms(make_structure("ethanol"), potential.cutoff)
    layer = potential.model.readout.out
    weights = torch.cat([layer.weight[0], layer.bias])
    expected = potential.features(graph).energies
    torch.testing.assert_close(potential.last_features(graph) @ weights, expected, atol=1e-12, rtol=1e-12)


def test_agrees_with_the_formula(potential, make_structure):
    covariance = rigid(potential)
    names = ("ethanol", "water_dimer", "triclinic", "atom")
    graph = collate([from_atoms(make_structure(name), potential.cutoff) for name in names])
    found = potential(graph, std=True)
    inverse = 0.25 * np.linalg.inv(covariance)
    features = potential.last_features(graph).numpy()
    local = np.sqrt([f @ inverse @ f for f in features])
    sums = [features[graph.system.numpy() == structure].sum(0) for structure in range(len(names))]
    np.testing.assert_allclose(found.energies_std.numpy(), local, rtol=1e-9)
    np.testing.assert_allclose(found.energy_std.numpy(), np.sqrt([f @ inverse @ f for f in sums]), rtol=1e-9)
    plain = potential(graph)
    assert plain.energy_std is None
    assert plain.energies_std is None
    torch.testing.assert_close(found.forces, plain.forces, atol=0, rtol=0)


def test_symmetries(potential, make_structure):
    rigid(potential)
    atoms = make_structure("ethanol")
    total, local = deviations(potential, atoms)
    turned = atoms.copy()
    turned.rotate(73, (1, -2, 3))
    turned.positions += [3.0, -1.0, 0.5]
    order = np.random.default_rng(0).permutation(len(atoms))
    mirrored = atoms.copy()
    mirrored.positions *= [1, 1, -1]
    for changed, expected in ((turned, local), (mirrored, local), (atoms[order], local[order])):
        found = deviations(potential, changed)
        np.testing.assert_allclose(found[0], total, rtol=1e-8)
        np.testing.assert_allclose(found[1], expected, rtol=1e-8)


def test_two_of_a_kind(potential, make_structure):
    """Far apart, they err alike: twice the deviation of one; what atoms have does not change. A sum is at most all."""
    rigid(potential)
    one = make_structure("ethanol")
    other = one.copy()
    other.positions += [40.0, 0.0, 0.0]
    total, local = deviations(potential, one)
    both, locals_ = deviations(potential, one + other)
    np.testing.assert_allclose(both, 2 * total, rtol=1e-9)
    np.testing.assert_allclose(locals_, np.tile(local, 2), rtol=1e-9)
    assert total <= local.sum()
    crystal = make_structure("triclinic")
    np.testing.assert_allclose(
        deviations(potential, crystal.repeat((2, 1, 1)))[0], 2 * deviations(potential, crystal)[0], rtol=1e-8
    )


def test_files_keep_it_and_the_fingerprint_stays(potential, make_structure, tmp_path):
    save_checkpoint(tmp_path / "plain.safetensors", potential, METADATA)
    rigid(potential)
    save_checkpoint(tmp_path / "rigid.safetensors", potential, METADATA)
    plain, loaded = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("plain", "rigid"))
    assert plain.fingerprint == loaded.fingerprint
    assert plain.potential.rigidity is None
    assert loaded.potential.rigidity is not None
    assert loaded.potential.rigidity.form == FORM
    expected = deviations(potential, make_structure("ethanol"))
    for found, wanted in zip(deviations(loaded.potential, make_structure("ethanol")), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert loaded.potential.state_dict().keys() == plain.potential.state_dict().keys()
    save_checkpoint(tmp_path / "again.safetensors", loaded.potential, loaded.metadata)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "rigid.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda matrix: matrix[:3], "its rigidity is no matrix of 17 × 17"),
        (lambda matrix: matrix * float("nan"), "its rigidity is no matrix of 17 × 17"),
        (lambda matrix: None, "tells of a rigidity that it does not have"),
    ],
)
def test_damaged_files(make_potential, tmp_path, change, words):
    potential = make_potential()
    rigid(potential)
    path = tmp_path / "rigid.safetensors"
    save_checkpoint(path, potential, METADATA)
    content = path.read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    about = json.loads(header)["__metadata__"]
    tensors = load_file(path)
    changed = change(tensors.pop(WHITENING))
    save_file(tensors if changed is None else {**tensors, WHITENING: changed.contiguous()}, path, metadata=about)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


def test_calculator(make_potential, tmp_path):
    potential = make_potential()
    save_checkpoint(tmp_path / "plain.safetensors", potential, METADATA)
    rigid(potential)
    save_checkpoint(tmp_path / "rigid.safetensors", potential, METADATA)
    plain, calc = (GeoMolCalculator(tmp_path / f"{n}.safetensors", dtype="float64") for n in ("plain", "rigid"))
    atoms = molecule("CH3CH2OH")
    total, local = deviations(potential, atoms)
    calc.get_forces(atoms)
    assert "energies_std" not in calc.results  # nobody asked
    assert calc.get_property("energy_std", atoms) == pytest.approx(total[0], rel=1e-9)
    np.testing.assert_allclose(calc.get_property("energies_std", atoms), local, rtol=1e-9)
    calc.calculate(atoms, ["forces"])
    assert "energies_std" in calc.results
    plain.calculate(atoms)
    assert "energies_std" not in plain.implemented_properties
    assert not {"energy_std", "energies_std"} & plain.results.keys()
    np.testing.assert_array_equal(calc.results["forces"], plain.results["forces"])
    assert calc.identity == plain.identity
    single = GeoMolCalculator(tmp_path / "rigid.safetensors", dtype="float32")
    np.testing.assert_allclose(single.get_property("energies_std", atoms), local, rtol=1e-3)


def test_a_committee_keeps_its_own_deviation(make_potential, tmp_path):
    for seed in (0, 1):
        potential = make_potential(seed)
        rigid(potential)
        save_checkpoint(tmp_path / f"{seed}.safetensors", potential, METADATA)
    calc = GeoMolCalculator([tmp_path / "0.safetensors", tmp_path / "1.safetensors"], dtype="float64")
    atoms = molecule("H2O")
    calc.calculate(atoms)
    assert set(calc.results) >= {"energy_std", "forces_std"}
    assert "energies_std" not in calc.results
    energies = [GeoMolCalculator(path, dtype="float64").get_potential_energy(atoms) for path in calc.models]
    assert calc.results["energy_std"] == pytest.approx(np.std(energies, ddof=1))


def test_shipped_models_count_weights_only(monkeypatch, make_potential, tmp_path):
    from ase_geomol import checkpoint

    potential = make_potential()
    counts = []
    for name in ("plain", "rigid"):
        save_checkpoint(tmp_path / f"{name}.safetensors", potential, METADATA)
        registry = {"small": {"file": f"{name}.safetensors", "sha256": ""}}
        monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
        monkeypatch.setattr(checkpoint, "_registry", lambda registry=registry: registry)
        counts.append(shipped_models()["small"].parameters)
        rigid(potential)
    assert counts[0] == counts[1]
