"""The network of GeoMFormer, in two forms made of the same modules and chosen by ``cutoff``.

* A number: the *local* form. Pairs are neighbours under a smooth envelope, values depend on distance and direction,
  every atom is its own neighbour (under softmax). Energies are smooth, periodic and size-extensive: an interatomic
  potential.
* ``None``: the *global* form of the paper. All atoms attend to all, vectors start from positions relative to
  the centroid. For the paper's benchmarks; not extensive, not periodic.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...nn import (
    Blocks,
    ExponentialBasis,
    GaussianBasis,
    ScalarReadout,
    VectorReadout,
    evaluate,
    log_envelope,
    make_blocks,
    smooth_cutoff,
)
from ..base import TAGS, ModelOutput
from .config import GeoMFormerConfig
from .modules import (
    EquivariantCross,
    EquivariantFeedForward,
    EquivariantSelf,
    Geometry,
    InvariantCross,
    InvariantFeedForward,
    InvariantSelf,
    Norms,
    Quadrupole,
    degree_two,
)

CENTROID_SOFTENING = 0.1
"""Å; the global form uses sqrt(|r|^2 + this^2), since |r| has a kink for an atom on the centroid."""


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward: each normed first, each added to what came in (eq. 3).

    Without ``vectors_are_read`` the parts are left out whose vectors nobody reads: in the last block of a network
    that has no head for vectors.
    """

    def __init__(self, config: GeoMFormerConfig, *, vectors_are_read: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList(Norms(config) for _ in range(3))
        self.dropout = config.hidden_dropout
        parts = {
            "invariant_self": InvariantSelf,
            "equivariant_self": EquivariantSelf,
            "invariant_cross": InvariantCross,
            "equivariant_cross": EquivariantCross,
            "invariant_ffn": InvariantFeedForward,
            "equivariant_ffn": EquivariantFeedForward,
        }
        if config.quadrupole and config.cutoff is not None:
            parts["quadrupole"] = partial(Quadrupole, vectors_are_read=vectors_are_read)
        left_out = {*config.without, *(() if vectors_are_read else ("equivariant_cross", "equivariant_ffn"))}
        self.parts = nn.ModuleDict({name: make(config) for name, make in parts.items() if name not in left_out})

    def forward(self, scalars: Tensor, vectors: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Map (A, d), (A, 3, d) to the same shapes."""
        s, v = self.norms[0](scalars, vectors)
        scalars = self._add(scalars, "invariant_self", s, geometry)
        vectors = self._add(vectors, "equivariant_self", v, geometry)
        s, v = self.norms[1](scalars, vectors)
        scalars = self._add(scalars, "invariant_cross", s, v, geometry)
        vectors = self._add(vectors, "equivariant_cross", s, v, geometry)
        if "quadrupole" in self.parts:
            more_scalars, more_vectors = self.parts["quadrupole"](s, v, geometry)
            scalars = scalars + self._dropped(more_scalars)
            vectors = vectors if more_vectors is None else vectors + self._dropped(more_vectors)
        s, v = self.norms[2](scalars, vectors)
        return self._add(scalars, "invariant_ffn", s), self._add(vectors, "equivariant_ffn", s, v)

    def _add(self, stream: Tensor, part: str, *inputs: Tensor | Geometry) -> Tensor:
        return stream + self._dropped(self.parts[part](*inputs)) if part in self.parts else stream

    def _dropped(self, update: Tensor) -> Tensor:
        if not self.training or self.dropout == 0:
            return update
        return update * functional.dropout(
            torch.ones_like(update[:, :1] if update.dim() == 3 else update), self.dropout
        )


class GeoMFormer(nn.Module):
    """The network: see the module's text and `GeoMFormerConfig`; it is an `EnergyModel`."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.elements = config.elements
        self.cutoff = config.cutoff
        self.has_direct_forces = config.direct_forces
        self.reads_tags = config.tag_embedding
        self.recompute = False
        d, k, n = config.channels, config.kernels, len(config.elements)
        types = torch.full((119,), -1, dtype=torch.long)
        types[list(config.elements)] = torch.arange(n)
        self.types: Tensor
        self.register_buffer("types", types, persistent=False)

        self.radial = _basis(config, n * n)
        self.radial_hidden = nn.Linear(k, config.radial_channels) if config.radial_channels else None
        self.embedding = nn.Embedding(n, d)
        self.of_tag = nn.Embedding(TAGS, d) if config.tag_embedding else None
        self.centrality = nn.Linear(k, d, bias=False) if config.centrality else None
        self.from_centroid = _basis(config, n) if config.cutoff is None else None
        self.start_vectors = nn.Linear(k, d, bias=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers - 1))
        self.blocks.append(Block(config, vectors_are_read=config.direct_forces))
        self.final_norms = Norms(config)
        self.readout = ScalarReadout(d)
        self.force_readout = VectorReadout(d) if config.direct_forces else None
        self.apply(_initialise)

    def forward(
        self,
        numbers: Tensor,
        system: Tensor,
        edge_index: Tensor,
        edge_vectors: Tensor,
        tags: Tensor | None = None,
    ) -> ModelOutput:
        """Energies and features of atoms.

        Args:
            numbers: (N,) atomic numbers, all among ``elements``.
            system: (N,) structure of each atom, ascending.
            edge_index: (2, E) receiver and sender, sorted by receiver; for the global form all ordered pairs of
                each structure.
            edge_vectors: (E, 3) Å from receiver to sender, none of length zero.
            tags: (N,) where it reads them; others than OC20's count as the nearest of these.
        """
        blocks = make_blocks(system, edge_index, whole=self.cutoff is None)
        types = blocks.place_atoms(self.types[numbers])
        kernels, geometry = self._geometry(types, blocks, edge_vectors)
        pair = geometry.envelope.flatten().index_fill(0, blocks.selves, 0.0).view(geometry.envelope.shape)
        kernels = kernels * pair  # (K, B, n, M), of neighbours only

        scalars = self.embedding(types)
        if self.of_tag is not None:
            assert tags is not None  # who calls it knows `reads_tags`
            scalars = scalars + self.of_tag(blocks.place_atoms(tags.clamp(0, TAGS - 1)))
        if self.centrality is not None:
            scalars = scalars + self.centrality(kernels.sum(-1).flatten(1).T)
        if self.from_centroid is None:
            start = torch.einsum("bxnm,kbnm->bnxk", geometry.direction, kernels).flatten(0, 1)
        else:
            start = self._centroid_kernels(types, blocks, edge_vectors)
        vectors = self.start_vectors(start)

        for block in self.blocks:
            scalars, vectors = evaluate(block, scalars, vectors, geometry, again=self.recompute)
        scalars, vectors = (blocks.take_atoms(x) for x in self.final_norms(scalars, vectors))
        forces = None if self.force_readout is None else self.force_readout(scalars, vectors)
        energies = self.readout(functional.dropout(scalars, self.config.readout_dropout, self.training))
        return ModelOutput(energies, scalars, vectors, forces)

    def _geometry(self, types: Tensor, blocks: Blocks, edge_vectors: Tensor) -> tuple[Tensor, Geometry]:
        """Radial kernels (K, B, n, M), and what attention reads."""
        shape = (blocks.count, blocks.receivers, blocks.senders)
        vectors = blocks.place_pairs(edge_vectors, 1.0)
        distance = torch.linalg.vector_norm(vectors, dim=-1)
        direction = (vectors / distance[:, None]).index_fill(0, blocks.selves, 0.0)
        direction = direction.view(*shape, 3).permute(0, 3, 1, 2).contiguous()
        envelope = torch.ones_like(edge_vectors[:, 0])
        if self.cutoff is not None:
            envelope = smooth_cutoff(
                torch.linalg.vector_norm(edge_vectors, dim=-1), self.cutoff, self.config.envelope_power
            )
        envelope = blocks.place_pairs(envelope, 0.0)
        if self.config.attention_norm == "softmax":
            envelope = envelope.index_fill(0, blocks.selves, 1.0)
        envelope = envelope.view(shape)
        distance = distance.index_fill(0, blocks.selves, 0.0).view(shape)
        of_senders = blocks.copy_to_senders(types).view(blocks.count, 1, blocks.senders)
        kinds = types.view(*shape[:2], 1) * len(self.elements) + of_senders
        kernels = self.radial(distance, kinds)
        functions = kernels.flatten(1)
        if self.radial_hidden is not None:
            functions = torch.addmm(self.radial_hidden.bias[:, None], self.radial_hidden.weight, functions)
            functions = functional.gelu(functions)
        return kernels, Geometry(
            blocks=blocks,
            envelope=envelope,
            log_envelope=log_envelope(envelope),
            radial=functions,
            direction=direction,
            quadrupole=degree_two(direction) if "quadrupole" in self.blocks[-1].parts else None,  # type: ignore[operator]
        )

    def _centroid_kernels(self, types: Tensor, blocks: Blocks, edge_vectors: Tensor) -> Tensor:
        """Positions relative to the centroid times their kernels (A, 3, K), from all pairs' vectors."""
        assert self.from_centroid is not None
        total = blocks.place_pairs(edge_vectors, 0.0).view(len(types), blocks.senders, 3).sum(1)
        ones = torch.ones_like(blocks.pairs)
        count = blocks.place_pairs(ones, 0).view(len(types), blocks.senders).sum(1) + 1
        position = -total / count[:, None]
        distance = torch.sqrt(position.square().sum(-1) + CENTROID_SOFTENING**2)
        return position[:, :, None] * self.from_centroid(distance, types).T[:, None]


def _basis(config: GeoMFormerConfig, kinds: int) -> GaussianBasis | ExponentialBasis:
    reach = config.cutoff or config.kernel_reach
    if config.radial_basis == "gaussian":
        return GaussianBasis(config.kernels, reach, kinds)
    return ExponentialBasis(config.kernels, reach, kinds, config.radial_length)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
