"""GeoMFormer: a transformer with an invariant and an equivariant stream (Chen et al., arXiv 2406.16853).

One set of modules serves two forms, chosen by ``cutoff``:

* a number: the *local* form. Edges are neighbour pairs under a smooth envelope, values depend on distance and
  direction, every atom has a self token (under softmax). Energies are smooth, periodic and size-extensive: an
  interatomic potential.
* ``None``: the *global* form of the paper. All atoms attend to all, vectors start from positions relative to
  the centroid. For the paper's benchmarks; not extensive, not periodic.

Notation: N atoms, E edges, d channels, H heads, K radial kernels. Scalars z^I are (N, d); vectors z^E are
(N, 3, d), linear maps act on their channels and have no bias.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ..nn import (
    EquivariantNorm,
    GaussianBasis,
    ScalarReadout,
    VectorReadout,
    attention_weights,
    segment_sum,
    smooth_cutoff,
)
from ..nn.norm import EquivariantNormMode
from ..nn.segment import AttentionNorm
from .base import ModelOutput

Part = Literal[
    "invariant_self",
    "invariant_cross",
    "equivariant_self",
    "equivariant_cross",
    "invariant_ffn",
    "equivariant_ffn",
    "invariant_norm",
    "equivariant_norm",
    "structural_bias",
]
CENTROID_SOFTENING = 0.1
"""Å; the global form uses sqrt(|r|^2 + this^2), since |r| has a kink for an atom on the centroid."""


class GeoMFormerConfig(BaseModel):
    """Architecture of a GeoMFormer.

    Attributes:
        elements: atomic numbers that the model knows.
        cutoff: Å, local form; None, global form.
        layers: number of blocks.
        channels: width d of both streams.
        heads: attention heads H; divides ``channels``.
        ffn_channels: hidden width of the feed-forward networks.
        kernels: number K of Gaussian kernels.
        kernel_reach: Å, largest kernel centre of the global form (the local form uses its cutoff).
        envelope_power: 3 or higher; see `ase_geomol.nn.smooth_cutoff`.
        attention_norm: softmax (paper), silu (TorchMD-Net) or sum (PaiNN); the last two have no self tokens.
        equivariant_norm: "rms" for potentials, "whiten" for the paper's EquLN.
        norm_floor: absolute floor under the variance in `ase_geomol.nn.EquivariantNorm`; default 1 for "rms",
            which amplifies nothing, and 0.05 for "whiten", which then whitens.
        query_products: let invariant cross-attention see products of the receiver's and sender's vectors.
        centrality: start scalars with a sum over radial kernels.
        direct_forces: add a head that predicts forces without a gradient (not conservative).
        attention_dropout: probability that an attention weight is dropped in training.
        hidden_dropout: probability that a channel of a residual update is dropped in training; of vectors
            all three rows go together.
        without: parts to leave out, for ablations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    elements: tuple[int, ...] = Field(min_length=1)
    cutoff: float | None = Field(default=5.0, gt=0, allow_inf_nan=False)
    layers: int = Field(default=3, ge=1)
    channels: int = Field(default=96, ge=1)
    heads: int = Field(default=8, ge=1)
    ffn_channels: int = Field(default=96, ge=1)
    kernels: int = Field(default=32, ge=2)
    kernel_reach: float = Field(default=10.0, gt=0)
    envelope_power: int = Field(default=3, ge=3)
    attention_norm: AttentionNorm = "softmax"
    equivariant_norm: EquivariantNormMode = "rms"
    norm_floor: float | None = Field(default=None, gt=0)
    query_products: bool = True
    centrality: bool = True
    direct_forces: bool = False
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    without: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> GeoMFormerConfig:
        if self.channels % self.heads:
            raise ValueError(f"channels ({self.channels}) must be a multiple of heads ({self.heads})")
        if len(set(self.elements)) != len(self.elements) or not all(1 <= z <= 118 for z in self.elements):
            raise ValueError("elements must be different atomic numbers from 1 to 118")
        return self

    @property
    def floor(self) -> float:
        """``norm_floor``, or the default of ``equivariant_norm``."""
        return self.norm_floor or {"rms": 1.0, "whiten": 0.05}[self.equivariant_norm]


