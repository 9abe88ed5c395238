"""AtomGraph: what is read from Atoms, batches and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from ase_geomol.graph import collate, edge_vectors, from_atoms, split

NAMES = ["ethanol", "triclinic", "atom", "slab", "chain"]


@pytest.fixture
def graphs(make_structure) -> list:
    return [from_atoms(make_structure(name), 4.2) for name in NAMES]


def test_from_atoms_reads_everything(make_structure) -> None:
    atoms = make_structure("slab")
    atoms.info.update(charge=-1, spin=2)
    graph = from_atoms(atoms, 4.2)
    assert graph.positions.dtype == graph.cell.dtype == torch.float64
    np.testing.assert_array_equal(graph.positions, atoms.positions)
    np.testing.assert_array_equal(graph.numbers, atoms.numbers)
    np.testing.assert_array_equal(graph.cell[0], atoms.cell)
    assert graph.pbc.tolist() == [[True, True, False]]
    assert (graph.charge.tolist(), graph.spin.tolist()) == ([-1.0], [2.0])
    assert (graph.n_systems, graph.n_atoms, graph.n_edges) == (1, len(atoms), graph.shift.shape[0])


def test_defaults_are_neutral_singlets(make_structure) -> None:
    atoms = make_structure("ethanol")
    info = dict(atoms.info)
    graph = from_atoms(atoms, 4.2)
    assert (graph.charge.item(), graph.spin.item()) == (0.0, 1.0)
    assert atoms.info == info, "the caller's info stays as it is"


def test_graph_does_not_share_memory_with_atoms(make_structure) -> None:
    atoms = make_structure("ethanol")
    graph = from_atoms(atoms, 4.2)
    before = graph.positions.clone()
    atoms.positions += 1.0
    assert torch.equal(graph.positions, before)


def test_graph_is_immutable(graphs) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        graphs[0].positions = None


@pytest.mark.parametrize("name", NAMES)
def test_edge_vectors_are_ases(make_structure, name: str) -> None:
    atoms = make_structure(name)
    graph = from_atoms(atoms, 4.2)
    ours = edge_vectors(graph, graph.positions, graph.cell).numpy()
    first, second, shift, vectors = neighbor_list("ijSD", atoms, 4.2)
    expected = dict(
        zip(map(tuple, np.concatenate([first[:, None], second[:, None], shift], 1).tolist()), vectors, strict=True)
    )
    keys = map(tuple, torch.cat([graph.edge_index.T, graph.shift], 1).tolist())
    assert len(ours) == len(expected)
    for key, vector in zip(keys, ours, strict=True):
        np.testing.assert_allclose(vector, expected[key], atol=1e-12)


def test_global_graph_has_all_pairs_and_no_images(make_structure) -> None:
    graph = from_atoms(make_structure("ethanol"), None)
    assert graph.n_edges == graph.n_atoms * (graph.n_atoms - 1)
    assert not graph.shift.any()


def test_collate_keeps_structures_apart(graphs) -> None:
    batch = collate(graphs)
    assert batch.n_systems == len(graphs)
    assert batch.n_atoms == sum(graph.n_atoms for graph in graphs)
    assert batch.n_edges == sum(graph.n_edges for graph in graphs)
    first, second = batch.edge_index
    assert torch.equal(batch.system[first], batch.system[second])
    assert (batch.system[1:] >= batch.system[:-1]).all()
    vectors = edge_vectors(batch, batch.positions, batch.cell)
    single = torch.cat([edge_vectors(graph, graph.positions, graph.cell) for graph in graphs])
    assert torch.equal(vectors, single)


def test_collate_of_batches_equals_one_batch(graphs) -> None:
    nested, flat = collate([collate(graphs[:2]), collate(graphs[2:])]), collate(graphs)
    for field in dataclasses.fields(flat):
        assert torch.equal(getattr(nested, field.name), getattr(flat, field.name)), field.name


def test_split_undoes_collate(graphs) -> None:
    parts = split(collate(graphs).positions, collate(graphs))
    assert len(parts) == len(graphs)
    for part, graph in zip(parts, graphs, strict=True):
        assert torch.equal(part, graph.positions)


def test_to_moves_every_tensor(graphs) -> None:
    moved = graphs[0].to("meta")
    for field in dataclasses.fields(moved):
        assert getattr(moved, field.name).device.type == "meta"


def test_empty_edges_of_a_lone_atom() -> None:
    graph = from_atoms(Atoms("C"), 4.2)
    assert graph.edge_index.shape == (2, 0)
    assert graph.shift.shape == (0, 3)
