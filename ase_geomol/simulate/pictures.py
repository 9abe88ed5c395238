"""Pictures of results: matplotlib figures, written as PNG without touching pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from ..files import write_atomically
from .evaluation import Evaluation
from .relax import RelaxResult
from .watch import find_bonds

BLUE, ORANGE, GRAY = "#1f5fa8", "#d1662a", "#8a8f98"
PACKED = 6
"""Mean number of neighbours above which atoms are drawn as touching balls, without sticks."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def md_picture(path: Path, log: Mapping[str, np.ndarray], atoms: Atoms, *, title: str, target: float | None) -> None:
    """Draw energy and temperature of a run against time, and its last structure.

    Args:
        path: PNG file.
        log: columns as of `read_log`.
        atoms: the structure to draw.
        title: above the picture.
        target: K, the thermostat's temperature, or None.

    Raises:
        OutputError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1))
        top, bottom = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
        time = log["time_fs"] / 1000
        for name, color in (("potential", BLUE), ("total", ORANGE)):
            values = log[f"{name}_eV"] - log["potential_eV"][0]
            top.plot(time, values, color=color, lw=1.1, label=name)
        top.set_ylabel("Energy − $E_0$ (eV)")
        top.legend(loc="lower right", ncols=2, borderaxespad=0.2, bbox_to_anchor=(1, 1))
        bottom.plot(time, log["temperature_K"], color=BLUE, lw=1.1)
        if target is not None:
            bottom.axhline(target, color=GRAY, lw=1, ls="--", label=f"target {target:g} K")
            bottom.legend(loc="lower right", borderaxespad=0.2, bbox_to_anchor=(1, 1))
        bottom.set(xlabel="Time (ps)", ylabel="Temperature (K)")
        for axes in (top, bottom):
            axes.set_xlim(time[0], max(time[-1], time[0] + 1e-6))
        top.tick_params(labelbottom=False)
        picture = figure.add_subplot(grid[:, 1])
        draw_structure(picture, atoms)
        picture.set_title(f"after {time[-1]:.4g} ps", fontweight="normal", color=GRAY)
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)


def relax_picture(path: Path, result: RelaxResult, before: Atoms, *, title: str, fmax: float) -> None:
    """Draw energy and largest force of a relaxation against its steps, and the structure before and after.

    Args:
        path: PNG file.
        result: of the relaxation.
        before: the structure it started from.
        title: above the picture.
        fmax: eV/Å, the goal.

    Raises:
        OutputError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1))
        top, bottom = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
        steps = np.arange(result.steps + 1)
        style = {"color": BLUE, "lw": 1.1, "marker": "o", "ms": 3 if result.steps < 60 else 0}
        top.plot(steps, result.energies - result.energies[-1], **style)
        top.set_ylabel("Energy − final (eV)")
        top.tick_params(labelbottom=False)
        bottom.semilogy(steps, np.maximum(result.fmax, 1e-12), **style)
        bottom.axhline(fmax, color=GRAY, lw=1, ls="--", label=f"goal {fmax:g} eV/Å")
        bottom.legend(loc="lower right", borderaxespad=0.2, bbox_to_anchor=(1, 1))
        bottom.set(xlabel="Step", ylabel="Largest force (eV/Å)")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        for row, (atoms, name) in enumerate(((before, "before"), (result.atoms, "after"))):
            picture = figure.add_subplot(grid[row, 1])
            draw_structure(picture, atoms, view=before)
            picture.set_title(name, fontweight="normal", color=GRAY)
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)


