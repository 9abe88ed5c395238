"""How equivariant one layer is on the points of a sphere."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ase_geomol.models.est import ESTConfig
from ase_geomol.models.est.update import SphericalExperts
from ase_geomol.nn.degrees import wigner
from ase_geomol.nn.sphere import Analysis, PointRule, Sphere


class Variant(NamedTuple):
    """Points and analysis that a network is given."""

    name: str
    rule: PointRule
    analysis: Analysis
    counts_points: bool = False


def random_rotation(seed: int = 0) -> torch.Tensor:
    """A rotation matrix in double precision."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return torch.tensor(q * np.linalg.det(q))


@torch.no_grad()
def layer_error(
    norm: str, lmax: int, rule: PointRule, seeds: int = 4, analysis: Analysis = "least_squares", scale: float = 1.0
) -> float:
    """Relative error under rotations of an update by spherical attention and a network of 4C, averaged over seeds.

    32 channels, 4 heads, normal weights, logits without bounds; features of unit variance on the sphere.

    Args:
        norm: as in `ESTConfig`.
        lmax: largest degree.
        rule: the points.
        seeds: of weights, features and rotations.
        analysis: as in `Sphere`.
        scale: of the weights of queries.
    """
    sphere, errors = Sphere(rule, lmax, analysis).double(), []
    config = ESTConfig.model_validate(
        {
            "elements": (1,),
            "channels": 32,
            "lmax": lmax,
            "points": "lebedev-302",
            "norm": norm,
            "bounded_attention": False,
            "scalar_bypass": False,
            "norm_floor": 1e-6,
        }
    )
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        experts = SphericalExperts(config, sphere).double()
        for linear in (experts.lift.linear, experts.attention.projection, experts.first, experts.last):
            assert linear is not None
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * linear.in_features**-0.5)
            linear.bias.zero_()
        experts.lift.linear.weight[:32] *= scale
        x = torch.randn(2, (lmax + 1) ** 2, 32, generator=generator).double() * math.sqrt(4 * math.pi) / (lmax + 1)
        matrix, ones = wigner(random_rotation(seed)[None], lmax), torch.ones(2, 1, dtype=torch.float64)
        plain = experts(x, ones)
        errors.append(float((experts(matrix @ x, ones) - matrix @ plain).norm() / plain.norm()))
    return float(np.mean(errors))


def e3nn_grid(count: int, lmax: int) -> PointRule:
    """At most ``count`` points at heights ``cos((k + 1/2) pi / n)`` and even azimuths, with weights exact to 2 lmax."""
    heights = max(2 * lmax + 1, int(np.sqrt(count)))
    azimuths = max(count // heights, 2 * lmax + 1)
    angle, turn = np.meshgrid(
        (np.arange(heights) + 0.5) * np.pi / heights, 2 * np.pi * np.arange(azimuths) / azimuths, indexing="ij"
    )
    points = np.stack([np.sin(angle) * np.sin(turn), np.cos(angle), np.sin(angle) * np.cos(turn)], -1).reshape(-1, 3)
    legendre = np.polynomial.legendre.legvander(np.cos(angle[:, 0]), heights - 1)
    ring = np.linalg.solve(legendre.T, np.eye(heights)[0] * 2) * 2 * np.pi / azimuths
    return PointRule(points, np.repeat(ring, azimuths), heights - 1)


def use_points(network: torch.nn.Module, variant: Variant, lmax: int) -> None:
    """Give a network other points than its configuration says."""
    replacement = Sphere(variant.rule, lmax, variant.analysis)
    if variant.counts_points:
        replacement.exact["weights"] = torch.full_like(
            replacement.exact["weights"], 4 * np.pi / len(variant.rule.points)
        )
    for module in network.modules():
        if isinstance(module, Sphere):
            module.exact = replacement.exact
            module.double()
