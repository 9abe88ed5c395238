"""Trainings: ``geomol-train fit``, ``finetune`` and ``nbody``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ase_geomol.errors import ConfigError

from .common import Changes, EnergyKey, ForcesKey, Labels, SkipBad, StressKey, packages, parse_duration

GOES_ON = 75
"""Exit status of a run that paused; sysexits.h: temporary failure, try again."""
StopAfter = Annotated[
    str | None,
    typer.Option(
        help=f"Pause after this time, e.g. 23h, of this run alone, with the status {GOES_ON} (torchrun: 0); --resume "
        "goes on."
    ),
]


def fit(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the training.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/ and the recipe's name.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="End after this time, e.g. 65min, over all resumed runs.")
    ] = None,
    stop_after: StopAfter = None,
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
    with packages("train", "Training"):
        from ..dry_run import describe
        from ..fit import Fitted
        from ..fit import fit as run_fit
        from ..processes import launched, lead_or_follow
        from ..recipe import load_recipe

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_recipe(recipe, changes or ())
    if dry_run:
        table, complete = describe(settings, budget, processes)
        Console().print(table)
        raise typer.Exit(0 if complete else 1)
    folder = Path("runs") / settings.name if out is None else out

    def run(processes: int) -> Fitted:
        return run_fit(
            settings,
            folder,
            time_budget=budget,
            stop_after=None if stop_after is None else parse_duration(stop_after),
            resume=resume,
            threads=threads,
            processes=processes,
            workers=workers,
        )

    if launched() and processes > 1:
        raise ConfigError("torchrun has started the processes: leave --processes out.")
    result = lead_or_follow(run) if launched() else run(processes)
    if result is not None:  # else another process leads
        _say_goodbye(result.stopped_by)


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
        typer.Option(
            help="Structures labelled with the theory of CHECKPOINT, to learn beside the new ones. Their labels are "
            "energy, forces and stress (of rMD17 the revised ones), whatever names those of DATA have."
        ),
    ] = None,
    replay_share: Annotated[float, typer.Option(help="Of all frames that are learned from.")] = 0.25,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; default: that of the method.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Longest training; default: 2000, without a limit where time has one.")
    ] = None,
    time_budget: Annotated[str | None, typer.Option(help="End after this time, over all resumed runs.")] = None,
    stop_after: StopAfter = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="End after so many validations without a better one; 0: never.")
    ] = None,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 100,
    energy_weight: Annotated[float, typer.Option(min=0, help="Of energies (eV/atom) in the loss.")] = 5.0,
    forces_weight: Annotated[float, typer.Option(min=0, help="Of forces (eV/Å).")] = 1.0,
    stress_weight: Annotated[float, typer.Option(min=0, help="Of stresses (eV/Å³); 50 is a good one.")] = 0.0,
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    stress_key: StressKey = "stress",
    labels: Labels = "revised",
    skip_bad: SkipBad = False,
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
    with packages("train", "Fine-tuning"):
        from ..finetune import UNNAMED, Options
        from ..finetune import finetune as run_finetune
        from ..readers import Keys

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
        stop_after=None if stop_after is None else parse_duration(stop_after),
        resume=resume,
        threads=threads,
        processes=processes,
        workers=workers,
    )
    Console().print(f"Card: {result.model.with_suffix('.md')}", soft_wrap=True, markup=False)
    _say_goodbye(result.stopped_by)


def _say_goodbye(stopped_by: str) -> None:
    """Say how a training that is not at its end goes on, and end with a status that tells it."""
    from ..keeper import PAUSED, STOPPED
    from ..processes import launched

    if stopped_by in STOPPED:
        Console().print("Run the same command with --resume to go on.")
        paused = 0 if launched() else GOES_ON  # torchrun takes every other status for a failure
        raise typer.Exit(paused if stopped_by == PAUSED else 130)


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


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
    with packages("train", "Training"):
        from ..nbody.learning import make_settings
        from ..nbody.simulate import load
        from ..nbody.train import run as run_training

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
