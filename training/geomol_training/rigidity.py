"""Rigidity for trained weights: a pass over the training data, two numbers from validation data, and how good it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from ase_geomol.checkpoint import WEIGHTS, choose_device, load_checkpoint, save_checkpoint
from ase_geomol.errors import ConfigError, DataError, GeoMolError
from ase_geomol.files import make_folder, write_atomically
from ase_geomol.nn import segment_sum
from ase_geomol.potential import Potential
from ase_geomol.rigidity import Rigidity, RigidityForm

from .batches import Batch, all_in_batches
from .checks import Limits
from .data import load
from .evaluate import write_picture
from .frames import Frames, joined
from .inspection import digests
from .keeper import LAST
from .parts import parts_of_run
from .portions import Arrays, in_portions, kept_until_done
from .readers import Keys
from .splits import ALIASES, of_part

REGULARISERS = 10.0 ** np.arange(-10, -3)
"""Values of s that are tried, in units of the mean eigenvalue of C. Larger ones hide what the data do not hold."""
LEARNED = 0.01
"""Share of the frames to validate that may be among those to learn; one frame always may."""
BINS = 12

Report = Callable[[str, int, int], None]
"""Told what is done, on how many frames, and of how many."""


class Deviations(NamedTuple):
    """Predicted standard deviations beside true errors, of F frames with N atoms.

    Attributes:
        energy: (F, 2) eV, deviation and absolute error of the energy.
        frames: (F', 2) of frames with forces: largest deviation of an atom's energy (eV), RMS force error (eV/Å).
        atoms: (N', 2) of their atoms: deviation of the energy (eV), length of the force error (eV/Å).
        largest: (F,) eV, largest deviation of an atom's energy in each frame.
    """

    energy: np.ndarray
    frames: np.ndarray
    atoms: np.ndarray
    largest: np.ndarray


class Measured(NamedTuple):
    """What `add_rigidity` did.

    Attributes:
        path: of the weights with their rigidity.
        form: what it was made from.
        measured_on: "test" or "validation".
        results: how well deviations and errors agree, by name.
    """

    path: Path
    form: RigidityForm
    measured_on: str
    results: dict[str, float]


def add_rigidity(
    checkpoint: str | Path,
    data: str,
    out: Path,
    *,
    save_as: Path | None = None,
    valid: str | None = None,
    test: str | None = None,
    outside: str | None = None,
    max_frames: int | None = None,
    seed: int = 0,
    keys: Keys = Keys(),
    bad_rows: Literal["raise", "skip"] = "raise",
    max_force: float | None = None,
    report: Report = lambda what, done, frames: None,
) -> Measured:
    """Give a potential's weights a rigidity, see `ase_geomol.rigidity`; an earlier one is replaced.

    C is summed up over the atoms of the training data. s is the value that makes the energy errors of the validation
    data likeliest, with alpha the RMS of error over deviation. Writes ``out/rigidity.json`` and ``out/calibration.png``
    about test frames, or the validation frames where there are none. What the pass over the training data has summed up
    is kept in ``out/sums`` until then, so that this pass goes on after a kill.

    Args:
        checkpoint: path, or name of a shipped potential.
        data: file, folder or pattern. Where frames name a split, those to train are taken, and by default those to
            validate and to test. Or the folder of a training, which means its own frames as it read and divided them,
            whatever ``keys``, ``bad_rows`` and ``max_force`` say.
        out: folder of the results.
        save_as: where the weights go; default: to where they came from.
        valid: other data to validate, which were not learned.
        test: other data to measure on.
        outside: data unlike the training data: how much larger deviations are there is told, too.
        max_frames: take so many random training frames at most.
        seed: of that choice.
        keys: where the labels stand in the data.
        bad_rows: raise at a bad row, or leave it out.
        max_force: eV/Å; a larger label makes a row a bad one.
        report: told how far it is.

    Raises:
        CheckpointError: no such checkpoint, or it holds no potential.
        ConfigError: shipped weights without ``save_as``.
        DataError: the data cannot be used, or none are to validate.
        GeoMolError: a feature or an energy is not finite.
        OutputError: a result cannot be written.
    """
    potential, metadata, path, fingerprint = load_checkpoint(checkpoint, choose_device(None))
    if save_as is None and path.parent == WEIGHTS:
        raise ConfigError(f"{checkpoint} is shipped and stays as it is: say where the new weights go with --save-as.")
    target = path if save_as is None else save_as
    make_folder(out)
    make_folder(target.parent)
    limits = Limits(
        potential.elements, max_force, metadata.charges, metadata.spins, periodic=potential.cutoff is not None
    )
    sources = {"train": data, "valid": valid, "test": test, "outside": outside}
    parts = _read_parts(sources, lambda source: load(source, keys, limits, bad_rows=bad_rows).frames)
    _check_unlearned(parts, "" if _is_run(data) else ", or the folder of the training as DATA")
    train = parts.train
    if max_frames is not None and max_frames < len(train):
        train = train.take(np.sort(np.random.default_rng(seed).permutation(len(train))[:max_frames]))
    measured_on, frames = ("test", parts.test) if len(parts.test) else ("validation", parts.valid)
    direct = metadata.forces == "direct"
    with kept_until_done(out / "sums") as kept:
        covariance = sum_features(potential, train, kept, fingerprint, report)
        potential.rigidity = calibrated(potential, covariance, len(train), parts.valid, report)
        found = deviations(potential, frames, report, direct_forces=direct)
        results = agreement(found, calibrated_on=measured_on == "validation")
        if parts.outside is not None:
            far = float(np.median(deviations(potential, parts.outside, report, direct_forces=direct).largest))
            results["outside_over_inside"] = far / float(np.median(found.largest))
        save_checkpoint(target, potential, metadata)
        about = {"name": metadata.name, "fingerprint": fingerprint, "data": sources, "max_frames": max_frames}
        measured = {"measured_on": measured_on, "measured_frames": len(frames), "results": results}
        content = {**about, **potential.rigidity.form.model_dump(), **measured}
        write_atomically(out / "rigidity.json", (json.dumps(content, indent=1) + "\n").encode())
        plot_calibration(out / "calibration.png", found, f"{metadata.name}: {len(frames)} {measured_on} frames")
    return Measured(target, potential.rigidity.form, measured_on, results)


class _Parts(NamedTuple):
    """What is learned from, and what is measured."""

    train: Frames
    valid: Frames
    test: Frames
    outside: Frames | None


def _read_parts(sources: Mapping[str, str | None], read: Callable[[str], Frames]) -> _Parts:
    """Frames of each part: of its own source, or those of "train" that name it; if "train" is a run, its own parts."""
    data = str(sources["train"])
    if _is_run(data):
        parts = parts_of_run(Path(data))
        train = parts.train if parts.replay is None else joined(parts.train, parts.replay)
        known = {"valid": parts.valid, "test": parts.valid.take(np.arange(0)) if parts.test is None else parts.test}
    else:
        everything = read(data)
        named = set(map(str, everything.split_names)) & ALIASES.keys()
        train = of_part(everything, "train") if named else everything
        known = {part: of_part(everything, part) for part in ("valid", "test")}
    valid, test = (
        frames if (source := sources[part]) is None else of_part(read(source), part, otherwise_all=True)
        for part, frames in known.items()
    )
    for name, frames in (("train", train), ("valid", valid)):
        if not len(frames):
            raise DataError(
                f"There are no frames to {name.replace('valid', 'validate')}: no frame has the split '{name}'. Give "
                f"{'some with --valid' if name == 'valid' else 'others'}."
            )
    outside = sources["outside"]
    return _Parts(train, valid, test, None if outside is None else read(outside))


def _is_run(data: str) -> bool:
    """Whether this is the folder of a training, which keeps its frames."""
    return (Path(data) / LAST).is_file()


def _check_unlearned(parts: _Parts, advice: str) -> None:
    """Refuse frames to validate that were learned; a few may be in both by chance."""
    valid = Counter(digests(parts.valid))
    learned = {digest for digest in digests(parts.train) if digest in valid}
    both = sum(valid[digest] for digest in learned)
    if both > max(1, LEARNED * len(parts.valid)):
        raise DataError(
            f"{both} of the {len(parts.valid)} frames to validate are among those to learn, whose errors are too small "
            f"to say how uncertain others are: give others with --valid{advice}."
        )


def sum_features(potential: Potential, frames: Frames, folder: Path, identity: str, report: Report) -> Tensor:
    """C (k, k), the sum of ``f f^T`` over all atoms; sums over portions are kept in the folder, see `in_portions`."""
    size = potential.model.readout.out.in_features + 1

    def compute(portion: Frames, within: Callable[[int, int], None]) -> Arrays:
        total = torch.zeros(size, size, dtype=torch.float64, device=potential.scale.device)
        for batch in _batches(potential, portion, "", lambda _, done, all_frames: within(done, all_frames)):
            features = potential.last_features(batch.graph)
            total += features.T @ features
        if not total.isfinite().all():
            raise GeoMolError("A feature is not finite: the weights are broken, or a structure is far from all known.")
        return {"sum": total.cpu().numpy()}

    sums = in_portions(frames, compute, folder, identity, partial(report, "training frames"))
    return torch.from_numpy(sum(arrays["sum"] for arrays in sums)).to(potential.scale.device)


def calibrated(potential: Potential, covariance: Tensor, count: int, valid: Frames, report: Report) -> Rigidity:
    """The rigidity under which the energy errors of validation frames are likeliest, if they are normal.

    For each s, ``alpha`` is the RMS of error over deviation, and the negative logarithm of the likelihood then the mean
    logarithm of the deviations, but for constants.

    Raises:
        DataError: all errors are zero, or not finite.
    """
    sums, errors = [], []
    for batch in _batches(potential, valid, "validation frames", report):
        features = potential.last_features(batch.graph)
        sums.append(segment_sum(features, batch.graph.system, batch.graph.n_systems))
        energy = potential(batch.graph, forces=False).energy
        errors.append(energy - torch.from_numpy(valid.energy[batch.frame.cpu().numpy()]).to(energy))
    features, error = torch.cat(sums), torch.cat(errors)
    best, least = None, np.inf
    for regulariser in REGULARISERS:
        white = whitening(covariance, float(regulariser))
        if white is None:
            continue
        deviation = (features @ white.T).norm(dim=-1)
        scale = float((error / deviation).square().mean().sqrt())
        unlikely = float((scale * deviation).log().mean()) if scale > 0 else np.nan
        if unlikely < least:
            form = RigidityForm(frames=count, valid_frames=len(valid), scale=scale, regulariser=float(regulariser))
            best, least = Rigidity(scale * white, form), unlikely
    if best is None:
        raise DataError("The energy errors of the validation frames are all zero, or not finite: give other frames.")
    return best


def whitening(covariance: Tensor, regulariser: float) -> Tensor | None:
    """W (k, k) with ``W^T W = (C + s I)^-1``; None where that is singular in floating point.

    Args:
        covariance: C.
        regulariser: s in units of the mean eigenvalue of C.
    """
    one = torch.eye(len(covariance)).to(covariance)
    factor, failed = torch.linalg.cholesky_ex(covariance + regulariser * covariance.diagonal().mean() * one)
    if failed.item():
        return None
    return torch.linalg.solve_triangular(factor, one, upper=False)


def deviations(potential: Potential, frames: Frames, report: Report, *, direct_forces: bool = False) -> Deviations:
    """Predicted deviations and true errors, of forces of the direct head if asked for; the potential has a rigidity.

    Raises:
        GeoMolError: one is not finite.
    """
    energy, of_frames, of_atoms, largest = [], [], [], []
    for batch in _batches(potential, frames, "measured frames", report):
        found, index = potential(batch.graph, forces=not direct_forces, std=True), batch.frame.cpu().numpy()
        error = np.abs(found.energy.cpu().numpy() - frames.energy[index])
        energy.append(np.stack([found.energy_std.cpu().numpy(), error], 1))
        forces = (found.direct_forces if direct_forces else found.forces).cpu().numpy()
        local = found.energies_std.cpu().numpy()
        ends = np.cumsum(frames.counts(index))[:-1]
        wrong = np.linalg.norm(forces - frames.forces[frames.atoms_of(index)], axis=1)
        for frame, std, length in zip(index, np.split(local, ends), np.split(wrong, ends), strict=True):
            largest.append(std.max())
            if frames.has_forces[frame]:
                of_frames.append((std.max(), np.sqrt((length**2).mean())))
                of_atoms.append(np.stack([std, length], 1))
    result = Deviations(
        np.concatenate(energy),
        np.array(of_frames).reshape(-1, 2),
        np.concatenate(of_atoms) if of_atoms else np.zeros((0, 2)),
        np.array(largest),
    )
    if not all(np.isfinite(values).all() for values in result):
        raise GeoMolError("A prediction is not finite: the weights are broken, or a structure is far from all known.")
    return result


def agreement(found: Deviations, *, calibrated_on: bool) -> dict[str, float]:
    """Spearman correlations of deviations with errors; the RMS of energy error over deviation, which is 1 where
    deviations are right, is of frames only that were not ``calibrated_on``.
    """
    results: dict[str, float] = {}
    if not calibrated_on:
        results["energy_error_over_std_RMS"] = float(np.sqrt(((found.energy[:, 1] / found.energy[:, 0]) ** 2).mean()))
    pairs = {"energy": found.energy, "force_of_frames": found.frames, "force_of_atoms": found.atoms}
    for name, values in pairs.items():
        if len(np.unique(values[:, 0])) > 2 and len(np.unique(values[:, 1])) > 2:
            results[f"spearman_{name}"] = float(np.corrcoef(rankdata(values, axis=0).T)[0, 1])
    return {**results, "median_largest_atom_std_eV": float(np.median(found.largest))}


def plot_calibration(path: Path, found: Deviations, title: str) -> None:
    """Draw RMS errors against deviations, in bins of equally many frames or atoms: energies, and forces of atoms."""
    from matplotlib.figure import Figure  # without pyplot: no state, no display

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _binned(left, found.energy, "energy: standard deviation (eV)", "energy: RMS error (eV)")
    ends = found.energy[:, 0].min(), found.energy[:, 0].max()
    left.plot(ends, ends, color="0.4", linewidth=0.8)
    if len(found.atoms):
        _binned(right, found.atoms, "energy of an atom: standard deviation (eV)", "force on it: RMS error (eV/Å)")
    else:
        right.set_axis_off()
    write_picture(figure, path, title)


def _binned(axes: Any, pairs: np.ndarray, across: str, up: str) -> None:
    order = pairs[np.argsort(pairs[:, 0], kind="stable")]
    axes.plot(pairs[:, 0], np.maximum(pairs[:, 1], 1e-6), ".", color="0.8", markersize=1.5, rasterized=True, zorder=0)
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    points = np.array([np.sqrt((part**2).mean(0)) for part in parts])
    axes.plot(points[:, 0], np.maximum(points[:, 1], 1e-6), "o-")
    axes.set(xlabel=across, ylabel=up, xscale="log", yscale="log")


def _batches(potential: Potential, frames: Frames, what: str, report: Report) -> Iterator[Batch]:
    """All frames in batches, on the potential's device; ``report`` is told after each."""
    done = 0
    for batch in all_in_batches(frames, potential.cutoff, potential.scale.device):
        yield batch
        done += batch.graph.n_systems
        report(what, done, len(frames))
