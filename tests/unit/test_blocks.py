"""Blocks: every pair has one slot, empty slots are never seen, and both forms compute the same physics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from ase import Atoms
from torch import Tensor

from ase_geomol.graph import AtomGraph, collate, edge_vectors, from_atoms, split
from ase_geomol.models.est import network
from ase_geomol.models.est.messages import attention
from ase_geomol.nn import Blocks, make_blocks, recompute, segment_sum
from ase_geomol.nn.blocks import LARGEST_BLOCK, WASTE
from ase_geomol.potential import Potential

FORMS = ["whole structures", "single atoms"]
CUTOFF = 3.9
"""Å; less than half the cell of `_crystal`, so that no atom has two images among the neighbours of another."""
UNEQUAL = ("ethanol", "atom", "water_dimer", "co2", "atom", "benzene", "methane")
TOLERANCE = 1e-10


def _force(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Make blocks of one form wherever both are possible."""
    monkeypatch.setattr("ase_geomol.nn.blocks.LARGEST_BLOCK", 1000 if form == "whole structures" else 0)
    monkeypatch.setattr("ase_geomol.nn.blocks.WASTE", math.inf)


def _is_whole(blocks: Blocks) -> bool:
    return blocks.sources is None


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each form in turn, whatever would be cheaper."""
    _force(monkeypatch, request.param)
    return request.param


@pytest.fixture
def make_graph(make_structure) -> Callable[..., AtomGraph]:
    """A function that makes the batch of some structures, given by name or as they are."""

    def make(*structures: str | Atoms, cutoff: float | None = CUTOFF) -> AtomGraph:
        rows = [make_structure(each) if isinstance(each, str) else each for each in structures]
        return collate([from_atoms(atoms, cutoff) for atoms in rows])

    return make


@pytest.fixture
def crystal(make_structure) -> Atoms:
    """Aluminium in a cell of twice the cutoff and more, with an oxygen atom inside and one across the border."""
    atoms = make_structure("bulk").repeat((2, 2, 2))
    atoms += Atoms("O2", [[2.1, 2.0, 0.1], [8.0, 4.1, 6.2]])
    assert atoms.cell.lengths().min() > 2 * CUTOFF
    return atoms


def _blocks(graph: AtomGraph, **options: bool) -> Blocks:
    return make_blocks(graph.system, graph.edge_index, **options)


def _of_slots(blocks: Blocks, values: Tensor, empty: float) -> tuple[Tensor, Tensor]:
    """Values (N,) of atoms as those of all pairs' receivers and senders (B n M)."""
    receivers = torch.full((blocks.count * blocks.receivers,), empty, dtype=values.dtype)
    receivers[blocks.atoms] = values
    senders = blocks.copy_to_senders(receivers).view(blocks.count, 1, blocks.senders)
    shape = (blocks.count, blocks.receivers, blocks.senders)
    return receivers.view(*shape[:2], 1).expand(shape).flatten(), senders.expand(shape).flatten()


# Slots

BATCHES: dict[str, Sequence[str]] = {
    "one molecule": ("ethanol",),
    "equal sizes": ("ethanol", "ethanol"),
    "unequal sizes": UNEQUAL,
    "one atom": ("atom",),
    "atoms": ("atom", "atom", "atom"),
}


@pytest.mark.parametrize("batch", BATCHES)
def test_every_pair_has_one_slot_between_its_atoms(make_graph, form: str, batch: str) -> None:
    graph = make_graph(*BATCHES[batch])
    blocks = _blocks(graph)
    assert _is_whole(blocks) == (form == "whole structures")
    atoms = torch.arange(graph.n_atoms)
    receivers, senders = _of_slots(blocks, atoms, -1)
    assert torch.equal(receivers[blocks.pairs], graph.edge_index[0])
    assert torch.equal(senders[blocks.pairs], graph.edge_index[1])
    own = blocks.selves[blocks.atoms]
    assert torch.equal(receivers[own], atoms)
    assert torch.equal(senders[own], atoms)
    taken = torch.cat([blocks.pairs, blocks.selves])
    assert len(taken.unique()) == len(taken), "two pairs share a slot"
    assert len(blocks.selves) == blocks.count * blocks.receivers, "every receiver has a slot with itself"


