"""Heads: scalars and vectors from the two streams."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ScalarReadout(nn.Module):
    """One number per atom from its scalars: Linear, GELU, Linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, 1)

    def forward(self, scalars: Tensor) -> Tensor:
        """Map (N, d) to (N,)."""
        return self.out(self.features(scalars)).squeeze(-1)

    def features(self, scalars: Tensor) -> Tensor:
        """Map (N, d) to what the last layer reads (N, d)."""
        return functional.gelu(self.hidden(scalars))


class GatedBlock(nn.Module):
    """PaiNN's gated equivariant block (arXiv 2102.03150, Fig. 3): scalars see norms, vectors are scaled.

    The norm is ``sqrt(|v|^2 + 1e-4) - 1e-2``: 0 at 0 and smooth there.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.out = out
        self.vectors = nn.Linear(channels, channels + out, bias=False)
        self.hidden = nn.Linear(2 * channels, channels)
        self.gate = nn.Linear(channels, 2 * out)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, d), (N, 3, d) to (N, out), (N, 3, out)."""
        seen, scaled = self.vectors(vectors).tensor_split([vectors.shape[-1]], dim=-1)
        norm = torch.sqrt(seen.square().sum(1) + 1e-4) - 1e-2
        hidden = functional.gelu(self.hidden(torch.cat([scalars, norm], -1)))
        out, gate = self.gate(hidden).chunk(2, -1)
        return functional.gelu(out), scaled * gate[:, None]


class VectorReadout(nn.Module):
    """One vector per atom from both streams: two gated blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = GatedBlock(channels, channels)
        self.second = GatedBlock(channels, 1)

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        """Map (N, d), (N, 3, d) to (N, 3)."""
        return self.second(*self.first(scalars, vectors))[1].squeeze(-1)
