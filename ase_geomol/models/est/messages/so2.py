"""EquiformerV2's message: convolutions in the frame of the edge, where rotations about it are all that is left."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from ....nn.degrees import DegreeLinear, Gate, SphereActivation, wigner
from ....nn.sphere import Sphere
from ..config import ESTConfig
from ..edges import DegreeFilter, Edges, HeadLogits
from .base import Message


class SO2Linear(nn.Module):
    """Linear maps that commute with rotations about the edge: of each order m, across degrees and channels.

    Order 0 has one matrix; the pair (m, -m) is multiplied by a complex matrix. Its imaginary part tells left from
    right, and is left out where mirror images must have the same energy.
    """

    def __init__(self, lmax: int, mmax: int, channels: int, out: int, *, mirror_symmetric: bool) -> None:
        super().__init__()
        self.mmax, self.out = mmax, out
        signed = [0, *(sign * m for m in range(1, mmax + 1) for sign in (1, -1))]
        places = [[d * d + d + m for d in range(abs(m), lmax + 1)] for m in signed]
        self.sizes = [len(of_order) for of_order in places]
        self.places: Tensor
        self.register_buffer("places", torch.tensor([*chain(*places)]), persistent=False)
        sizes = [lmax + 1 - m for m in range(mmax + 1)]
        self.zero = nn.Linear(sizes[0] * channels, sizes[0] * out)
        self.real = nn.ModuleList(nn.Linear(size * channels, size * out, bias=False) for size in sizes[1:])
        self.imaginary = None
        if not mirror_symmetric:
            self.imaginary = nn.ModuleList(nn.Linear(size * channels, size * out, bias=False) for size in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Map (E, K, C) to (E, K, C'); orders above ``mmax`` become 0."""
        result = x.new_zeros(len(x), x.shape[1], self.out)
        parts = [part.flatten(1) for part in x[:, self.places].split(self.sizes, 1)]
        mapped = [self.zero(parts[0])]
        for m in range(1, self.mmax + 1):
            plus, minus = parts[2 * m - 1], parts[2 * m]
            real, imaginary = self.real[m - 1], None if self.imaginary is None else self.imaginary[m - 1]
            if imaginary is None:
                mapped += [real(plus), real(minus)]
            else:
                mapped += [real(plus) - imaginary(minus), real(minus) + imaginary(plus)]
        return result.index_copy(1, self.places, torch.cat([y.unflatten(1, (-1, self.out)) for y in mapped], 1))


class SO2Message(Message):
    """Graph attention of EquiformerV2 (arXiv 2306.12059) with gates, or its activation at points.

    Features of both atoms are turned so that the edge lies along the polar axis, where the tensor product with its
    harmonics is the `SO2Linear`; the angle about the edge is arbitrary and drops out.
    """

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config, sphere)
        lmax, channels, mmax = config.lmax, config.channels, min(config.mmax, config.lmax)
        self.lmax = lmax
        self.filter = DegreeFilter(config, 2)
        mirror = config.mirror_symmetric
        self.first = SO2Linear(lmax, mmax, 2 * channels, channels, mirror_symmetric=mirror)
        self.second = SO2Linear(lmax, mmax, channels, channels, mirror_symmetric=mirror)
        on_sphere = config.so2_activation == "sphere"
        self.activation = SphereActivation(sphere) if on_sphere else Gate(lmax, channels)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.logits = HeadLogits(channels, config.message_heads)
        self.projection = DegreeLinear(lmax, channels, channels)

    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C)."""
        turn = wigner(edge_frames(edges.direction), self.lmax)
        both = turn @ torch.cat([edges.of_receivers(x), edges.of_senders(x)], -1) * self.filter(edges.radial)
        met = self.first(both)
        shares = self.dropout(edges.attention(self.logits(met[:, 0])))
        values = turn.mT @ self.second(self.activation(met))
        return self.projection(edges.attend(shares, values))


def edge_frames(direction: Tensor) -> Tensor:
    """Rotations (E, 3, 3) that turn directions (E, 3) onto the y axis, the polar axis of the harmonics.

    The third axis is chosen by whichever of x and z is farther from the edge. That choice jumps, but only turns the
    frame about the edge.
    """
    x_axis, z_axis = direction.new_tensor([[1.0, 0, 0], [0, 0, 1.0]])
    helper = torch.where(direction[:, :1].abs() < direction[:, 2:].abs(), x_axis, z_axis)
    first = helper - (helper * direction).sum(-1, keepdim=True) * direction
    first = first / torch.linalg.vector_norm(first, dim=-1, keepdim=True)
    return torch.stack([first, direction, torch.linalg.cross(first, direction)], 1)
