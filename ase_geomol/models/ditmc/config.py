"""What a DiTMC is made of: its sizes and options."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

HEAD_CHANNELS = 32
"""Width of an attention head."""
ORGANIC = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53)
"""H B C N O F Si P S Cl Br I."""
DRUGS = (1, 3, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 20, 23, 24, 25, 29)
DRUGS += (30, 31, 32, 33, 34, 35, 47, 49, 51, 53, 64, 78, 79, 80, 83)
"""The elements of GEOM-DRUGS."""
LONGEST_PATH = 509
"""Bonds; more than any path that has an embedding of its own."""

Positions = Literal["absolute", "relative", "equivariant"]
Pairs = Literal["all-pair", "bond-pair"]


class DiTMCConfig(BaseModel):
    """Architecture of a DiTMC (arXiv 2506.15378).

    Attributes:
        elements: atomic numbers that the model knows.
        positions: how it sees where atoms are: coordinates of each ("absolute", aPE), differences of two ("relative",
            rPE), or distances and directions in features that turn with the molecule ("equivariant", PE(3)). The first
            is the cheapest; only the last is equivariant by construction.
        conditioning: what it knows of a pair of atoms: the number of bonds on the shortest path ("all-pair"), or the
            bond between them, if any ("bond-pair").
        layers: number of transformer blocks.
        channels: width, a multiple of 32; there are channels / 32 attention heads.
        graph_layers: rounds of message passing along bonds.
        longest_path: bonds; pairs that are further apart are taken for as far as this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    elements: tuple[int, ...] = Field(default=ORGANIC, min_length=1)
    positions: Positions = "absolute"
    conditioning: Pairs = "all-pair"
    layers: int = Field(default=6, ge=1)
    channels: int = Field(default=256, ge=HEAD_CHANNELS)
    graph_layers: int = Field(default=2, ge=1)
    longest_path: int = Field(default=LONGEST_PATH, ge=1, le=LONGEST_PATH)

    @model_validator(mode="after")
    def _consistent(self) -> DiTMCConfig:
        if self.channels % HEAD_CHANNELS:
            raise ValueError(f"channels ({self.channels}) must be a multiple of {HEAD_CHANNELS}")
        if len(set(self.elements)) != len(self.elements) or not all(1 <= z <= 118 for z in self.elements):
            raise ValueError("elements must be different atomic numbers from 1 to 118")
        return self