class Edges(NamedTuple):
    """What attention reads of E ordered pairs; self tokens stand at the end.

    ``receiver``, ``sender`` (E,); ``envelope`` (E,), 1 for self tokens; ``direction`` (E, 3), 0 for self tokens;
    ``radial`` (E, K); ``bias`` (E, H).
    """

    receiver: Tensor
    sender: Tensor
    envelope: Tensor
    direction: Tensor
    radial: Tensor
    bias: Tensor


class Attention(nn.Module):
    """Base of the four modules: logits, weights and the weighted sum over neighbours."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm: AttentionNorm = config.attention_norm
        self.local = config.cutoff is not None
        self.dropout = nn.Dropout(config.attention_dropout)

    def weights(self, query: Tensor, key: Tensor, edges: Edges) -> Tensor:
        """Weights (E, d), equal within a head, from queries and keys (N, d) or (N, 3, d)."""
        product = query.index_select(0, edges.receiver) * key.index_select(0, edges.sender)
        if product.dim() == 3:
            product = product.sum(1) / math.sqrt(3)
        width = product.shape[-1] // self.heads
        logits = product.unflatten(-1, (self.heads, width)).sum(-1) / math.sqrt(width) + edges.bias
        weights = attention_weights(logits, edges.envelope, edges.receiver, len(query), self.norm)
        return self.dropout(weights).repeat_interleave(width, dim=-1)


class InvariantSelf(Attention):
    """Scalars attend to scalars; in the local form values are filtered by distance."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config)
        d = config.channels
        self.query_key_value = nn.Linear(d, 3 * d)
        self.filter = nn.Linear(config.kernels, d) if self.local else None
        self.out = nn.Linear(d, d)

    def forward(self, scalars: Tensor, edges: Edges) -> Tensor:
        """Map (N, d) to an update (N, d)."""
        query, key, value = self.query_key_value(scalars).chunk(3, -1)
        message = self.weights(query, key, edges) * value.index_select(0, edges.sender)
        if self.filter is not None:
            message = message * self.filter(edges.radial)
        return self.out(segment_sum(message, edges.receiver, len(scalars)))


class EquivariantSelf(Attention):
    """Vectors attend to vectors."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config)
        d = config.channels
        self.query_key_value = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, vectors: Tensor, edges: Edges) -> Tensor:
        """Map (N, 3, d) to an update (N, 3, d)."""
        query, key, value = self.query_key_value(vectors).chunk(3, -1)
        message = self.weights(query, key, edges)[:, None] * value.index_select(0, edges.sender)
        return self.out(segment_sum(message, edges.receiver, len(vectors)))


class InvariantCross(Attention):
    """Scalars attend to products of vectors: this is where the invariant stream sees angles.

    The query-dependent product of the local form, ``<A_i, B_j>`` summed over j, is taken after the sum,
    ``<A_i, sum_j B_j>``, which costs nothing per edge.
    """

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config)
        d = config.channels
        self.query_products = self.local and config.query_products
        self.query = nn.Linear(d, d)
        self.factors = nn.Linear(d, (6 if self.query_products else 4) * d, bias=False)
        self.out = nn.Linear(d, d)

    def forward(self, scalars: Tensor, vectors: Tensor, edges: Edges) -> Tensor:
        """Map (N, d), (N, 3, d) to an update (N, d)."""
        factors = self.factors(vectors).chunk(6 if self.query_products else 4, -1)
        key, value = _dot(factors[0], factors[1]), _dot(factors[2], factors[3])
        weights = self.weights(self.query(scalars), key, edges)
        update = segment_sum(weights * value.index_select(0, edges.sender), edges.receiver, len(scalars))
        if self.query_products:
            message = weights[:, None] * factors[5].index_select(0, edges.sender)
            update = update + _dot(factors[4], segment_sum(message, edges.receiver, len(scalars)))
        return self.out(update)


class EquivariantCross(Attention):
    """Vectors attend to vectors gated by scalars; the local form adds directions to the neighbours."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config)
        d = config.channels
        self.from_vectors = nn.Linear(d, 3 * d, bias=False)
        self.from_scalars = nn.Linear(d, (3 if self.local else 2) * d)
        self.filter = nn.Linear(config.kernels, 2 * d) if self.local else None
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor, edges: Edges) -> Tensor:
        """Map (N, d), (N, 3, d) to an update (N, 3, d)."""
        query, key, value = self.from_vectors(vectors).chunk(3, -1)
        key_gate, value_gate, *direction_gate = self.from_scalars(scalars).chunk(3 if self.local else 2, -1)
        weights = self.weights(query, key * key_gate[:, None], edges)
        gate = weights * value_gate.index_select(0, edges.sender)
        if self.filter is None:
            message = value.index_select(0, edges.sender) * gate[:, None]
        else:
            value_filter, direction_filter = self.filter(edges.radial).chunk(2, -1)
            along = weights * direction_gate[0].index_select(0, edges.sender) * direction_filter
            message = value.index_select(0, edges.sender) * (gate * value_filter)[:, None]
            message = message + edges.direction[:, :, None] * along[:, None]
        return self.out(segment_sum(message, edges.receiver, len(scalars)))


