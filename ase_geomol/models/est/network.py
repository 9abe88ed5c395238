"""The network of EST (arXiv 2505.23086): messages on coefficients, updates on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...nn import ScalarReadout, VectorReadout, evaluate, forgetting, make_blocks, part_size
from ...nn.degrees import CoefficientNorm
from ...nn.sphere import Sphere, point_rule
from ..base import ModelOutput
from .config import ESTConfig
from .edges import Edges, Embedding, RadialFunctions, make_edges
from .messages import MESSAGES
from .update import ScalarUpdate, Update


class Block(nn.Module):
    """A message and an update, each added to what came in; with ``scalars_only`` nobody reads more of the update."""

    def __init__(self, config: ESTConfig, sphere: Sphere, *, scalars_only: bool = False) -> None:
        super().__init__()
        self.message = MESSAGES[config.message](config, sphere)
        self.update = ScalarUpdate(config) if scalars_only else Update(config, sphere)
        self.path_dropout = nn.Dropout(config.path_dropout)

    def forward(self, x: Tensor, edges: Edges, system: Tensor) -> tuple[Tensor, Edges]:
        """Map features (n, K, C) and edges to the same, in structures (n,)."""
        message, edges = self.message(x, edges)
        x = x + self._path(message, system)
        return x + self._path(self._updated(x), system), edges

    def _updated(self, x: Tensor) -> Tensor:
        """The update of each atom by itself, of large systems in parts."""
        size = len(x) if self.training else part_size(len(x), x.device)
        if size == len(x):
            return self.update(x)
        return torch.cat([forgetting(self.update, part) for part in x.split(size)])

    def _path(self, increment: Tensor, system: Tensor) -> Tensor:
        """The increment, in training without some structures."""
        if not self.training or self.path_dropout.p == 0 or not len(system):
            return increment
        kept = self.path_dropout(increment.new_ones(int(system[-1]) + 1))
        return increment * kept.index_select(0, system)[:, None, None]


class EST(nn.Module):
    """The network: see the module's text and `ESTConfig`; it is an `EnergyModel`."""

    def __init__(self, config: ESTConfig) -> None:
        super().__init__()
        self.config = config
        self.elements = config.elements
        self.cutoff = config.cutoff
        self.has_direct_forces = config.direct_forces
        self.reads_tags = False
        self.recompute = False
        types = torch.full((119,), -1, dtype=torch.long)
        types[list(config.elements)] = torch.arange(len(config.elements))
        self.types: Tensor
        self.register_buffer("types", types, persistent=False)
        self.sphere = Sphere(point_rule(config.points), config.lmax)
        self.radial = RadialFunctions(config)
        self.embedding = Embedding(config)
        last = config.layers - 1 if config.scalar_bypass and not config.direct_forces else None
        self.blocks = nn.ModuleList(
            Block(config, self.sphere, scalars_only=place == last) for place in range(config.layers)
        )
        self.final_norm = CoefficientNorm(config.lmax, config.channels, config.norm_floor)
        self.readout = ScalarReadout(config.channels)
        self.force_readout = VectorReadout(config.channels) if config.direct_forces else None

    def forward(self, numbers: Tensor, system: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> ModelOutput:
        """Energies and features of atoms.

        Args:
            numbers: (N,) atomic numbers, all among ``elements``.
            system: (N,) structure of each atom, ascending.
            edge_index: (2, E) receiver and sender, sorted by receiver.
            edge_vectors: (E, 3) Å from receiver to sender, none of length zero.
        """
        types = self.types[numbers]
        blocks = make_blocks(system, edge_index) if MESSAGES[self.config.message].uses_blocks else None
        edges = make_edges(self.config, self.radial, types, edge_index, edge_vectors, blocks)
        x = self.embedding(types, edges)
        for block in self.blocks:
            x, edges = evaluate(block, x, edges, system, again=self.recompute)
        x = self.final_norm(x)
        scalars, vectors = x[:, 0], x[:, 1:4]
        forces = None if self.force_readout is None else self.force_readout(scalars, vectors)
        return ModelOutput(self.readout(scalars), scalars, vectors, forces)
