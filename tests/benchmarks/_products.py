"""Spherical attention and networks at points, taught the tensor products of two features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from e3nn.o3 import wigner_3j
from torch import Tensor, nn

from ase_geomol.models.est import ESTConfig
from ase_geomol.models.est.update import SphericalExperts
from ase_geomol.nn.degrees import DegreeLinear
from ase_geomol.nn.sphere import Sphere, point_rule

LMAX = 2


class Path(NamedTuple):
    """Degrees of two features and of their product."""

    first: int
    second: int
    third: int

    @property
    def even(self) -> bool:
        """Whether the product of two true tensors is one, too: the sum of degrees is even."""
        return sum(self) % 2 == 0


PATHS = [
    Path(a, b, c) for a in range(LMAX + 1) for b in range(a, LMAX + 1) for c in range(abs(a - b), min(a + b, LMAX) + 1)
]
"""All with degrees up to 2, but for the order of the factors."""


class Layers(nn.Module):
    """Layers of spherical attention and a network, each added to what came in, between linear maps by degree."""

    def __init__(self, outputs: int, layers: int = 2, channels: int = 16, points: str = "icosahedral-72") -> None:
        super().__init__()
        config = ESTConfig.model_validate(
            {
                "elements": (1,),
                "lmax": LMAX,
                "channels": channels,
                "heads": 2,
                "points": points,
                "scalar_bypass": False,
            }
        )
        sphere = Sphere(point_rule(points), LMAX)
        self.first = DegreeLinear(LMAX, 2, channels)
        self.layers = nn.ModuleList(SphericalExperts(config, sphere) for _ in range(layers))
        self.last = DegreeLinear(LMAX, channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Two features (n, 9, 2) to products (n, 9, outputs)."""
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x, x.new_ones(len(x), 1))
        return self.last(x)


def features(count: int, generator: torch.Generator) -> Tensor:
    """Pairs of features (2 count, 9, 2) of unit length in every degree, and their mirror images."""
    x = torch.randn(count, (LMAX + 1) ** 2, 2, generator=generator)
    parts = [nn.functional.normalize(x[:, d * d : (d + 1) ** 2], dim=1) for d in range(LMAX + 1)]
    mirrored = [(-1) ** d * part for d, part in enumerate(parts)]
    return torch.cat([torch.cat(parts, 1), torch.cat(mirrored, 1)])


def products(x: Tensor, paths: Sequence[Path]) -> Tensor:
    """Clebsch-Gordan products (n, 9, paths) of unit mean square over all features; zero but in the third degree."""
    out = x.new_zeros(*x.shape[:2], len(paths))
    for place, (a, b, c) in enumerate(paths):
        left, right = x[:, a * a : (a + 1) ** 2, 0], x[:, b * b : (b + 1) ** 2, 1]
        three_j = wigner_3j(a, b, c, dtype=x.dtype) * math.sqrt((2 * a + 1) * (2 * b + 1))
        out[:, c * c : (c + 1) ** 2, place] = torch.einsum("na,nb,abc->nc", left, right, three_j)
    return out


def learn(paths: Sequence[Path], steps: int, seed: int = 0, batch: int = 32, rate: float = 1e-2) -> dict[Path, float]:
    """Train one network for all paths; root mean square error of each on features it has not seen, over its size.

    On mirror images, too, a network that keeps parity cannot be below 1 where the product is no true tensor.
    """
    torch.manual_seed(seed)
    network, generator = Layers(len(paths)), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(steps):
        x = features(batch, generator)
        optimiser.zero_grad()
        _squares(network, x, paths).sum().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        errors = _squares(network, features(512, generator), paths).sqrt()
    return dict(zip(paths, errors.tolist(), strict=True))


def _squares(network: nn.Module, x: Tensor, paths: Sequence[Path]) -> Tensor:
    """Mean square error of each path over the mean square of its product."""
    wanted = products(x, paths)
    found = network(x)
    masks = torch.stack([_degree(path.third) for path in paths], -1)
    return ((found - wanted) * masks).square().sum((0, 1)) / wanted.square().sum((0, 1))


def _degree(degree: int) -> Tensor:
    mask = torch.zeros((LMAX + 1) ** 2)
    mask[degree**2 : (degree + 1) ** 2] = 1.0
    return mask
