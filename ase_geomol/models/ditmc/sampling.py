"""From noise to structures: the flow's differential equation, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""From positions and their time to expected positions without noise."""


class Sampler(BaseModel):
    """Follows the velocity ``v = (x̂1 - x) / (1 - t)`` from t = 0 to 1.

    Attributes:
        steps: number of steps.
        schedule: "uniform", or "logarithmic" with ever shorter steps towards the end.
        solver: "euler", or "heun", which evaluates the network twice in all steps but the last, and errs less.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=50, ge=1)
    schedule: Literal["uniform", "logarithmic"] = "uniform"
    solver: Literal["euler", "heun"] = "euler"

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated."""
        return self.steps if self.solver == "euler" else 2 * self.steps - 1

    @property
    def times(self) -> list[float]:
        """Times (steps + 1) from 0 to 1."""
        shares = [step / self.steps for step in range(self.steps + 1)]
        return shares if self.schedule == "uniform" else [1 - (10 ** (1 - share) - 1) / 9 for share in shares]

    def integrate(self, denoise: Denoise, positions: Tensor) -> Tensor:
        """Positions at t = 1, of those at t = 0.

        The last step ends at what the network predicts in it; nothing is evaluated at t = 1.
        """
        for time, following in pairwise(self.times):
            clean = denoise(positions, time)
            ahead = clean + (1 - following) / (1 - time) * (positions - clean)
            if self.solver == "heun" and following < 1:
                velocity = (clean - positions) / (1 - time)
                velocity_ahead = (denoise(ahead, following) - ahead) / (1 - following)
                ahead = positions + (following - time) / 2 * (velocity + velocity_ahead)
            positions = ahead
        return positions


def sample_noise(seeds: Sequence[int], n_atoms: int) -> Tensor:
    """Standard normal numbers (S, N, 3), float64, those of a sample from its seed alone."""
    draws = [np.random.Generator(np.random.Philox(key=seed)).standard_normal((n_atoms, 3)) for seed in seeds]
    return torch.from_numpy(np.stack(draws))
