"""How errors fell while trainings ran, from the logs in their folders."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
"""Of the time of a training, at which errors stand in a table."""


class Curve(NamedTuple):
    """Validation errors ``values`` after ``minutes``."""

    minutes: np.ndarray
    values: np.ndarray

    def at(self, share: float) -> float | None:
        """The last one before this share of the time; None before the first."""
        before = np.flatnonzero(self.minutes <= share * self.minutes[-1])
        return float(self.values[before[-1]]) if len(before) else None

    def in_words(self) -> str:
        """Those at `SHARES`."""
        found = [self.at(share) for share in SHARES]
        return ", ".join("–" if value is None else f"{value:.3g}" for value in found)

    @classmethod
    def from_words(cls, words: str, minutes: float) -> Curve:
        """What :meth:`in_words` tells of a training that took ``minutes``."""
        known = [
            (share * minutes, float(word)) for share, word in zip(SHARES, words.split(", "), strict=True) if word != "–"
        ]
        return cls(*np.array(known).reshape(-1, 2).T)


def read_curve(run: Path, error: str, steps: int, minutes: float) -> Curve | None:
    """What the logs of a run say of an error such as ``forces_MAE_meV_per_A``; None where they say nothing.

    A run that was resumed has several: what was done twice counts as it was done last. Where a log does not tell
    minutes, its ``steps`` are taken to have been of one length.
    """
    values: dict[int, tuple[float, float]] = {}
    for log in sorted(run.glob("logs/version_*/metrics.csv"), key=_number):
        with log.open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line.get(f"valid/{error}")]
        first = int(lines[0]["step"]) if lines else steps
        values = {step: value for step, value in values.items() if step < first}
        for line in lines:
            after = float(line.get("valid/minutes") or minutes * int(line["step"]) / steps)
            values[int(line["step"])] = after, float(line[f"valid/{error}"])
    return Curve(*np.array([values[step] for step in sorted(values)]).T) if values else None


def _number(log: Path) -> int:
    return int(re.sub(r"\D", "", log.parent.name) or 0)


def draw_curves(
    path: Path, panels: Mapping[str, Mapping[str, Curve]], marks: Mapping[str, Mapping[str, float]], quantity: str
) -> None:
    """A picture of named curves in named panels, with dashed lines at ``marks`` such as published errors."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.5 * columns, 4.2 * rows), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False):
        for name, curve in curves.items():
            axes.loglog(*curve, lw=1.2, label=name)
        for name, value in marks.get(title, {}).items():
            axes.axhline(value, color="0.5", lw=0.8, ls="--", zorder=0)
            axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
        axes.tick_params(which="both", labelsize=7)
        axes.set(title=title, xlabel="minutes", ylabel=quantity)
        axes.legend(fontsize=8)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=150)
