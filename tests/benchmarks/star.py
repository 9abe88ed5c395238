"""Can one layer of EST tell an n-fold star from the same star turned in its plane, as table 4 of the paper says?

Two graphs: an atom with n spokes in a plane, and the same turned by 2 pi / (n + m), with a random m from 1 to n (Joshi
et al. 2023). One layer, a classifier on features pooled over the atoms; training, validation and test are these two
graphs (Adam at 1e-4, at most 100 epochs, ten seeds, three for a hundred spokes). Accuracy in percent by three
read-outs: "coefficients" of degree L and lower with an exact rule, where theory allows 50 % for n > L; "grid values"
inside the layer, which hold higher degrees; "lattice": coefficients with the paper's Fibonacci points, whose errors
depend on the frame: what it gains over the first would be an error of sampling, no expressiveness. "Difference" is the
relative one of the pooled features before training; where it is below 1e-10, there is nothing but rounding, and
accuracy is 50 % without a training. These trainings are short and slow: they find differences from about 0.1, so that
50 % alone does not say that nothing is there. A hundred spokes at degree 10 are left out: they would take hours. Rows
are kept as they are computed.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from _frame import Answer, Row, answer
from _work import computed, each, undated, work_folder
from torch import Tensor, nn
from torch.nn import functional

from ase_geomol.models.est import EST, ESTConfig
from ase_geomol.models.est.edges import make_edges
from ase_geomol.models.est.update import SphericalExperts

LEFT_OUT = (10, 100)
FOLDS, SEEDS, FEW_SEEDS, EPOCHS, CHANNELS = (2, 3, 5, 10, 100), 10, 3, 100, 8
EXACT = {1: "icosahedral-32", 2: "icosahedral-72", 3: "lebedev-110", 5: "lebedev-194", 10: "lebedev-302"}
"""The exact rule of each degree."""
NOTHING = 1e-10
"""Relative differences below this are rounding."""
ACCURACY = "of both graphs by the same weights"
SETTINGS = {
    "accuracy": ACCURACY,
    "seeds": SEEDS,
    "seeds of 100 spokes": FEW_SEEDS,
    "epochs": EPOCHS,
    "no difference below": NOTHING,
    "channels": CHANNELS,
    "points": EXACT,
}
READ_OUTS = ("coefficients", "grid values", "lattice")


class Star(NamedTuple):
    """Edges between the middle and its spokes, in both directions, sorted by receiver."""

    edge_index: Tensor
    edge_vectors: Tensor


def run(smoke: bool) -> Answer:
    """One row for each degree and fold."""
    pairs = [(lmax, fold) for lmax in EXACT for fold in FOLDS if (lmax, fold) != LEFT_OUT]
    work = {f"degree-{lmax}-fold-{fold}": (lmax, fold) for lmax, fold in (pairs[1:2] if smoke else pairs)}
    with work_folder("star", SETTINGS, smoke) as folder:
        found = each(work, partial(_row, smoke=smoke), folder)
    rows = [row for row in found if not row["error"]]
    blind = [row for row in rows if row["fold"] > row["lmax"]]
    seeing = [row for row in rows if row["fold"] <= row["lmax"]]
    return Answer(
        undated(found),
        {
            "mean accuracy for n <= L in %, coefficients, exact rule (theory: 100)": _mean(seeing, "coefficients"),
            "mean accuracy for n > L in %, coefficients, exact rule (theory: 50)": _mean(blind, "coefficients"),
            "mean accuracy for n > L in %, grid values": _mean(blind, "grid values"),
            "mean accuracy for n > L in %, lattice": _mean(blind, "lattice"),
            "stars that ended with an error (goal: 0)": len(found) - len(rows),
        },
        computed(found),
    )


def star(fold: int, turn: float) -> Star:
    """Spokes of length 1 in the plane of x and y."""
    angles = 2 * np.pi * np.arange(fold) / fold + turn
    spokes = torch.tensor(np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1))
    outer = torch.arange(1, fold + 1)
    receiver = torch.cat([torch.zeros_like(outer), outer])
    return Star(torch.stack([receiver, torch.cat([outer, torch.zeros_like(outer)])]), torch.cat([spokes, -spokes]))


class Classifier(nn.Module):
    """One layer, pooled features, two classes."""

    def __init__(self, lmax: int, read_out: str) -> None:
        super().__init__()
        points = f"fibonacci-{(2 * lmax + 1) * (2 * lmax + 2)}" if read_out == "lattice" else EXACT[lmax]
        self.on_grid = read_out == "grid values"
        self.config = ESTConfig.model_validate(
            {
                "elements": (1,),
                "cutoff": 2.0,
                "layers": 2,  # the first is used: the last one has no points
                "lmax": lmax,
                "channels": CHANNELS,
                "expert_channels": CHANNELS,
                "points": points,
                "message": "gata",
                "norm_floor": 1e-6,
                "bounded_attention": False,
            }
        )
        self.network = EST(self.config)
        self.seen: list[Tensor] = []
        for module in self.network.modules():
            if isinstance(module, SphericalExperts):
                module.first.register_forward_hook(lambda *found: self.seen.append(functional.silu(found[2])))
        size = len(self.network.sphere.points) if self.on_grid else (lmax + 1) ** 2
        self.head = nn.Sequential(nn.Linear(size * CHANNELS, 32), nn.ReLU(), nn.Linear(32, 2))

    def pooled(self, graph: Star) -> Tensor:
        """Features averaged over the atoms, flat."""
        self.seen.clear()
        types = torch.zeros(int(graph.edge_index.max()) + 1, dtype=torch.long)
        network = self.network
        edges = make_edges(self.config, network.radial, types, graph.edge_index, graph.edge_vectors)
        x, _ = network.blocks[0](network.embedding(types, edges), edges, torch.zeros_like(types))
        return (self.seen[0] if self.on_grid else x).mean(0).flatten()

    def forward(self, graph: Star) -> Tensor:
        """Logits (2,)."""
        return self.head(self.pooled(graph))


def _row(star: tuple[int, int], smoke: bool) -> Row:
    lmax, fold = star
    row: Row = {"lmax": lmax, "fold": fold}
    seeds = range(1 if smoke else FEW_SEEDS if fold == max(FOLDS) else SEEDS)
    for read_out in READ_OUTS:
        found = [_trial(lmax, fold, read_out, seed, 2 if smoke else EPOCHS) for seed in seeds]
        row[read_out] = float(np.mean([accuracy for accuracy, _ in found]))
        row[f"difference, {read_out}"] = float(np.mean([difference for _, difference in found]))
    return row


def _trial(lmax: int, fold: int, read_out: str, seed: int, epochs: int) -> tuple[float, float]:
    """Accuracy in percent, and the relative difference of the pooled features before training."""
    torch.manual_seed(seed)
    turn = 2 * np.pi / (fold + np.random.default_rng(seed).integers(1, fold + 1))
    graphs, labels = (star(fold, 0.0), star(fold, turn)), torch.tensor([[0], [1]])
    classifier = Classifier(lmax, read_out).double()
    with torch.no_grad():
        plain, turned = (classifier.pooled(graph) for graph in graphs)
        difference = float((turned - plain).norm() / plain.norm())
    if difference < NOTHING:
        return 50.0, difference
    optimiser = torch.optim.Adam(classifier.parameters(), 1e-4)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, "max", factor=0.9, patience=25, min_lr=1e-5)
    best = 0.0
    for _ in range(epochs):
        for graph, label in zip(graphs, labels, strict=True):
            optimiser.zero_grad()
            functional.cross_entropy(classifier(graph)[None], label).backward()
            optimiser.step()
        with torch.no_grad():
            right = sum(int(classifier(graph).argmax() == label) for graph, label in zip(graphs, labels, strict=True))
        best = max(best, 100.0 * right / 2)
        schedule.step(best)
        if best == 100.0:
            break
    return best, difference


def _mean(rows: list[Row], name: str) -> float | None:
    return float(np.mean([row[name] for row in rows])) if rows else None


if __name__ == "__main__":
    answer(__doc__ or "", run, settings=SETTINGS)
