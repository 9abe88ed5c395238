"""A picture of an ensemble: the conformers on top of each other, and their energies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ase import Atoms, units
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..simulate.pictures import BLUE, GRAY, STYLE, draw_structure, save, viewing_rotation
from .refine import superimposed

MOST_DRAWN = 40
"""Conformers on top of each other; more are a blur."""


def ensemble_picture(path: Path, structures: Sequence[Atoms], *, title: str) -> None:
    """Draw the first conformer as balls and sticks with the others as thin lines; energies beside it, if there are any.

    Args:
        path: PNG file.
        structures: conformers of one molecule, with ``info["bonds"]``.
        title: above the picture.

    Raises:
        OutputError: the file cannot be written.
    """
    ranked = all("relative_energy" in atoms.info for atoms in structures)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.6) if ranked else (5.4, 4.6), layout="constrained")
        grid = figure.add_gridspec(1, 2 if ranked else 1, width_ratios=(1.2, 1) if ranked else (1,))
        picture = figure.add_subplot(grid[0, 0])
        _draw_overlay(picture, structures)
        if ranked:
            _draw_energies(figure.add_subplot(grid[0, 1]), structures)
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)


def _draw_overlay(axes: Axes, structures: Sequence[Atoms]) -> None:
    first = structures[0]
    draw_structure(axes, first)
    turn, center = viewing_rotation(first), first.positions.mean(0)
    shown = structures[:MOST_DRAWN]
    flat = ((superimposed(shown) - center) @ turn)[..., :2]
    bonds = np.asarray(first.info["bonds"]).reshape(-1, 3)[:, :2].astype(int)
    lines = flat[1:, bonds].reshape(-1, 2, 2)
    axes.add_collection(LineCollection(list(lines), colors=BLUE, linewidths=0.9, alpha=0.35, zorder=1))
    low, high = flat.reshape(-1, 2).min(0), flat.reshape(-1, 2).max(0)
    axes.set_xlim(low[0] - 0.7, high[0] + 0.7)
    axes.set_ylim(low[1] - 0.7, high[1] + 0.7)
    names = "the first" if len(structures) > 1 else "the only one"
    names += f", with {len(shown) - 1} others as lines" if len(shown) > 1 else ""
    axes.set_title(names, fontweight="normal", color=GRAY)


def _draw_energies(axes: Axes, structures: Sequence[Atoms]) -> None:
    energies = np.array([atoms.info["relative_energy"] for atoms in structures])
    weights = np.array([atoms.info["boltzmann_weight"] for atoms in structures])
    places = np.arange(1, len(structures) + 1)
    axes.bar(places, 1000 * energies, color=GRAY, alpha=0.35, width=0.8)
    axes.scatter(places, 1000 * energies, s=8 + 400 * weights, color=BLUE, linewidths=0, zorder=3, clip_on=False)
    axes.set(xlabel="Conformer (dot: its Boltzmann weight at 298 K)", ylabel="Energy − lowest (meV)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    per_mol = axes.secondary_yaxis("right", functions=(_to_kcal, _from_kcal))
    per_mol.set_ylabel("kcal/mol")


def _to_kcal(energy: Any) -> Any:
    """meV as kcal/mol."""
    return energy / 1000 * units.mol / units.kcal


def _from_kcal(energy: Any) -> Any:
    return energy * 1000 * units.kcal / units.mol
