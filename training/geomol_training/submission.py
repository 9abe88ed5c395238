"""Predictions for the leaderboard of OC20, in the layout of its submissions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ase_geomol.checkpoint import choose_device, load_any
from ase_geomol.errors import ConfigError, DataError
from ase_geomol.potential import Potential
from ase_geomol.relaxed import RelaxedState

from .alone import alone_in
from .arrays import write_arrays
from .checks import Inspector, Limits
from .evaluate import predict_frames
from .frames import Frames, pack
from .metrics import Predicted
from .packed import ROWS_AT_ONCE
from .processes import check_workers
from .readers import Keys, parts_of, read_rows
from .sources import find_files, fingerprint
from .tasks import Predictor, RelaxationTask, task_of_weights

SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")
"""Test sets: in the domain, with other adsorbates, other catalysts, both."""
OF_ATOMS = ("forces", "pos")
Arrays = dict[str, np.ndarray]


def submit(
    checkpoint: str | Path,
    splits: Mapping[str, str],
    out: Path,
    *,
    direct_forces: bool = False,
    workers: int = 0,
    report: Callable[[str, int], None] = lambda split, frames: None,
) -> dict[str, int]:
    """Predict unlabelled structures and write ``out``, a ``.npz`` file.

    For each split it holds ``SPLIT_ids``, the structures' names; of a potential (S2EF) ``SPLIT_energy`` (S,) in eV,
    ``SPLIT_forces`` (N, 3) in eV/Å of all atoms that are not fixed, one structure after the other, and
    ``SPLIT_chunk_idx`` (S - 1,), where `numpy.split` cuts these; of what was trained on ends of relaxations
    ``SPLIT_energy`` (IS2RE), or ``SPLIT_pos`` of all atoms in Å and where to cut them (IS2RS), or both. Structures are
    in the order of their names as text, as OC20's own code writes them. Files, or 10,000 rows of a database, are read
    and predicted one after the other; what they give is kept in a folder beside ``out`` until all is done, so that the
    same call goes on after a kill.

    Args:
        checkpoint: path, or name of a shipped potential.
        splits: file, folder or pattern of each of some `SPLITS`.
        out: file to write.
        direct_forces: take the forces of the potential's direct head, as is done anyway where it learned forces by
            this head alone.
        workers: make the batches in so many other processes.
        report: told the split, and its structures so far.

    Returns:
        Number of structures of each split.

    Raises:
        CheckpointError: no such checkpoint.
        ConfigError: no split, an unknown one, workers that cannot be had here, a checkpoint that predicts nothing of
            this, or structures without the tags that it reads.
        DataError: the data cannot be used, or a structure has no name, or one that was there before.
        OutputError: ``out`` cannot be written.
    """
    check_workers(workers)
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown or not splits:
        raise ConfigError(f"Give structures of one or more of the splits {', '.join(SPLITS)}, not {unknown or 'none'}.")
    predictor, metadata, path, weights = load_any(checkpoint, choose_device(None))
    if not isinstance(predictor, Potential | RelaxedState):
        raise ConfigError(f"{path.name} predicts neither energies and forces nor ends of relaxations.")
    if direct_forces and not getattr(predictor, "has_direct_forces", False):
        raise ConfigError(f"{path.name} has no direct head: leave --direct-forces out.")
    direct_forces |= metadata.forces == "direct"
    limits = Limits(predictor.elements, None, metadata.charges, metadata.spins, labelled=False)
    content: Arrays = {}
    kept = out.with_name(f"{out.name}.parts")
    with alone_in(kept):
        for split, source in splits.items():
            parts: list[Arrays] = []
            pieces = [(file, part) for file in find_files(source) for part in parts_of(file, ROWS_AT_ONCE)]
            for file, part in pieces:
                identity = fingerprint([file], Keys(), limits, f"{weights} {direct_forces} {part}")
                done = kept / f"{identity}.npz"
                if not done.exists():
                    frames = pack(Inspector(limits).passed(read_rows(file, Keys(), part), file, part.start or 0))
                    write_arrays(done, _predicted(predictor, frames, direct_forces, workers), compressed=True)
                parts.append(dict(np.load(done)))
                report(split, sum(len(part["ids"]) for part in parts))
            content |= {f"{split}_{name}": values for name, values in _joined(parts, split).items()}
        write_arrays(out, content, compressed=True)
        shutil.rmtree(kept)
    return {split: len(content[f"{split}_ids"]) for split in splits}


def _predicted(predictor: Predictor, frames: Frames, direct_forces: bool, workers: int) -> Arrays:
    """What one file gives; ``counts`` are the rows of each structure in the arrays of atoms."""
    task = task_of_weights(predictor, stress=False, direct_forces=direct_forces)
    if isinstance(task, RelaxationTask):
        task.check_tags(frames)
    predicted: Predicted = predict_frames(predictor, frames, task, workers=workers)
    found: Arrays = {"ids": np.array([str(name) for name in frames.name])}
    if isinstance(predictor, RelaxedState):
        if predictor.form.energy:
            found["energy"] = predicted.energy.astype(np.float32)
        if predictor.form.structure:
            assert predicted.forces is not None  # displacements stand in their place
            moved = np.where(frames.fixed[:, None], 0.0, predicted.forces)
            found |= {"pos": (frames.positions + moved).astype(np.float32), "counts": frames.n_atoms}
        return found
    forces = predicted.direct_forces if direct_forces else predicted.forces
    assert forces is not None
    free = np.add.reduceat(~frames.fixed, frames.offsets[:-1])
    return found | {
        "energy": predicted.energy.astype(np.float32),
        "forces": forces[~frames.fixed].astype(np.float32),
        "counts": free,
    }


def _joined(parts: list[Arrays], split: str) -> Arrays:
    """All files of a split in the order of the names, with the places where arrays of atoms are cut."""
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(found["ids"]):
        raise DataError(f"There are no structures of {split}.")
    names, counts = np.unique(found["ids"], return_counts=True)
    if "" in names:
        raise DataError(f"Structures of {split} have no system number, without which nobody can compare them.")
    if (counts > 1).any():
        raise DataError(f"{split} has {names[counts.argmax()]} {counts.max()} times.")
    order = np.argsort(found["ids"])
    if "counts" in found:
        counts = found["counts"]
        first, sizes = np.cumsum(counts) - counts, counts[order]
        atoms = np.repeat(first[order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        found |= {name: found[name][atoms] for name in OF_ATOMS if name in found}
    found |= {name: values[order] for name, values in found.items() if name not in OF_ATOMS}
    if "counts" in found:
        found["chunk_idx"] = np.cumsum(found.pop("counts"))[:-1]
    return found