@pytest.mark.parametrize("names", [("triclinic",), ("fcc",), ("slab", "chain"), ("ethanol", "triclinic", "atom")])
def test_every_image_has_a_slot_of_its_own(make_graph, names: Sequence[str]) -> None:
    graph = make_graph(*names)
    blocks = _blocks(graph)
    assert not _is_whole(blocks)
    receivers, senders = _of_slots(blocks, torch.arange(graph.n_atoms), -1)
    assert torch.equal(receivers[blocks.pairs], graph.edge_index[0])
    assert torch.equal(senders[blocks.pairs], graph.edge_index[1])
    assert len(torch.cat([blocks.pairs, blocks.selves]).unique()) == graph.n_edges + graph.n_atoms


@pytest.mark.parametrize("batch", BATCHES)
def test_values_come_back_from_their_slots(make_graph, form: str, batch: str) -> None:
    graph = make_graph(*BATCHES[batch])
    blocks = _blocks(graph)
    values = torch.randn(graph.n_atoms, 3, 2, dtype=torch.float64)
    placed = blocks.place_atoms(values)
    assert placed.shape == (blocks.count * blocks.receivers, 3, 2)
    assert torch.equal(blocks.take_atoms(placed), values)
    assert placed.abs().sum() == pytest.approx(values.abs().sum().item()), "empty slots hold zeros"
    assert len(blocks.copy_to_senders(placed)) == blocks.count * blocks.senders


@pytest.mark.parametrize("batch", BATCHES)
def test_sums_over_slots_are_sums_over_pairs(make_graph, form: str, batch: str) -> None:
    graph = make_graph(*BATCHES[batch])
    blocks = _blocks(graph)
    values = torch.randn(graph.n_edges, 4, dtype=torch.float64)
    placed = blocks.place_pairs(values, 7.0)
    empty = torch.ones(len(placed), dtype=torch.bool)
    empty[blocks.pairs] = False
    assert torch.equal(placed[blocks.pairs], values)
    assert (placed[empty] == 7.0).all()
    assert int(empty.sum()) == len(placed) - graph.n_edges
    slots = blocks.place_pairs(values, 0.0).view(-1, blocks.senders, 4).sum(1)
    sums = segment_sum(values, graph.edge_index[0], graph.n_atoms)
    assert torch.allclose(blocks.take_atoms(slots), sums, atol=1e-13)
    assert (blocks.place_atoms(torch.ones(graph.n_atoms, 1))[:, 0] == 0).sum() == len(slots) - graph.n_atoms


def test_atoms_without_any_pair_are_alone_with_themselves(make_graph, form: str) -> None:
    blocks = _blocks(make_graph("atom", "atom"))
    assert (blocks.count, blocks.receivers, blocks.senders) == (2, 1, 1)
    assert blocks.selves.tolist() == [0, 1]
    assert len(blocks.pairs) == 0


def test_an_isolated_atom_beside_others(make_graph, form: str) -> None:
    """Within its structure, too: it has no neighbour, but a slot with itself."""
    graph = make_graph(Atoms("CHO", [[0, 0, 0], [1.1, 0, 0], [40.0, 0, 0]]), "atom")
    blocks = _blocks(graph)
    slots = blocks.place_pairs(torch.ones(graph.n_edges), 0.0).view(-1, blocks.senders)
    assert blocks.take_atoms(slots.sum(1)).tolist() == [1, 1, 0, 0]
    assert len(set(blocks.selves[blocks.atoms].tolist())) == 4


# Choice of the form


def test_small_molecules_are_whole_and_large_ones_are_not(make_graph) -> None:
    ethanol = make_graph("ethanol")
    assert _is_whole(_blocks(ethanol))
    chain = Atoms(f"C{LARGEST_BLOCK + 1}", [[1.4 * i, 0.3 * (i % 2), 0] for i in range(LARGEST_BLOCK + 1)])
    assert not _is_whole(_blocks(make_graph(chain)))
    assert not _is_whole(_blocks(make_graph(chain, cutoff=500.0))), "too large, though all are neighbours of all"
    assert _is_whole(_blocks(make_graph(chain[1:], cutoff=500.0)))
    assert not _is_whole(_blocks(make_graph(chain[1:], cutoff=3.0))), "hardly anybody is a neighbour"


