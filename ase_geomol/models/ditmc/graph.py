"""Molecular graphs as tensors: what is bonded to what, and nothing of where it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

ATOM_FEATURES = 48
"""Numbers that describe an atom, besides its element: see `ase_geomol.providers.features`."""
BOND_FEATURES = 4
"""Single, double, triple, aromatic."""
CIS, TRANS = 1, 2
"""Substituents of a double bond on the same side, or on opposite sides."""
UNREACHABLE = 510
"""Instead of the number of bonds between atoms of different fragments."""


@dataclass(frozen=True)
class MolecularGraph:
    """One molecule of N atoms and M/2 bonds, with all of its hydrogens.

    Attributes:
        numbers: (N,) atomic numbers.
        atom_features: (N, 48).
        bonds: (M, 2) receiver and sender, each bond in both directions.
        bond_features: (M, 4).
        centres: (C, 4) neighbours of each stereocentre, in an order for which their volume is positive, see
            `ase_geomol.models.ditmc.geometry.handedness`.
        sides: (N, N) `CIS` or `TRANS` where this is known of two atoms, else 0.
        hops: (N, N) bonds on the shortest path, `UNREACHABLE` between fragments.
        root: (N, N) Å, see `harmonic_root`.
    """

    numbers: Tensor
    atom_features: Tensor
    bonds: Tensor
    bond_features: Tensor
    centres: Tensor
    sides: Tensor
    hops: Tensor
    root: Tensor

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.numbers)


def molecular_graph(
    numbers: Tensor,
    atom_features: Tensor,
    bonds: Sequence[tuple[int, int]],
    bond_features: Sequence[Sequence[float]],
    hops: np.ndarray,
    centres: Sequence[Sequence[int]] = (),
    sides: Sequence[tuple[int, int, int]] = (),
) -> MolecularGraph:
    """Make a graph, adding what follows from its bonds.

    Args:
        numbers: (N,).
        atom_features: (N, 48).
        bonds: receiver and sender, each bond in both directions.
        bond_features: 4 of each.
        hops: (N, N) bonds on the shortest path, infinite between fragments.
        centres: four atoms of each stereocentre.
        sides: pairs of atoms in both orders, with `CIS` or `TRANS`.
    """
    n_atoms = len(numbers)
    adjacency = np.zeros((n_atoms, n_atoms))
    for receiver, sender in bonds:
        adjacency[receiver, sender] = 1
    known_sides = torch.zeros(n_atoms, n_atoms, dtype=torch.long)
    for first, second, side in sides:
        known_sides[first, second] = side
    return MolecularGraph(
        numbers=numbers.long(),
        atom_features=atom_features.float(),
        bonds=torch.tensor(bonds, dtype=torch.long).view(-1, 2),
        bond_features=torch.tensor(bond_features, dtype=torch.float32).view(-1, BOND_FEATURES),
        centres=torch.tensor(centres, dtype=torch.long).view(-1, 4),
        sides=known_sides,
        hops=torch.from_numpy(np.where(np.isinf(hops), UNREACHABLE, hops)).long(),
        root=torch.from_numpy(harmonic_root(adjacency)).float(),
    )


def harmonic_root(adjacency: np.ndarray) -> np.ndarray:
    """The symmetric root S of the pseudo-inverse of a graph's Laplacian, (N, N) in Å.

    ``x = S e`` with standard normal e (N, 3) is the thermal motion of atoms that springs along the bonds hold together,
    each fragment with its mean at the origin: ``cov(x) = S S^T``, and 1 Å² for each component of the vector along a
    bond that is in no ring. Unlike the eigenvectors it is made of, the root is unique.

    Args:
        adjacency: (N, N), 1 for bonded atoms.
    """
    laplacian = np.diag(adjacency.sum(1)) - adjacency
    values, vectors = np.linalg.eigh(laplacian)
    fragments = connected_components(adjacency, directed=False)[0]
    scale = np.zeros_like(values)
    scale[fragments:] = values[fragments:] ** -0.5  # eigenvalues ascend; those of fragments as a whole are zero
    return (vectors * scale) @ vectors.T


@dataclass(frozen=True)
class MoleculeBatch:
    """G molecules, filled up to N atoms and M directed bonds; as `MolecularGraph` otherwise.

    Attributes:
        numbers: (G, N), 0 where there is no atom.
        atom_features: (G, N, 48).
        bonds: (G, M, 2), -1 where there is no bond.
        bond_features: (G, M, 4).
        centres: (G, C, 4), -1 where there is no stereocentre.
        sides: (G, N, N).
        hops: (G, N, N).
        root: (G, N, N).
    """

    numbers: Tensor
    atom_features: Tensor
    bonds: Tensor
    bond_features: Tensor
    centres: Tensor
    sides: Tensor
    hops: Tensor
    root: Tensor

    @property
    def atoms(self) -> Tensor:
        """Where there are atoms (G, N)."""
        return self.numbers > 0

    def to(self, device: torch.device | str) -> MoleculeBatch:
        """Return the same batch on another device."""
        return MoleculeBatch(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})


def collate_molecules(graphs: Sequence[MolecularGraph]) -> MoleculeBatch:
    """Put molecules side by side, filled up to the largest."""
    n_atoms = max(graph.n_atoms for graph in graphs)
    n_bonds = max(len(graph.bonds) for graph in graphs)

    def filled(name: str, shape: tuple[int, ...], empty: int = 0) -> Tensor:
        tensors = [getattr(graph, name) for graph in graphs]
        batch = tensors[0].new_full((len(graphs), *shape), empty)
        for place, tensor in zip(batch, tensors, strict=True):
            place[tuple(map(slice, tensor.shape))] = tensor
        return batch

    return MoleculeBatch(
        numbers=filled("numbers", (n_atoms,)),
        atom_features=filled("atom_features", (n_atoms, ATOM_FEATURES)),
        bonds=filled("bonds", (n_bonds, 2), empty=-1),
        bond_features=filled("bond_features", (n_bonds, BOND_FEATURES)),
        centres=filled("centres", (max(len(graph.centres) for graph in graphs), 4), empty=-1),
        sides=filled("sides", (n_atoms, n_atoms)),
        hops=filled("hops", (n_atoms, n_atoms), empty=UNREACHABLE),
        root=filled("root", (n_atoms, n_atoms)),
    )
