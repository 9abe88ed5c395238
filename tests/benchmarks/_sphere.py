"""How equivariant one layer is on the points of a sphere, and how exact attention is to functions of an edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ase_geomol.models.est import ESTConfig
from ase_geomol.models.est.messages.zonal import ZonalAttention
from ase_geomol.models.est.update import SphericalExperts
from ase_geomol.nn.degrees import wigner
from ase_geomol.nn.sphere import Analysis, PointRule, Sphere, point_rule, product


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


@torch.no_grad()
def attend_at_points(
    attention: ZonalAttention, queries: torch.Tensor, radial: torch.Tensor, direction: torch.Tensor, rule: PointRule
) -> torch.Tensor:
    """Attention of queries (E, N, C) to keys at the points of a rule: what zonal attention does without rotations
    about the edge in closed form. Returns (E, N, C).
    """
    points, weights = (torch.tensor(values).to(queries) for values in (rule.points, rule.weights))
    heights = (direction @ points.T).clamp(-1, 1).numpy()
    lmax = attention.sphere.lmax
    scales = np.sqrt((2 * np.arange(lmax + 1) + 1) / (4 * np.pi))
    zonal = torch.tensor(np.polynomial.legendre.legvander(heights, lmax) * scales).to(queries)
    function = attention.edge_norm(zonal @ attention.edge_function.by_degree(radial))
    q, k, v = map(attention.split, (queries, *attention.key_value(function).chunk(2, -1)))
    cosines = attention.sphere.points @ points.T
    logits = (q @ k.mT + attention.orientation[:, None, None] * cosines) * attention.scale + weights.log()
    return attention.together(logits.softmax(-1) @ v)


@torch.no_grad()
def zonal_errors(
    norm: str, lmax: int, nodes: Sequence[int], rules: Sequence[PointRule], seeds: int = 4
) -> tuple[list[float], list[float]]:
    """Relative errors of zonal attention with each number of nodes, and of keys at the points of each rule.

    Against keys on a Gauss grid of 80 x 160 points; random weights and queries, 32 channels, 4 heads, logits without
    bounds; mean over seeds.
    """
    errors = np.zeros((seeds, len(nodes) + len(rules)))
    for seed in range(seeds):
        torch.manual_seed(seed)
        options = {"elements": (1,), "channels": 32, "lmax": lmax, "norm": norm, "bounded_attention": False}
        configs = [ESTConfig.model_validate({**options, "zonal_nodes": count}) for count in nodes]
        attentions = [ZonalAttention(config, Sphere(point_rule(config.points), lmax)).double() for config in configs]
        first = attentions[0]
        torch.nn.init.normal_(first.key_value.weight, std=first.key_value.in_features**-0.5)
        for attention in attentions[1:]:
            attention.load_state_dict(first.state_dict())
        direction = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=1)
        radial = torch.randn(4, configs[0].radial_channels, dtype=torch.float64)
        queries = torch.randn(4, len(first.sphere.points), 32, dtype=torch.float64)
        exact = attend_at_points(first, queries, radial, direction, product(2 * 80 * 80))
        found = [attention(queries, radial, direction) for attention in attentions]
        found += [attend_at_points(first, queries, radial, direction, rule) for rule in rules]
        errors[seed] = [float((values - exact).norm() / exact.norm()) for values in found]
    mean = errors.mean(0).tolist()
    return mean[: len(nodes)], mean[len(nodes) :]


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
