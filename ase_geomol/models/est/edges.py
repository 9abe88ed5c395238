"""What the messages know of an edge, and sums over an atom's edges."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...nn import Blocks, ExponentialBasis, segment_sum, smooth_cutoff
from ...nn.degrees import degrees
from ...nn.sphere import harmonics
from .config import ESTConfig
from .elements import ElementTable


class Edges(NamedTuple):
    """E directed edges, sorted by receiver, among n atoms; for messages that ask for blocks, all slots of these.

    Attributes:
        receiver: (E,) the atom that is told.
        sender: (E,) the neighbour.
        n_atoms: n.
        envelope: (E,) 0 at the cutoff, with two derivatives.
        direction: (E, 3) unit vector from receiver to sender.
        harmonics: (E, K) of the direction, times the root of 4 pi: the squares of degree l sum up to 2l+1.
        radial: (E, R) learned functions of the distance and the two elements.
        blocks: what the slots are, or None.
    """

    receiver: Tensor
    sender: Tensor
    n_atoms: int
    envelope: Tensor
    direction: Tensor
    harmonics: Tensor
    radial: Tensor
    blocks: Blocks | None = None

    def parts(self, size: int) -> list[Edges]:
        """Those of ``size`` receivers after each other, where blocks are single atoms."""
        assert self.blocks is not None
        slots = (self.envelope, self.direction, self.harmonics, self.radial)
        pieces = zip(*(values.split(size * self.blocks.senders) for values in slots), strict=True)
        return [
            self._replace(n_atoms=part.count, envelope=u, direction=d, harmonics=y, radial=r, blocks=part)
            for part, (u, d, y, r) in zip(self.blocks.parts(size), pieces, strict=True)
        ]

    def of_receivers(self, values: Tensor) -> Tensor:
        """Values (n, …) of each edge's receiver (E, …)."""
        return values.index_select(0, self.receiver)

    def of_senders(self, values: Tensor) -> Tensor:
        """Values (n, …) of each edge's sender (E, …)."""
        return values.index_select(0, self.sender)

    def gather(self, messages: Tensor) -> Tensor:
        """Sum messages (E, …) over the edges of each receiver (n, …), each times its envelope."""
        assert self.blocks is None
        weighted = messages * self.envelope.view(-1, *[1] * (messages.dim() - 1))
        return segment_sum(weighted, self.receiver, self.n_atoms)

    def steer(self, filters: Tensor) -> Tensor:
        """Sum harmonics of each receiver's edges, times filters (E, L+1, C) of their degrees and envelopes: (n, K, C).

        In slots of blocks the sums are products of matrices, so that nothing is as large as (E, K, C).
        """
        lmax = filters.shape[1] - 1
        if self.blocks is None:
            return self.gather(filters.index_select(1, degrees(lmax).to(filters.device)) * self.harmonics[:, :, None])
        weighted = (filters * self.envelope[:, None, None]).unflatten(0, (-1, self.blocks.senders))
        around = self.harmonics.unflatten(0, (-1, self.blocks.senders)).mT
        steered = [around[:, degree**2 : (degree + 1) ** 2] @ weighted[:, :, degree] for degree in range(lmax + 1)]
        return self.blocks.take_atoms(torch.cat(steered, 1))

    def attend(self, shares: Tensor, values: Tensor) -> Tensor:
        """Sum values (E, K, C) of each receiver, their heads times shares (E, H); to (n, K, C)."""
        weighted = (values.unflatten(-1, (shares.shape[1], -1)) * shares[:, None, :, None]).flatten(2)
        return segment_sum(weighted, self.receiver, self.n_atoms)

    def attention(self, logits: Tensor) -> Tensor:
        """Shares (E, H) of each receiver's edges: ``u exp(l) / (1 + sum_k u_k exp(l_k))``.

        The one is a place that never leaves: without it the last neighbour would keep all attention until it vanishes.
        """
        receivers = self.receiver[:, None].expand_as(logits)
        largest = logits.new_zeros(self.n_atoms, logits.shape[1]).scatter_reduce(0, receivers, logits.detach(), "amax")
        weights = self.envelope[:, None] * torch.exp(logits - largest.index_select(0, self.receiver))
        total = torch.exp(-largest) + segment_sum(weights, self.receiver, self.n_atoms)
        return weights / total.index_select(0, self.receiver)


