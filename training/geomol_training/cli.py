"""``geomol-train``: the commands that make labels and weights. Words and progress only, no logic."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ase_geomol.errors import ConfigError, GeoMolError, MissingExtraError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a field of the recipe: key.path=value.")]


@app.callback()
def _about() -> None:
    """Make the labels and weights of ase_geomol."""


def parse_duration(text: str) -> float:
    """Seconds in ``90s``, ``40min`` or ``2h``; raises :class:`ConfigError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a duration: write it like 90s, 40min or 2h.")
    if float(match[1]) == 0:
        raise ConfigError(f"{text!r} leaves no time: give a longer one.")
    return float(match[1]) * _UNITS[match[2]]


@contextmanager
def _packages(extra: str, purpose: str) -> Iterator[None]:
    """Imports inside may fail: the user reads which extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "a package", extra, purpose) from error


@app.command()
def label(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the labels.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 40min.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path("data/organic"),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Label molecules with GFN2-xTB energies and forces.

    Example: `geomol-train label training/recipes/shipped/geomformer_organic_labels.yaml --first 501
    --out data/organic`
    """
    with _packages("labels", "Labelling"):
        from .labelling.recipe import load_recipe
        from .labelling.report import Display
        from .labelling.run import make_labels

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_recipe(recipe, changes or ())
    with _stoppable(out), Display(Console(), settings.name) as display:
        manifest = make_labels(settings, out, workers, budget, display.update, first)
    display.summary(manifest, out)


@app.command()
def crystals(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the labels.")],
    teacher: Annotated[Path, typer.Option(help="Python of an environment that has the teacher.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 40min.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path("data/crystals"),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Label crystals with another potential, the teacher, which needs no more than ASE in an environment of its own.

    Example: `geomol-train crystals training/recipes/shipped/est_crystal_labels.yaml --teacher sevenn/bin/python`
    """
    with _packages("labels", "Labelling"):
        from .crystals.recipe import load_crystal_recipe
        from .crystals.run import make_crystal_labels
        from .labelling.report import Display

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_crystal_recipe(recipe, changes or ())
    with _stoppable(out), Display(Console(), settings.name) as display:
        manifest = make_crystal_labels(settings, teacher, out, workers, budget, display.update, first)
    display.summary(manifest, out)


@app.command()
def conformers(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the sets of conformers.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 40min.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path("data/conformers"),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Find the conformers of molecules: minima of GFN2-xTB, their energies and Boltzmann weights, from SMILES alone.

    Example: `geomol-train conformers training/recipes/shipped/ditmc_small_conformers.yaml --time-budget 2h`
    """
    with _packages("labels", "Labelling"):
        from .conformers.recipe import load_conformer_recipe
        from .conformers.run import make_conformers
        from .labelling.report import Display

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_conformer_recipe(recipe, changes or ())
    with _stoppable(out), Display(Console(), settings.name) as display:
        manifest = make_conformers(settings, out, workers, budget, display.update, first)
    display.summary(manifest, out)


@app.command()
def explore(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file, or the name of a shipped potential.")],
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of what is explored.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 2h.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path(
        "data/organic_explored"
    ),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Label more frames where a potential errs: those of its own dynamics with the largest force errors.

    Example: `geomol-train explore runs/geomformer-organic/model.safetensors
    training/recipes/shipped/geomformer_organic_explore.yaml --out data/organic_explored`
    """
    with _packages("labels", "Labelling"):
        from .labelling.explore import explore as run_explore
        from .labelling.recipe import load_explore_recipe
        from .labelling.report import Display

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_explore_recipe(recipe, changes or ())
    with _stoppable(out), Display(Console(), settings.name) as display:
        manifest = run_explore(checkpoint, settings, out, workers, budget, display.update, first)
    display.summary(manifest, out)
    display.explored(manifest)


@contextmanager
def _stoppable(out: Path) -> Iterator[None]:
    """Ctrl-C and a request to terminate end the labelling inside, and the user reads how to go on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        Console().print(f"Stopped. {out} holds every finished job: run the same command to resume.", markup=False)
        raise typer.Exit(130) from None


@app.command()
def fit(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the training.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/ and the recipe's name.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="End after this time, e.g. 65min, over all resumed runs.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU run, in each process.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Share each batch among so many processes; on CUDA, one device each.")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Others that make the batches ahead, for each process; default: on CUDA up to 8."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and say what would run.")] = False,
    changes: Changes = None,
) -> None:
    """Train a potential, or what else the recipe says; the best weights so far are always in OUT/model.safetensors.

    Examples:

    `geomol-train fit training/recipes/rmd17.yaml --time-budget 30min`

    `geomol-train fit training/recipes/rmd17.yaml --time-budget 30min --resume`

    `geomol-train fit training/recipes/shipped/geomformer_organic.yaml --time-budget 80min
    --processes 2 --threads 1`
    """
    with _packages("train", "Training"):
        from .dry_run import describe
        from .fit import Fitted
        from .fit import fit as run_fit
        from .processes import launched, lead_or_follow
        from .recipe import load_recipe

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_recipe(recipe, changes or ())
    if dry_run:
        table, complete = describe(settings, budget)
        Console().print(table)
        raise typer.Exit(0 if complete else 1)
    folder = Path("runs") / settings.name if out is None else out

    def run(processes: int) -> Fitted:
        return run_fit(
            settings,
            folder,
            time_budget=budget,
            resume=resume,
            threads=threads,
            processes=processes,
            workers=workers,
        )

    if launched() and processes > 1:
        raise ConfigError("torchrun has started the processes: leave --processes out.")
    result = lead_or_follow(run) if launched() else run(processes)
    if result is None:  # another process leads
        return
    if result.stopped_by in ("interrupted", "terminated"):
        Console().print("Run the same command with --resume to go on.")
        raise typer.Exit(130)


@app.command()
def finetune(
    checkpoint: Annotated[str, typer.Argument(help="A shipped potential's name, or a .safetensors file.")],
    data: Annotated[list[str], typer.Argument(help="Files, folders or patterns of structures with the new labels.")],
    theory: Annotated[
        str | None, typer.Option(help="What made the labels, for the card, e.g. 'PBE0/def2-TZVP'.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="What is trained: full, head (the read-out), low-rank (changes of the linear maps).")
    ] = "full",
    rank: Annotated[int, typer.Option(min=1, help="Of low-rank.")] = 8,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Learn from so many frames only, drawn with the seed.")
    ] = None,
    valid: Annotated[
        str, typer.Option(help="Frames that choose the best weights: a share or number of the data, or a file.")
    ] = "0.1",
    test: Annotated[str | None, typer.Option(help="A file whose errors before and after go on the card.")] = None,
    replay: Annotated[
        str | None,
        typer.Option(help="Structures labelled with the theory of CHECKPOINT, to learn beside the new ones."),
    ] = None,
    replay_share: Annotated[float, typer.Option(help="Of all frames that are learned from.")] = 0.25,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; default: that of the method.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Longest training; default: 2000, without a limit where time has one.")
    ] = None,
    time_budget: Annotated[str | None, typer.Option(help="End after this time, over all resumed runs.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="End after so many validations without a better one; 0: never.")
    ] = None,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 100,
    energy_weight: Annotated[float, typer.Option(min=0, help="Of energies (eV/atom) in the loss.")] = 5.0,
    forces_weight: Annotated[float, typer.Option(min=0, help="Of forces (eV/Å).")] = 1.0,
    stress_weight: Annotated[float, typer.Option(min=0, help="Of stresses (eV/Å³); 50 is a good one.")] = 0.0,
    energy_key: Annotated[str, typer.Option(help="Name of the energy (eV) in the data.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces (eV/Å).")] = "forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stress (eV/Å³).")] = "stress",
    labels: Annotated[str, typer.Option(help="Labels of an rMD17 file: revised or original.")] = "revised",
    skip_bad: Annotated[bool, typer.Option(help="Leave bad rows out instead of stopping.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of frames and of the batches.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: runs/finetune- and the data's name.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU run, in each process.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Share each batch among so many processes.")] = 1,
    workers: Annotated[int | None, typer.Option(min=0, help="Others that make the batches ahead.")] = None,
) -> None:
    """Fit finished weights to some frames of another theory; OUT gets the weights and their card, model.md.

    Reference energies are fitted first, so total energies of any program may be given as they are.

    Examples:

    `geomol-train finetune geomformer-organic my_dft_frames.extxyz --theory PBE0/def2-TZVP`

    `geomol-train finetune geomformer-organic frames.extxyz --frames 50 --valid 20 --method low-rank`
    """
    with _packages("train", "Fine-tuning"):
        from .finetune import UNNAMED, Options
        from .finetune import finetune as run_finetune
        from .readers import Keys

    options = Options(
        method=method,  # type: ignore[arg-type]
        rank=rank,
        frames=frames,
        valid=_number_or_name(valid),
        test=test,
        replay=replay,
        replay_share=replay_share,
        lr=lr,
        max_steps=max_steps,
        patience=patience,
        validate_every=validate_every,
        energy_weight=energy_weight,
        forces_weight=forces_weight,
        stress_weight=stress_weight,
        keys=Keys(energy_key, forces_key, stress_key, labels=labels),
        skip_bad=skip_bad,
        theory=UNNAMED if theory is None else theory,
        seed=seed,
    )
    result = run_finetune(
        checkpoint,
        data[0] if len(data) == 1 else tuple(data),
        Path("runs") / f"finetune-{Path(data[0]).name.split('.')[0] or 'data'}" if out is None else out,
        options,
        time_budget=None if time_budget is None else parse_duration(time_budget),
        resume=resume,
        threads=threads,
        processes=processes,
        workers=workers,
    )
    Console().print(f"Card: {result.model.with_suffix('.md')}", soft_wrap=True, markup=False)
    if result.stopped_by in ("interrupted", "terminated"):
        Console().print("Run the same command with --resume to go on.")
        raise typer.Exit(130)


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@app.command()
def inspect(
    data: Annotated[list[str], typer.Argument(help="Files, folders or patterns of labelled structures.")],
    energy_key: Annotated[str, typer.Option(help="Name of the energy (eV) in the data.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces (eV/Å).")] = "forces",
    labels: Annotated[str, typer.Option(help="Labels of an rMD17 file: revised or original.")] = "revised",
) -> None:
    """Look at labelled data: composition, ranges, outliers, repeated frames, units that do not fit.

    Example: `geomol-train inspect my_dft_frames.extxyz`
    """
    with _packages("train", "Looking at data"):
        from .checks import Limits, describe_skipped
        from .data import load
        from .display import inspection_tables
        from .inspection import inspect as run_inspect
        from .readers import Keys

    console = Console()
    with console.status("reading data"):
        sources = data[0] if len(data) == 1 else data
        loaded = load(sources, Keys(energy_key, forces_key, labels=labels), Limits(), bad_rows="skip")
        found = run_inspect(loaded.frames)
    for table in inspection_tables(found):
        console.print(table)
    warnings = list(found.warnings)
    if loaded.skipped:
        warnings.insert(0, f"{describe_skipped(loaded.skipped)}.")
    for sentence in warnings:
        console.print(f"[yellow]![/] {escape(sentence)}", highlight=False, soft_wrap=True)
    if not warnings:
        console.print("Nothing smells wrong.")


@app.command()
def preprocess(
    data: Annotated[list[str], typer.Argument(help="Files, folders or patterns of labelled structures.")],
    out: Annotated[Path, typer.Option(help="Folder of the packed data; run again to resume.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 2,
    energy_key: Annotated[str, typer.Option(help="Name of the energy (eV) in the data.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces (eV/Å).")] = "forces",
    skip_bad: Annotated[bool, typer.Option(help="Leave bad rows out instead of stopping.")] = False,
    max_force: Annotated[float | None, typer.Option(help="eV/Å; a row with a larger force is a bad one.")] = None,
) -> None:
    """Read a large data set once, into arrays on disk that `fit` maps into memory (`data.train: OUT`).

    Example: `geomol-train preprocess s2ef_train_200K --out data/s2ef_200k --workers 16`
    """
    with _packages("train", "Preprocessing"):
        from .checks import Limits, describe_skipped
        from .display import FilesBar
        from .packed import preprocess as run_preprocess
        from .readers import Keys

    with _stoppable(out), FilesBar(Console()) as bar:
        frames, skipped = run_preprocess(
            data,
            out,
            Keys(energy=energy_key, forces=forces_key),
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


@app.command()
def convert(
    data: Annotated[list[str], typer.Argument(help="Files, folders or patterns, of one kind or several.")],
    out: Annotated[Path, typer.Argument(help="A new .aselmdb file.")],
    relaxations: Annotated[
        bool, typer.Option(help="Each file is a relaxation: its start, with energy and positions of its end.")
    ] = False,
) -> None:
    """Write structures with their labels, of any kind that is read, into one ASE-LMDB database.

    Examples:

    `geomol-train convert is2re/all/train/data.lmdb is2re_train.aselmdb`

    `geomol-train convert relaxations/*.traj starts_and_ends.aselmdb --relaxations`
    """
    with _packages("train", "Converting"):
        from .readers import Keys, read_rows, start_and_end
        from .readers.aselmdb import write_aselmdb
        from .sources import find_files

    files, keys = find_files(data), Keys()
    with Console().status("converting"):
        rows = (start_and_end(file, keys) for file in files) if relaxations else None
        count = write_aselmdb(out, rows or (row for file in files for row in read_rows(file, keys)))
    Console().print(f"{count} structures in {out}.", markup=False)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file, or the name of a shipped potential.")],
    data: Annotated[str, typer.Argument(help="File, folder or pattern of labelled structures.")],
    split: Annotated[str | None, typer.Option(help="Only frames of this split of the data, e.g. test.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: evaluation/ and the data's name.")
    ] = None,
    labels: Annotated[str, typer.Option(help="Labels of an rMD17 file: revised or original.")] = "revised",
    energy_key: Annotated[str, typer.Option(help="Name of the energy (eV) in the data.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces (eV/Å).")] = "forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stress (eV/Å³).")] = "stress",
    skip_bad: Annotated[bool, typer.Option(help="Leave bad rows out instead of stopping.")] = False,
    max_force: Annotated[float | None, typer.Option(help="eV/Å; a row with a larger force is a bad one.")] = None,
    free_atoms: Annotated[bool, typer.Option(help="Compare forces of free atoms only, as OC20 does.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU run.")] = None,
) -> None:
    """Compare a potential, or what else was trained, with labels: MAE and RMSE, a JSON file, a parity plot.

    Examples:

    `geomol-train evaluate runs/rmd17-ethanol/model.safetensors ../shared/data/rmd17/rmd17_ethanol_test_01.npz`

    `geomol-train evaluate geomformer-organic data/organic --split test --max-force 30 --skip-bad`
    """
    import torch

    with _packages("train", "Evaluation"):
        from .display import errors_table
        from .evaluate import evaluate as run_evaluate
        from .readers import Keys

    if threads is not None:
        torch.set_num_threads(threads)
    folder = _evaluation_folder(data) if out is None else out
    console = Console()
    with console.status("reading data") as status:
        result = run_evaluate(
            checkpoint,
            data,
            folder,
            split=split,
            keys=Keys(energy_key, forces_key, stress_key, labels=labels),
            bad_rows="skip" if skip_bad else "raise",
            max_force=max_force,
            free_atoms_only=free_atoms,
            report=lambda done, frames: status.update(f"{done} of {frames} frames"),
        )
    rows = {"all": {"frames": result.n_frames, **result.errors}, **result.by_split, **result.by_source}
    console.print(errors_table(f"{checkpoint} on {data}", rows))
    if result.skipped:
        console.print(f"{result.skipped}.", markup=False)
    console.print(f"Written: {folder / 'evaluation.json'}, {folder / 'parity.png'}", soft_wrap=True, markup=False)


@app.command()
def submit(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    in_domain: Annotated[str | None, typer.Option("--id", help="Structures of the test set in the domain.")] = None,
    ood_ads: Annotated[str | None, typer.Option(help="Those with other adsorbates.")] = None,
    ood_cat: Annotated[str | None, typer.Option(help="Those with other catalysts.")] = None,
    ood_both: Annotated[str | None, typer.Option(help="Those with both.")] = None,
    direct_forces: Annotated[bool, typer.Option(help="Forces of the direct head instead of the gradient.")] = False,
) -> None:
    """Predict test sets of OC20 (S2EF, IS2RE, IS2RS) and write them in the layout of its leaderboard.

    Example: `geomol-train submit runs/oc20-s2ef/model.safetensors --id s2ef_test_id --ood-ads s2ef_test_ood_ads
    --ood-cat s2ef_test_ood_cat --ood-both s2ef_test_ood_both --out submission.npz`
    """
    with _packages("train", "Predictions"):
        from .submission import submit as run_submit

    given = {"id": in_domain, "ood_ads": ood_ads, "ood_cat": ood_cat, "ood_both": ood_both}
    console = Console()
    with console.status("predicting") as status:
        counts = run_submit(
            checkpoint,
            {split: source for split, source in given.items() if source is not None},
            out,
            direct_forces=direct_forces,
            report=lambda split, frames: status.update(f"{split}: {frames} structures"),
        )
    told = ", ".join(f"{count} structures of {split}" for split, count in counts.items())
    console.print(f"{told} in {out}.", soft_wrap=True, markup=False)


def _evaluation_folder(data: str) -> Path:
    """``evaluation/`` and the name of the data: of the file or folder, of the folder that a pattern looks into."""
    path = Path(data)
    while any(sign in path.name for sign in "*?["):
        path = path.parent
    return Path("evaluation") / (path.resolve().name.split(".")[0] or "data")


@app.command()
def rigidity(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file, or the name of a shipped potential.")],
    data: Annotated[str, typer.Argument(help="File, folder or pattern of the structures that it was trained on.")],
    valid: Annotated[str | None, typer.Option(help="To validate; default: frames of DATA with this split.")] = None,
    test: Annotated[str | None, typer.Option(help="To measure on; default: likewise, or those to validate.")] = None,
    outside: Annotated[str | None, typer.Option(help="Unlike all of these: how uncertain are they?")] = None,
    save_as: Annotated[Path | None, typer.Option(help="Where the weights go; default: into CHECKPOINT.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: evaluation/ and the data's name.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Take so many random training frames.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of that choice.")] = 0,
    labels: Annotated[str, typer.Option(help="Labels of an rMD17 file: revised or original.")] = "revised",
    energy_key: Annotated[str, typer.Option(help="Name of the energy (eV) in the data.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces (eV/Å).")] = "forces",
    skip_bad: Annotated[bool, typer.Option(help="Leave bad rows out instead of stopping.")] = False,
    max_force: Annotated[float | None, typer.Option(help="eV/Å; a row with a larger force is a bad one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU run.")] = None,
) -> None:
    """Let a potential know how uncertain it is: one pass over its training data, calibrated on validation data.

    The calculator then has `energy_std` and `energies_std`, and `ase-geomol md --stop-above` works.

    Examples:

    `geomol-train rigidity runs/mine/model.safetensors my_frames.extxyz --valid my_other_frames.extxyz`

    `geomol-train rigidity geomformer-organic data/organic --max-force 30 --skip-bad --save-as organic.safetensors`
    """
    import torch

    with _packages("train", "Calibration"):
        from .display import results_table
        from .readers import Keys
        from .rigidity import add_rigidity

    if threads is not None:
        torch.set_num_threads(threads)
    folder = _evaluation_folder(data) if out is None else out
    console = Console()
    with console.status("reading data") as status:
        found = add_rigidity(
            checkpoint,
            data,
            folder,
            save_as=save_as,
            valid=valid,
            test=test,
            outside=outside,
            max_frames=max_frames,
            seed=seed,
            keys=Keys(energy_key, forces_key, labels=labels),
            bad_rows="skip" if skip_bad else "raise",
            max_force=max_force,
            report=lambda what, done, frames: status.update(f"{what}: {done} of {frames}"),
        )
    form = found.form
    console.print(
        f"{form.frames} frames to learn from, {form.valid_frames} to validate: alpha {form.scale:.3g} eV, "
        f"s {form.regulariser:.0e} mean eigenvalues.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(results_table(f"Rigidity, measured on the {found.measured_on} frames", found.results))
    written = f"{found.path}, {folder / 'rigidity.json'}, {folder / 'calibration.png'}"
    console.print(f"Written: {written}", soft_wrap=True, markup=False)


@app.command()
def nbody(
    norm: Annotated[str, typer.Option(help="Norm of the vectors: whiten (the paper's) or rms.")] = "whiten",
    without: Annotated[list[str] | None, typer.Option(help="Leave a part out, e.g. structural_bias.")] = None,
    coupling: Annotated[str, typer.Option(help="How the streams meet: products, or gates only.")] = "products",
    seed: Annotated[int, typer.Option(min=0, help="Of weights and batches; the data are always the same.")] = 0,
    optimiser: Annotated[str, typer.Option(help="muon, adamw, or adam (the paper's).")] = "muon",
    lr: Annotated[float, typer.Option(help="Highest learning rate; Adam wants about 0.001.")] = 0.01,
    dropout: Annotated[float, typer.Option(help="Of attention weights and residual updates.")] = 0.1,
    steps: Annotated[int | None, typer.Option(min=1, help="End after so many steps.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="End after this time, e.g. 35min, over all resumed runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/nbody/ and the options.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    data: Annotated[Path, typer.Option(help="Folder where the simulations are kept.")] = Path("data/nbody"),
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
) -> None:
    """The N-body benchmark: predict where five charged particles will be.

    Example: `geomol-train nbody --norm whiten --seed 0 --time-budget 35min`
    """
    with _packages("train", "Training"):
        from .nbody.learning import make_settings
        from .nbody.simulate import load
        from .nbody.train import run as run_training

    if steps is None and time_budget is None:
        raise ConfigError("Nothing ends this training: give --steps or --time-budget.")
    budget = None if time_budget is None else parse_duration(time_budget)
    network = {"equivariant_norm": norm, "without": without or (), "coupling": coupling, "dropout": dropout}
    settings = make_settings(network=network, seed=seed, optimiser={"name": optimiser, "lr": lr})
    folder = Path("runs/nbody") / f"{settings.name}-{steps or time_budget}" if out is None else out
    console = Console()
    with console.status("simulating") as status:
        samples = load(data, lambda done, count: status.update(f"simulating: {done} of {count}"))
    result = run_training(
        settings, samples, folder, steps=steps, time_budget=budget, resume=resume, threads=threads, console=console
    )
    if result is None:
        raise typer.Exit(130)


@app.command()
def release(
    checkpoint: Annotated[Path, typer.Argument(help="The trained .safetensors file.")],
    notes: Annotated[Path, typer.Argument(help="YAML with the card's words.")],
    evaluation: Annotated[Path, typer.Argument(help="Folder of its evaluation on molecules that it never saw.")],
    labels: Annotated[list[Path] | None, typer.Option(help="manifest.json of the labels; may be repeated.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of results of tests/benchmarks: those of these weights go on the card.")
    ] = None,
) -> None:
    """Ship a potential: its weights, its card and its line in the registry go into the package.

    Example: `geomol-train release runs/geomformer-organic/model.safetensors
    training/recipes/shipped/geomformer_organic_card.yaml evaluation/organic`
    """
    with _packages("train", "A release"):
        from .release import release as run_release

    path = run_release(checkpoint, notes, evaluation, labels or (), results)
    Console().print(f"Shipped: {path} and {path.with_suffix('.md').name}", soft_wrap=True, markup=False)


def main() -> None:
    """Entry point: errors that a user can act on are one sentence, not a traceback."""
    try:
        app()
    except GeoMolError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
