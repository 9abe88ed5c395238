"""Properties of molecules: poolings by hand, symmetries, weights on disk, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from ase_geomol import (
    CheckpointError,
    GeoMolCalculator,
    InputError,
    PropertyPredictor,
    load_checkpoint,
    load_property,
    save_checkpoint,
)
from ase_geomol.checkpoint import Metadata
from ase_geomol.graph import collate, from_atoms
from ase_geomol.property import PropertyForm, ScalarProperty

METADATA = Metadata(name="p", theory="none", training_data="none")
NAMES = ("CH3CH2OH", "H2O", "CH4", "CO2")


@pytest.fixture
def make_property(make_potential):
    """A function that makes an untrained property of a pooling."""

    def make(pooling: str, **options) -> ScalarProperty:
        options = {"direct_forces": True, **options} if pooling == "dipole" else options
        model = make_potential(3, **options).model
        form = PropertyForm(name="size", unit="bohr^3", pooling=pooling)  # type: ignore[arg-type]
        return ScalarProperty(model, form, {1: 0.5, 6: 2.0, 8: -1.0}, 1.7).eval()

    return make


def graph_of(*structures: Atoms, cutoff: float | None):
    return collate([from_atoms(atoms, cutoff) for atoms in structures])


POOLINGS = ["sum", "mean", "dipole", "extent"]


def test_poolings_by_hand(make_property):
    atoms = molecule("CH3CH2OH")
    for pooling in POOLINGS:
        prop = make_property(pooling)
        graph = graph_of(atoms, cutoff=prop.cutoff)
        with torch.no_grad():
            output = prop.model(
                graph.numbers, graph.system, graph.edge_index, graph.positions[graph.edge_index].diff(dim=0)[0]
            )
        e, x, z = output.energies.numpy(), atoms.positions, atoms.numbers
        if pooling in ("sum", "mean"):
            expected = (1.7 * e + np.array([{1: 0.5, 6: 2.0, 8: -1.0}[n] for n in z])).sum()
            expected = expected / len(atoms) if pooling == "mean" else expected
        elif pooling == "dipole":
            expected = 1.7 * np.linalg.norm(((e - e.mean()) @ x) + output.forces.numpy().sum(0))
        else:
            expected = 1.7 * (e * np.square(x - z @ x / z.sum()).sum(1)).sum()
        assert prop(graph).item() == pytest.approx(expected, rel=1e-9)
        assert abs(expected) > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("architecture", ["geomformer", "est"])
def test_no_symmetry_changes_a_value(make_property, pooling, architecture):
    options = {"architecture": architecture}
    if architecture == "est":
        options |= {"message": "attention"}
    prop, atoms = make_property(pooling, **options), molecule("CH3CH2OH")
    plain = prop(graph_of(atoms, cutoff=prop.cutoff)).item()
    moved = atoms.copy()
    moved.rotate(37, (1, 2, 3))
    moved.positions *= [1, 1, -1]
    moved.positions += [3, -5, 1]
    moved = moved[[8, 3, 1, 0, 2, 5, 4, 7, 6]]
    assert prop(graph_of(moved, cutoff=prop.cutoff)).item() == pytest.approx(plain, rel=1e-6)
    several = prop(graph_of(molecule("H2O"), atoms, molecule("CH4"), cutoff=prop.cutoff))
    assert several[1].item() == pytest.approx(plain, rel=1e-9)


def test_sums_grow_with_the_molecules_and_means_do_not(make_property):
    atoms = molecule("H2O")
    two = atoms.copy()
    two.positions += [50, 0, 0]
    for pooling, factor in (("sum", 2), ("mean", 1)):
        prop = make_property(pooling)
        one, both = (prop(graph_of(a, cutoff=prop.cutoff)).item() for a in (atoms, atoms + two))
        assert both == pytest.approx(factor * one, rel=1e-9)


def test_the_dipole_of_an_atom_has_a_slope(make_property):
    prop = make_property("dipole").train()
    prop(graph_of(Atoms("H"), cutoff=prop.cutoff)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in prop.parameters() if p.grad is not None)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_predictor_from_a_file(make_property, pooling, tmp_path: Path):
    prop = make_property(pooling)
    save_checkpoint(tmp_path / "p.safetensors", prop, METADATA)
    predictor = PropertyPredictor(tmp_path / "p.safetensors", device="cpu")
    assert (predictor.name, predictor.unit) == ("size", "bohr^3")
    molecules = [molecule(name) for name in NAMES] * 60
    seen: list[int] = []
    values = predictor.predict(molecules, seen.append)
    expected = [prop(graph_of(atoms, cutoff=prop.cutoff)).item() for atoms in molecules[:4]]
    np.testing.assert_allclose(values, expected * 60, rtol=1e-9)
    assert len(seen) > 1
    assert seen[-1] == len(molecules)
    assert predictor.predict(molecules[0]) == pytest.approx(expected[:1])
    assert len(predictor.predict([])) == 0


def test_a_property_is_no_potential(make_property, make_checkpoint, tmp_path: Path):
    path = tmp_path / "p.safetensors"
    save_checkpoint(path, make_property("sum"), METADATA)
    for load in (load_checkpoint, GeoMolCalculator):
        with pytest.raises(CheckpointError, match=r"predicts size \(bohr\^3\) and is no potential"):
            load(path)
    with pytest.raises(CheckpointError, match="holds a potential"):
        load_property(make_checkpoint())
    with pytest.raises(CheckpointError, match="holds a potential"):
        PropertyPredictor(make_checkpoint())


def test_a_dipole_needs_a_head_for_vectors(make_property, tmp_path: Path):
    prop = make_property("sum")
    prop.form = PropertyForm(name="mu", unit="D", pooling="dipole")
    save_checkpoint(tmp_path / "p.safetensors", prop, METADATA)
    with pytest.raises(CheckpointError, match="head for vectors"):
        load_property(tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("structures", "sentence"),
    [
        ([molecule("H2O"), Atoms()], "Structure 1: The structure has no atoms"),
        ([molecule("H2O"), molecule("SiCl4")], "Structure 1: Atom 1 is Cl"),
        (Atoms("OH2", [[0, 0, 0], [0, 0, 0.01], [0, 1, 0]]), "coincide"),
        (bulk("C", "diamond", a=3.57), "no meaning for a periodic structure"),
    ],
)
def test_what_is_refused(make_property, structures, sentence, tmp_path: Path):
    save_checkpoint(tmp_path / "p.safetensors", make_property("dipole"), METADATA)
    with pytest.raises(InputError, match=sentence):
        PropertyPredictor(tmp_path / "p.safetensors").predict(structures)