def test_one_large_molecule_among_small_ones_is_not_worth_the_empty_slots(make_graph) -> None:
    small = ["co2"] * 20
    assert _is_whole(_blocks(make_graph(*small)))
    assert _is_whole(_blocks(make_graph("benzene")))
    graph = make_graph("benzene", *small)
    blocks = _blocks(graph)
    assert not _is_whole(blocks)
    assert WASTE * graph.n_atoms * blocks.senders < 21 * 12**2


def test_all_pairs_are_always_whole_structures(make_graph) -> None:
    chain = Atoms(f"C{LARGEST_BLOCK + 2}", [[1.4 * i, 0.3 * (i % 2), 0] for i in range(LARGEST_BLOCK + 2)])
    graph = make_graph(chain, "atom", "ethanol", cutoff=None)
    blocks = _blocks(graph, whole=True)
    assert _is_whole(blocks)
    assert (blocks.count, blocks.receivers) == (3, LARGEST_BLOCK + 2)


@pytest.mark.parametrize("form", ["whole structures"], indirect=True)
def test_periodic_images_force_single_atoms(make_graph, crystal: Atoms, form: str) -> None:
    """An atom that is twice a neighbour, or its own, has no slot for the second time in a whole structure."""
    assert _is_whole(_blocks(make_graph(crystal))), "here each neighbour is there once"
    assert not _is_whole(_blocks(make_graph(crystal, cutoff=4.2)))
    for name in ("fcc", "diamond", "triclinic", "slab", "chain", "bulk"):
        assert not _is_whole(_blocks(make_graph(name))), name
        assert not _is_whole(_blocks(make_graph("ethanol", name))), name


# Physics

VARIANTS: dict[str, dict[str, object]] = {
    "silu": {},
    "softmax": {"attention_norm": "softmax"},
    "sum": {"attention_norm": "sum"},
    "whiten": {"equivariant_norm": "whiten"},
    "bare": {"query_products": False, "quadrupole": False},
    "radial network": {"radial_channels": 6},
}


def _evaluated(potential: Potential, graph: AtomGraph, *, stress: bool) -> dict[str, Tensor]:
    prediction = potential(graph, stress=stress)
    return {name: value for name, value in prediction._asdict().items() if value is not None}


