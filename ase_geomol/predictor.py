"""PropertyPredictor: properties of molecules from weights of a `ScalarProperty`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from .checkpoint import load_property
from .checks import check_atoms, check_distances
from .errors import ConfigError, InputError
from .graph import AtomGraph, collate, from_atoms

BATCH_ATOMS = 1024


class PropertyPredictor:
    """Predicts one property of molecules.

    >>> predictor = PropertyPredictor("polarisability.safetensors")  # doctest: +SKIP
    >>> predictor.predict([molecule("CH3CH2OH")])  # doctest: +SKIP

    Args:
        model: path of a checkpoint that was trained on a property.
        device: default: a CUDA device if there is one, else the CPU.

    Attributes:
        name: of the property.
        unit: of its values.
        metadata: about the weights.

    Raises:
        CheckpointError: no such file, or it holds no property.
    """

    def __init__(self, model: str | Path, device: str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._property, self.metadata, self.path, self.fingerprint = load_property(model, self.device)
        except RuntimeError as error:
            raise ConfigError(f"Cannot use the device '{self.device}': {error}") from error
        self.name, self.unit = self._property.form.name, self._property.form.unit

    def predict(
        self, structures: Atoms | Sequence[Atoms], report: Callable[[int], None] = lambda done: None
    ) -> np.ndarray:
        """Values (F,) of structures, in `unit`.

        Args:
            structures: one or many.
            report: told the number of structures done.

        Raises:
            InputError: with the structure's position and what is wrong with it.
        """
        frames = [structures] if isinstance(structures, Atoms) else list(structures)
        values = [np.zeros(0)]
        for first, batch in _batches(frames):
            graphs = []
            for place, atoms in enumerate(batch, start=first):
                try:
                    graphs.append(self._graph(atoms))
                except InputError as error:
                    raise InputError(f"Structure {place}: {error}" if len(frames) > 1 else str(error)) from None
            values.append(self._property(collate(graphs).to(self.device)).cpu().numpy())
            report(first + len(batch))
        return np.concatenate(values)

    def _graph(self, atoms: Atoms) -> AtomGraph:
        check_atoms(atoms, self._property.elements, self.metadata.charges, self.metadata.spins)
        if atoms.pbc.any() and not self._property.periodic:
            raise InputError(f"{self.name} has no meaning for a periodic structure: switch pbc off.")
        graph = from_atoms(atoms, self._property.cutoff)
        check_distances(graph)
        return graph


def _batches(frames: Sequence[Atoms]) -> Iterator[tuple[int, Sequence[Atoms]]]:
    """Runs of structures with some thousand atoms together, each with the position of its first."""
    first, atoms = 0, 0
    for place, frame in enumerate(frames):
        if atoms and atoms + len(frame) > BATCH_ATOMS:
            yield first, frames[first:place]
            first, atoms = place, 0
        atoms += len(frame)
    if first < len(frames):
        yield first, frames[first:]
