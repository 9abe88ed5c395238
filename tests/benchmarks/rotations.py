"""How much do energies of untrained EST networks change as molecules are turned (table 5 of the paper)?

Random molecules of QM9, one random rotation each, networks of 1 to 6 layers with random weights: mean of |E(turned) -
E|, in the network's own unit, and the same over the standard deviation of E among the molecules. The paper prints the
change alone, of networks whose scale it does not say. Each network is tried on four sets of points, as many or nearly
so. "Lattice, quadrature": Fibonacci points as in the paper, analysis with equal weights 4 pi / N; "lattice, least
squares": the analysis that undoes synthesis; "exact": an icosahedral or a Lebedev rule; "e3nn": its product grid, whose
points attention counts alike though they crowd at the poles.

Networks: "paper" and "exact" are the modes of `ESTConfig`, and in both every layer's energy passes through the points
(`scalar_bypass` is off). "Bypass" is the exact mode as it is by default: invariants go past the points, and the last
block is without, so that one layer has no points at all and shows rounding. The message of most rows is that of
GotenNet, which has no error of its own: what is seen is the update's. The last rows have the paper's own message and
up to three layers. Norms have no floor and logits no bound in any network, since an untrained one that damps its
features would hide the error.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from _frame import Answer, Option, Row, answer
from _sphere import Variant, e3nn_grid, random_rotation, use_points
from _work import computed, each, work_folder
from ase import Atoms
from geomol_training.labelling.qm9 import sample_qm9

from ase_geomol.graph import AtomGraph, collate, from_atoms
from ase_geomol.models.est import EST, ESTConfig
from ase_geomol.nn.sphere import fibonacci, point_rule
from ase_geomol.potential import Potential

SEED = 0
BATCH = 2
"""Molecules at once: few, since blocks of memory over 32 MB are asked of the system anew each time."""
ELEMENTS = (1, 6, 7, 8, 9)
MOLECULES, FEWER = 1000, 100
LAYERS, FEW_LAYERS = 6, 3
NETWORKS: dict[str, dict[str, Any]] = {
    "paper": {"mode": "paper"},
    "exact": {"mode": "exact", "scalar_bypass": False},
    "bypass": {"mode": "exact", "scalar_bypass": True},
}
GOALS = {("gata", 2, "icosahedral-72"): 10, ("gata", 4, "icosahedral-132"): 2}
"""What the exact rule must gain over the lattice, by message, degree and rule."""
OVER_SPREAD, AS_IT_IS = "over the spread", "as it is"
SETTINGS = {"seed": SEED, "molecules of other rows": FEWER}


class Case(NamedTuple):
    """One row of the table but for the kind of points: a network, its exact rule, and what it is tried on."""

    network: str
    message: str
    lmax: int
    points: str
    layers: int
    molecules: int


def run(smoke: bool, molecules: int = MOLECULES) -> Answer:
    """One row for each network and kind of points."""
    wanted = [Case("exact", "gata", 2, "icosahedral-72", 1, 4)] if smoke else cases(molecules)
    work = {
        "-".join(map(str, (case.network, case.message, case.lmax, case.points, case.molecules, layers))): (case, layers)
        for case in wanted
        for layers in range(1, case.layers + 1)
    }
    with work_folder("rotations", SETTINGS, smoke) as folder:
        found = each(work, _changes, folder)
    rows = [row for case in wanted for row in _rows(case, found)]
    errors = {"networks that ended with an error (goal: 0)": sum(bool(row["error"]) for row in found)}
    return Answer(rows, _gains(rows) | errors, computed(found))


def cases(molecules: int) -> list[Case]:
    """All that the table has; all molecules are for the exact network with the fewest points."""
    fewer = min(molecules, FEWER)
    found = []
    for message, lmax, points, layers, count in (
        ("gata", 2, "icosahedral-72", LAYERS, molecules),
        ("gata", 4, "icosahedral-132", LAYERS, molecules),
        ("gata", 2, "icosahedral-132", LAYERS, fewer),
        ("gata", 4, "lebedev-194", LAYERS, fewer),
        ("zonal", 2, "icosahedral-72", FEW_LAYERS, fewer),
    ):
        for network in NETWORKS:
            found.append(Case(network, message, lmax, points, layers, count if network == "exact" else fewer))
    return found


def variants(points: str, lmax: int) -> dict[str, Variant]:
    """By name: an exact rule, and other points, as many or nearly so."""
    exact = point_rule(points)
    lattice = fibonacci(len(exact.points))
    found = (
        Variant("lattice, quadrature", lattice, "quadrature"),
        Variant("lattice, least squares", lattice, "least_squares"),
        Variant("exact", exact, "quadrature"),
        Variant("e3nn", e3nn_grid(len(exact.points), lmax), "least_squares", counts_points=True),
    )
    return {variant.name: variant for variant in found}


def _changes(work: tuple[Case, int]) -> Row:
    """Of one network: on each kind of points, by name, the change over the spread of its energies, and the spread."""
    case, layers = work
    options = {"elements": ELEMENTS, "message": case.message, "lmax": case.lmax, "layers": layers}
    config = ESTConfig.model_validate(
        {**options, **NETWORKS[case.network], "norm_floor": 1e-6, "bounded_attention": False}
    )
    row: Row = {"case": list(case), "layers": layers}
    for name, variant in variants(case.points, case.lmax).items():
        row[name], row[_spread(name)] = _change(config, variant, case)
    return row


def _change(config: ESTConfig, variant: Variant, case: Case) -> tuple[float, float]:
    """Mean change over the spread, and the spread."""
    torch.manual_seed(SEED)
    potential = Potential(EST(config), repulsion=0.0).eval().set_dtype(torch.float64)  # pyright: ignore[reportArgumentType]
    use_points(potential, variant, case.lmax)
    pairs, energies = _pairs(case.molecules), []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        energies.append([potential(collate(side), forces=False).energy.numpy() for side in zip(*batch, strict=True)])
    plain, turned = np.concatenate(energies, axis=1)
    return float(np.abs(turned - plain).mean() / plain.std()), float(plain.std())


@cache
def _pairs(count: int) -> list[tuple[AtomGraph, AtomGraph]]:
    """Molecules, as they are and turned; once for each process."""
    pairs = []
    for seed, molecule in enumerate(sample_qm9(count, np.random.default_rng(SEED))):
        atoms = Atoms(molecule.numbers, np.array(molecule.positions))
        turned = Atoms(atoms.numbers, atoms.positions @ random_rotation(seed).numpy().T)
        pairs.append((from_atoms(atoms, 5.0), from_atoms(turned, 5.0)))
    return pairs


def _rows(case: Case, found: list[Row]) -> Iterator[Row]:
    """Changes on each kind of points, over the spread and as they are."""
    counts = {name: str(len(v.rule.points)) for name, v in variants(case.points, case.lmax).items()}
    of_layers = {row["layers"]: row for row in found if row.get("case") == list(case)}
    for name, count in counts.items():
        row: Row = {
            "network": case.network,
            "message": case.message,
            "lmax": case.lmax,
            "rule": case.points,
            "molecules": len(_pairs(case.molecules)),
            "points": name,
            "count": count,
        }
        layers = {n: of_layers.get(n) for n in range(1, LAYERS + 1)}
        yield {**row, "change": OVER_SPREAD, **{_column(n): of and of[name] for n, of in layers.items()}}
        yield {
            **row,
            "change": AS_IT_IS,
            **{_column(n): of and of[name] * of[_spread(name)] for n, of in layers.items()},
        }


def _spread(points: str) -> str:
    return f"spread, {points}"


def _column(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"


def _gains(rows: list[Row]) -> dict[str, float | None]:
    """Change on the lattice, and on the grid of e3nn, over that on the exact rule: the least of all layers.

    Of networks that read their points in every layer: else rounding would be compared with rounding.
    """
    gains: dict[str, float | None] = {}
    kinds: dict[tuple[str, str, int, str], dict[str, Row]] = {}
    for row in (row for row in rows if row["change"] == OVER_SPREAD):
        kinds.setdefault((row["network"], row["message"], row["lmax"], row["rule"]), {})[row["points"]] = row
    for (network, message, lmax, rule), of in kinds.items():
        if network == "bypass":
            continue
        for other in ("lattice, quadrature", "lattice, least squares", "e3nn"):
            goal = GOALS.get((message, lmax, rule)) if (network, other) == ("exact", "lattice, quadrature") else None
            text = f"{network} network, {message}, L = {lmax}: {other} / {rule}, least of all layers"
            text += f" (goal: {goal})" if goal else ""
            gains[text] = _least(of[other], of["exact"])
    return gains


def _least(above: Row, below: Row) -> float | None:
    columns = map(_column, range(1, LAYERS + 1))
    ratios = [above[name] / below[name] for name in columns if above[name] is not None and below[name] is not None]
    return min(ratios, default=None)


if __name__ == "__main__":
    answer(
        __doc__ or "",
        run,
        packages=["e3nn"],
        settings=SETTINGS,
        options={
            "molecules": Option(MOLECULES, "of QM9, for the exact network with the fewest points; 100 for others")
        },
    )
