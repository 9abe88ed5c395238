"""How good a checkpoint is on given data: errors, a JSON file, a parity plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ase_geomol.checkpoint import choose_device, load_any
from ase_geomol.errors import DataError, GeoMolError, OutputError
from ase_geomol.files import make_folder, write_atomically
from ase_geomol.property import ScalarProperty
from ase_geomol.relaxed import RelaxedState

from .batches import all_in_batches
from .checks import Limits, describe_skipped
from .data import load
from .frames import Frames, displacements
from .metrics import Part, Predicted, gather
from .portions import Arrays, Report, in_portions, kept_until_done
from .processes import check_workers
from .readers import Keys
from .references import composition
from .splits import ALIASES
from .tasks import Predictor, Task, task_of_weights

HEXAGONS = 80


class Evaluation(NamedTuple):
    """Errors of a checkpoint, see `geomol_training.tasks.Task.errors`.

    Attributes:
        errors: over all frames.
        by_source: for each source of frames.
        by_split: for each split, where the data names any.
        n_frames: number of frames.
        skipped: which rows were left out, in words.
    """

    errors: dict[str, float]
    by_source: dict[str, dict[str, float]]
    by_split: dict[str, dict[str, float]]
    n_frames: int
    skipped: str


def evaluate(
    checkpoint: str | Path,
    data: str,
    out: Path,
    *,
    split: str | None = None,
    keys: Keys = Keys(),
    bad_rows: Literal["raise", "skip"] = "raise",
    max_force: float | None = None,
    free_atoms_only: bool = False,
    workers: int = 0,
    report: Callable[[int, int], None] = lambda done, frames: None,
) -> Evaluation:
    """Compare a checkpoint with labels; writes ``out/evaluation.json`` and ``out/parity.png``.

    Predictions are kept in ``out/parts`` until then, so that the same call goes on after a kill. Forces of a potential
    that learned them by its direct head alone are those of this head.

    Args:
        checkpoint: path, or name of a shipped potential.
        data: file, folder or pattern.
        out: folder of the results.
        split: only frames that the data assigns to this split.
        keys: where the labels stand in the data.
        bad_rows: raise at a bad row, or leave it out.
        max_force: eV/Å; a larger label makes a row a bad one.
        free_atoms_only: compare forces of atoms that are not fixed only, as OC20 does.
        workers: make the batches in so many other processes.
        report: told the number of frames done and of all.

    Raises:
        CheckpointError: no such checkpoint.
        ConfigError: workers cannot be had here.
        DataError: the data cannot be used.
        OutputError: ``out`` cannot be written.
    """
    check_workers(workers)
    predictor, metadata, path, fingerprint = load_any(checkpoint, choose_device(None))
    periodic = predictor.cutoff is not None
    if isinstance(predictor, ScalarProperty):
        keys, periodic = dataclasses.replace(keys, energy=predictor.form.name), predictor.periodic
    make_folder(out)
    limits = Limits(predictor.elements, max_force, metadata.charges, metadata.spins, periodic=periodic)
    frames, skipped, _ = load(data, keys, limits, bad_rows=bad_rows)
    frames = _of_split(frames, split)
    task = task_of_weights(
        predictor,
        stress=bool(frames.has_stress.any()),
        free_atoms_only=free_atoms_only,
        direct_forces=metadata.forces == "direct",
    )
    identity = f"{fingerprint} {metadata.forces} {frames.has_stress.any()}"
    with kept_until_done(out / "parts") as kept:
        predicted = _predict_in_portions(predictor, frames, task, kept, identity, workers, report)
        result = Evaluation(
            errors=task.errors(frames, predicted),
            by_source=task.errors_by(frames, predicted, frames.source, frames.source_names),
            by_split=task.errors_by(frames, predicted, frames.split, frames.split_names),
            n_frames=len(frames),
            skipped=describe_skipped(skipped) if skipped else "",
        )
        about = {"checkpoint": path.name, "fingerprint": fingerprint, "name": metadata.name, "theory": metadata.theory}
        content = {**about, "data": data, "split": split, **result._asdict()}
        write_atomically(out / "evaluation.json", (json.dumps(content, indent=1) + "\n").encode())
        plot_parity(out / "parity.png", frames, predicted, predictor, metadata.name)
    return result


def _of_split(frames: Frames, split: str | None) -> Frames:
    if split is None:
        return frames
    wanted = ALIASES.get(split, split)
    names = [ALIASES.get(str(name), str(name)) for name in frames.split_names]
    index = np.flatnonzero(np.isin(frames.split, [code for code, name in enumerate(names) if name == wanted]))
    if not len(index):
        raise DataError(f"No frame has the split '{split}'; the data has: {', '.join(names) or 'none'}.")
    return frames.take(index)


def _predict_in_portions(
    predictor: Predictor, frames: Frames, task: Task, folder: Path, identity: str, workers: int, report: Report
) -> Predicted:
    """As `predict_frames`, kept in the folder as it goes."""

    def compute(portion: Frames, report: Report) -> Arrays:
        predicted = predict_frames(predictor, portion, task, report, workers)
        return {name: values for name, values in predicted._asdict().items() if values is not None}

    portions = [Predicted(**arrays) for arrays in in_portions(frames, compute, folder, identity, report)]
    columns = [None if values[0] is None else np.concatenate(values) for values in zip(*portions, strict=True)]
    return Predicted._make(columns)


def predict_frames(
    predictor: Predictor,
    frames: Frames,
    task: Task,
    report: Callable[[int, int], None] = lambda done, frames: None,
    workers: int = 0,
) -> Predicted:
    """What the task asks for, of all frames; ``workers`` are other processes that make their batches.

    Raises:
        GeoMolError: one of them is not finite.
    """
    parts, done = [], 0
    for batch in all_in_batches(frames, predictor.cutoff, next(predictor.parameters()).device, workers):
        parts.append(Part(batch.frame.cpu().numpy(), task.predict(predictor, batch)))
        done += batch.graph.n_systems
        report(done, len(frames))
    predicted = gather(frames, parts)
    if not all(np.isfinite(values).all() for values in predicted if values is not None):
        raise GeoMolError("A prediction is not finite: the weights are broken, or a structure is far from all known.")
    return predicted


def plot_parity(path: Path, frames: Frames, predicted: Predicted, predictor: Predictor, name: str) -> None:
    """Draw labels against predictions, a panel for each of `compared`."""
    from matplotlib.figure import Figure  # without pyplot: no state, no display

    panels = compared(frames, predicted, predictor)
    figure = Figure(figsize=(0.5 + 4.25 * len(panels), 4.2), layout="constrained")
    for axes, (quantity, (labels, values)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _parity(axes, labels, values, quantity)
    write_picture(figure, path, f"{name}: {len(frames)} frames")


def compared(frames: Frames, predicted: Predicted, predictor: Predictor) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions of what was learned, by quantity and unit.

    Of a potential energies per atom relative to the references, and components of forces; of ends of relaxations
    energies, and components of the displacements of free atoms; or one property.

    Raises:
        DataError: the frames have nothing of this.
    """
    if isinstance(predictor, ScalarProperty):
        return {f"{predictor.form.name} ({predictor.form.unit})": (frames.energy, predicted.energy)}
    if isinstance(predictor, RelaxedState):
        found = {"energy of the end (eV)": (frames.energy, predicted.energy)} if predictor.form.energy else {}
        atoms = np.repeat(frames.has_relaxed, frames.n_atoms) & ~frames.fixed
        if predictor.form.structure and atoms.any():
            found["displacement component (Å)"] = _components(displacements(frames), predicted.forces, atoms)
        if not found:
            raise DataError("No structure has a relaxed one beside it: there is nothing to compare with.")
        return found
    elements, counts = composition(frames)
    known = counts @ predictor.reference_energies[torch.from_numpy(elements)].cpu().numpy()
    energies = (frames.energy - known) / frames.n_atoms, (predicted.energy - known) / frames.n_atoms
    found = {"energy per atom − references (eV)": energies}
    atoms = np.repeat(frames.has_forces, frames.n_atoms)
    forces = predicted.direct_forces if predicted.forces is None else predicted.forces
    if atoms.any() and forces is not None:
        found["force component (eV/Å)"] = _components(frames.forces, forces, atoms)
    return found


def _components(labels: np.ndarray, values: np.ndarray | None, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the vectors of some atoms."""
    assert values is not None
    return labels[atoms].ravel(), values[atoms].ravel()


def write_picture(figure: Any, path: Path, title: str) -> None:
    """Save a figure under a title; raises :class:`OutputError`."""
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error


def _parity(axes: Any, labels: np.ndarray, values: np.ndarray, quantity: str) -> None:
    low, high = float(min(labels.min(), values.min())), float(max(labels.max(), values.max()))
    margin = 0.02 * (high - low) or 1e-3
    extent = (low - margin, high + margin, low - margin, high + margin)
    points = axes.hexbin(labels, values, gridsize=HEXAGONS, bins="log", mincnt=1, cmap="viridis", extent=extent)
    axes.plot(extent[:2], extent[:2], color="0.6", linewidth=0.8, zorder=0)
    axes.set(xlabel=f"label: {quantity}", ylabel="prediction", aspect="equal")
    axes.figure.colorbar(points, ax=axes, label="count", shrink=0.8)
