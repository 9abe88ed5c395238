"""Which frames are learned, which choose the best weights, which are kept for the test."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from ase_geomol.errors import DataError

from .frames import Frames
from .sections import Split

ALIASES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
UNITS = {"group": "groups", "trajectory": "trajectories", "frame": "frames"}


class Splits(NamedTuple):
    """Indices of frames."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class Divided(Protocol):
    """Frames, or other data whose examples have a group and a split, as `Frames` has them."""

    @property
    def group(self) -> np.ndarray:
        """Index of what must not be divided."""
        ...

    @property
    def split(self) -> np.ndarray:
        """Index into ``split_names``."""
        ...

    @property
    def split_names(self) -> np.ndarray:
        """Text."""
        ...

    def __len__(self) -> int: ...


def split_frames(frames: Divided, rule: Split, seed: int) -> Splits:
    """Divide frames by a rule.

    Raises:
        DataError: unknown names of parts, or a part would be empty.
    """
    if rule.by == "key":
        return _by_key(frames)
    rng = np.random.default_rng(seed)
    units = np.arange(len(frames)) if rule.by == "frame" else getattr(frames, rule.by)
    names = rng.permutation(np.unique(units))
    n_valid, n_test = (_count(size, len(names)) for size in (rule.valid, rule.test))
    n_train = len(names) - n_valid - n_test if rule.train is None else _count(rule.train, len(names))
    if n_train < 1 or n_train + n_valid + n_test > len(names):
        raise DataError(
            f"{len(names)} {UNITS[rule.by]} cannot be divided into {n_train} for training, {n_valid} for validation "
            f"and {n_test} for the test: {_advice(rule)}."
        )
    bounds = np.cumsum([n_train, n_valid, n_test])
    parts = (names[: bounds[0]], names[bounds[0] : bounds[1]], names[bounds[1] : bounds[2]])
    return Splits(*(np.flatnonzero(np.isin(units, part)) for part in parts))


def _advice(rule: Split) -> str:
    return "ask for fewer, or give more data" if rule.by == "frame" else "divide by frame, with split: {by: frame}"


def _by_key(frames: Divided) -> Splits:
    unknown = [name for name in frames.split_names if name not in ALIASES]
    if unknown:
        raise DataError(
            f"Frames have the split '{unknown[0]}', but only {', '.join(ALIASES)} are known: "
            "divide by group instead, with split: {by: group}."
        )
    parts = np.array([ALIASES[name] for name in frames.split_names])[frames.split]
    splits = Splits(*(np.flatnonzero(parts == name) for name in Splits._fields))
    for name, index in zip(("train", "valid"), splits, strict=False):
        if not len(index):
            raise DataError(f"No frame has the split '{name}': divide by group, with split: {{by: group}}.")
    return splits


def _count(size: float, total: int) -> int:
    """A number of units: whole numbers as they are, fractions of all, at least one if not zero."""
    if size >= 1 or size == 0:
        return int(size)
    return max(1, round(size * total))


def places_of(data: Divided, split: str) -> np.ndarray:
    """Indices of what the data themselves assign to a split.

    Raises:
        DataError: there is nothing.
    """
    names = np.array([ALIASES.get(str(name), str(name)) for name in data.split_names])
    found = np.flatnonzero(names[data.split] == ALIASES.get(split, split))
    if not len(found):
        raise DataError(f"No molecule has the split '{split}'; there are: {', '.join(data.split_names)}.")
    return found


def of_part(frames: Frames, part: str, *, otherwise_all: bool = False) -> Frames:
    """The frames whose split is ``part``; if asked for, all where no frame has a split.

    Raises:
        DataError: all were asked for, and frames have other splits only.
    """
    names = np.array([ALIASES.get(str(name), "") for name in frames.split_names])[frames.split]
    chosen = np.flatnonzero(names == part)
    if otherwise_all and not len(chosen):
        if names.any():
            raise DataError(
                f"No frame has the split '{part}', but some have '{names[names != ''][0]}': give data that have it, or "
                "none of train, valid and test."
            )
        return frames
    return frames.take(chosen)
