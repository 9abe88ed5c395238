"""Where does the time of a layer of EST go, and what do exact points and the order of linear maps save?

One layer of the shipped potential's shape (a cubic cell of 64 Na and Cl), forward and backward. "With": as the code is.
It is timed first, and "without" after it: what large arrays leave of memory slows what follows. "Without": the same
mathematics on 256 Fibonacci points, which have no smaller error than 72 icosahedral ones (the specification predicts 12
times less attention and 3.5 times less at each point), with linear maps after synthesis and before analysis, on points
and not on coefficients, and with one expert after the other. Rows with one saving compare all else equal. The
specification's second saving, even and odd parts of functions kept apart at opposite points, is not taken: 60 of the 72
points have no opposite. Its rows ask what it would save on Lebedev's, which have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from _frame import RECIPES, Answer, Row, answer, progress
from _timing import time_in_turns, timed
from ase.build import bulk
from geomol_training.recipe import load_recipe
from torch import Tensor
from torch.nn import functional

from ase_geomol.graph import edge_vectors, from_atoms
from ase_geomol.models.est import ESTConfig
from ase_geomol.models.est.edges import RadialFunctions, make_edges
from ase_geomol.models.est.messages import MESSAGES
from ase_geomol.models.est.update import SphericalExperts, Update
from ase_geomol.nn import make_blocks
from ase_geomol.nn.sphere import Sphere, point_rule

ROUNDS, ATOMS = 7, 64
RECIPE = load_recipe(RECIPES / "est_crystal.yaml")
FEW, MANY = "icosahedral-72", "fibonacci-256"
OPTIONS: dict[str, Any] = {**RECIPE.model.config, "elements": (11, 17)}
Call = Callable[[], Tensor]


def run(smoke: bool) -> Answer:
    """One row for each part of the layer, then one for each saving."""
    torch.manual_seed(0)
    works = [*_parts(), *_savings(), *_halves()]
    rows = []
    for part, saved, with_it, without in progress(works[: 2 if smoke else None], "parts"):
        calls = {"with": with_it, **({"without": without} if without else {})}
        seconds: dict[str, float] = {}
        for name, call in calls.items():
            seconds |= time_in_turns({name: partial(timed, call)}, 1 if smoke else ROUNDS)
        rows.append(_row(part, saved, seconds["with"], seconds.get("without")))
    if smoke:
        return Answer(rows, {})
    ratios = {row["part"]: row["without / with"] for row in rows}
    return Answer(
        rows,
        {
            "attention, 256 points / 72 points (predicted: 12)": ratios["attention"],
            "maps of channels at points, 256 points / 72 points (predicted: 3.5)": ratios["first map of the expert"],
            "whole update, 256 points / 72 points": ratios["update, points alone"],
            "whole update, without all savings / with": ratios["update, whole"],
            "whole update, 72 points, maps at points / on coefficients": ratios["update, 72 points"],
            "four experts one by one / as one wide network": ratios["four experts, 72 points"],
        },
    )


def _row(part: str, saved: str, with_it: float, without: float | None) -> Row:
    return {
        "part": part,
        "saved by": saved,
        "with (ms)": 1e3 * with_it,
        "without (ms)": None if without is None else 1e3 * without,
        "without / with": None if without is None else without / with_it,
    }


def _parts() -> Iterator[tuple[str, str, Call, Call | None]]:
    """The parts of a layer, on few points with all savings, and on many without."""
    few, many = _experts(FEW), _experts(MANY)
    fewer = "fewer points"
    x = _random(9, 64)
    values, more_values = (_random(len(e.sphere.points), 64) for e in (few, many))
    there = partial(_both_ways, few.sphere.to_points, x), partial(_both_ways, many.sphere.to_points, x)
    back = (partial(_both_ways, e.sphere.to_coefficients, v) for e, v in ((few, values), (many, more_values)))
    yield "transform to the points", fewer, *there
    yield "transform from the points", fewer, *back
    lifts = (partial(_both_ways, few.lift, x), partial(_both_ways, partial(_lift_at_points, many), x))
    yield "queries, keys and values", "fewer points, maps on coefficients", *lifts
    thirds = [[_random(len(e.sphere.points), 64) for _ in range(3)] for e in (few, many)]
    yield (
        "attention",
        fewer,
        *(partial(_both_ways, e.attention, *qkv) for e, qkv in zip((few, many), thirds, strict=True)),
    )
    firsts = (partial(_both_ways, e.first, v) for e, v in ((few, values), (many, more_values)))
    yield "first map of the expert", fewer, *firsts
    lasts = (
        partial(_both_ways, lambda v: few.last.on_coefficients(few.sphere.to_coefficients(v)), values),
        partial(_both_ways, lambda v: many.sphere.to_coefficients(many.last(v)), more_values),
    )
    yield "last map of the expert, and back", "fewer points, map on coefficients", *lasts
    yield "update, whole", "all", partial(_both_ways, _update(FEW), x), partial(_both_ways, _unsaved(MANY), x)
    yield "update, points alone", fewer, *(partial(_both_ways, _update(points), x) for points in (FEW, MANY))
    yield "steerable expert", "", _steerable(x), None
    yield "message, with the edges' functions", "", _message(), None


def _savings() -> Iterator[tuple[str, str, Call, Call]]:
    """Each saving by itself, on the same points."""
    experts, x = _experts(FEW), _random(9, 64)
    values = _random(72, 64)
    yield (
        "queries, keys and values, 72 points",
        "maps on coefficients",
        partial(_both_ways, experts.lift, x),
        partial(_both_ways, partial(_lift_at_points, experts), x),
    )
    yield (
        "last map of the expert, 72 points",
        "map on coefficients",
        partial(_both_ways, lambda v: experts.last.on_coefficients(experts.sphere.to_coefficients(v)), values),
        partial(_both_ways, lambda v: experts.sphere.to_coefficients(experts.last(v)), values),
    )
    yield (
        "update, 72 points",
        "maps on coefficients",
        partial(_both_ways, _update(FEW), x),
        partial(_both_ways, _unsaved(FEW), x),
    )
    several, weights = _experts(FEW, spherical_experts=4), torch.rand(ATOMS, 4)
    yield (
        "four experts, 72 points",
        "one wide network",
        partial(_both_ways, lambda x: several(x, weights), x),
        partial(_both_ways, lambda x: _one_by_one(several, x, weights), x),
    )


def _halves() -> Iterator[tuple[str, str, Call, Call]]:
    """The transform to pairs of opposite points, by even and odd degrees ("with") and as the code does it."""
    for points, lmax in (("lebedev-50", 2), ("lebedev-302", 6)):
        sphere, x = Sphere(point_rule(points), lmax), _random((lmax + 1) ** 2, 64)
        yield (
            f"transform to the points, {points}, degree {lmax}",
            "even and odd degrees apart (not taken)",
            partial(_both_ways, _HalfSphere(sphere).to_points, x),
            partial(_both_ways, sphere.to_points, x),
        )


class _HalfSphere:
    """The transform to points of which each has an opposite; these come last, in the same order."""

    def __init__(self, sphere: Sphere) -> None:
        points = sphere.points
        opposite = torch.cdist(points, -points).argmin(1)
        half = torch.arange(len(points)) < opposite
        odd = torch.cat([torch.full((2 * degree + 1,), degree % 2 == 1) for degree in range(sphere.lmax + 1)])
        self.odd, self.even = odd.nonzero()[:, 0], (~odd).nonzero()[:, 0]
        self.of_odd, self.of_even = sphere.synthesis[half][:, self.odd], sphere.synthesis[half][:, self.even]
        self.order = torch.cat([half.nonzero()[:, 0], opposite[half]])

    def to_points(self, coefficients: Tensor) -> Tensor:
        even, odd = self.of_even @ coefficients[:, self.even], self.of_odd @ coefficients[:, self.odd]
        return torch.cat([even + odd, even - odd], dim=1)


def _both_ways(call: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Forward, and backward to the inputs, as forces need it."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(call(*leaves).sum(), leaves)[0]


def _random(rows: int, channels: int) -> Tensor:
    return torch.randn(ATOMS, rows, channels)


def _config(points: str, **options: object) -> ESTConfig:
    return ESTConfig.model_validate({**OPTIONS, "points": points, **options})


def _experts(points: str, **options: object) -> SphericalExperts:
    config = _config(points, **options)
    return SphericalExperts(config, Sphere(point_rule(points), config.lmax)).requires_grad_(False)


def _update(points: str) -> Update:
    config = _config(points)
    return Update(config, Sphere(point_rule(points), config.lmax)).requires_grad_(False)


def _steerable(x: Tensor) -> Call:
    update = _update(FEW)
    assert update.steerable is not None
    weights = torch.ones(ATOMS, update.n_steerable)
    return partial(_both_ways, lambda x: update.steerable(update.norm(x), weights), x)  # pyright: ignore[reportOptionalCall]


def _unsaved(points: str) -> Callable[[Tensor], Tensor]:
    """The update with its maps at the points."""
    update = _update(points)
    assert update.spherical is not None
    assert update.steerable is not None

    def call(x: Tensor) -> Tensor:
        weights = torch.softmax(update.gate(x[:, 0]), -1)
        steered = update.steerable(update.norm(x), weights[:, :1])  # pyright: ignore[reportOptionalCall]
        assert update.spherical is not None
        return steered + _one_by_one(update.spherical, x, weights[:, 1:], at_points=True)

    return call


def _lift_at_points(experts: SphericalExperts, x: Tensor) -> Tensor:
    return experts.lift.linear(experts.sphere.to_points(experts.lift.norm(x)))


def _one_by_one(experts: SphericalExperts, x: Tensor, weights: Tensor, at_points: bool = False) -> Tensor:
    """What `SphericalExperts` computes, one expert after the other; with ``at_points`` all maps of channels there."""
    lifted = _lift_at_points(experts, x) if at_points else experts.lift(x)
    attended = experts.attention(*lifted.chunk(3, -1))
    f = experts.normed(experts.sphere.to_points(x) + attended)
    at_points_sum, width = attended, experts.expert_channels
    mapped = torch.zeros_like(x)
    for expert in range(weights.shape[1]):
        part = slice(expert * width, (expert + 1) * width)
        hidden = functional.silu(functional.linear(f, experts.first.weight[part], experts.first.bias[part]))
        hidden, last = hidden * weights[:, expert, None, None], experts.last.weight[:, part]
        if at_points:
            at_points_sum = at_points_sum + functional.linear(hidden, last)
        else:
            mapped = mapped + experts.sphere.to_coefficients(hidden) @ last.T
    if experts.last.bias is not None:
        at_points_sum = at_points_sum + experts.last.bias
    found = experts.sphere.to_coefficients(at_points_sum) + mapped
    if experts.bypass is None:
        return found
    return torch.cat([experts.bypass(x[:, :1]), found[:, 1:]], dim=1)


def _message() -> Call:
    config = _config(FEW)
    atoms = bulk("NaCl", "rocksalt", a=5.69, cubic=True) * (2, 2, 2)
    graph = from_atoms(atoms, config.cutoff)
    types = (graph.numbers == 17).long()
    vectors = edge_vectors(graph, graph.positions, graph.cell).float()
    radial, blocks = RadialFunctions(config).requires_grad_(False), make_blocks(graph.system, graph.edge_index)
    message = MESSAGES[config.message](config, Sphere(point_rule(FEW), config.lmax)).requires_grad_(False)

    def call(vectors: Tensor, x: Tensor) -> Tensor:
        return message(x, make_edges(config, radial, types, graph.edge_index, vectors, blocks))[0]

    return partial(_both_ways, call, vectors, _random(9, 64))


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["e3nn"], settings={"atoms": ATOMS, **OPTIONS})
