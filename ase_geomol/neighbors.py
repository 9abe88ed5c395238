"""Neighbour lists: one function, two back ends with the same pairs, and a Verlet skin on top.

A pair ``(i, j, S)`` means that the image ``S`` of atom ``j`` lies closer to atom ``i`` than the cutoff:
``|r_j + S @ cell - r_i| < cutoff``. Both directions are listed, sorted by ``i``, then ``j``, then ``S``, so that the
order (and with it every rounding) follows from the structure alone; every periodic image counts, an atom's own
images among them, and there is no cap on the number of neighbours.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np
import torch
import vesin
from ase.geometry import complete_cell
from torch import Tensor

from .errors import MissingExtraError

Backend = Literal["vesin", "nvalchemi"]


class Pairs(NamedTuple):
    """Neighbour pairs: ``edge_index`` (2, E) holds receiver and sender, ``shift`` (E, 3) integer images."""

    edge_index: Tensor
    shift: Tensor

    def within(self, cutoff: float, positions: Tensor, cell: Tensor) -> Pairs:
        """Return the pairs closer than ``cutoff`` (Å) at ``positions`` (N, 3) and ``cell`` (3, 3)."""
        receiver, sender = self.edge_index
        vectors = positions[sender] - positions[receiver] + self.shift.to(cell.dtype) @ cell
        near = vectors.square().sum(-1) < cutoff**2
        return Pairs(self.edge_index[:, near], self.shift[near])


def neighbor_pairs(
    positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float, *, backend: Backend | None = None
) -> Pairs:
    """Find all pairs closer than ``cutoff`` (Å).

    Args:
        positions: (N, 3) in Å, anywhere: wrapped or not, near the origin or far from it.
        cell: (3, 3), rows are lattice vectors in Å; those that are not periodic are not read.
        pbc: (3,) bool.
        cutoff: Å.
        backend: ``"vesin"`` (works on the CPU) or ``"nvalchemi"`` (works where the tensors are). Default: nvalchemi
            for CUDA tensors if it is installed, else vesin.

    Raises:
        MissingExtraError: nvalchemi was asked for, and ``nvalchemi-toolkit-ops`` is not installed.
    """
    if backend is None:
        backend = "nvalchemi" if positions.is_cuda and find_spec("nvalchemiops") else "vesin"
    find = _nvalchemi_pairs if backend == "nvalchemi" else _vesin_pairs
    return _sorted(find(positions.detach().double(), _full_cell(cell, pbc), pbc, cutoff), len(positions))


def all_pairs(n_atoms: int, device: torch.device | None = None) -> Pairs:
    """Every ordered pair of ``n_atoms`` different atoms, no images: the graph of the global models."""
    index = torch.arange(n_atoms, device=device)
    receiver, sender = index.repeat_interleave(n_atoms), index.repeat(n_atoms)
    different = receiver != sender
    edge_index = torch.stack([receiver[different], sender[different]])
    return Pairs(edge_index, edge_index.new_zeros(edge_index.shape[1], 3))


def _sorted(pairs: Pairs, n_atoms: int) -> Pairs:
    """The pairs in the order of receiver, sender and shift."""
    (receiver, sender), shift = pairs.edge_index, pairs.shift
    reach = int(shift.abs().max()) if len(shift) else 0
    key = receiver * n_atoms + sender
    for axis in range(3):
        key = key * (2 * reach + 1) + shift[:, axis] + reach
    order = torch.argsort(key)
    return Pairs(pairs.edge_index[:, order], shift[order])


def _full_cell(cell: Tensor, pbc: Tensor) -> Tensor:
    """Put unit vectors normal to the others where a cell is not periodic: whatever stands there means nothing."""
    periodic = torch.where(pbc[:, None], cell.detach().double(), 0.0)
    full = np.ascontiguousarray(complete_cell(periodic.cpu().numpy()))
    return torch.from_numpy(full).to(cell.device)


def _vesin_pairs(positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> Pairs:
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=False, n_threads=1)
    receiver, sender, shift = finder.compute(
        points=positions.cpu().numpy(), box=cell.cpu().numpy(), periodic=pbc.cpu().numpy(), quantities="ijS"
    )
    edge_index = torch.from_numpy(np.stack([receiver, sender]).astype(np.int64))
    return Pairs(edge_index.to(positions.device), torch.from_numpy(shift.astype(np.int64)).to(positions.device))


def _nvalchemi_pairs(positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> Pairs:
    try:
        from nvalchemiops.torch.neighbors import NeighborOverflowError, neighbor_list
    except ImportError as error:
        raise MissingExtraError("nvalchemi-toolkit-ops", "gpu", "A neighbour list on the GPU") from error
    room = 128  # neighbours per atom that are allocated; doubled until the densest atom fits
    while True:
        try:
            found = neighbor_list(
                positions.contiguous(),
                cutoff,
                cell=cell[None],
                pbc=pbc[None].to(positions.device),
                return_neighbor_list=True,
                max_neighbors=room,
            )
        except NeighborOverflowError:
            room *= 2
            continue
        edge_index, shift = found[0], found[-1]
        return Pairs(edge_index.long(), shift.long())


class NeighborCache:
    """Neighbour pairs of a moving structure, with a Verlet skin.

    The list is made with ``cutoff + skin`` and kept until an atom has moved more than half the skin, or the
    cell, the periodicity or the elements changed; what is returned is exact at every call.

    Args:
        cutoff: Å.
        skin: Å; 0 rebuilds at every change.
        backend: see `neighbor_pairs`.
    """

    def __init__(self, cutoff: float, skin: float = 0.5, backend: Backend | None = None) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.backend: Backend | None = backend
        self.builds = 0
        self._made_for: tuple[Tensor, ...] | None = None
        self._pairs: Pairs | None = None

    def pairs(self, positions: Tensor, cell: Tensor, pbc: Tensor, numbers: Tensor) -> Pairs:
        """Return the pairs within the cutoff: arguments as for `neighbor_pairs`, ``numbers`` (N,)."""
        if self._pairs is None or self._outdated(positions, cell, pbc, numbers):
            self._pairs = neighbor_pairs(positions, cell, pbc, self.cutoff + self.skin, backend=self.backend)
            self._made_for = (positions.clone(), cell.clone(), pbc.clone(), numbers.clone())
            self.builds += 1
        return self._pairs.within(self.cutoff, positions, cell)

    def _outdated(self, positions: Tensor, cell: Tensor, pbc: Tensor, numbers: Tensor) -> bool:
        assert self._made_for is not None
        old_positions, *old_rest = self._made_for
        if not all(torch.equal(old, new) for old, new in zip(old_rest, (cell, pbc, numbers), strict=True)):
            return True
        moved = (positions - old_positions).square().sum(-1).max()
        return bool(moved > (self.skin / 2) ** 2)
