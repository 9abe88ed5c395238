"""Batches of about equal work: graphs are made on the fly, the order follows from (seed, epoch) alone."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import signal
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ase_geomol.graph import AtomGraph, edge_vectors
from ase_geomol.neighbors import all_pairs, neighbor_pairs
from ase_geomol.nn import segment_sum
from ase_geomol.repulsion import REACH, ZBLRepulsion

from .frames import Frames, displacements

SURVEY_FRAMES = 256
AHEAD = 4
"""Batches that each worker makes before they are asked for."""
PORTION_BATCHES = 50
"""Batches of similar sizes are made within portions of the frames of about so many batches."""
LATE = 600.0
"""Seconds for one batch, after which a worker is taken for lost: Python 3.11 may hang where it forks beside threads."""
BATCH_ATOMS = 512
"""Atoms of a batch where nothing is learned."""
LEAST_PORTIONS, LEAST_BATCHES = 4, 4
"""There are at least so many portions of a pass, of at least so many batches, or each step would see one size only."""


class Counts(NamedTuple):
    """What the means of the loss run over.

    Attributes:
        frames: structures.
        atoms: atoms.
        atoms_with_forces: atoms whose forces are labelled.
        atoms_with_energies: atoms whose shares of the energy are labelled.
        free_atoms_with_forces: those of them that are not fixed.
        free_atoms_with_ends: atoms that are not fixed, of structures with a relaxed one.
        frames_with_stress: structures whose stress is labelled.
    """

    frames: int
    atoms: int
    atoms_with_forces: int
    atoms_with_energies: int
    frames_with_stress: int
    free_atoms_with_forces: int
    free_atoms_with_ends: int


@dataclass(frozen=True, kw_only=True)
class AnyBatch:
    """What the loop of a training knows of a batch, or of the share of it that one process learns.

    Attributes:
        frame: (S,) position of each of its examples in the data.
        whole: counts of the whole batch, whatever this share of it is; ``atoms`` is one of them.
        part: which of the parts of a step this is, whose gradients are added up.
        last: whether it is the last of them.
    """

    frame: Tensor
    whole: Any
    part: int = 0
    last: bool = True

    def __len__(self) -> int:
        return len(self.frame)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        there = {name: value.to(device) for name, value in fields.items() if hasattr(value, "to")}
        return dataclasses.replace(self, **there)


@dataclass(frozen=True, kw_only=True)
class Batch(AnyBatch):
    """S structures with N atoms and their labels: a whole batch, or the share of it that one process learns.

    Attributes:
        graph: the structures.
        energy: (S,) eV.
        forces: (N, 3) eV/Å.
        energies: (N,) eV.
        stress: (S, 3, 3) eV/Å³.
        has_forces: (S,) bool.
        has_stress: (S,) bool.
        has_energies: (S,) bool.
        free: (N,) bool, atoms that are not fixed.
        displacement: (N, 3) Å, to where a relaxation ends.
        has_relaxed: (S,) bool.
        whole: `Counts`.
    """

    graph: AtomGraph
    energy: Tensor
    forces: Tensor
    energies: Tensor
    stress: Tensor
    has_forces: Tensor
    has_stress: Tensor
    has_energies: Tensor
    free: Tensor
    displacement: Tensor
    has_relaxed: Tensor
    whole: Counts


class Survey(NamedTuple):
    """Per frame (F,): ``edges``, the number of pairs, and ``repulsion``, the ZBL energy in eV."""

    edges: np.ndarray
    repulsion: np.ndarray


Disturb = Callable[[Frames], Frames]
"""Moves the atoms of frames before their neighbours are searched."""


def make_batch(
    frames: Frames,
    index: np.ndarray,
    cutoff: float | None,
    whole: np.ndarray | None = None,
    disturb: Disturb = lambda frames: frames,
) -> Batch:
    """Put the frames ``index`` side by side, with neighbours within ``cutoff`` (Å; None: all pairs).

    ``whole`` are the frames of the batch of which these are a share (default: these).
    """
    chosen = disturb(frames.take(index))
    positions, cell, pbc = torch.tensor(chosen.positions), torch.tensor(chosen.cell), torch.tensor(chosen.pbc)
    edges, shifts = [torch.zeros(2, 0, dtype=torch.long)], [torch.zeros(0, 3, dtype=torch.long)]
    for number, (start, end) in enumerate(zip(chosen.offsets[:-1], chosen.offsets[1:], strict=True)):
        if cutoff is None:
            pairs = all_pairs(int(end - start))
        else:
            pairs = neighbor_pairs(positions[start:end], cell[number], pbc[number], cutoff)
        edges.append(pairs.edge_index + int(start))
        shifts.append(pairs.shift)
    graph = AtomGraph(
        positions=positions,
        numbers=torch.tensor(chosen.numbers),
        cell=cell,
        pbc=pbc,
        system=torch.from_numpy(np.repeat(np.arange(len(chosen)), chosen.n_atoms)),
        edge_index=torch.cat(edges, dim=1),
        shift=torch.cat(shifts),
        charge=torch.tensor(chosen.charge).double(),
        spin=torch.tensor(chosen.spin).double(),
        tags=torch.tensor(chosen.tags).long(),
    )
    return Batch(
        graph=graph,
        energy=torch.tensor(chosen.energy),
        forces=torch.tensor(chosen.forces),
        energies=torch.tensor(chosen.energies),
        stress=torch.tensor(chosen.stress),
        has_forces=torch.tensor(chosen.has_forces),
        has_stress=torch.tensor(chosen.has_stress),
        has_energies=torch.tensor(chosen.has_energies),
        free=torch.tensor(~chosen.fixed),
        displacement=torch.tensor(displacements(chosen)),
        has_relaxed=torch.tensor(chosen.has_relaxed),
        frame=torch.tensor(index),
        whole=count(frames, index if whole is None else whole),
    )


def count(frames: Frames, index: np.ndarray) -> Counts:
    """Counts of the frames ``index``."""
    atoms, free = frames.counts(index), ~frames.fixed[frames.atoms_of(index)]
    return Counts(
        frames=len(index),
        atoms=int(atoms.sum()),
        atoms_with_forces=int(atoms[frames.has_forces[index]].sum()),
        atoms_with_energies=int(atoms[frames.has_energies[index]].sum()),
        frames_with_stress=int(frames.has_stress[index].sum()),
        free_atoms_with_forces=int((free & np.repeat(frames.has_forces[index], atoms)).sum()),
        free_atoms_with_ends=int((free & np.repeat(frames.has_relaxed[index], atoms)).sum()),
    )


def survey(
    frames: Frames,
    cutoff: float | None,
    report: Callable[[int, int], None] = lambda done, all_frames: None,
    reach: float = REACH,
    workers: int = 0,
) -> Survey:
    """Count the neighbour pairs and sum up the ZBL repulsion (its ``reach`` in sums of radii) of every frame."""
    repulsion = ZBLRepulsion(cutoff, reach)
    edges, energy = np.zeros(len(frames), dtype=np.int64), np.zeros(len(frames))
    portions = np.split(np.arange(len(frames)), range(SURVEY_FRAMES, len(frames), SURVEY_FRAMES))
    for batch in loader(FixedBatches(frames, portions, cutoff), workers):
        graph, index = batch.graph, batch.frame.numpy()
        receiver = graph.edge_index[0]
        per_atom, _ = repulsion(graph.numbers, graph.edge_index, edge_vectors(graph, graph.positions, graph.cell))
        energy[index] = segment_sum(per_atom, graph.system, len(index)).numpy()
        edges[index] = torch.bincount(graph.system[receiver], minlength=len(index)).numpy()
        report(int(index[-1]) + 1, len(frames))
    return Survey(edges=edges, repulsion=energy)


def fill_batches(order: np.ndarray, sizes: np.ndarray, target: int) -> list[np.ndarray]:
    """Cut ``order`` into runs whose ``sizes`` add up to at most ``target``; a larger frame stands alone."""
    total = np.cumsum(np.maximum(sizes[order], 1))
    batches, start, before = [], 0, 0
    while start < len(order):
        end = max(int(np.searchsorted(total, before + target, side="right")), start + 1)
        batches.append(order[start:end])
        start, before = end, int(total[end - 1])
    return batches


@dataclass(frozen=True)
class Plan:
    """Which frames make up which step: a pure function of the seed.

    A batch holds frames that are alike, since what is smaller, or has fewer neighbours, is filled up with empty places.
    So that batches stay random, this is arranged within random portions of the frames, and the batches are shuffled.

    Attributes:
        sizes: (F,) pairs (or atoms) of each frame.
        atoms: (F,) atoms of each frame.
        target: pairs (or atoms) in a batch.
        seed: of all epochs' orders.
        width: (F,) by which frames are alike; default: ``atoms``.
        replayed: so many frames, the last ones, are drawn anew for each pass, until they make up ``replay_share``.
        replay_share: of the frames of a pass.
    """

    sizes: np.ndarray
    atoms: np.ndarray
    target: int
    seed: int
    width: np.ndarray | None = None
    replayed: int = 0
    replay_share: float = 0.0
    # What was arranged is not arranged again: first steps of all epochs so far, batches of the one asked for last.
    _first_steps: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)
    _last: dict[int, list[np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Batches of one pass: every frame that is not replayed once, in an order of its own."""
        if epoch not in self._last:
            self._last.clear()
            self._last[epoch] = self._arranged(epoch)
        return self._last[epoch]

    def _arranged(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((self.seed, epoch))
        order = self._order(random)
        expected = self.sizes[order].sum() / self.target
        count = max(round(expected / PORTION_BATCHES), min(LEAST_PORTIONS, int(expected / LEAST_BATCHES)), 1)
        portions = np.array_split(order, count)
        batches, width = [], self.atoms if self.width is None else self.width
        for portion in portions:
            by_width = portion[np.argsort(width[portion], kind="stable")]
            batches += fill_batches(by_width, self.sizes, self.target)
        return [batches[number] for number in random.permutation(len(batches))]

    def _order(self, random: np.random.Generator) -> np.ndarray:
        """Frames of a pass."""
        own = len(self.sizes) - self.replayed
        if not self.replayed:
            return random.permutation(own)
        count = max(1, round(own * self.replay_share / (1 - self.replay_share)))
        drawn = own + random.choice(self.replayed, count, replace=count > self.replayed)
        return random.permutation(np.concatenate([np.arange(own), drawn]))

    def share(self, batch: np.ndarray, rank: int, processes: int) -> np.ndarray:
        """What the process ``rank`` learns of a batch: all shares take about equally long; some may be empty."""
        work = np.maximum(self.sizes[batch], self.atoms[batch])
        owner, loads = np.zeros(len(batch), dtype=int), np.zeros(processes)
        for place in np.argsort(-work, kind="stable"):  # the largest first, to whom has least
            owner[place] = loads.argmin()
            loads[owner[place]] += work[place]
        return batch[owner == rank]

    def steps(self, epochs: int) -> int:
        """Number of batches of the first ``epochs`` passes."""
        while len(self._first_steps) <= epochs:
            self._first_steps.append(self._first_steps[-1] + len(self.epoch(len(self._first_steps) - 1)))
        return self._first_steps[epochs]

    def epoch_of(self, step: int) -> int:
        """The pass that ``step`` is in."""
        while self._first_steps[-1] <= step:
            self.steps(len(self._first_steps))
        return bisect_right(self._first_steps, step) - 1

    def from_step(self, step: int) -> Iterator[np.ndarray]:
        """Batches from ``step`` on, endlessly."""
        epoch = self.epoch_of(step)
        yield from self.epoch(epoch)[step - self._first_steps[epoch] :]
        while True:
            epoch += 1
            yield from self.epoch(epoch)


class Prepared(IterableDataset):
    """Batches that want something done in this process before workers are forked from it."""

    def prepare(self, workers: int) -> None:
        """Called before each pass, with the number of workers."""
        raise NotImplementedError


class Stream(Prepared):
    """Batches from the current step to the next validation; each ``iter`` asks for the step again.

    Of each batch only the share of the process ``rank`` of ``processes`` is made, in ``parts`` one after the other.
    """

    def __init__(
        self, plan: Plan, interval: int, step: Callable[[], int], rank: int = 0, processes: int = 1, parts: int = 1
    ) -> None:
        super().__init__()
        self.plan, self.interval, self.step = plan, interval, step
        self.rank, self.processes, self.parts = rank, processes, parts

    def make(self, share: np.ndarray, whole: np.ndarray, random: np.random.Generator) -> AnyBatch:
        """The ``share`` of the batch ``whole`` (places in the data), with the random numbers of the step and share."""
        raise NotImplementedError

    def prepare(self, workers: int) -> None:
        """Arrange the pass that comes next here, and not in each worker anew."""
        self.plan.epoch(self.plan.epoch_of(self.step()))

    def __iter__(self) -> Iterator[AnyBatch]:
        step = self.step()
        places = range(step, step - step % self.interval + self.interval)
        steps = zip(places, self.plan.from_step(step), strict=False)
        for (place, batch), part in own((step, part) for step in steps for part in range(self.parts)):
            number = self.rank * self.parts + part
            share = self.plan.share(batch, number, self.processes * self.parts)
            made = self.make(share, batch, np.random.default_rng((self.plan.seed, place, number)))
            yield dataclasses.replace(made, part=part, last=part == self.parts - 1)


class TrainingStream(Stream):
    """A stream of `Batch`; ``disturb`` is given the random numbers of the step and the share."""

    def __init__(
        self,
        frames: Frames,
        plan: Plan,
        cutoff: float | None,
        interval: int,
        step: Callable[[], int],
        rank: int = 0,
        processes: int = 1,
        disturb: Callable[[Frames, np.random.Generator], Frames] = lambda frames, random: frames,
        parts: int = 1,
    ) -> None:
        super().__init__(plan, interval, step, rank, processes, parts)
        self.frames, self.cutoff, self.disturb = frames, cutoff, disturb

    def make(self, share: np.ndarray, whole: np.ndarray, random: np.random.Generator) -> Batch:
        """Frames, moved by ``disturb``."""
        return make_batch(self.frames, share, self.cutoff, whole, lambda frames: self.disturb(frames, random))


@dataclass(frozen=True)
class FrameSupply:
    """Batches of frames for the loop of a training.

    Attributes:
        train: what is learned.
        valid: what chooses the best weights.
        plan: which frames make up which step.
        cutoff: Å, of the neighbours.
        disturb: see `TrainingStream`.
        interval: steps between validations.
        parts: of a batch.
    """

    train: Frames
    valid: Frames
    plan: Plan
    cutoff: float | None
    disturb: Callable[[Frames, np.random.Generator], Frames]
    interval: int
    parts: int

    def training(self, step: Callable[[], int], rank: int, processes: int) -> IterableDataset:
        """Shares of one process, from the current ``step`` on."""
        return TrainingStream(
            self.train, self.plan, self.cutoff, self.interval, step, rank, processes, self.disturb, self.parts
        )

    def validation(self, rank: int, processes: int) -> IterableDataset:
        """Shares of one process."""
        batches = fill_batches(np.arange(len(self.valid)), self.valid.n_atoms, BATCH_ATOMS)[rank::processes]
        return FixedBatches(self.valid, batches, self.cutoff)


class FixedBatches(IterableDataset):
    """All frames once, always in the same batches: for validation and evaluation."""

    def __init__(self, frames: Frames, batches: list[np.ndarray], cutoff: float | None) -> None:
        super().__init__()
        self.frames, self.batches, self.cutoff = frames, batches, cutoff

    def __iter__(self) -> Iterator[Batch]:
        for index in own(self.batches):
            yield make_batch(self.frames, index, self.cutoff)


T = TypeVar("T")


def own(batches: Iterable[T]) -> Iterator[T]:
    """All batches; in a worker those that are its own, so that all workers in turn give the batches in their order."""
    worker = get_worker_info()
    return iter(batches) if worker is None else islice(batches, worker.id, None, worker.num_workers)


class _Loader(DataLoader):
    """Prepares a training's stream before it forks workers, which know then what is known here.

    Workers send each batch in one piece: a file handle for each of its tensors takes longer than to make them.
    """

    def __iter__(self) -> Iterator[AnyBatch]:
        if isinstance(self.dataset, Prepared):
            self.dataset.prepare(self.num_workers)
        return _loaded(super().__iter__()) if self.num_workers else super().__iter__()


def _loaded(batches: Any) -> Iterator[AnyBatch]:
    """What workers sent; where one of them is lost, all are ended, or this process would wait for it at its end."""
    try:
        yield from map(pickle.loads, batches)
    except RuntimeError:
        if batches._worker_pids_set:  # or torch tells of each of these that it died, in the place of what happened
            torch._C._remove_worker_pids(id(batches))
            batches._worker_pids_set = False
        for worker in batches._workers:
            worker.kill()
        raise


class _Pickler(pickle.Pickler):
    """Tensors as numpy's arrays, whose bytes are copied as they are."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def _sent(batch: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(batch)
    return buffer.getvalue()


def all_in_batches(frames: Frames, cutoff: float | None, device: torch.device, workers: int = 0) -> Iterator[Batch]:
    """All frames once, on the device; ``workers`` are other processes that make the batches ahead."""
    batches = fill_batches(np.arange(len(frames)), frames.n_atoms, BATCH_ATOMS)
    for batch in loader(FixedBatches(frames, batches, cutoff), workers):
        yield batch.to(device)


def loader(batches: IterableDataset, workers: int) -> DataLoader:
    """Makes batches in this process (0 workers) or ahead of it in others; their order is the same."""
    return _Loader(
        batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        timeout=LATE if workers else 0,
        collate_fn=_sent if workers else None,
        multiprocessing_context="fork" if workers else None,  # frames are shared, not sent
        worker_init_fn=_begin_worker,
    )


def _begin_worker(number: int) -> None:
    """Signals to all, as Ctrl-C and a batch system send them, are for the process that waits for the workers to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
