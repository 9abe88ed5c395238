"""What all messages have in common."""

from __future__ import annotations

from torch import Tensor, nn

from ..edges import Edges


class Message(nn.Module):
    """Maps features of atoms to what each atom hears from its neighbours."""

    uses_blocks = False
    """Whether it wants `Edges` as slots of blocks."""

    def renew(self, x: Tensor, edges: Edges) -> Edges:
        """The edges that this message and the next blocks read, from features (n, K, C): mostly as they are."""
        return edges
