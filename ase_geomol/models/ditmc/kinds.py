"""Features that turn with the molecule: four kinds of degree 0 and 1, and layers that keep them what they are.

The kinds are scalars, vectors, pseudoscalars and pseudovectors; each is (…, N, 1 or 3, H). A reflection changes the
signs of pseudoscalars, reflects vectors, and reflects pseudovectors and changes their signs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FLOOR = 1e-6
"""Under the square of a feature's size in a norm."""


class Features(NamedTuple):
    """Features of the four kinds; see the module's text."""

    scalars: Tensor
    vectors: Tensor
    pseudoscalars: Tensor
    pseudovectors: Tensor

    def plus(self, update: Features, gates: list[Tensor]) -> Features:
        """These features and an update, whose channels are multiplied by gates (…, N, 1, H)."""
        return Features(*(x + g * y for x, y, g in zip(self, update, gates, strict=True)))


class EquivariantLinear(nn.Module):
    """A linear map for each kind, with a bias for scalars only."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(nn.Linear(inputs, outputs, bias=kind == 0) for kind in range(4))

    def forward(self, features: Features) -> Features:
        """Map channels."""
        return Features(*(linear(x) for linear, x in zip(self.kinds, features, strict=True)))


class EquivariantFeedForward(nn.Module):
    """Two linear maps with a GELU of scalars between them, which is the gate of all other kinds."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.widen = EquivariantLinear(channels, hidden)
        self.gate = nn.Linear(channels, 3 * hidden)
        self.narrow = EquivariantLinear(hidden, channels)

    def forward(self, features: Features) -> Features:
        """Map features to the same shapes."""
        gates = functional.gelu(self.gate(features.scalars)).chunk(3, -1)
        scalars, *others = self.widen(features)
        hidden = Features(functional.gelu(scalars), *(g * x for g, x in zip(gates, others, strict=True)))
        return self.narrow(hidden)


def normalised(features: Features) -> Features:
    """Layer norm of scalars, `unit_size` of the other kinds."""
    scalars, *others = features
    scalars = functional.layer_norm(scalars, scalars.shape[-1:], eps=FLOOR)
    return Features(scalars, *map(unit_size, others))


def unit_size(features: Tensor) -> Tensor:
    """Features (…, 1 or 3, H) of one kind divided by the root mean square of their channels' lengths."""
    return features * torch.rsqrt(features.square().sum(-2, keepdim=True).mean(-1, keepdim=True) + FLOOR)


def modulate(features: Features, shift: Tensor, scales: list[Tensor]) -> Features:
    """Norm with scales (…, N, 1, H) of all kinds and a shift of the scalars."""
    scalars, *others = (x * (1 + scale) for x, scale in zip(normalised(features), scales, strict=True))
    return Features(scalars + shift, *others)
