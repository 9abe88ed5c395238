"""What the blocks of a DiTMC are told: the molecule's graph and the time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import DiTMCConfig
from .graph import ATOM_FEATURES, BOND_FEATURES, TRANS, UNREACHABLE, MoleculeBatch


def two_layers(inputs: int, channels: int, *, bias: bool = True) -> nn.Sequential:
    """A network of two layers with SiLU between them."""
    return nn.Sequential(nn.Linear(inputs, channels, bias), nn.SiLU(), nn.Linear(channels, channels, bias))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts at zero."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class TimeEmbedding(nn.Module):
    """A network of random Fourier features of the time, whose frequencies stay as they were drawn."""

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels // 4))
        self.mlp = two_layers(channels // 2, channels)

    def forward(self, time: Tensor) -> Tensor:
        """Map times (…) to (…, H)."""
        angle = 2 * math.pi * time[..., None] * self.frequencies
        return self.mlp(torch.stack([angle.cos(), angle.sin()], -1).flatten(-2))


class GraphLayer(nn.Module):
    """Bonds look at their two atoms, then atoms at the sum of their bonds (MeshGraphNet, without residuals)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bond = nn.Sequential(nn.LayerNorm(3 * channels), two_layers(3 * channels, channels))
        self.atom = nn.Sequential(nn.LayerNorm(2 * channels), two_layers(2 * channels, channels))

    def forward(self, atoms: Tensor, bonds: Tensor, receive: Tensor, send: Tensor) -> tuple[Tensor, Tensor]:
        """Map atoms (G, N, H) and bonds (G, M, H) to the same shapes; 1 in ``receive`` (G, M, N) where atoms do so."""
        bonds = self.bond(torch.cat([send @ atoms, receive @ atoms, bonds], -1))
        return self.atom(torch.cat([atoms, receive.mT @ bonds], -1)), bonds


class GraphEncoder(nn.Module):
    """Features of atoms and bonds, from passing messages along the bonds."""

    types: Tensor

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        self.n_elements = len(config.elements)
        types = torch.full((119,), self.n_elements, dtype=torch.long)
        types[list(config.elements)] = torch.arange(self.n_elements)
        self.register_buffer("types", types, persistent=False)
        d = config.channels
        self.atom = nn.Sequential(two_layers(ATOM_FEATURES + self.n_elements, d), nn.LayerNorm(d))
        self.bond = nn.Sequential(two_layers(BOND_FEATURES, d), nn.LayerNorm(d))
        self.layers = nn.ModuleList(GraphLayer(d) for _ in range(config.graph_layers))

    def forward(self, molecules: MoleculeBatch) -> tuple[Tensor, Tensor]:
        """Features (G, N, H) of atoms and (G, M, H) of directed bonds."""
        dtype = next(self.parameters()).dtype
        element = functional.one_hot(self.types[molecules.numbers], self.n_elements + 1)[..., :-1]
        atoms = self.atom(torch.cat([molecules.atom_features.to(dtype), element.to(dtype)], -1))
        bonds = self.bond(molecules.bond_features.to(dtype))
        places = torch.arange(molecules.numbers.shape[1], device=atoms.device)
        receive, send = (molecules.bonds[..., None] == places).to(dtype).unbind(-2)
        for layer in self.layers:
            atoms, bonds = layer(atoms, bonds, receive, send)
        return atoms, bonds


class PairTable(NamedTuple):
    """Features of pairs of atoms, of which many are alike.

    Attributes:
        rows: (R, H) features of each kind of pair.
        kinds: (G, N, N) kind of each pair.
    """

    rows: Tensor
    kinds: Tensor

    def spread(self, rows: Tensor) -> Tensor:
        """Values (G, N, N, …) of pairs, of those of the kinds (R, …)."""
        return functional.embedding(self.kinds, rows)


class PathPairs(nn.Module):
    """All-pair conditioning: pairs are alike that are equally many bonds apart, and on the same side or not."""

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        self.longest = config.longest_path
        self.embedding = nn.Embedding(self.longest + 2 + TRANS, config.channels)
        self.mlp = two_layers(config.channels, config.channels)

    def forward(self, molecules: MoleculeBatch, bonds: Tensor) -> PairTable:
        """The table of a batch."""
        apart = molecules.hops == UNREACHABLE
        kinds = molecules.hops.clamp(max=self.longest).masked_fill(apart, self.longest + 1)
        kinds = torch.where(molecules.sides > 0, self.longest + 1 + molecules.sides, kinds)
        return PairTable(self.mlp(self.embedding.weight), kinds)


class BondPairs(nn.Module):
    """Bond-pair conditioning: each bond is a kind of its own, other pairs are alike but for their sides."""

    def __init__(self, config: DiTMCConfig) -> None:
        super().__init__()
        self.others = nn.Embedding(1 + TRANS, config.channels)

    def forward(self, molecules: MoleculeBatch, bonds: Tensor) -> PairTable:
        """The table of a batch with encoded bonds (G, M, H)."""
        (count, n_bonds), n_atoms = bonds.shape[:2], molecules.numbers.shape[1]
        kinds = molecules.sides.flatten()
        real = molecules.bonds[..., 0].flatten() >= 0
        molecule = torch.arange(count, device=kinds.device).repeat_interleave(n_bonds)
        receiver, sender = molecules.bonds.flatten(0, 1).unbind(-1)
        place = (molecule * n_atoms + receiver) * n_atoms + sender
        row = torch.arange(count * n_bonds, device=kinds.device) + len(self.others.weight)
        kinds = kinds.index_copy(0, place[real], row[real])
        return PairTable(torch.cat([self.others.weight, bonds.flatten(0, 1)]), kinds.view(-1, n_atoms, n_atoms))
