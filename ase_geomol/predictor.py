"""Predictors for everything that is no potential: properties of molecules, ends of relaxations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from .checkpoint import Metadata, choose_device, load_property, load_relaxed
from .checks import check_atoms, check_distances
from .errors import InputError
from .graph import AtomGraph, collate, from_atoms, split
from .property import ScalarProperty
from .relaxed import RelaxedState

BATCH_ATOMS = 1024
Report = Callable[[int], None]


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
        self.device = choose_device(device)
        self._property, self.metadata, self.path, self.fingerprint = load_property(model, self.device)
        self.name, self.unit = self._property.form.name, self._property.form.unit

    def predict(self, structures: Atoms | Sequence[Atoms], report: Report = lambda done: None) -> np.ndarray:
        """Values (F,) of structures, in `unit`.

        Args:
            structures: one or many.
            report: told the number of structures done.

        Raises:
            InputError: with the structure's position and what is wrong with it.
        """
        values = [np.zeros(0)]
        for _, graph in _batches(structures, self._property, self.metadata, self.name):
            values.append(self._property(graph.to(self.device)).cpu().numpy())
            report(sum(map(len, values)))
        return np.concatenate(values)


class RelaxedPredictor:
    """Predicts where a relaxation ends, and with which energy, without doing it.

    Args:
        model: path of a checkpoint that was trained on relaxations (OC20's IS2RE or IS2RS).
        device: default: a CUDA device if there is one, else the CPU.

    Attributes:
        metadata: about the weights.
        form: whether energy and structure were learned.

    Raises:
        CheckpointError: no such file, or it holds something else.
    """

    def __init__(self, model: str | Path, device: str | None = None) -> None:
        self.device = choose_device(device)
        self._state, self.metadata, self.path, self.fingerprint = load_relaxed(model, self.device)
        self.form = self._state.form

    def predict(self, structures: Atoms | Sequence[Atoms], report: Report = lambda done: None) -> list[Atoms]:
        """Copies of structures at their predicted ends; atoms of FixAtoms stay where they are.

        What was not learned is left out: without an energy a copy has no calculator, without a structure its atoms
        are where they were.

        Args:
            structures: one or many initial structures; tags as in OC20 where the weights were trained with tags.
            report: told the number of structures done.

        Raises:
            InputError: with the structure's position and what is wrong with it.
        """
        ends: list[Atoms] = []
        for frames, graph in _batches(structures, self._state, self.metadata, "the end of a relaxation"):
            energies, displacement = (x.cpu() for x in self._state(graph.to(self.device)))
            for atoms, energy, moved in zip(frames, energies, split(displacement, graph.to("cpu")), strict=True):
                end = atoms.copy()
                if self.form.structure:
                    free = np.ones(len(atoms), dtype=bool)
                    for constraint in atoms.constraints:
                        if isinstance(constraint, FixAtoms):
                            free[constraint.index] = False
                    end.positions[free] += moved.numpy()[free]
                if self.form.energy:
                    end.calc = SinglePointCalculator(end, energy=float(energy))
                ends.append(end)
            report(len(ends))
        return ends


def _batches(
    structures: Atoms | Sequence[Atoms], predictor: ScalarProperty | RelaxedState, metadata: Metadata, what: str
) -> Iterator[tuple[Sequence[Atoms], AtomGraph]]:
    """Runs of checked structures with some thousand atoms together, and their graph."""
    frames = [structures] if isinstance(structures, Atoms) else list(structures)
    batch: list[Atoms] = []
    graphs: list[AtomGraph] = []
    for place, atoms in enumerate(frames):
        try:
            graph = _graph(atoms, predictor, metadata, what)
        except InputError as error:
            raise InputError(f"Structure {place}: {error}" if len(frames) > 1 else str(error)) from None
        if batch and sum(map(len, batch)) + len(atoms) > BATCH_ATOMS:
            yield batch, collate(graphs)
            batch, graphs = [], []
        batch.append(atoms)
        graphs.append(graph)
    if batch:
        yield batch, collate(graphs)


def _graph(atoms: Atoms, predictor: ScalarProperty | RelaxedState, metadata: Metadata, what: str) -> AtomGraph:
    check_atoms(atoms, predictor.elements, metadata.charges, metadata.spins)
    if atoms.pbc.any() and not predictor.periodic:
        raise InputError(f"{what} has no meaning for a periodic structure: switch pbc off.")
    if isinstance(predictor, RelaxedState) and predictor.form.tagged and not (atoms.get_tags() > 0).any():
        raise InputError("No atom has a tag above 0 (1: surface, 2: adsorbate), from which the energy is read.")
    graph = from_atoms(atoms, predictor.cutoff)
    check_distances(graph)
    return graph
