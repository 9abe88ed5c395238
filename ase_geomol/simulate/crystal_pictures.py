"""Pictures of crystals' properties, and of paths and trajectories: like `pictures`, as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .eos import EquationOfState
from .neb import MinimumEnergyPath
from .phonons import Phonons
from .pictures import BLUE, GRAY, ORANGE, STYLE, draw_structure, save
from .trajectories import RadialDistribution


def eos_picture(path: Path, result: EquationOfState, *, title: str) -> None:
    """Draw energies against volumes with the fitted curve, and the structure; raises :class:`OutputError`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        smooth = np.linspace(result.volumes.min(), result.volumes.max(), 200)
        left.plot(smooth, 1e3 * (result.curve(smooth) - result.energy), color=BLUE, lw=1.2)
        left.plot(result.volumes, 1e3 * (result.energies - result.energy), "o", color=ORANGE, ms=5)
        left.axvline(result.volume, color=GRAY, lw=1, ls="--")
        left.set(xlabel="Volume (Å³)", ylabel="Energy − minimum (meV)")
        note = f"V₀ = {result.volume:.3f} Å³\nB₀ = {result.bulk_modulus:.1f} GPa\nB₀′ = {result.derivative:.2f}"
        left.text(0.5, 0.95, note, transform=left.transAxes, va="top", ha="center")
        draw_structure(right, result.atoms)
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)


def phonon_picture(path: Path, result: Phonons, *, title: str) -> None:
    """Draw bands, states and, without imaginary modes, thermal properties; raises :class:`OutputError`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        bands, dos, thermal = figure.subplots(1, 3, width_ratios=(2.2, 0.7, 1.3))
        bands.plot(result.distances, result.bands, color=BLUE, lw=1)
        for place, _ in result.ticks:
            bands.axvline(place, color=GRAY, lw=0.6)
        bands.axhline(0, color=GRAY, lw=0.6)
        bands.set_xticks([place for place, _ in result.ticks], [name for _, name in result.ticks])
        bands.set(xlim=(0, result.distances[-1]), ylabel="Frequency (THz)")
        dos.plot(result.dos, result.dos_frequencies, color=BLUE, lw=1)
        dos.fill_betweenx(result.dos_frequencies, result.dos, color=BLUE, alpha=0.15, lw=0)
        dos.set(xlabel="States/THz", ylim=bands.get_ylim(), xlim=(0, None))
        dos.tick_params(labelleft=False)
        if result.stable:
            _draw_thermal(thermal, result)
        else:
            bands.set_title(f"imaginary: {result.lowest:.2f} THz", color=ORANGE, fontweight="normal")
            thermal.text(0.5, 0.5, "Heat capacity, free energy:\nnone: imaginary modes", ha="center", va="center")
            thermal.set_axis_off()
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)


def _draw_thermal(axes: Axes, result: Phonons) -> None:
    axes.plot(result.temperatures, result.heat_capacity, color=ORANGE, lw=1.2, label="$C_V$ (J/K)")
    axes.plot(result.temperatures, result.entropy, color=BLUE, lw=1.2, label="S (J/K)")
    axes.plot(result.temperatures, result.free_energy, color=GRAY, lw=1.2, label="F (kJ)")
    atoms = "1 atom" if result.primitive == 1 else f"{result.primitive} atoms"
    axes.set(xlabel="Temperature (K)", ylabel=f"Per mol of primitive cells of {atoms}")
    axes.set_xlim(result.temperatures[0], result.temperatures[-1])
    axes.legend()


def path_picture(path: Path, result: MinimumEnergyPath, *, title: str) -> None:
    """Draw the energy along a path, and its first, highest and last image; raises :class:`OutputError`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=(1.2, 1))
        curve = figure.add_subplot(grid[0, :])
        curve.plot(result.distances, result.energies, "o-", color=BLUE, lw=1.2, ms=5)
        curve.axhline(result.barrier, color=GRAY, lw=1, ls="--", label=f"barrier {result.barrier:.3f} eV")
        curve.set(xlabel="Along the path (Å)", ylabel="Energy − first (eV)")
        curve.legend()
        for column, index in enumerate((0, result.highest, len(result.images) - 1)):
            axes = figure.add_subplot(grid[1, column])
            draw_structure(axes, result.images[index], view=result.images[0])
            axes.set_title(("first", "highest", "last")[column], fontweight="normal", color=GRAY)
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)


def trajectory_picture(
    path: Path,
    distribution: RadialDistribution,
    lags: np.ndarray,
    displacements: Mapping[str, np.ndarray],
    *,
    title: str,
) -> None:
    """Draw a radial distribution, and mean square displacements (Å², by element) against lags (fs).

    Raises:
        OutputError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(distribution.distances, distribution.values, color=BLUE, lw=1.2)
        left.axhline(1, color=GRAY, lw=1, ls="--")
        left.set(xlabel="Distance (Å)", ylabel="g(r)", xlim=(0, distribution.distances[-1]), ylim=(0, None))
        for name, squares in displacements.items():
            right.plot(lags / 1000, squares, lw=1.2, label=name)
        right.set(xlabel="Time (ps)", ylabel="Mean square displacement (Å²)", ylim=(0, None))
        right.legend()
        figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
        save(figure, path)
