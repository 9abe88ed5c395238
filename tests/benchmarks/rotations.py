"""How much do energies of untrained EST networks change as molecules are turned (table 5 of the paper)?

Random molecules of QM9, one random rotation each, networks of 1 to 6 layers with random weights: mean of
|E(turned) - E| over the standard deviation of E among the molecules. The paper prints the change alone, of networks
whose scale it does not say. "Lattice": Fibonacci points; "quadrature": analysis as in the paper, with equal weights
4 pi / N; "least squares": the analysis that undoes synthesis; "exact": icosahedral or Lebedev rules; "e3nn": the
product grid of e3nn, whose points attention counts alike though they crowd at the poles. "Paper" and "exact" networks
are the modes of `ESTConfig`, both with the message of GotenNet, which has no error of its own, so that what is seen is
that of the update. Norms have no floor here and logits no bound in either mode: an untrained network that damps its
features would hide the error. The last rows have the paper's own message, fewer molecules and up to three layers.
"""

from __future__ import annotations

import numpy as np
import torch
from _frame import Answer, Row, answer, progress
from _sphere import Variant, e3nn_grid, random_rotation, use_points
from ase import Atoms
from geomol_training.labelling.qm9 import sample_qm9

from ase_geomol.graph import AtomGraph, collate, from_atoms
from ase_geomol.models.est import EST, ESTConfig
from ase_geomol.nn.sphere import fibonacci, point_rule
from ase_geomol.potential import Potential

SEED = 0
MOLECULES, ZONAL_MOLECULES, BATCH = 1000, 100, 25
ELEMENTS = (1, 6, 7, 8, 9)
LAYERS = range(1, 7)


def run(smoke: bool) -> Answer:
    """One row for each network and kind of points."""
    count = 6 if smoke else MOLECULES
    molecules = sample_qm9(count, np.random.default_rng(SEED))
    pairs = [_pair(Atoms(m.numbers, np.array(m.positions)), seed) for seed, m in enumerate(molecules)]
    settings = [
        (mode, message, lmax, points)
        for message in ("gata", "zonal")
        for mode in ("paper", "exact")
        for lmax, names in ((2, ("icosahedral-72", "icosahedral-132")), (4, ("icosahedral-132", "lebedev-194")))
        for points in names
        if message == "gata" or (lmax == 2 and points == "icosahedral-72")
    ]
    rows = []
    for mode, message, lmax, points in progress(settings[:1] if smoke else settings, "networks"):
        used = pairs if message == "gata" else pairs[:ZONAL_MOLECULES]
        layers = list(LAYERS)[:1] if smoke else list(LAYERS)[: 6 if message == "gata" else 3]
        for variant in variants(points, lmax):
            changes = {n: _change(mode, message, lmax, n, variant, used) for n in layers}
            rows.append(
                {
                    "network": mode,
                    "message": message,
                    "lmax": lmax,
                    "points": f"{len(variant.rule.points)} {variant.name}",
                    **{f"{n} layers" if n > 1 else "1 layer": changes.get(n) for n in LAYERS},
                }
            )
    return Answer(rows, {} if smoke else _gains(rows))


def variants(points: str, lmax: int) -> list[Variant]:
    """An exact rule, and other points, as many or nearly so."""
    exact = point_rule(points)
    lattice = fibonacci(len(exact.points))
    return [
        Variant("lattice, quadrature", lattice, "quadrature"),
        Variant("lattice, least squares", lattice, "least_squares"),
        Variant("exact", exact, "quadrature"),
        Variant("e3nn", e3nn_grid(len(exact.points), lmax), "least_squares", counts_points=True),
    ]


def _pair(atoms: Atoms, seed: int) -> tuple[AtomGraph, AtomGraph]:
    turned = atoms.copy()
    turned.positions = atoms.positions @ random_rotation(seed).numpy().T
    return from_atoms(atoms, 5.0), from_atoms(turned, 5.0)


def _change(
    mode: str, message: str, lmax: int, layers: int, variant: Variant, pairs: list[tuple[AtomGraph, AtomGraph]]
) -> float:
    torch.manual_seed(SEED)
    options = {"elements": ELEMENTS, "mode": mode, "message": message, "lmax": lmax, "layers": layers}
    config = ESTConfig.model_validate({**options, "norm_floor": 1e-6, "bounded_attention": False})
    potential = Potential(EST(config), repulsion=0.0).eval().set_dtype(torch.float64)  # pyright: ignore[reportArgumentType]
    use_points(potential, variant, lmax)
    energies = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        energies.append([potential(collate(side), forces=False).energy.numpy() for side in zip(*batch, strict=True)])
    plain, turned = np.concatenate(energies, axis=1)
    return float(np.abs(turned - plain).mean() / plain.std())


def _gains(rows: list[Row]) -> dict[str, float | None]:
    """Error of the lattice by quadrature over that of the exact rule, in exact mode, smallest over the layers."""
    gains: dict[str, float | None] = {}
    exact = [row for row in rows if row["network"] == "exact" and row["message"] == "gata"]
    for lattice in (row for row in exact if row["points"].endswith("quadrature")):
        count = lattice["points"].split()[0]
        rule = next(row for row in exact if row["points"] == f"{count} exact" and row["lmax"] == lattice["lmax"])
        ratios = [lattice[name] / rule[name] for name in rule if name.endswith(("layer", "layers"))]
        goal = 10 if lattice["lmax"] == 2 else 2
        gains[f"L = {lattice['lmax']}, {count} points: lattice / exact, least of all layers (goal: {goal})"] = min(
            ratios
        )
    return gains


if __name__ == "__main__":
    answer(
        __doc__ or "",
        run,
        packages=["e3nn"],
        settings={"seed": SEED, "molecules": MOLECULES, "of the zonal message": ZONAL_MOLECULES},
    )
