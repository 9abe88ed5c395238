"""GeoMFormer for N-body systems: the paper's global form with two equivariant streams (arXiv 2406.16853, E.5).

One stream of vectors starts from positions relative to their mean, the other from velocities. Each has an invariant
stream of its own beside it. The two pairs (z^I, z^E) have their own weights and meet in four places: in the
structural bias that all attention shares; in invariant cross-attention, whose inner products are of the vectors of
its own pair with those of both; in equivariant cross-attention, which reads the sum of both invariant streams; and in
the prediction, ``positions + readout of the first + readout of the second``.

The second place is ours. The paper does not say how the pairs meet; where inner products stay within a pair
(``coupling: gates``), no number tells whether particles move towards each other or apart, and all velocities may be
turned together without a change of what the positions do.

All systems of a batch have the same number of particles, so everything is dense. Shapes: S = 2 streams, B systems,
n particles, d channels, H heads, K radial kernels. Scalars are (S, B, n, 1, d) and vectors (S, B, n, 3, d): with
an axis of R = 1 or 3 rows in both, one attention serves both.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ase_geomol.nn import GaussianBasis, VectorReadout
from ase_geomol.nn.norm import EquivariantNormMode

from .whitening import FastEquivariantNorm

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
Coupling = Literal["products", "gates"]
STREAMS = 2
PAIR_REACH, POSITION_REACH, SPEED_REACH = 12.0, 8.0, 5.0
"""Largest kernel centres: one in a thousand distances, and fewer speeds, of the data are larger."""
SOFTENING = 0.01
"""Lengths of single vectors are sqrt(|x|^2 + this^2), which has no kink at zero."""


class NBodyConfig(BaseModel):
    """Architecture; the defaults are the paper's but for ``norm_floor`` and ``dropout`` (there 0.4).

    Attributes:
        layers: number of blocks.
        channels: width d of all streams, hidden layers included.
        heads: attention heads H; divides ``channels``.
        kernels: number K of Gaussian kernels.
        equivariant_norm: "whiten" (the paper's EquLN) or "rms".
        norm_floor: absolute floor under the variance in `ase_geomol.nn.EquivariantNorm`.
        coupling: "products": invariant cross-attention multiplies vectors of its own pair with those of both pairs;
            "gates": with its own only, so that scalars are all that passes from one pair to the other.
        dropout: probability, in training, that an attention weight or a channel of a residual update is dropped; of
            vectors all three rows go together.
        without: parts to leave out, for ablations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=4, ge=1)
    channels: int = Field(default=80, ge=1)
    heads: int = Field(default=8, ge=1)
    kernels: int = Field(default=64, ge=2)
    equivariant_norm: EquivariantNormMode = "whiten"
    norm_floor: float = Field(default=0.05, gt=0)
    coupling: Coupling = "products"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    without: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> NBodyConfig:
        if self.channels % self.heads:
            raise ValueError(f"channels ({self.channels}) must be a multiple of heads ({self.heads})")
        return self


class StreamLinear(nn.Linear):
    """A linear map with its own weights (S, in, out) in each stream: (S, ..., in) to (S, ..., out)."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.weight = nn.Parameter(torch.empty(STREAMS, inputs, outputs))
        for weight in self.weight.data:
            nn.init.xavier_uniform_(weight)
        if bias:
            self.bias = nn.Parameter(torch.zeros(STREAMS, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map the channels."""
        rows = x.flatten(1, -2)
        mapped = rows @ self.weight if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)
        return mapped.unflatten(1, x.shape[1:-1])


