"""AtomGraph: structures as immutable tensors, one or many at a time. Pure functions, no model knowledge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from .neighbors import NeighborCache, all_pairs, neighbor_pairs


@dataclass(frozen=True)
class AtomGraph:
    """A batch of S structures with N atoms and E neighbour pairs in all.

    Geometry is kept in float64: differences of large coordinates are taken before anything is rounded.

    Attributes:
        positions: (N, 3) Å.
        numbers: (N,) atomic numbers.
        cell: (S, 3, 3) Å, rows are lattice vectors.
        pbc: (S, 3) bool.
        system: (N,) index of the structure that each atom belongs to, ascending.
        edge_index: (2, E) receiver and sender, sorted by receiver.
        shift: (E, 3) integer image of the sender.
        charge: (S,) total charge in e.
        spin: (S,) multiplicity 2S+1.
        tags: (N,) ASE's.
    """

    positions: Tensor
    numbers: Tensor
    cell: Tensor
    pbc: Tensor
    system: Tensor
    edge_index: Tensor
    shift: Tensor
    charge: Tensor
    spin: Tensor
    tags: Tensor

    @property
    def n_systems(self) -> int:
        """Number of structures S."""
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> int:
        """Number of atoms N of all structures together."""
        return self.positions.shape[0]

    @property
    def n_edges(self) -> int:
        """Number of neighbour pairs E of all structures together."""
        return self.edge_index.shape[1]

    def to(self, device: torch.device | str) -> AtomGraph:
        """Return the same graph on another device."""
        return AtomGraph(**{field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)})


def edge_vectors(graph: AtomGraph, positions: Tensor, cell: Tensor) -> Tensor:
    """Vectors (E, 3) in Å from receiver to the sender's image, at the given positions and cell."""
    receiver, sender = graph.edge_index
    images = torch.einsum("ei,eij->ej", graph.shift.to(cell.dtype), cell.index_select(0, graph.system[receiver]))
    return positions.index_select(0, sender) - positions.index_select(0, receiver) + images


def from_atoms(
    atoms: Atoms,
    cutoff: float | None,
    *,
    device: torch.device | str = "cpu",
    cache: NeighborCache | None = None,
) -> AtomGraph:
    """Make the graph of one structure.

    Args:
        atoms: the structure; ``info["charge"]`` (default 0) and ``info["spin"]`` (2S+1, default 1) are read.
        cutoff: Å; None connects every pair of atoms (global models, no periodic images).
        device: where the tensors live; decides the neighbour list's back end.
        cache: a Verlet list to ask instead of searching afresh.
    """
    positions = torch.tensor(atoms.positions, dtype=torch.float64, device=device)
    numbers = torch.tensor(atoms.numbers, dtype=torch.int64, device=device)
    cell = torch.tensor(np.asarray(atoms.cell), dtype=torch.float64, device=device)
    pbc = torch.tensor(atoms.pbc, device=device)
    if cutoff is None:
        pairs = all_pairs(len(atoms), positions.device)
    elif cache is not None:
        pairs = cache.pairs(positions, cell, pbc, numbers)
    else:
        pairs = neighbor_pairs(positions, cell, pbc, cutoff)
    return AtomGraph(
        positions=positions,
        numbers=numbers,
        cell=cell[None],
        pbc=pbc[None],
        system=torch.zeros_like(numbers),
        edge_index=pairs.edge_index,
        shift=pairs.shift,
        charge=positions.new_tensor([float(atoms.info.get("charge", 0))]),
        spin=positions.new_tensor([float(atoms.info.get("spin", 1))]),
        tags=torch.tensor(atoms.get_tags(), dtype=torch.int64, device=device),
    )


def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Put graphs side by side as one batch; atoms, pairs and systems are renumbered."""
    atoms_before = np.cumsum([0] + [graph.n_atoms for graph in graphs]).tolist()
    systems_before = np.cumsum([0] + [graph.n_systems for graph in graphs]).tolist()

    def joined(name: str, offsets: Sequence[int] | None = None, dim: int = 0) -> Tensor:
        tensors = [getattr(graph, name) for graph in graphs]
        if offsets is not None:
            tensors = [tensor + offset for tensor, offset in zip(tensors, offsets, strict=False)]
        return torch.cat(tensors, dim)

    return AtomGraph(
        positions=joined("positions"),
        numbers=joined("numbers"),
        cell=joined("cell"),
        pbc=joined("pbc"),
        system=joined("system", systems_before),
        edge_index=joined("edge_index", atoms_before, dim=1),
        shift=joined("shift"),
        charge=joined("charge"),
        spin=joined("spin"),
        tags=joined("tags"),
    )


def split(per_atom: Tensor, graph: AtomGraph) -> list[Tensor]:
    """Cut a per-atom tensor (N, …) of a batch into one tensor per structure."""
    counts = torch.bincount(graph.system, minlength=graph.n_systems)
    return list(torch.split(per_atom, counts.tolist()))
