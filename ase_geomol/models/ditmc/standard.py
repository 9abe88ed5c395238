"""The transformer of aPE and rPE: features without symmetry, modulated by graph and time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from .attention import PairAttention, arrange
from .conditioning import PairTable, two_layers, zero_linear
from .config import DiTMCConfig


def modulate(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm with a scale and a shift from outside."""
    return functional.layer_norm(features, features.shape[-1:]) * (1 + scale) + shift


class Block(nn.Module):
    """Attention and a feed-forward network under adaLN-Zero: at first the block changes nothing."""

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        d = config.channels
        self.modulation = zero_linear(d, 6 * d)
        self.attention = PairAttention(config)
        self.feed_forward = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, features: Tensor, condition: Tensor, filters: Tensor, pairs: Tensor) -> Tensor:
        """Map (G, S, N, H) to the same shape; arguments as in `Transformer` and `PairAttention`."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition).chunk(6, -1)
        features = features + gate1 * self.attention(modulate(features, scale1, shift1), filters, pairs)
        return features + gate2 * self.feed_forward(modulate(features, scale2, shift2))


class Transformer(nn.Module):
    """Blocks and read-out with absolute or relative positions."""

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        d = config.channels
        self.relative = config.positions == "relative"
        self.position = two_layers(3, d, bias=False)
        self.handedness = two_layers(3, d, bias=False)
        blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.modulation = zero_linear(d, 2 * d)
        self.out = nn.Linear(d, 3)

    def prepare(self, table: PairTable) -> list[Tensor]:
        """What each block makes of the pairs' features alone: filters (2, G, 1, heads, N, N, 32)."""
        return [arrange(table.spread(block.attention.pair(table.rows)).unsqueeze(1)) for block in self.blocks]

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        handed: Tensor,
        condition: Tensor,
        prepared: list[Tensor],
        pairs: Tensor,
    ) -> Tensor:
        """Predict positions (G, S, N, 3).

        Args:
            tokens: (G, 1, N, H) embedded elements.
            positions: (G, S, N, 3) Å, centred.
            handed: (G, S, N, 3), see `ase_geomol.models.ditmc.geometry.handedness`.
            condition: (G, S or 1, N, H) of graph and time.
            prepared: see `prepare`.
            pairs: (G, 1, 1, N, N) where there is a pair.
        """
        difference = None
        features = tokens + self.handedness(handed)
        if self.relative:
            difference = self.position(positions[..., :, None, :] - positions[..., None, :, :])
        else:
            features = features + self.position(positions)
        for block, filters in zip(self.blocks, prepared, strict=True):
            if difference is not None:
                filters = filters + arrange(functional.linear(difference, block.attention.pair.weight))
            features = block(features, condition, filters, pairs)
        scale, shift = self.modulation(condition).chunk(2, -1)
        return self.out(modulate(features, scale, shift))
