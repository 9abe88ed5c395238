"""Fine-tuning: weights that know one theory are fitted to a few labels of another, without a recipe file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from rich.console import Console

from ase_geomol.checkpoint import Checkpoint, form_of, load_checkpoint
from ase_geomol.errors import ConfigError
from ase_geomol.files import write_atomically

from .cards import facts, pairs, symbols, table
from .config import validated
from .fit import START, Fitted, by_part, fit
from .keeper import LAST, read_state
from .readers import Keys
from .recipe import Recipe

Method = Literal["full", "head", "low-rank"]
RATES: dict[str, tuple[str, float]] = {"full": ("muon", 0.002), "head": ("adamw", 0.005), "low-rank": ("adamw", 0.02)}
"""Optimiser and highest learning rate of each method; training/README.md has what was tried."""
STEPS, PATIENCE = 2000, 10
BATCH_FRAMES = 8
UNNAMED = "not named by who fine-tuned it"

CARD = """# {name}

{method} of [{start}](#what-it-was-made-from) to {theory}, for structures like those it was fine-tuned on.

{facts}

## What it was made from

{origin}

## Data

{data}

{choice}

## Errors

"Before" are the weights where it began, with reference energies fitted to the new data.

{errors}

## Known limits

{limits}

## How it was made

{settings}
"""
DRAWN = (
    "Validation frames were drawn from the same source, one by one: where that is one trajectory, they are much like "
    "those to learn."
)
METHODS = {"full": "A fine-tuning", "head": "A fine-tuning of the read-out", "low-rank": "A fine-tuning of low rank"}


class Options(NamedTuple):
    """What may be chosen beside the weights and the data; see `geomol_training.recipe` for what the fields mean.

    Attributes:
        method: what is trained: "full", "head" or "low-rank".
        rank: of "low-rank".
        frames: to learn from; None: all.
        valid: a source of frames to validate, or their share or number among the data.
        test: a source.
        replay: a source of frames of the original theory.
        replay_share: of the frames of a pass.
        lr: highest learning rate; None: that of the method.
        max_steps: longest training; None: 2000, or as long as the time budget allows.
        patience: validations without a better one after which the training ends; 0: it does not; None: 10, or 0 where
            only a time budget ends it, since nobody knows how slowly the rate falls then.
        validate_every: steps.
        energy_weight: of the loss, per eV/atom; likewise per eV/Å and eV/Å³.
        keys: where the labels stand.
        skip_bad: leave bad rows out.
        theory: of the labels, in words.
        seed: of the choice of frames and of the batches.
    """

    method: Method = "full"
    rank: int = 8
    frames: int | None = None
    valid: str | float = 0.1
    test: str | None = None
    replay: str | None = None
    replay_share: float = 0.25
    lr: float | None = None
    max_steps: int | None = None
    patience: int | None = None
    validate_every: int = 100
    energy_weight: float = 5.0
    forces_weight: float = 1.0
    stress_weight: float = 0.0
    keys: Keys = Keys()
    skip_bad: bool = False
    theory: str = UNNAMED
    seed: int = 0


def finetune(
    checkpoint: str,
    data: str | tuple[str, ...],
    out: Path,
    options: Options = Options(),
    *,
    resume: bool = False,
    console: Console | None = None,
    **running: Any,
) -> Fitted:
    """Fit the weights ``checkpoint`` to ``data``; ``out`` gets ``model.safetensors`` with its card ``model.md``.

    ``running`` is what else `geomol_training.fit.fit` takes: time_budget, threads, processes, workers.

    Raises:
        CheckpointError: no such potential, or nothing to resume.
        ConfigError: an option is impossible.
        DataError: the data cannot be used, or is less than was asked for.
        OutputError: ``out`` cannot be written.
    """
    if resume:
        read_state(out / LAST, "identity")
    start = load_checkpoint(out / START if resume else checkpoint)  # the first weights may be gone
    if options.max_steps is None and running.get("time_budget") is None:
        options = options._replace(max_steps=STEPS)
    if options.patience is None and options.max_steps is not None:
        options = options._replace(patience=PATIENCE)
    recipe = make_recipe(checkpoint, start, data, options)
    result = fit(recipe, out, resume=resume, console=console, **running)
    write_atomically(result.model.with_suffix(".md"), card(recipe, start, result).encode())
    return result


def make_recipe(checkpoint: str, start: Checkpoint, data: str | tuple[str, ...], options: Options) -> Recipe:
    """The recipe of a fine-tuning; raises :class:`ConfigError` where an option is impossible."""
    form, name, direct = form_of(start.potential), _name(start, data), start.potential.has_direct_forces
    only_direct = start.metadata.forces == "direct"
    if direct and options.forces_weight == 0:
        raise ConfigError(
            f"--forces-weight is 0, but {start.metadata.name} has a direct force head, which learns from forces only: "
            "give a weight above 0."
        )
    if options.method not in get_args(Method):
        raise ConfigError(f"The method is {', '.join(get_args(Method))}, not {options.method!r}.")
    optimiser, rate = RATES[options.method]
    own_valid = isinstance(options.valid, str)
    fields = {
        "name": name,
        "seed": options.seed,
        "data": {
            "train": data,
            "valid": options.valid if own_valid else None,
            "test": options.test,
            "split": {"by": "frame"} if own_valid else {"by": "frame", "valid": options.valid},
            "labels": options.keys.labels,
            "energy_key": options.keys.energy,
            "forces_key": options.keys.forces,
            "stress_key": options.keys.stress,
            "bad_rows": "skip" if options.skip_bad else "raise",
        },
        "model": {"architecture": form["architecture"], "config": form["config"], "start": checkpoint},
        "finetune": {
            "method": options.method,
            "rank": options.rank,
            "replay": options.replay,
            "replay_share": options.replay_share,
        },
        "potential": {"repulsion": form["repulsion"]},
        "loss": {
            "energy": options.energy_weight,
            "forces": 0.0 if only_direct else options.forces_weight,
            "stress": options.stress_weight,
            "direct_forces": options.forces_weight if direct else 0.0,
        },
        "optimiser": {"name": optimiser, "lr": rate if options.lr is None else options.lr},
        "schedule": {"kind": "cosine", "warmup_steps": 50, "floor": 1e-6},
        "training": {
            "batch_frames": BATCH_FRAMES,
            "train_frames": options.frames,
            "max_steps": options.max_steps,
            "validate_every": options.validate_every,
            "patience": options.patience or None,
            "ema": 0.99,
            "precision": "float64" if str(start.potential.dtype) == "torch.float64" else "float32",
        },
        "metadata": {
            "theory": options.theory,
            "training_data": f"{start.metadata.training_data} ({start.metadata.theory}); then {_listed(data)}",
            "licence": start.metadata.licence,
        },
    }
    return validated(Recipe, fields, Path("fine-tuning"))


def card(recipe: Recipe, start: Checkpoint, result: Fitted) -> str:
    """The model card of what a fine-tuning made, in Markdown."""
    assert recipe.finetune is not None
    potential, metadata, _, fingerprint = load_checkpoint(result.model)
    new, old = symbols(result.elements), tuple(z for z in potential.elements if z not in result.elements)
    of, training, finetune = recipe.data, recipe.training, recipe.finetune
    counts = {f"frames for {part}": f"{count:,}" for part, count in result.frames.items() if count}
    sources = {"training": of.train, "validation": of.valid, "test": of.test, "replay": finetune.replay}
    files = {f"{part} from": f"`{_listed(source)}`" for part, source in sources.items() if source is not None}
    after, before = by_part(result.errors), by_part(result.before)
    both = (("before", before), ("after", after))
    errors = {f"{part}, {when}": found[part] for part in after for when, found in both if part in found}
    limits = [f"The elements {new} were fine-tuned."]
    if old:
        limits.append(
            f"{symbols(old)} stay known, at the reference energies of {start.metadata.theory}; weights that all "
            f"elements share have changed{'' if finetune.replay else ' without any structure that has them'}, so check "
            "them before use."
        )
    limits.append(
        "Differences of energies between molecules of other compositions are right only as far as the compositions of "
        "the new data tell elements apart."
    )
    replay = f"{finetune.replay_share:g} of the frames, energies shifted to the new reference energies"
    of_forces = {"forces": recipe.loss.forces, "direct forces": recipe.loss.direct_forces}
    settings = {
        "method": finetune.method + (f", rank {finetune.rank}" if finetune.method == "low-rank" else ""),
        "numbers trained": f"{result.learned:,}",
        "optimiser": f"{recipe.optimiser.name}, rate {recipe.optimiser.lr:g}",
        "batch": f"{training.batch_frames} frames",
        "weights of the loss": f"energy {recipe.loss.energy:g}, "
        + "".join(f"{name} {weight:g}, " for name, weight in of_forces.items() if weight > 0)
        + f"stress {recipe.loss.stress:g}",
        **({"replay": replay} if finetune.replay else {}),
        "steps": f"{result.step:,} in {result.elapsed:.0f} s; ended by: {result.ended_by}",
        "patience": "none" if training.patience is None else f"{training.patience} validations",
        "seed": str(recipe.seed),
    }
    return CARD.format(
        name=metadata.name,
        method=METHODS[finetune.method],
        start=start.metadata.name,
        theory=metadata.theory,
        facts=facts(potential, metadata),
        origin=pairs(
            {
                "name": start.metadata.name,
                "fingerprint": f"`{result.start}`",
                "theory": start.metadata.theory,
                "data": start.metadata.training_data,
                "fingerprint of these weights": f"`{fingerprint}`",
            }
        ),
        data=pairs({**counts, **files}),
        choice=DRAWN if of.valid is None else "",
        errors=table(errors),
        limits=" ".join(limits),
        settings=pairs(settings),
    )


def _name(start: Checkpoint, data: str | tuple[str, ...]) -> str:
    first = Path(data if isinstance(data, str) else data[0])
    return f"{start.metadata.name}-{first.name.split('.')[0] or 'data'}"


def _listed(sources: str | tuple[str, ...]) -> str:
    return sources if isinstance(sources, str) else ", ".join(sources)