class HeadLogits(nn.Module):
    """Logits of each head: a layer norm, a smooth leaky ReLU and a learned vector (Equiformer, arXiv 2206.11990)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.vectors = nn.Parameter(torch.empty(heads, channels // heads))
        nn.init.normal_(self.vectors, std=(channels // heads) ** -0.5)

    def forward(self, scalars: Tensor) -> Tensor:
        """Map (E, C) to (E, H)."""
        x = self.norm(scalars)
        x = 0.6 * x + 0.4 * x * (2 * torch.sigmoid(x) - 1)  # slope 0.2 far below 0, 1 far above
        return (x.unflatten(-1, self.vectors.shape) * self.vectors).sum(-1)


class RadialFunctions(nn.Module):
    """``SiLU(W' SiLU(W psi(r) + a_Zi + b_Zj))``: what every filter of the network is linear in."""

    def __init__(self, config: ESTConfig) -> None:
        super().__init__()
        channels = config.radial_channels
        self.basis = ExponentialBasis(config.kernels, config.cutoff, 1, config.radial_length)
        self.first = nn.Linear(config.kernels, channels)
        nn.init.normal_(self.first.weight)  # of the kernels about one is not 0: the distance counts as much as elements
        self.of_receiver = ElementTable(config.elements, channels)
        self.of_sender = ElementTable(config.elements, channels)
        self.second = nn.Linear(channels, channels)
        nn.init.normal_(self.second.weight, std=2 * channels**-0.5)  # as in `DegreeFilter`

    def forward(self, distance: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
        """Distances (E,) in Å and types (E,) of both atoms to (E, R)."""
        kernels = self.basis(distance, torch.zeros_like(receiver)).T
        first = functional.silu(self.first(kernels) + self.of_receiver(receiver) + self.of_sender(sender))
        return functional.silu(self.second(first))


class DegreeFilter(nn.Module):
    """Radial functions of each degree and channel, as factors (E, K, C) of coefficients; C is ``times`` the width."""

    def __init__(self, config: ESTConfig, times: int = 1) -> None:
        super().__init__()
        self.shape = (config.lmax + 1, times * config.channels)
        self.degrees: Tensor
        self.register_buffer("degrees", degrees(config.lmax), persistent=False)
        self.linear = nn.Linear(config.radial_channels, math.prod(self.shape))
        nn.init.normal_(self.linear.weight, std=2 * config.radial_channels**-0.5)  # SiLU of radial functions is small

    def by_degree(self, radial: Tensor) -> Tensor:
        """(E, R) to (E, L+1, C)."""
        return self.linear(radial).unflatten(-1, self.shape)

    def forward(self, radial: Tensor) -> Tensor:
        """(E, R) to (E, K, C)."""
        return self.by_degree(radial).index_select(1, self.degrees)


class Embedding(nn.Module):
    """Start of the features: the element, and harmonics of the neighbours times radial functions."""

    def __init__(self, config: ESTConfig) -> None:
        super().__init__()
        self.elements = ElementTable(config.elements, config.channels)
        self.filter = DegreeFilter(config)
        self.share = config.average_neighbors**-0.5

    def forward(self, types: Tensor, edges: Edges) -> Tensor:
        """Features (n, K, C) of atoms of types (n,)."""
        around = edges.steer(self.filter.by_degree(edges.radial)) * self.share
        return around + functional.pad(self.elements(types)[:, None], (0, 0, 0, around.shape[1] - 1))


def make_edges(
    config: ESTConfig,
    radial: RadialFunctions,
    types: Tensor,
    edge_index: Tensor,
    edge_vectors: Tensor,
    blocks: Blocks | None = None,
) -> Edges:
    """Directions, envelopes and radial functions of vectors (E, 3) in Å, or of all slots of ``blocks``."""
    vectors, envelope = edge_vectors, _envelope(config, edge_vectors)
    receiver, sender = edge_index
    of_receiver, of_sender = types[receiver], types[sender]
    if blocks is not None:  # an empty slot has a length, an envelope of zero, and any element
        shape = (blocks.count, blocks.receivers, blocks.senders)
        vectors, envelope = blocks.place_pairs(vectors, 1.0), blocks.place_pairs(envelope, 0.0)
        placed = blocks.place_atoms(types)
        of_receiver = placed.view(*shape[:2], 1).expand(shape).flatten()
        of_sender = blocks.copy_to_senders(placed).view(shape[0], 1, shape[2]).expand(shape).flatten()
    distance = torch.linalg.vector_norm(vectors, dim=-1)
    direction = vectors / distance[:, None]
    return Edges(
        receiver=receiver,
        sender=sender,
        n_atoms=len(types),
        envelope=envelope,
        direction=direction,
        harmonics=math.sqrt(4 * math.pi) * harmonics(config.lmax, direction),
        radial=radial(distance, of_receiver, of_sender),
        blocks=blocks,
    )


def _envelope(config: ESTConfig, vectors: Tensor) -> Tensor:
    return smooth_cutoff(torch.linalg.vector_norm(vectors, dim=-1), config.cutoff, config.envelope_power)
