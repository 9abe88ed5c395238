"""Where atoms and pairs stand when attention is computed by products of matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_BLOCK = 128
"""Atoms; larger structures are never one block, whatever their density."""
WASTE = 3.0
"""A structure is one block where this takes at most so many times the slots that lists of neighbours take."""


class Blocks(NamedTuple):
    """A batch cut into B blocks: the n receivers of a block attend to its M senders.

    Either a block is a *whole structure*, whose atoms are receivers and senders alike, or it is a *single atom*,
    whose senders are itself and its neighbours. The places are called slots; structures smaller than the largest
    leave some of them empty. The first costs no copies of senders, the second no pairs of distant atoms.

    Attributes:
        count: B.
        receivers: n.
        senders: M.
        atoms: (N,) slot of each atom among the B n receivers.
        pairs: (E,) slot of each neighbour pair among the B n M pairs of slots.
        selves: (B n,) slot of each receiver's pair with itself.
        sources: (B M,) the receivers' slot that each sender is a copy of, or None where senders are the receivers.
    """

    count: int
    receivers: int
    senders: int
    atoms: Tensor
    pairs: Tensor
    selves: Tensor
    sources: Tensor | None

    def parts(self, size: int) -> list[Blocks]:
        """Blocks of ``size`` receivers after each other, where these are single atoms; senders are of all atoms."""
        assert self.sources is not None
        starts = range(0, self.count, size)
        cuts = torch.searchsorted(self.pairs, self.pairs.new_tensor([start * self.senders for start in starts]))
        pairs = self.pairs.tensor_split(cuts[1:].cpu())
        return [
            self._replace(
                count=len(sources) // self.senders,
                atoms=self.atoms[: len(sources) // self.senders],
                pairs=those - start * self.senders,
                selves=self.selves[: len(sources) // self.senders],
                sources=sources,
            )
            for start, sources, those in zip(starts, self.sources.split(size * self.senders), pairs, strict=True)
        ]

    def place_atoms(self, values: Tensor) -> Tensor:
        """Values (N, …) of atoms in their slots (B n, …), zeros in empty ones."""
        slots = self.count * self.receivers
        if slots == len(self.atoms):
            return values  # atoms are sorted by structure
        return values.new_zeros(slots, *values.shape[1:]).index_copy(0, self.atoms, values)

    def take_atoms(self, slots: Tensor) -> Tensor:
        """Values (N, …) of the atoms from their slots (B n, …)."""
        return slots if len(slots) == len(self.atoms) else slots.index_select(0, self.atoms)

    def place_pairs(self, values: Tensor, empty: float) -> Tensor:
        """Values (E, …) of pairs in their slots (B n M, …), ``empty`` elsewhere."""
        slots = self.count * self.receivers * self.senders
        return values.new_full((slots, *values.shape[1:]), empty).index_copy(0, self.pairs, values)

    def copy_to_senders(self, slots: Tensor) -> Tensor:
        """Values (B n, …) of receivers as those of the senders (B M, …)."""
        return slots if self.sources is None else slots.index_select(0, self.sources)


def make_blocks(system: Tensor, edge_index: Tensor, *, whole: bool = False) -> Blocks:
    """Choose the cheaper form of blocks for a batch.

    Args:
        system: (N,) structure of each atom, ascending.
        edge_index: (2, E) receiver and sender, sorted by receiver.
        whole: take whole structures, as all pairs are wanted.
    """
    n_atoms = len(system)
    counts = torch.bincount(system)
    degree = torch.bincount(edge_index[0], minlength=n_atoms)
    largest, most = int(counts.max()), int(degree.max()) + 1
    if whole or (largest <= LARGEST_BLOCK and len(counts) * largest**2 <= WASTE * n_atoms * most):
        blocks = _whole_structures(system, edge_index, counts, largest)
        if whole or int(torch.bincount(blocks.pairs, minlength=1).max()) <= 1:  # else an atom has several images
            return blocks
    return _single_atoms(edge_index, degree, most)


def _whole_structures(system: Tensor, edge_index: Tensor, counts: Tensor, largest: int) -> Blocks:
    place = torch.arange(len(system), device=system.device) - (counts.cumsum(0) - counts)[system]
    atoms = system * largest + place
    receiver, sender = edge_index
    slots = torch.arange(len(counts) * largest, device=system.device)
    return Blocks(
        count=len(counts),
        receivers=largest,
        senders=largest,
        atoms=atoms,
        pairs=atoms[receiver] * largest + place[sender],
        selves=slots * largest + slots % largest,
        sources=None,
    )


def _single_atoms(edge_index: Tensor, degree: Tensor, most: int) -> Blocks:
    atoms = torch.arange(len(degree), device=degree.device)
    receiver, sender = edge_index
    rank = torch.arange(len(receiver), device=degree.device) - (degree.cumsum(0) - degree)[receiver]
    pairs = receiver * most + rank + 1  # the first sender is the atom itself
    sources = atoms.repeat_interleave(most).index_copy(0, pairs, sender)
    return Blocks(
        count=len(degree),
        receivers=1,
        senders=most,
        atoms=atoms,
        pairs=pairs,
        selves=atoms * most,
        sources=sources,
    )
