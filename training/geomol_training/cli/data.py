"""Labelled data: ``geomol-train inspect``, ``preprocess`` and ``convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .common import EnergyKey, ForcesKey, GroupKey, Labels, SkipBad, StressKey, packages, stoppable


def inspect(
    data: Annotated[list[str], typer.Argument(help="Files, folders or patterns of labelled structures.")],
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    stress_key: StressKey = "stress",
    group_key: GroupKey = "molecule",
    labels: Labels = "revised",
) -> None:
    """Look at labelled data: composition, ranges, outliers, repeated frames, units that do not fit.

    Example: `geomol-train inspect my_dft_frames.extxyz`
    """
    with packages("train", "Looking at data"):
        from ..checks import Limits, describe_skipped
        from ..data import load
        from ..display import inspection_tables
        from ..inspection import inspect as run_inspect
        from ..readers import Keys

    console = Console()
    with console.status("reading data"):
        sources = data[0] if len(data) == 1 else data
        keys = Keys(energy_key, forces_key, stress_key, group_key, labels=labels)
        loaded = load(sources, keys, Limits(), bad_rows="skip")
        found = run_inspect(loaded.frames)
    for table in inspection_tables(found):
        console.print(table)
    warnings = list(found.warnings)
    if loaded.skipped:
        warnings.insert(0, f"{describe_skipped(loaded.skipped)}.")
    for sentence in warnings:
        console.print(f"[yellow]![/] {escape(sentence)}", highlight=False, soft_wrap=True)
    for sentence in found.unseen:
        console.print(f"[cyan]?[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    if not warnings:
        console.print("Nothing smells wrong" + (", as far as could be seen." if found.unseen else "."))


def preprocess(
    data: Annotated[list[str], typer.Argument(help="Files, folders or patterns of labelled structures.")],
    out: Annotated[Path, typer.Option(help="Folder of the packed data; run again to resume.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 2,
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    stress_key: StressKey = "stress",
    group_key: GroupKey = "molecule",
    labels: Labels = "revised",
    skip_bad: SkipBad = False,
    max_force: Annotated[float | None, typer.Option(help="eV/Å; a row with a larger force is a bad one.")] = None,
) -> None:
    """Read a large data set once, into arrays on disk that `fit` maps into memory (`data.train: OUT`).

    Example: `geomol-train preprocess s2ef_train_200K --out data/s2ef_200k --workers 16`
    """
    with packages("train", "Preprocessing"):
        from ..checks import Limits, describe_skipped
        from ..display import FilesBar
        from ..packed import preprocess as run_preprocess
        from ..readers import Keys

    with stoppable(out), FilesBar(Console()) as bar:
        frames, skipped = run_preprocess(
            data,
            out,
            Keys(energy_key, forces_key, stress_key, group_key, labels=labels),
            Limits(max_force=max_force),
            bad_rows="skip" if skip_bad else "raise",
            workers=workers,
            report=bar.update,
        )
    Console().print(
        f"{len(frames)} frames, {len(frames.numbers)} atoms of {len(frames.elements)} elements in {out}.", markup=False
    )
    if skipped:
        Console().print(f"{describe_skipped(skipped)}.", markup=False)


def convert(
    data: Annotated[list[str], typer.Argument(help="Files, folders or patterns, of one kind or several.")],
    out: Annotated[Path, typer.Argument(help="A new .aselmdb file.")],
    relaxations: Annotated[
        bool, typer.Option(help="Each file is a relaxation: its start, with energy and positions of its end.")
    ] = False,
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    stress_key: StressKey = "stress",
    group_key: GroupKey = "molecule",
    labels: Labels = "revised",
    skip_bad: SkipBad = False,
) -> None:
    """Write structures with their labels, of any kind that is read, into one ASE-LMDB database.

    Examples:

    `geomol-train convert is2re/all/train/data.lmdb is2re_train.aselmdb`

    `geomol-train convert relaxations/*.traj starts_and_ends.aselmdb --relaxations`
    """
    with packages("train", "Converting"):
        from ..checks import describe_skipped
        from ..convert import convert as run_convert
        from ..readers import Keys

    console = Console()
    with console.status("converting"):
        found = run_convert(
            data,
            out,
            Keys(energy_key, forces_key, stress_key, group_key, labels=labels),
            relaxations=relaxations,
            bad_rows="skip" if skip_bad else "raise",
        )
    table = Table(
        "label", "structures with it", "without it", title=f"{found.structures} structures in {escape(str(out))}"
    )
    for name, count in found.labels.items():
        table.add_row(name, f"{count:,}", f"{found.structures - count:,}")
    console.print(table)
    if found.skipped:
        console.print(f"{describe_skipped(found.skipped)}.", markup=False)
