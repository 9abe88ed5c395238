"""What a conformer model learns, from batches of molecules with some conformers of each and the seed of all noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ase_geomol.models.ditmc import ConformerFlow, MolecularGraph, MoleculeBatch, collate_molecules, flow_loss
from ase_geomol.providers.features import graph_of

from ..batches import AnyBatch, Plan, Prepared, Stream, fill_batches, own
from ..metrics import Part
from ..tasks import Goal
from .sets import ConformerSets

KEPT_GRAPHS = 120_000
"""Molecules whose graphs stay in memory, about 15 kB each; of larger data they are made anew for each batch.
Enough for GEOM-QM9."""
VALIDATION_DRAWS = 4
"""Conformers of each molecule, always the same with the same times and noise, that choose the best weights."""
VALIDATION_PAIRS = 40_000
ERROR = "flow_loss_A2"
Weights = Literal["uniform", "boltzmann"]


class FlowCounts(NamedTuple):
    """What is known of a whole batch.

    Attributes:
        usual: molecules that the training's batches have on average, by which the loss is divided. If it were their
            number in this batch, those that share it with few others, as large ones do, would count more.
        atoms: of this batch.
    """

    usual: float
    atoms: int


@dataclass(frozen=True, kw_only=True)
class FlowBatch(AnyBatch):
    """G molecules with S conformers of each; ``frame`` are the molecules' places in the data.

    Attributes:
        molecules: their graphs.
        positions: (G, S, N, 3) Å, zeros where there are no atoms.
        seed: of rotations, times and noise.
    """

    molecules: MoleculeBatch
    positions: Tensor
    seed: int


class Graphs:
    """Graphs of molecules, made when they are asked for."""

    def __init__(self, sets: ConformerSets, elements: Sequence[int]) -> None:
        self._sets, self._elements = sets, elements
        self._kept: dict[int, MolecularGraph] = {}

    def __getitem__(self, index: int) -> MolecularGraph:
        graph = self._kept.get(index)
        if graph is None:
            graph = graph_of(self._sets.molecule(index), self._elements)
            if len(self._sets) <= KEPT_GRAPHS:
                self._kept[index] = graph
        return graph

    def keep_all(self) -> None:
        """Make all of them now, if they are to be kept."""
        for index in range(len(self._sets) if len(self._sets) <= KEPT_GRAPHS else 0):
            self[index]


def make_flow_batch(
    sets: ConformerSets,
    graphs: Graphs,
    index: np.ndarray,
    draws: int,
    weights: Weights,
    random: np.random.Generator,
    whole: np.ndarray | None = None,
    usual: float | None = None,
) -> FlowBatch:
    """Put the molecules ``index`` side by side, each with ``draws`` of its conformers.

    ``whole`` are the molecules of the batch of which these are a share (default: these), ``usual`` the number of
    molecules of such batches on average (default: of this one).
    """
    whole = index if whole is None else whole
    shown = index if len(index) else whole[:1]  # an empty share has tensors, too
    molecules = collate_molecules([graphs[int(place)] for place in shown])
    positions = np.zeros((len(shown), draws, molecules.numbers.shape[1], 3), dtype=np.float32)
    for row, place in enumerate(shown):
        conformers = sets.conformers(int(place))
        shares = sets.weights[sets.first[place] : sets.first[place + 1]] if weights == "boltzmann" else None
        chosen = random.choice(len(conformers), draws, p=shares)
        positions[row, :, : conformers.shape[1]] = conformers[chosen]
    return FlowBatch(
        frame=torch.tensor(index),
        whole=FlowCounts(len(whole) if usual is None else usual, int(sets.n_atoms[whole].sum())),
        molecules=molecules,
        positions=torch.from_numpy(positions),
        seed=int(random.integers(2**63)),
    )


class FlowStream(Stream):
    """A stream of `FlowBatch`."""

    def __init__(self, supply: FlowSupply, step: Callable[[], int], rank: int, processes: int) -> None:
        super().__init__(supply.plan, supply.interval, step, rank, processes, supply.parts)
        self.supply = supply
        self.graphs = Graphs(supply.train, supply.elements)
        self.usual = len(supply.train) / supply.plan.steps(1)

    def prepare(self, workers: int) -> None:
        """Make the graphs here, since what a worker makes is lost with it at the next validation."""
        super().prepare(workers)
        if workers:
            self.graphs.keep_all()

    def make(self, share: np.ndarray, whole: np.ndarray, random: np.random.Generator) -> FlowBatch:
        """Molecules with conformers drawn at random."""
        supply = self.supply
        draws, weights = supply.draws, supply.weights
        return make_flow_batch(supply.train, self.graphs, share, draws, weights, random, whole, self.usual)


class FixedConformers(Prepared):
    """All molecules once, always with the same conformers and noise: for validation."""

    def __init__(self, supply: FlowSupply, rank: int, processes: int) -> None:
        super().__init__()
        sizes = VALIDATION_DRAWS * supply.valid.n_atoms**2
        by_size = np.argsort(supply.valid.n_atoms, kind="stable")
        self.supply, self.batches = supply, fill_batches(by_size, sizes, VALIDATION_PAIRS)[rank::processes]
        self.graphs = Graphs(supply.valid, supply.elements)

    def prepare(self, workers: int) -> None:
        """As `FlowStream.prepare`."""
        if workers:
            self.graphs.keep_all()

    def __iter__(self):
        for index in own(self.batches):
            random = np.random.default_rng((0, *index.tolist()))
            yield make_flow_batch(self.supply.valid, self.graphs, index, VALIDATION_DRAWS, self.supply.weights, random)


@dataclass(frozen=True)
class FlowSupply:
    """Batches of conformers for the loop of a training.

    Attributes:
        train: what is learned.
        valid: what chooses the best weights.
        plan: which molecules make up which step.
        elements: that the network knows.
        draws: conformers of each molecule in a batch.
        weights: how they are drawn.
        interval: steps between validations.
        parts: of a batch.
    """

    train: ConformerSets
    valid: ConformerSets
    plan: Plan
    elements: tuple[int, ...]
    draws: int
    weights: Weights
    interval: int
    parts: int

    def training(self, step: Callable[[], int], rank: int, processes: int) -> IterableDataset:
        """Shares of one process, from the current ``step`` on."""
        return FlowStream(self, step, rank, processes)

    def validation(self, rank: int, processes: int) -> IterableDataset:
        """Shares of one process."""
        return FixedConformers(self, rank, processes)


class FlowGoal(Goal):
    """The loss of flow matching: its mean over molecules, conformers, times and noise."""

    def loss(self, predictor: ConformerFlow, batch: FlowBatch, progress: float = 0.0) -> Tensor:
        """Loss of this share of a batch; over a pass every molecule counts the same, whatever batch it is in."""
        found = self._losses(predictor, batch)
        return found.sum() / (batch.whole.usual * found.shape[1])

    @torch.no_grad()
    def predict(self, predictor: ConformerFlow, batch: FlowBatch) -> np.ndarray:
        """Mean loss (G,) of each molecule."""
        return self._losses(predictor, batch).mean(1).double().cpu().numpy()

    def _losses(self, predictor: ConformerFlow, batch: FlowBatch) -> Tensor:
        generator = torch.Generator(batch.positions.device).manual_seed(batch.seed)
        return flow_loss(predictor, batch.molecules, batch.positions.to(predictor.dtype), generator)

    def measure(
        self, valid: ConformerSets, parts: Sequence[Part]
    ) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Mean loss over all molecules, and over those of each source."""
        losses = np.zeros(len(valid))
        for index, found in parts:
            losses[index] = found
        by_source = {
            str(name): {ERROR: float(losses[valid.source == code].mean())}
            for code, name in enumerate(valid.source_names)
            if name and (valid.source == code).any()
        }
        return {ERROR: float(losses.mean())}, by_source

    def score(self, found: dict[str, float]) -> float:
        """The loss."""
        return found.get(ERROR, np.inf)
