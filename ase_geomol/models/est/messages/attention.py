"""Our own message: attention among neighbours by products of matrices, in the forms that `Blocks` give them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ....nn.degrees import DegreeLinear
from ....nn.sphere import Sphere
from ..config import ESTConfig
from ..edges import DegreeFilter, Edges
from .base import Message


class AttentionMessage(Message):
    """Features carried by attention and harmonics steered by filters, as in GotenNet, in few products of matrices.

    ``m_i,lm = sum_j a_ij g_l(h_j) x_j,lm + sum_j u_ij f_l(r_ij) s_l(h_j) Y_lm(r_ij)`` with ``a_ij = u_ij SiLU(q_i·k_j +
    (c_i + d_j)·Y(r_ij) + b(r_ij))`` for each head. All products are over all coefficients: attention sees how both
    atoms' features lie to each other and to the edge, so that invariants learn of angles.
    """

    uses_blocks = True

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__(config, sphere)
        lmax, channels = config.lmax, config.channels
        self.lmax, self.heads, self.share = lmax, config.message_heads, config.average_neighbors**-0.5
        self.query_key = DegreeLinear(lmax, channels, 2 * channels)
        self.along = DegreeLinear(lmax, channels, 2 * self.heads)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.bias = nn.Linear(config.radial_channels, self.heads)
        self.value = DegreeLinear(lmax, channels, channels)
        self.sources = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 2 * (lmax + 1) * channels)
        )
        self.filter = DegreeFilter(config)
        self.projection = DegreeLinear(lmax, channels, channels)

    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C)."""
        blocks = edges.blocks
        assert blocks is not None  # this message asks for them
        x = blocks.place_atoms(x)
        shape = (blocks.count, blocks.receivers, blocks.senders)
        gates, sources = self.sources(x[:, 0]).unflatten(-1, (2, self.lmax + 1, -1)).unbind(1)
        values = self.value(x) * gates.index_select(1, self.filter.degrees)
        weights = self._attention(x, edges, shape)
        spread = _by_head(blocks.copy_to_senders(values), blocks.count, self.heads)
        carried = _together(weights @ spread, self.lmax)
        filters = self.filter.by_degree(edges.radial).view(*shape, self.lmax + 1, -1)
        filters = filters * blocks.copy_to_senders(sources).view(blocks.count, 1, blocks.senders, self.lmax + 1, -1)
        arriving = blocks.take_atoms(carried) + edges.steer(filters.flatten(0, 2))
        return self.projection(arriving * self.share)

    def _attention(self, x: Tensor, edges: Edges, shape: tuple[int, int, int]) -> Tensor:
        """Weights (B, H, n, M) of senders in receivers' sums."""
        count, receivers, senders = shape
        assert edges.blocks is not None
        query, key = self.query_key(x).chunk(2, -1)
        query = _by_head(query, count, self.heads)
        key = _by_head(edges.blocks.copy_to_senders(key), count, self.heads)
        logits = query @ key.mT * query.shape[-1] ** -0.5
        logits = logits + (self.bias(edges.radial).view(*shape, -1) + self._along(x, edges, shape)).permute(0, 3, 1, 2)
        return self.dropout(functional.silu(logits)) * edges.envelope.view(count, 1, receivers, senders)

    def _along(self, x: Tensor, edges: Edges, shape: tuple[int, int, int]) -> Tensor:
        """Inner products (B, n, M, H) of both atoms' features with the harmonics of the edge."""
        assert edges.blocks is not None
        receiver, sender = self.along(x).chunk(2, -1)
        sender = edges.blocks.copy_to_senders(sender).view(shape[0], 1, shape[2], -1, self.heads)
        harmonics = edges.harmonics.view(*shape, -1)
        of_receiver = harmonics @ receiver.view(*shape[:2], -1, self.heads)
        return (of_receiver + (harmonics[..., None] * sender).sum(-2)) * harmonics.shape[-1] ** -0.5


def _by_head(x: Tensor, count: int, heads: int) -> Tensor:
    """Features (B M, K, C) as (B, H, M, K C/H)."""
    return x.view(count, -1, x.shape[1], heads, x.shape[2] // heads).permute(0, 3, 1, 2, 4).flatten(3)


def _together(x: Tensor, lmax: int) -> Tensor:
    """The way back, from (B, H, n, K C/H) to (B n, K, C)."""
    return x.unflatten(-1, ((lmax + 1) ** 2, -1)).permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)
