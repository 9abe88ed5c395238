"""What a trajectory tells of a liquid or a crystal: pair distances and diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import read
from ase.neighborlist import neighbor_list

from ..errors import ConfigError, DataError, InputError
from .record import TRAJECTORY, read_log

MOST_LAGS = 101
"""Times between frames at which displacements are averaged."""
MOST_FRAMES = 2000
"""Frames that are read of a long run, evenly spaced."""


class RadialDistribution(NamedTuple):
    """Density of atoms around atoms, relative to the mean density.

    Attributes:
        distances: (B,) Å, centres of the bins.
        values: (B,) g(r).
        coordination: (B,) mean number of neighbours within the outer edge of each bin.
    """

    distances: np.ndarray
    values: np.ndarray
    coordination: np.ndarray


def radial_distribution(
    frames: Sequence[Atoms], *, reach: float = 6.0, bins: int = 120, pair: tuple[str, str] | None = None
) -> RadialDistribution:
    """Average over frames that are periodic in three directions; images are counted, so cells may be small.

    Args:
        frames: structures of the same atoms.
        reach: Å.
        bins: how many.
        pair: symbols of the atoms in the middle and around them; None: all.

    Raises:
        ConfigError: reach or bins that are not positive.
        InputError: no frame, one without a volume, or none of these atoms.
    """
    if not reach > 0 or bins < 1:
        raise ConfigError(f"reach ({reach} Å) and bins ({bins}) must be positive.")
    if not frames or not all(frame.pbc.all() and frame.cell.rank == 3 for frame in frames):
        raise InputError("A radial distribution needs frames with a cell, periodic in three directions.")
    edges = np.linspace(0, reach, bins + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    counts, density = np.zeros(bins), 0.0
    for frame in frames:
        around, of = _selected(frame, pair)
        first, second, distance = neighbor_list("ijd", frame, reach)
        chosen = of[first] & around[second]
        counts += np.histogram(distance[chosen], edges)[0] / of.sum() / len(frames)
        density += around.sum() / frame.get_volume() / len(frames)
    return RadialDistribution((edges[1:] + edges[:-1]) / 2, counts / shells / density, np.cumsum(counts))


def mean_square_displacement(
    frames: Sequence[Atoms], times: np.ndarray, *, symbol: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Times between frames (fs) and mean square displacements (Å²), averaged over all pairs of frames so far apart.

    Positions must not jump across the cell, as those of `run_md` do not. Motion of the centre of mass is taken out, and
    so is that with a cell that changes: displacements are those of scaled positions, in the mean cell.

    Args:
        frames: structures of the same atoms, evenly in time.
        times: (F,) fs.
        symbol: only these atoms.

    Raises:
        InputError: fewer than two frames, frames that are not evenly spaced, or no such atom.
    """
    steps = np.diff(times)
    if len(frames) < 2 or len(frames) != len(times) or not np.allclose(steps, steps[0], rtol=1e-3):
        raise InputError("A mean square displacement needs at least two frames, evenly spaced in time.")
    chosen = _selected(frames[0], None if symbol is None else (symbol, symbol))[1]
    masses = frames[0].get_masses()[:, None]
    positions = np.array([frame.positions for frame in frames])
    cells = np.array([frame.cell.array for frame in frames])
    if frames[0].pbc.all() and np.ptp(cells, axis=0).max() > 0:
        positions = positions @ np.linalg.inv(cells) @ cells.mean(0)
    positions = (positions - (positions * masses).sum(1, keepdims=True) / masses.sum())[:, chosen]
    lags = np.unique(np.linspace(0, len(frames) // 2, MOST_LAGS).astype(int))
    squares = [np.square(positions[lag:] - positions[: len(frames) - lag]).sum(-1).mean() for lag in lags]
    return lags * steps[0], np.array(squares)


def read_run(folder: Path) -> tuple[list[Atoms], np.ndarray]:
    """Frames of a run of `run_md` and their times (fs), evenly spaced, at most `MOST_FRAMES` of them.

    Raises:
        DataError: trajectory or log are missing or damaged.
    """
    times = read_log(folder)["time_fs"]
    stride = -(-len(times) // MOST_FRAMES)
    try:
        frames = read(folder / TRAJECTORY, f"::{stride}", format="extxyz")
    except Exception as error:  # whatever ASE's reader meets in a damaged file
        raise DataError(f"{folder / TRAJECTORY} cannot be read: {error}") from error
    times = times[::stride][: len(frames)]
    even = np.isclose(np.diff(times), times[1] - times[0], rtol=1e-3) if len(times) > 1 else np.zeros(0, dtype=bool)
    count = 1 + int(np.argmin([*even, False]))  # the last frame of a run may come early
    return [frame for frame in frames[:count] if isinstance(frame, Atoms)], times[:count]


def diffusion(lags: np.ndarray, squares: np.ndarray) -> float:
    """Diffusion coefficient in Å²/ps: a sixth of the slope over the last half of the lags (Einstein)."""
    half = len(lags) // 2
    return float(np.polyfit(lags[half:], squares[half:], 1)[0] * 1000 / 6)


def _selected(frame: Atoms, pair: tuple[str, str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the atoms around, and of those in the middle."""
    if pair is None:
        everyone = np.ones(len(frame), dtype=bool)
        return everyone, everyone
    for symbol in pair:
        if symbol not in frame.get_chemical_symbols():
            raise InputError(f"There is no {symbol if symbol in atomic_numbers else repr(symbol)} among these atoms.")
    middle, around = (frame.numbers == atomic_numbers[symbol] for symbol in pair)
    return around, middle
