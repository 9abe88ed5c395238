"""Neighbour lists of both back ends are ASE's own; the Verlet list is exact and rebuilt only when it must be."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.neighborlist import neighbor_list

from ase_geomol.errors import MissingExtraError
from ase_geomol.neighbors import NeighborCache, Pairs, all_pairs, neighbor_pairs

CUTOFF = 4.3
BACKENDS = ["vesin", "nvalchemi"]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def _mixed() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    atoms.pbc = (True, False, True)
    return atoms


def _triclinic(size: float) -> Atoms:
    cell = size * np.array([[1.0, 0.1, -0.2], [0.6, 1.1, 0.3], [-0.5, 0.7, 1.2]])
    places = np.random.default_rng(0).random((5, 3))
    return Atoms("HCNOF", scaled_positions=places, cell=cell, pbc=True)


def _moved(atoms: Atoms, by: object) -> Atoms:
    atoms.positions += by
    return atoms


def _wire() -> Atoms:
    return Atoms("C3", [[0, 0, 0], [0.9, 0.2, 1.1], [7.0, 0, 2.0]], cell=[0, 0, 2.6], pbc=(False, False, True))


def _unwrapped() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.positions += np.random.default_rng(1).integers(-4, 5, (len(atoms), 3)) @ np.asarray(atoms.cell)
    return atoms


def _meaningless_cell() -> Atoms:
    """Nothing is periodic, and what stands in the cell is singular and smaller than the molecule."""
    atoms = molecule("C6H6")
    atoms.cell = [[1, 0, 0], [2, 0, 0], [0, 0, 0]]
    return atoms


def _slab_with_meaningless_normal() -> Atoms:
    atoms = fcc111("Al", (1, 1, 4), vacuum=5.0)
    atoms.cell[2] = [0.0, 0.0, 0.5]
    atoms.pbc = (True, True, False)
    return atoms


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "molecule": lambda: molecule("CH3CH2OH"),
    "single atom": lambda: Atoms("He", [[5.0, 0, 0]]),
    "single atom in a cell": lambda: bulk("Al"),
    "bulk": lambda: bulk("Cu", cubic=True).repeat(2),
    "slab": lambda: fcc111("Pt", (2, 2, 3), vacuum=8.0),
    "slab without a third vector": lambda: graphene("C2", size=(2, 2, 1)),
    "slab with a meaningless third vector": _slab_with_meaningless_normal,
    "mixed pbc": _mixed,
    "triclinic": lambda: _triclinic(7.0),
    "cell smaller than the cutoff": lambda: _triclinic(2.2),
    "left-handed cell": lambda: Atoms("CO", [[0, 0, 0], [1, 1, 1]], cell=[[0, 4, 0], [4, 0, 0], [0, 0, 5]], pbc=True),
    "unwrapped": _unwrapped,
    "molecule far from the origin": lambda: _moved(molecule("C6H6"), [1e4, -2e4, 3e4]),
    "crystal far from the origin": lambda: _moved(bulk("Si", cubic=True), [-1e4, 1e4, 1e4]),
    "two molecules far apart": lambda: molecule("H2O") + _moved(molecule("H2O"), [0, 1e4, 0]),
    "wire with two zero vectors": _wire,
    "meaningless cell": _meaningless_cell,
}


def _found(atoms: Atoms, cutoff: float, backend: str | None, device: str = "cpu") -> Pairs:
    return neighbor_pairs(*_tensors(atoms, device)[:3], cutoff, backend=backend)


def _tensors(atoms: Atoms, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    return (
        torch.tensor(atoms.positions, device=device),
        torch.tensor(np.asarray(atoms.cell), device=device),
        torch.tensor(atoms.pbc, device=device),
        torch.tensor(atoms.numbers, device=device),
    )


def _counted(pairs: Pairs) -> Counter:
    return Counter(map(tuple, torch.cat([pairs.edge_index.T, pairs.shift], 1).tolist()))


def _expected(atoms: Atoms, cutoff: float) -> Counter:
    if not atoms.pbc.any():
        atoms = Atoms(atoms.numbers, atoms.positions)  # ASE's list stumbles over a singular cell
    first, second, shift = neighbor_list("ijS", atoms, cutoff)
    return Counter(map(tuple, np.concatenate([first[:, None], second[:, None], shift], 1).tolist()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_same_pairs_as_ase(name: str, backend: str, device: str) -> None:
    if backend == "nvalchemi":
        pytest.importorskip("nvalchemiops")
    elif device == "cuda":
        pytest.skip("vesin is the back end of the CPU")
    atoms = STRUCTURES[name]()
    pairs = _found(atoms, CUTOFF, backend, device)
    assert _counted(pairs) == _expected(atoms, CUTOFF)
    assert pairs.edge_index.dtype == pairs.shift.dtype == torch.int64
    assert pairs.edge_index.device.type == device
    receiver = pairs.edge_index[0]
    assert (receiver[1:] >= receiver[:-1]).all(), "pairs come sorted by receiver"


@pytest.mark.parametrize("backend", BACKENDS)
def test_hundreds_of_neighbours(backend: str) -> None:
    """More than any first guess of the room per atom."""
    if backend == "nvalchemi":
        pytest.importorskip("nvalchemiops")
    atoms = Atoms("H2", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[1.1, 1.2, 1.3], pbc=True)
    pairs = _found(atoms, 6.0, backend)
    assert torch.bincount(pairs.edge_index[0]).min() > 500
    assert _counted(pairs) == _expected(atoms, 6.0)


def test_shifts_point_to_the_image() -> None:
    atoms = STRUCTURES["unwrapped"]()
    pairs = _found(atoms, CUTOFF, "vesin")
    receiver, sender = pairs.edge_index.numpy()
    ends = atoms.positions[sender] + pairs.shift.numpy() @ np.asarray(atoms.cell)
    assert (np.linalg.norm(ends - atoms.positions[receiver], axis=1) < CUTOFF).all()


def test_coincident_atoms_are_listed() -> None:
    """They must be seen, or nobody could refuse them."""
    pairs = _found(Atoms("HO", [[0, 0, 0], [0, 0, 0]]), CUTOFF, "vesin")
    assert pairs.edge_index.tolist() == [[0, 1], [1, 0]]


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvalchemiops.torch.neighbors", None)
    with pytest.raises(MissingExtraError, match=r"nvalchemi-toolkit-ops.*ase_geomol\[gpu\]"):
        _found(molecule("H2O"), CUTOFF, "nvalchemi")


def test_all_pairs() -> None:
    pairs = all_pairs(4)
    assert _counted(pairs) == Counter((i, j, 0, 0, 0) for i in range(4) for j in range(4) if i != j)
    assert all_pairs(1).edge_index.shape == (2, 0)


# Verlet list


def _largest_step(atoms: Atoms, since: np.ndarray) -> float:
    return float(np.linalg.norm(atoms.positions - since, axis=1).max())


@pytest.mark.parametrize("name", ["molecule", "bulk", "triclinic", "wire with two zero vectors"])
@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_cache_is_exact_and_rebuilt_only_when_an_atom_left_half_the_skin(name: str, skin: float) -> None:
    atoms = STRUCTURES[name]()
    cache = NeighborCache(CUTOFF, skin)
    rng = np.random.default_rng(4)
    expected, made_for = 0, None
    for _ in range(40):
        if made_for is None or _largest_step(atoms, made_for) > skin / 2:
            expected, made_for = expected + 1, atoms.positions.copy()
        assert _counted(cache.pairs(*_tensors(atoms))) == _expected(atoms, CUTOFF)
        assert cache.builds == expected
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    assert expected == 40 if skin == 0 else 2 <= expected <= 20


def test_cache_is_rebuilt_at_just_over_half_the_skin() -> None:
    atoms = molecule("CH4")
    cache = NeighborCache(CUTOFF, skin=0.5)
    start = atoms.positions.copy()
    for shift, builds in [(0.0, 1), (0.2499, 1), (-0.2499, 1), (0.2501, 2), (0.2501, 2)]:
        atoms.positions = start
        atoms.positions[2, 1] += shift
        cache.pairs(*_tensors(atoms))
        assert cache.builds == builds


def test_cache_notices_cell_pbc_and_elements() -> None:
    atoms = bulk("Cu", cubic=True)
    cache = NeighborCache(CUTOFF)

    def changed() -> bool:
        before = cache.builds
        assert _counted(cache.pairs(*_tensors(atoms))) == _expected(atoms, CUTOFF)
        return cache.builds > before

    assert changed()
    assert not changed()
    atoms.cell[0, 0] += 1e-3
    assert changed()
    atoms.pbc = (True, True, False)
    assert changed()
    atoms.numbers[0] = 47
    assert changed()
    atoms += Atoms("Cu", [[1.0, 1.0, 2.5]])
    assert changed()
    del atoms[0]
    assert changed()
    assert not changed()


def test_cache_keeps_its_own_copy_of_the_positions() -> None:
    """Moving the caller's tensor in place must not hide the motion."""
    positions, cell, pbc, numbers = _tensors(molecule("H2O"))
    cache = NeighborCache(CUTOFF)
    cache.pairs(positions, cell, pbc, numbers)
    positions[0] += 30.0
    assert cache.pairs(positions, cell, pbc, numbers).edge_index.shape[1] == 2
    assert cache.builds == 2