def _both(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Results of the two forms."""
    results = []
    for form in FORMS:
        _force(monkeypatch, form)
        results.append(compute())
    return results


def _assert_equal(results: list[dict[str, Tensor]], names: set[str]) -> None:
    whole, single = results
    assert whole.keys() == single.keys() == names
    for name, value in whole.items():
        assert torch.isfinite(value).all()
        assert (value - single[name]).abs().max() <= TOLERANCE * max(1.0, value.abs().max().item()), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_forms_have_the_same_energies_forces_and_stress(
    make_potential, make_graph, crystal: Atoms, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    potential = make_potential(seed=7, cutoff=CUTOFF, direct_forces=True, **VARIANTS[variant])
    names = {"energy", "energies", "forces", "direct_forces"}
    molecules, periodic = make_graph(*UNEQUAL), make_graph(crystal)
    _assert_equal(_both(monkeypatch, lambda: _evaluated(potential, molecules, stress=False)), names)
    results = _both(monkeypatch, lambda: _evaluated(potential, periodic, stress=True))
    _assert_equal(results, names | {"stress"})
    assert results[0]["forces"].abs().max() > 1e-2
    assert results[0]["stress"].abs().max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_forms_have_the_same_hessian(make_potential, make_graph, monkeypatch, variant: str) -> None:
    potential = make_potential(seed=7, cutoff=2.6, **VARIANTS[variant])
    for name in ("ethanol", "atom"):
        graph = make_graph(name, cutoff=2.6)
        _assert_equal(_both(monkeypatch, lambda graph=graph: {"hessian": potential.hessian(graph)}), {"hessian"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_unequal_sizes_equals_single_evaluations(
    make_potential, make_graph, form: str, variant: str
) -> None:
    potential = make_potential(seed=8, cutoff=CUTOFF, **VARIANTS[variant])
    graph = make_graph(*UNEQUAL)
    assert _is_whole(_blocks(graph)) == (form == "whole structures")
    batch = potential(graph)
    for index, (name, energies, forces) in enumerate(
        zip(UNEQUAL, split(batch.energies, graph), split(batch.forces, graph), strict=True)
    ):
        one = potential(make_graph(name))
        assert torch.allclose(batch.energy[index], one.energy[0], rtol=TOLERANCE, atol=TOLERANCE)
        assert torch.allclose(energies, one.energies, rtol=TOLERANCE, atol=TOLERANCE)
        assert torch.allclose(forces, one.forces, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_forms_train_the_same(make_potential, make_graph, monkeypatch, variant: str) -> None:
    """The slope of a loss that holds forces, by every parameter."""
    graph = make_graph("ethanol", "co2", "atom")

    def slopes() -> dict[str, Tensor]:
        potential = make_potential(seed=7, cutoff=CUTOFF, **VARIANTS[variant]).train()
        prediction = potential(graph)
        (prediction.energy.square().sum() + prediction.forces.square().sum()).backward()
        return {name: p.grad for name, p in potential.named_parameters() if p.grad is not None}

    whole, single = _both(monkeypatch, slopes)
    _assert_equal([whole, single], set(whole))


def test_what_empty_slots_hold_is_never_seen(make_potential, make_graph, form: str) -> None:
    """Neither their features nor their directions reach an atom."""
    graph = make_graph(*UNEQUAL)
    vectors = edge_vectors(graph, graph.positions, graph.cell)
    for variant in VARIANTS.values():
        model = make_potential(seed=9, cutoff=CUTOFF, **variant).model
        blocks = _blocks(graph)
        types = blocks.place_atoms(model.types[graph.numbers])
        _, geometry = model._geometry(types, blocks, vectors)
        outputs = [model.blocks[0](*_features(blocks, graph, empty), geometry) for empty in (0.0, 3.0)]
        other = _other_directions(geometry)
        outputs.append(model.blocks[0](*_features(blocks, graph, 0.0), other))
        for first, *more in zip(*outputs, strict=True):
            for values in more:
                assert torch.allclose(blocks.take_atoms(values), blocks.take_atoms(first), rtol=0, atol=1e-12)


def _features(blocks: Blocks, graph: AtomGraph, empty: float) -> tuple[Tensor, Tensor]:
    """Random scalars and vectors of all slots, times ``empty`` in those without an atom."""
    generator = torch.Generator().manual_seed(0)
    used = blocks.place_atoms(torch.ones(graph.n_atoms, 1, dtype=torch.float64))
    factor = used + empty * (1 - used)
    scalars = torch.randn(len(used), 16, dtype=torch.float64, generator=generator)
    vectors = torch.randn(len(used), 3, 16, dtype=torch.float64, generator=generator)
    return scalars * factor, vectors * factor[:, None]


def _other_directions(geometry):
    """The same geometry with other directions where the envelope is zero."""
    empty = (geometry.envelope == 0)[:, None]
    other = geometry._replace(direction=torch.where(empty, 0.3, geometry.direction))
    if geometry.quadrupole is None:
        return other
    return other._replace(quadrupole=torch.where(empty, -0.7, geometry.quadrupole))


@pytest.mark.parametrize("message", ["attention", "gata"])
def test_large_systems_are_computed_in_parts_and_are_the_same(make_potential, make_graph, monkeypatch, message):
    """Energies, forces and their derivatives; parts are smaller than the neighbourhood of an atom."""
    potential = make_potential(architecture="est", message=message)
    monkeypatch.setattr("ase_geomol.nn.blocks.LARGEST_BLOCK", 0)
    both, one = make_graph("ethanol", "benzene"), make_graph("ethanol")

    def results() -> list[Tensor | None]:
        found = potential(both)
        return [found.energy, found.energies, found.forces, potential.hessian(one)]

    whole, counted = results(), []
    monkeypatch.setattr(recompute, "PART", {"cpu": 4})
    monkeypatch.setattr(recompute, "FEW_PARTS", 1)
    for module in (network, attention):
        monkeypatch.setattr(module, "forgetting", lambda *given: counted.append(1) or recompute.forgetting(*given))
    for expected, found in zip(whole, results(), strict=True):
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert len(counted) > 10
