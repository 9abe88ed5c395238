"""What all messages have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ....nn.degrees import CoefficientNorm
from ....nn.sphere import Sphere
from ..config import ESTConfig
from ..edges import Edges


class Message(nn.Module, ABC):
    """Maps features of atoms to what each atom hears from its neighbours."""

    uses_blocks = False
    """Whether it wants `Edges` as slots of blocks."""

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__()
        self.sphere = sphere
        self.norm = CoefficientNorm(config.lmax, config.channels, config.norm_floor)

    def forward(self, x: Tensor, edges: Edges) -> tuple[Tensor, Edges]:
        """Map features (n, K, C) to what arrives (n, K, C), and to the edges that the next block reads."""
        x = self.norm(x)
        edges = self.renew(x, edges)
        return self.arriving(x, edges), edges

    def renew(self, x: Tensor, edges: Edges) -> Edges:
        """The edges that this message and the next blocks read, from normed features: mostly as they are."""
        return edges

    @abstractmethod
    def arriving(self, x: Tensor, edges: Edges) -> Tensor:
        """What arrives (n, K, C) of normed features (n, K, C)."""