class InvariantFeedForward(nn.Module):
    """``GELU(z^I W1) W2``."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.channels, config.ffn_channels)
        self.out = nn.Linear(config.ffn_channels, config.channels)

    def forward(self, scalars: Tensor) -> Tensor:
        """Map (N, d) to an update (N, d)."""
        return self.out(functional.gelu(self.hidden(scalars)))


class EquivariantFeedForward(nn.Module):
    """``(z^E W1 * GELU(z^I W2)) W3``."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.channels, config.ffn_channels, bias=False)
        self.gate = nn.Linear(config.channels, config.ffn_channels)
        self.out = nn.Linear(config.ffn_channels, config.channels, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        """Map (N, d), (N, 3, d) to an update (N, 3, d)."""
        return self.out(self.hidden(vectors) * functional.gelu(self.gate(scalars))[:, None])


class Norms(nn.Module):
    """LayerNorm of the scalars and EquLN of the vectors."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        d, without = config.channels, config.without
        self.scalars = nn.Identity() if "invariant_norm" in without else nn.LayerNorm(d)
        self.vectors = (
            nn.Identity()
            if "equivariant_norm" in without
            else EquivariantNorm(d, config.equivariant_norm, config.floor)
        )

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise both streams."""
        return self.scalars(scalars), self.vectors(vectors)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward: each normed first, each added to what came in (eq. 3)."""

    def __init__(self, config: GeoMFormerConfig) -> None:
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
        self.parts = nn.ModuleDict({k: make(config) for k, make in parts.items() if k not in config.without})

    def forward(self, scalars: Tensor, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Map (N, d), (N, 3, d) to the same shapes."""
        s, v = self.norms[0](scalars, vectors)
        scalars = self._add(scalars, "invariant_self", s, edges)
        vectors = self._add(vectors, "equivariant_self", v, edges)
        s, v = self.norms[1](scalars, vectors)
        scalars = self._add(scalars, "invariant_cross", s, v, edges)
        vectors = self._add(vectors, "equivariant_cross", s, v, edges)
        s, v = self.norms[2](scalars, vectors)
        return self._add(scalars, "invariant_ffn", s), self._add(vectors, "equivariant_ffn", s, v)

    def _add(self, stream: Tensor, part: str, *inputs: Tensor | Edges) -> Tensor:
        if part not in self.parts:
            return stream
        update = self.parts[part](*inputs)
        if self.training and self.dropout > 0:
            keep = functional.dropout(torch.ones_like(update[:, :1] if update.dim() == 3 else update), self.dropout)
            update = update * keep
        return stream + update


class GeoMFormer(nn.Module):
    """The network: see the module's text and `GeoMFormerConfig`; it is an `EnergyModel`."""

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.elements = config.elements
        self.cutoff = config.cutoff
        self.has_direct_forces = config.direct_forces
        d, k, n = config.channels, config.kernels, len(config.elements)
        types = torch.full((119,), -1, dtype=torch.long)
        types[list(config.elements)] = torch.arange(n)
        self.types: Tensor
        self.register_buffer("types", types, persistent=False)

        reach = config.cutoff or config.kernel_reach
        self.radial = GaussianBasis(k, reach, n * n)
        self.embedding = nn.Embedding(n, d)
        self.centrality = nn.Linear(k, d, bias=False) if config.centrality else None
        self.from_centroid = GaussianBasis(k, reach, n) if config.cutoff is None else None
        self.start_vectors = nn.Linear(k, d, bias=False)
        has_bias = "structural_bias" not in config.without
        self.bias = nn.Sequential(nn.Linear(k, k), nn.GELU(), nn.Linear(k, config.heads)) if has_bias else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norms = Norms(config)
        self.readout = ScalarReadout(d)
        self.force_readout = VectorReadout(d) if config.direct_forces else None
        self.apply(_initialise)

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> ModelOutput:
        """Energies and features of atoms.

        Args:
            numbers: (N,) atomic numbers, all among ``elements``.
            edge_index: (2, E) receiver, sender; for the global form all ordered pairs of each structure.
            edge_vectors: (E, 3) Å from receiver to sender, none of length zero.
        """
        types = self.types[numbers]
        edges = self._edges(types, edge_index, edge_vectors)
        scalars = self.embedding(types)
        n_pairs = edge_index.shape[1]
        receiver, radial = edges.receiver[:n_pairs], edges.radial[:n_pairs]
        enveloped = radial * edges.envelope[:n_pairs, None]
        if self.centrality is not None:
            scalars = scalars + self.centrality(segment_sum(enveloped, receiver, len(types)))
        if self.from_centroid is None:
            start = segment_sum(edges.direction[:n_pairs, :, None] * enveloped[:, None], receiver, len(types))
        else:
            start = self._centroid_kernels(types, receiver, edge_vectors)
        vectors = self.start_vectors(start)

        for block in self.blocks:
            scalars, vectors = block(scalars, vectors, edges)
        scalars, vectors = self.final_norms(scalars, vectors)
        forces = None if self.force_readout is None else self.force_readout(scalars, vectors)
        return ModelOutput(self.readout(scalars), scalars, vectors, forces)

    def _edges(self, types: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> Edges:
        """Distances, directions, kernels and bias of the pairs, with the self tokens behind them."""
        distance = torch.linalg.vector_norm(edge_vectors, dim=-1)
        direction = edge_vectors / distance[:, None]
        envelope = torch.ones_like(distance)
        if self.cutoff is not None:
            envelope = smooth_cutoff(distance, self.cutoff, self.config.envelope_power)
        if self.config.attention_norm == "softmax":
            n = len(types)
            atoms = torch.arange(n, device=types.device)
            edge_index = torch.cat([edge_index, atoms.expand(2, n)], 1)
            distance = torch.cat([distance, distance.new_zeros(n)])
            direction = torch.cat([direction, direction.new_zeros(n, 3)])
            envelope = torch.cat([envelope, envelope.new_ones(n)])
        receiver, sender = edge_index
        radial = self.radial(distance, types[receiver] * len(self.elements) + types[sender])
        bias = radial.new_zeros(len(radial), self.config.heads) if self.bias is None else self.bias(radial)
        return Edges(receiver, sender, envelope, direction, radial, bias)

    def _centroid_kernels(self, types: Tensor, receiver: Tensor, edge_vectors: Tensor) -> Tensor:
        """Positions relative to the centroid times their kernels (N, 3, K), from all pairs' vectors."""
        assert self.from_centroid is not None
        total = segment_sum(edge_vectors, receiver, len(types))
        count = torch.bincount(receiver, minlength=len(types)) + 1
        position = -total / count[:, None]
        distance = torch.sqrt(position.square().sum(-1) + CENTROID_SOFTENING**2)
        return position[:, :, None] * self.from_centroid(distance, types)[:, None]


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product over the three rows, scaled to unit variance: (N, 3, d) x 2 to (N, d)."""
    return (first * second).sum(1) / math.sqrt(3)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
