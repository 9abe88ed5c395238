"""Five charged particles that move in space: the data set "nbody_small" (Satorras et al., arXiv 2102.09844).

The random numbers are drawn one simulation after the other, as the original program does, with NumPy's legacy
generator; the motion of many simulations is then integrated together. Close encounters are chaotic, so rounding
changes some trajectories: statistics are those of the original, not bits.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ase_geomol.files import make_folder

from ..arrays import write_arrays

SEED = 43
PARTICLES = 5
SPEED = 0.5
"""Length of each initial velocity."""
BOX = 5.0
"""Initial positions beyond plus or minus this are reflected; there are no walls afterwards."""
TIME_STEP = 1e-3
LARGEST_FORCE = 100.0
"""Each Cartesian component of the force on a particle is clipped to plus or minus this."""
FRAMES = 49
INPUT_STEP, TARGET_STEP = 3100, 4100
"""Frame k is step 100 (k + 1): the network sees frame 30 and predicts the positions of frame 40."""
DRAWN = {"train": 10_000, "valid": 2_000, "test": 2_000}
USED = {"train": 3_000, "valid": 2_000, "test": 2_000}
"""Simulations whose random numbers are drawn, in this order, and the first ones of each that are integrated."""

Array = NDArray[np.float64]
Report = Callable[[int, int], None]


class Start(NamedTuple):
    """Where N simulations of n particles begin: charges (N, n), positions and velocities (N, n, 3)."""

    charges: Array
    positions: Array
    velocities: Array


class Samples(NamedTuple):
    """What is learned: charges (N, n), positions and velocities (N, n, 3) at frame 30, target positions at frame 40."""

    charges: Array
    positions: Array
    velocities: Array
    targets: Array


def draw(random: np.random.RandomState, count: int) -> Start:
    """Draw ``count`` simulations: charges, positions, velocities, and the noise of no size that is drawn as well."""
    starts = [_draw_one(random) for _ in range(count)]
    return Start(*(np.stack(column) for column in zip(*starts, strict=True)))


def _draw_one(random: np.random.RandomState) -> Start:
    charges = random.choice([-1.0, 0.0, 1.0], size=(PARTICLES, 1), p=[0.5, 0.0, 0.5])
    positions = random.standard_normal((3, PARTICLES))
    velocities = random.standard_normal((3, PARTICLES))
    velocities *= SPEED / np.linalg.norm(velocities, axis=0)
    beyond = np.abs(positions) > BOX
    velocities[beyond] = -np.sign(positions[beyond]) * np.abs(velocities[beyond])
    positions[beyond] = np.sign(positions[beyond]) * 2 * BOX - positions[beyond]
    for _ in range(2):
        random.standard_normal((FRAMES, 3, PARTICLES))
    return Start(charges[:, 0], positions.T, velocities.T)


def forces(positions: Array, charges: Array) -> Array:
    """Clipped Coulomb forces ``F_i = sum_j q_i q_j (r_i - r_j) / |r_i - r_j|^3``.

    Args:
        positions: (3, n, N): the simulations stand last, where NumPy is fastest.
        charges: (n, N).
    """
    first, second = _pairs(positions.shape[1])
    apart = positions[:, first] - positions[:, second]
    square = np.einsum("kpN,kpN->pN", apart, apart)
    apart *= charges[first] * charges[second] / (square * np.sqrt(square))
    signs = np.zeros((positions.shape[1], len(first)))
    signs[first, range(len(first))], signs[second, range(len(first))] = 1.0, -1.0
    return np.clip(signs @ apart, -LARGEST_FORCE, LARGEST_FORCE)


def _pairs(particles: int) -> tuple[list[int], list[int]]:
    pairs = list(combinations(range(particles), 2))
    return [i for i, _ in pairs], [j for _, j in pairs]


def trajectory(start: Start, steps: int) -> Iterator[tuple[Array, Array]]:
    """Positions and velocities (N, n, 3) after each step 1, 2, ... ``steps``: leapfrog, the first kick a full step.

    The velocity that is given is the one that the last move of the positions used.
    """
    positions, velocities = (np.array(x.transpose(2, 1, 0), order="C") for x in start[1:])  # copies
    charges = np.ascontiguousarray(start.charges.T)
    for _ in range(steps):
        velocities += TIME_STEP * forces(positions, charges)
        positions += TIME_STEP * velocities
        yield positions.transpose(2, 1, 0), velocities.transpose(2, 1, 0)


def simulate(start: Start, report: Report | None = None, *, together: int = 500) -> Samples:
    """Integrate simulations, ``together`` at a time (so many fit the processor's cache), up to the target."""
    parts = []
    for begin in range(0, len(start.charges), together):
        part = Start(*(column[begin : begin + together] for column in start))
        seen: list[Array] = []
        for step, (positions, velocities) in enumerate(trajectory(part, TARGET_STEP), start=1):
            if step == INPUT_STEP:
                seen += [positions.copy(), velocities.copy()]
        parts.append(Samples(part.charges, seen[0], seen[1], positions.copy()))
        if report is not None:
            report(begin + len(part.charges), len(start.charges))
    return Samples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def load(cache: Path, report: Report | None = None) -> dict[str, Samples]:
    """Samples for training, validation and test; made once, then read from a file in ``cache``.

    The file's name holds a hash of this module, so that other rules never meet old data; a damaged file is made anew.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(cache)
    path = cache / f"nbody-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {part: Samples(*(file[f"{part}_{name}"] for name in Samples._fields)) for part in USED}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    random = np.random.RandomState(SEED)
    starts = {part: draw(random, count) for part, count in DRAWN.items()}
    used = [Start(*(column[: USED[part]] for column in start)) for part, start in starts.items()]
    made = simulate(Start(*(np.concatenate(column) for column in zip(*used, strict=True))), report)
    ends = np.cumsum(list(USED.values()))[:-1]
    columns = [np.split(column, ends) for column in made]
    samples = {part: Samples(*column) for part, column in zip(USED, zip(*columns, strict=True), strict=True)}
    arrays = {f"{part}_{name}": value for part, of in samples.items() for name, value in of._asdict().items()}
    write_arrays(path, arrays, compressed=True)
    return samples
