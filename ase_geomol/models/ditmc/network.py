"""The network of DiTMC: from a molecule's graph, noisy positions and a time to positions without noise.

What follows from the graph alone is computed once for all samples and all steps of the sampler: `DiTMC.encode`.
With absolute positions these are the filters of all pairs, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .conditioning import BondPairs, GraphEncoder, PathPairs, TimeEmbedding
from .config import DiTMCConfig
from .equivariant import EquivariantTransformer
from .geometry import centre, handedness
from .graph import MoleculeBatch
from .standard import Transformer


@dataclass(frozen=True)
class Conditioning:
    """What the network knows of G molecules before it sees positions.

    Attributes:
        atoms: (G, N) where there are atoms.
        centres: (G, C, 4) neighbours of stereocentres.
        nodes: (G, 1, N, H) encoded atoms.
        tokens: (G, 1, N, H) embedded elements.
        pairs: of the pairs of atoms, what each block needs.
    """

    atoms: Tensor
    centres: Tensor
    nodes: Tensor
    tokens: Tensor
    pairs: list[Tensor]


class DiTMC(nn.Module):
    """The network: see the module's text and `DiTMCConfig`."""

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        self.config = config
        self.elements = config.elements
        self.graph = GraphEncoder(config)
        self.pairs = PathPairs(config) if config.conditioning == "all-pair" else BondPairs(config)
        self.time = TimeEmbedding(config.channels)
        self.condition_norm = nn.LayerNorm(config.channels)
        self.embedding = nn.Embedding(119, config.channels)
        equivariant = config.positions == "equivariant"
        self.transformer = EquivariantTransformer(config) if equivariant else Transformer(config)

    def encode(self, molecules: MoleculeBatch) -> Conditioning:
        """What follows from the graphs alone."""
        nodes, bonds = self.graph(molecules)
        return Conditioning(
            atoms=molecules.atoms,
            centres=molecules.centres,
            nodes=nodes.unsqueeze(1),
            tokens=self.embedding(molecules.numbers).unsqueeze(1),
            pairs=self.transformer.prepare(self.pairs(molecules, bonds)),
        )

    def denoise(self, conditioning: Conditioning, positions: Tensor, time: Tensor) -> Tensor:
        """Predict where atoms are without noise.

        Args:
            conditioning: of G molecules, see `encode`.
            positions: (G, S, N, 3) Å, of S samples of each.
            time: (G or 1, S or 1) from 0, prior, to 1, data.

        Returns:
            (G, S, N, 3) Å, centred; zeros where there are no atoms.
        """
        atoms = conditioning.atoms
        alone = torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)
        pairs = (atoms[:, :, None] & atoms[:, None, :] & ~alone)[:, None, None]
        positions = centre(positions, atoms)
        handed = handedness(positions, conditioning.centres)
        condition = functional.silu(self.condition_norm(conditioning.nodes + self.time(time)[..., None, :]))
        predicted = self.transformer(
            conditioning.tokens,
            positions,
            handed,
            condition,
            conditioning.pairs,
            pairs,
        )
        return centre(predicted, atoms)
