"""Equiformer's message: graph attention whose values are made by two depthwise tensor products."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ....nn.degrees import DegreeLinear, Gate
from ....nn.sphere import Sphere
from ..config import ESTConfig
from ..edges import Edges, HeadLogits
from .base import Message


class DepthwiseProduct(nn.Module):
    """Products of each channel with the harmonics of the edge, all paths l1 x l2 -> l3 of even sum, then mixed.

    Only even sums: the others make pseudo-tensors, which the features do not hold.
    """

    def __init__(self, lmax: int, channels: int, radial: int | None) -> None:
        super().__init__()
        from e3nn import o3

        features = o3.Irreps([(channels, (degree, (-1) ** degree)) for degree in range(lmax + 1)])
        edges = o3.Irreps.spherical_harmonics(lmax)
        paths = [
            (l1, l2, l3)
            for l1 in range(lmax + 1)
            for l2 in range(lmax + 1)
            for l3 in range(abs(l1 - l2), min(l1 + l2, lmax) + 1)
            if (l1 + l2 + l3) % 2 == 0
        ]
        paths.sort(key=lambda path: path[2])
        middle = o3.Irreps([(channels, (l3, (-1) ** l3)) for _, _, l3 in paths])
        product = o3.TensorProduct(
            features,
            edges,
            middle,
            [(l1, l2, place, "uvu", True) for place, (l1, l2, _) in enumerate(paths)],
            shared_weights=radial is None,
            internal_weights=radial is None,
        )
        self.product = product
        self._keep_exact()
        self.weights = None if radial is None else nn.Linear(radial, channels * len(paths))
        self.mix = o3.Linear(middle, features)
        self.lmax, self.channels = lmax, channels

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DepthwiseProduct:
        super()._apply(fn, recurse)
        self._keep_exact()
        return self

    def _keep_exact(self) -> None:
        """Write 3j symbols anew: e3nn's have the precision that was the default when they were made."""
        from e3nn.o3 import wigner_3j

        for name, symbols in self.product.named_buffers():
            degrees = re.search(r"_w3j_(\d+)_(\d+)_(\d+)$", name)
            if degrees is not None:
                symbols.copy_(wigner_3j(*map(int, degrees.groups()), dtype=torch.float64))

    def forward(self, x: Tensor, harmonics: Tensor, radial: Tensor) -> Tensor:
        """Map (E, K, C) with harmonics (E, K) and radial functions (E, R) to (E, K, C)."""
        parts = [x[:, d * d : (d + 1) ** 2].mT.flatten(1) for d in range(self.lmax + 1)]
        weights = None if self.weights is None else self.weights(radial)
        mixed = self.mix(self.product(torch.cat(parts, 1), harmonics, weights))
        sizes = [self.channels * (2 * d + 1) for d in range(self.lmax + 1)]
        return torch.cat([part.unflatten(1, (self.channels, -1)).mT for part in mixed.split(sizes, 1)], 1)


class GraphAttentionMessage(Message):
    """Equiformer's attention (arXiv 2206.11990): both atoms' features meet the edge, scalars of it are the logits.

    ``f = product(W_s x_j + W_d x_i, Y; radial)``; logits from the scalars of f, values from the product of a gated f
    with Y. Attention among neighbours carries the envelope.
    """

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config, sphere)
        lmax, channels = config.lmax, config.channels
        self.of_sender = DegreeLinear(lmax, channels, channels)
        self.of_receiver = DegreeLinear(lmax, channels, channels, bias=False)
        self.first = DepthwiseProduct(lmax, channels, config.radial_channels)
        self.second = DepthwiseProduct(lmax, channels, None)
        self.gate = Gate(lmax, channels)
        self.logits = HeadLogits(channels, config.message_heads)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.projection = DegreeLinear(lmax, channels, channels)

    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C)."""
        both = edges.of_receivers(self.of_receiver(x)) + edges.of_senders(self.of_sender(x))
        met = self.first(both, edges.harmonics, edges.radial)
        shares = self.dropout(edges.attention(self.logits(met[:, 0])))
        values = self.second(self.gate(met), edges.harmonics, edges.radial)
        return self.projection(edges.attend(shares, values))
