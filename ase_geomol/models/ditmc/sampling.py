"""From noise to structures: the flow's differential equation, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Schedule = Literal["uniform", "logarithmic"]
Solver = Literal["euler", "heun"]
Denoise = Callable[[Tensor, float], Tensor]
"""From positions and their time to expected positions without noise."""


def times(steps: int, schedule: Schedule = "uniform") -> list[float]:
    """Times from 0 to 1; the logarithmic schedule has ever shorter steps towards the end."""
    if schedule == "uniform":
        return [step / steps for step in range(steps + 1)]
    return [1 - (10 ** (1 - step / steps) - 1) / 9 for step in range(steps + 1)]


def integrate(denoise: Denoise, positions: Tensor, moments: Sequence[float], solver: Solver = "euler") -> Tensor:
    """Follow the velocity ``v = (x̂1 - x) / (1 - t)`` from t = 0 to 1.

    The last step ends at what the network predicts in it; nothing is evaluated at t = 1.

    Args:
        denoise: gives x̂1.
        positions: at the first moment.
        moments: ascending, the last is 1.
        solver: Heun's method predicts twice in all steps but the last, and errs less.
    """
    for time, following in pairwise(moments):
        clean = denoise(positions, time)
        keep = (1 - following) / (1 - time)
        ahead = clean + keep * (positions - clean)
        if solver == "heun" and following < 1:
            velocity = (clean - positions) / (1 - time)
            velocity_ahead = (denoise(ahead, following) - ahead) / (1 - following)
            ahead = positions + (following - time) / 2 * (velocity + velocity_ahead)
        positions = ahead
    return positions


def sample_noise(seed: int, samples: Sequence[int], n_atoms: int) -> Tensor:
    """Standard normal numbers (S, N, 3), float64, that depend on the seed and each sample's index alone."""
    draws = [
        np.random.Generator(np.random.Philox(key=np.array([seed, sample], dtype=np.uint64))).standard_normal(
            (n_atoms, 3)
        )
        for sample in samples
    ]
    return torch.from_numpy(np.stack(draws))