class Attention(nn.Module):
    """Base of the attention modules: split into heads, weigh, sum over particles, map out."""

    def __init__(self, config: NBodyConfig, rows: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 1 / math.sqrt(rows * config.channels // config.heads)
        self.dropout = config.dropout
        self.out = StreamLinear(config.channels, config.channels, bias=rows == 1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Map three (S, B, n, R, d), with a bias (S B H, n, n) of the logits, to an update (S, B, n, R, d)."""
        query, key, value = (self._split(x) for x in (query, key, value))
        shape = (STREAMS, -1, self.heads, *query.shape[-3:])
        query, key, value = (x.flatten(-2).flatten(0, 2) for x in (query, key, value))
        logits = torch.baddbmm(bias, query, key.mT, alpha=self.scale)
        weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()  # torch's softmax is slow on short rows
        weights = functional.dropout(weights / weights.sum(-1, keepdim=True), self.dropout, self.training)
        return self.out((weights @ value).view(shape).permute(0, 1, 3, 4, 2, 5).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        """(S, B, n, R, d) to (S, B, H, n, R, d/H)."""
        return x.unflatten(-1, (self.heads, -1)).permute(0, 1, 4, 2, 3, 5)


class SelfAttention(Attention):
    """Scalars attend to scalars, or vectors to vectors."""

    def __init__(self, config: NBodyConfig, rows: int) -> None:
        super().__init__(config, rows)
        self.query_key_value = StreamLinear(config.channels, 3 * config.channels, bias=rows == 1)

    def forward(self, own: Tensor, bias: Tensor) -> Tensor:
        """Map a stream to its update."""
        query, key, value = self.query_key_value(own).chunk(3, -1)
        return self.attend(query, key, value, bias)


class InvariantCross(Attention):
    """Scalars attend to inner products of the vectors of their own pair with those of both, or of their own."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__(config, rows=1)
        self.coupling = config.coupling
        self.query = StreamLinear(config.channels, config.channels, bias=True)
        self.factors = StreamLinear(config.channels, 4 * config.channels, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        """Map both streams to an update of the scalars."""
        left, right = self.factors(vectors).chunk(2, -1)
        if self.coupling == "products":
            right = right.sum(0, keepdim=True)
        key, value = ((left * right).sum(-2, keepdim=True) / math.sqrt(3)).chunk(2, -1)
        return self.attend(self.query(scalars), key, value, bias)


class EquivariantCross(Attention):
    """Vectors attend to vectors gated by the sum of both invariant streams."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__(config, rows=3)
        self.query_key_value = StreamLinear(config.channels, 3 * config.channels, bias=False)
        self.gates = StreamLinear(config.channels, 2 * config.channels, bias=True)

    def forward(self, scalars: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        """Map both streams to an update of the vectors."""
        query, key, value = self.query_key_value(vectors).chunk(3, -1)
        key_gate, value_gate = self.gates(scalars.sum(0, keepdim=True).expand_as(scalars)).chunk(2, -1)
        return self.attend(query, key * key_gate, value * value_gate, bias)


class InvariantFeedForward(nn.Module):
    """``GELU(z^I W1) W2``."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        self.hidden = StreamLinear(config.channels, config.channels, bias=True)
        self.out = StreamLinear(config.channels, config.channels, bias=True)

    def forward(self, scalars: Tensor) -> Tensor:
        """Map scalars to their update."""
        return self.out(functional.gelu(self.hidden(scalars)))


class EquivariantFeedForward(nn.Module):
    """``(z^E W1 * GELU(z^I W2)) W3``."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        self.hidden = StreamLinear(config.channels, config.channels, bias=False)
        self.gate = StreamLinear(config.channels, config.channels, bias=True)
        self.out = StreamLinear(config.channels, config.channels, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        """Map both streams to an update of the vectors."""
        return self.out(self.hidden(vectors) * functional.gelu(self.gate(scalars)))


class InvariantNorm(nn.Module):
    """Layer norm with a scale and a shift of each stream's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(STREAMS, 1, 1, 1, channels))
        self.bias = nn.Parameter(torch.zeros(STREAMS, 1, 1, 1, channels))

    def forward(self, scalars: Tensor) -> Tensor:
        """Normalise (S, B, n, 1, d)."""
        normed = functional.layer_norm(scalars, scalars.shape[-1:])
        return torch.addcmul(self.bias, normed, self.weight)


class Norms(nn.Module):
    """The norms of both kinds of streams, where they are not left out."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        self.scalars, self.vectors = nn.Identity(), nn.Identity()
        if "invariant_norm" not in config.without:
            self.scalars = InvariantNorm(config.channels)
        if "equivariant_norm" not in config.without:
            self.vectors = FastEquivariantNorm(config.channels, config.equivariant_norm, config.norm_floor)
            self.vectors.weight = nn.Parameter(torch.ones(STREAMS, 1, 1, 1, config.channels))  # each stream its own

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise both."""
        return self.scalars(scalars), self.vectors(vectors)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward: each normed first, each added to what came in (eq. 3)."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(Norms(config) for _ in range(3))
        self.dropout = config.dropout
        parts = {
            "invariant_self": lambda: SelfAttention(config, rows=1),
            "equivariant_self": lambda: SelfAttention(config, rows=3),
            "invariant_cross": lambda: InvariantCross(config),
            "equivariant_cross": lambda: EquivariantCross(config),
            "invariant_ffn": lambda: InvariantFeedForward(config),
            "equivariant_ffn": lambda: EquivariantFeedForward(config),
        }
        self.parts = nn.ModuleDict({k: make() for k, make in parts.items() if k not in config.without})

    def forward(self, scalars: Tensor, vectors: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Map (S, B, n, 1, d) and (S, B, n, 3, d) to the same shapes."""
        s, v = self.norms[0](scalars, vectors)
        scalars = self._add(scalars, "invariant_self", s, bias)
        vectors = self._add(vectors, "equivariant_self", v, bias)
        s, v = self.norms[1](scalars, vectors)
        scalars = self._add(scalars, "invariant_cross", s, v, bias)
        vectors = self._add(vectors, "equivariant_cross", s, v, bias)
        s, v = self.norms[2](scalars, vectors)
        return self._add(scalars, "invariant_ffn", s), self._add(vectors, "equivariant_ffn", s, v)

    def _add(self, stream: Tensor, part: str, *inputs: Tensor) -> Tensor:
        if part not in self.parts:
            return stream
        update = self.parts[part](*inputs)
        if self.training and self.dropout > 0:
            update = update * functional.dropout(torch.ones_like(update[..., :1, :]), self.dropout)
        return stream + update


class NBodyGeoMFormer(nn.Module):
    """The network: see the module's text and `NBodyConfig`."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        self.config = config
        d, k = config.channels, config.kernels
        self.pair_kernels = GaussianBasis(k, PAIR_REACH, 4)
        self.own_kernels = nn.ModuleList(GaussianBasis(k, reach, 2) for reach in (POSITION_REACH, SPEED_REACH))
        self.embedding = nn.Parameter(torch.randn(STREAMS, 2, d))
        self.centrality = StreamLinear(k, d, bias=False)
        self.start = StreamLinear(k, d, bias=True)
        has_bias = "structural_bias" not in config.without
        self.bias = nn.Sequential(nn.Linear(k, k), nn.GELU(), nn.Linear(k, config.heads)) if has_bias else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norms = Norms(config)
        self.readouts = nn.ModuleList(VectorReadout(d) for _ in range(STREAMS))

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        """Predict positions.

        Args:
            charges: (B, n), each 1 or -1.
            positions: (B, n, 3).
            velocities: (B, n, 3).

        Returns:
            (B, n, 3).
        """
        types = (charges > 0).long()
        pairs, bias = self._pairs(types, positions)
        scalars = self.embedding[:, types] + self.centrality(pairs.sum(2).expand(STREAMS, -1, -1, -1))
        vectors = torch.stack([positions - positions.mean(1, keepdim=True), velocities])
        lengths = torch.sqrt(vectors.square().sum(-1) + SOFTENING**2)
        kernels = [basis(length, types).movedim(0, -1) for basis, length in zip(self.own_kernels, lengths, strict=True)]
        scalars, vectors = scalars[..., None, :], vectors[..., None] * self.start(torch.stack(kernels))[..., None, :]
        for block in self.blocks:
            scalars, vectors = block(scalars, vectors, bias)
        scalars, vectors = self.final_norms(scalars, vectors)
        for readout, s, v in zip(self.readouts, scalars, vectors, strict=True):
            positions = positions + readout(s.flatten(0, -2), v.flatten(0, 1)).view_as(positions)
        return positions

    def _pairs(self, types: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Radial kernels of all ordered pairs (B, n, n, K), and the bias (S B H, n, n) that all attention shares.

        A particle and itself are a pair at distance 0.
        """
        n = types.shape[1]
        square = (positions[:, :, None] - positions[:, None]).square().sum(-1)
        same = torch.eye(n, dtype=square.dtype, device=square.device)
        distance = torch.sqrt(square + same) - same  # no root of zero: its slope would not be finite
        kinds = 2 * types[:, :, None] + types[:, None]
        kernels = self.pair_kernels(distance, kinds).movedim(0, -1)
        if self.bias is None:
            bias = kernels.new_zeros(1, 1, 1).expand(STREAMS * len(types) * self.config.heads, n, n)
        else:
            bias = self.bias(kernels).permute(0, 3, 1, 2).expand(STREAMS, -1, -1, -1, -1).flatten(0, 2)
        return kernels, bias