def parity_picture(path: Path, evaluation: Evaluation, *, title: str) -> None:
    """Draw predictions against labels: energies per atom, and force components where there are any.

    Args:
        path: PNG file.
        evaluation: labels and predictions.
        title: above the picture.

    Raises:
        OutputError: the file cannot be written.
    """
    energies = evaluation.energies / evaluation.n_atoms[:, None]
    panels = [(energies, "energy per atom", "eV/atom", evaluation.errors["energy per atom (meV)"], "meV/atom")]
    if "forces (meV/Å)" in evaluation.errors:
        forces = np.concatenate([f.reshape(-1, 2) for f in evaluation.forces])
        panels.append((forces, "force components", "eV/Å", evaluation.errors["forces (meV/Å)"], "meV/Å"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * len(panels), 4.6), layout="constrained")
        for index, (values, what, unit, (mae, rmse), small) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            low, high = values.min(), values.max()
            margin = 0.05 * max(high - low, 1e-3)
            limits = (low - margin, high + margin)
            axes.plot(limits, limits, color=GRAY, lw=1, zorder=1)
            axes.scatter(*values.T, s=10, color=BLUE, alpha=0.5, linewidths=0, rasterized=True, zorder=2)
            axes.set(xlim=limits, ylim=limits, aspect="equal", title=what.capitalize())
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set(xlabel=f"Label ({unit})", ylabel=f"Prediction ({unit})")
            note = f"MAE {mae:.3g} {small}\nRMSE {rmse:.3g} {small}\n{len(values)} values"
            axes.text(0.04, 0.96, note, transform=axes.transAxes, va="top")
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)


def draw_structure(axes: Axes, atoms: Atoms, *, view: Atoms | None = None) -> None:
    """Draw balls and sticks (of metals, only balls), and the cell, in parallel projection.

    Args:
        axes: emptied of ticks and frame.
        atoms: the structure.
        view: a molecule is seen onto the plane in which this structure (default: itself) is widest; a crystal
            obliquely from above.
    """
    axes.set_axis_off()
    axes.set_aspect("equal")
    turn = viewing_rotation(atoms if view is None else view)
    center = atoms.positions.mean(0)
    flat = (atoms.positions - center) @ turn
    first, _, vectors = find_bonds("ijD", atoms)
    packed = len(first) > PACKED * len(atoms)
    radii = (0.9 if packed else 0.45) * covalent_radii[atoms.numbers]
    for level, index in enumerate(np.argsort(flat[:, 2])):
        spot = flat[index, :2]
        halves = [] if packed else [(spot, spot + v) for v in 0.51 * (vectors[first == index] @ turn)[:, :2]]
        for width, color in ((4.2, "#40444a"), (2.8, "#c9cdd3")):
            axes.add_collection(LineCollection(halves, linewidths=width, colors=color, zorder=2 + level))
        color = 0.92 * jmol_colors[atoms.numbers[index]]
        ball = Circle(tuple(spot), float(radii[index]), fc=color, ec="#30343a", lw=0.8, zorder=2 + level)
        axes.add_patch(ball)
    corners = _draw_cell(axes, atoms, center, turn)
    around = np.concatenate([flat[:, :2] - radii[:, None], flat[:, :2] + radii[:, None], corners])
    axes.set_xlim(around[:, 0].min() - 0.3, around[:, 0].max() + 0.3)
    axes.set_ylim(around[:, 1].min() - 0.3, around[:, 1].max() + 0.3)


def _draw_cell(axes: Axes, atoms: Atoms, center: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Dashed edges of the cell; its corners (8, 2), or none."""
    if not atoms.pbc.any():
        return np.empty((0, 2))
    steps = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = ((steps @ atoms.cell.array - center) @ turn)[:, :2]
    edges = [(a, b) for a in range(8) for b in range(a) if np.abs(steps[a] - steps[b]).sum() == 1]
    lines = LineCollection([(corners[a], corners[b]) for a, b in edges], colors=GRAY, linewidths=0.8, linestyles="--")
    lines.set_zorder(1)
    axes.add_collection(lines)
    return corners


def viewing_rotation(atoms: Atoms) -> np.ndarray:
    """Rotation (3, 3) whose columns are the picture's right, up, and towards the viewer."""
    if atoms.pbc.any():
        towards = np.array([0.35, -1.0, 0.25]) / np.linalg.norm([0.35, -1.0, 0.25])
        right = np.cross([0, 0, 1], towards)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(towards, right), towards], axis=1)
    _, _, axes = np.linalg.svd(atoms.positions - atoms.positions.mean(0))
    turn = axes.T
    turn[:, 2] *= np.sign(np.linalg.det(turn))
    return turn


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; raises :class:`OutputError`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
