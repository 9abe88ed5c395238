"""How many steps a training has, and how much memory they take: from the frames at hand and a few steps on them."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .batches import Plan, make_batch
from .beginning import make_plan, untrained
from .frames import Frames
from .mixed import use_mixed_precision
from .parts import Parts, read_training_frames
from .recipe import Recipe
from .tasks import task_of

TRIED = (1, 2, 4, 8)
"""Frames in the batches whose steps are looked at, one after the other."""
ENOUGH, TOO_MUCH = 0.5e9, 2e9
"""Bytes of a step after which no larger one is tried, and at which it is broken off."""


class TooMuchMemory(Exception):
    """A step was broken off."""


class Memory(TorchDispatchMode):
    """Adds up the bytes of all tensors that are made inside and still alive.

    Attributes:
        now: bytes.
        peak: the most so far; beyond ``limit`` :class:`TooMuchMemory` is raised.
    """

    def __init__(self, limit: float = math.inf) -> None:
        super().__init__()
        self.limit = limit
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked, and look at what it gives."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, storage.nbytes())
        if self.now > self.limit:
            raise TooMuchMemory

    def _forget(self, size: int) -> None:
        self.now -= size


class Estimate(NamedTuple):
    """What one pass over the data is like.

    Attributes:
        frames: to learn, without those that are replayed.
        steps: of a pass, those with replayed frames included.
        atoms: of the largest batch.
        activations: bytes of the tensors that the step of the largest batch, or of a part of it, holds beside the
            weights and what is as large as they are; infinite where one frame alone takes more than `TOO_MUCH`.
    """

    frames: int
    steps: int
    atoms: int
    activations: float


def estimate(recipe: Recipe) -> Estimate:
    """Read the frames to learn, and try steps on a few of them; raises :class:`GeoMolError` where they are unusable.

    Neighbours are counted of the frames that are tried only: with ``training.batch_edges`` the steps are about right.
    """
    with TemporaryDirectory() as folder:
        frames = read_training_frames(recipe, Path(folder), Console(quiet=True))
    some = np.random.default_rng(recipe.seed).permutation(len(frames))[: max(TRIED)]
    edges, per_atom = _tried(recipe, frames, some)
    plan = _plan(recipe, frames, edges)
    batches = plan.epoch(0)
    atoms = max(int(plan.atoms[batch].sum()) for batch in batches)
    replayed = 0.0 if recipe.finetune is None or recipe.finetune.replay is None else recipe.finetune.replay_share
    at_once = atoms / recipe.training.parts
    return Estimate(len(frames), round(len(batches) / (1 - replayed)), atoms, per_atom * at_once)


def _plan(recipe: Recipe, frames: Frames, edges: float) -> Plan:
    """Which frames make up which step, where each atom has so many neighbours."""
    training = recipe.training
    sizes = np.ones(len(frames), dtype=int) if training.batch_frames is not None else frames.n_atoms
    if training.batch_edges is not None:
        sizes = np.round(edges * frames.n_atoms).astype(int)
    return make_plan(recipe, Parts(frames, frames, None, {}), sizes)


def _tried(recipe: Recipe, frames: Frames, some: np.ndarray) -> tuple[float, float]:
    """Neighbours of an atom, and the bytes that a step holds for it: by how much the peak grows with the batch."""
    task, predictor = task_of(recipe), untrained(recipe, frames.elements).train()
    predictor.model.recompute = recipe.training.recompute
    if recipe.training.precision == "mixed":
        use_mixed_precision(predictor.model)  # type: ignore[arg-type]
    atoms, peaks = [0], [sum(parameter.nbytes for parameter in predictor.parameters())]  # their gradients
    edges = 0.0
    for count in TRIED[: max(1, len(some).bit_length())]:
        batch = make_batch(frames, some[:count], predictor.cutoff)
        edges = batch.graph.n_edges / batch.graph.n_atoms
        predictor.zero_grad()
        try:
            with Memory(TOO_MUCH) as memory:
                task.loss(predictor, batch).backward()
        except TooMuchMemory:
            break
        atoms.append(batch.graph.n_atoms)
        peaks.append(memory.peak)
        if memory.peak > ENOUGH:
            break
    if len(atoms) == 1:
        return edges, math.inf
    return edges, max(0.0, (peaks[-1] - peaks[-2]) / (atoms[-1] - atoms[-2]))
