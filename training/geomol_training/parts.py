"""The frames of a training: those to learn, to validate, to test and to replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from pydantic import ValidationError
from rich.console import Console

from ase_geomol.checkpoint import Metadata
from ase_geomol.errors import DataError
from ase_geomol.files import write_atomically

from .checks import Limits, describe_skipped
from .data import Loaded, cache_file, load
from .frames import Frames, joined, load_frames
from .keeper import LAST, RECIPE, read_state
from .packed import packed_identity
from .readers import Keys
from .recipe import Recipe
from .splits import of_part, split_frames

SPLITS = "splits.json"


class Parts(NamedTuple):
    """Frames to learn, to validate and, where ``train`` is divided so, to test; the keys of what is cached; and those
    of another theory to replay.
    """

    train: Frames
    valid: Frames
    test: Frames | None
    keys: dict[str, str]
    replay: Frames | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many frames each part has."""
        names = {"training": self.train, "replay": self.replay, "validation": self.valid, "test": self.test}
        return {name: 0 if frames is None else len(frames) for name, frames in names.items()}


def read_parts(recipe: Recipe, out: Path, known: dict[str, str], console: Console) -> Parts:
    """Frames for training, validation and test; a resumed run keeps those it began with, by the keys ``known``."""
    loaded = _load(recipe.data.train, recipe, recipe.elements, out, known.get("train"), console)
    train, test, keys = loaded.frames, None, {"train": loaded.key or ""}
    if recipe.data.valid is None:
        train, valid, test = _divided(recipe, loaded, out)
    else:
        if recipe.training.train_frames is not None:  # else they may be mapped from a disk, and stay there
            train = train.take(_chosen(len(train), recipe))
        elements = recipe.elements or train.elements
        other = _load(recipe.data.valid, recipe, elements, out, known.get("valid"), console)
        valid, keys["valid"] = other.frames, other.key or ""
    if recipe.data.test is not None:
        other = _load(recipe.data.test, recipe, recipe.elements or train.elements, out, known.get("test"), console)
        test, keys["test"] = other.frames, other.key or ""
    replay = None
    if recipe.finetune is not None and recipe.finetune.replay is not None:
        other = _load(recipe.finetune.replay, recipe, recipe.elements, out, known.get("replay"), console, Keys())
        replay, keys["replay"] = of_part(other.frames, "train", otherwise_all=True), other.key or ""
    limit = recipe.training.valid_frames
    if limit is not None and limit < len(valid):
        valid = valid.take(np.sort(np.random.default_rng(recipe.seed).permutation(len(valid))[:limit]))
    console.print(
        f"{len(train)} frames ({len(train.numbers)} atoms) to learn, {len(valid)} to validate.", highlight=False
    )
    if replay is not None:
        console.print(f"{len(replay)} frames to replay.", highlight=False)
    for name, frames in (("learn", train), ("validate", valid), ("replay", replay)):
        if frames is not None:
            _check_labels(name, frames, recipe, Keys() if name == "replay" else keys_of(recipe), console)
    return Parts(train, valid, test, keys, replay)


def parts_of_run(run: Path) -> Parts:
    """The frames of a training, from what its folder keeps.

    Raises:
        CheckpointError: its checkpoint is damaged.
        DataError: it is none of a potential, or of another version.
    """
    try:
        recipe = Recipe.model_validate_json((run / RECIPE).read_text())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{run} holds no training of a potential: {RECIPE} is missing, or of another kind or version."
        ) from error
    return read_parts(recipe, run, read_state(run / LAST, "identity")["identity"]["data"], Console(quiet=True))


def read_training_frames(recipe: Recipe, out: Path, console: Console) -> Frames:
    """The frames to learn alone, as `read_parts` finds them."""
    loaded = _load(recipe.data.train, recipe, recipe.elements, out, None, console)
    train = loaded.frames
    if recipe.data.valid is None:
        train = _divided(recipe, loaded, out)[0]
    elif recipe.training.train_frames is not None:  # else they may be mapped from a disk, and stay there
        train = train.take(_chosen(len(train), recipe))
    _check_labels("learn", train, recipe, keys_of(recipe), console)
    return train


def _check_labels(name: str, frames: Frames, recipe: Recipe, keys: Keys, console: Console) -> None:
    """Refuse frames of which none has a label that the loss counts; say so where only some have it."""
    if recipe.target is not None or recipe.relaxation is not None:
        return
    loss = recipe.loss
    for label, weight, key, has in (
        ("forces", max(loss.forces, loss.direct_forces), keys.forces, frames.has_forces),
        ("stress", loss.stress, keys.stress, frames.has_stress),
        ("energies", loss.energies, keys.energies, frames.has_energies),
    ):
        count = int(has.sum())
        if weight > 0 and count == 0:
            fixed = label == "energies" or name == "replay"
            named = "" if fixed else f"give their name (data.{label}_key, --{label}-key), or "
            raise DataError(
                f"None of the {len(frames)} frames to {name} has {label}, looked for as '{key}', and the loss counts "
                f"them: {named}set their weight in the loss to 0."
            )
        if weight > 0 and count < len(frames):
            console.print(f"{len(frames) - count} of the frames to {name} have no {label}.", highlight=False)


def _divided(recipe: Recipe, loaded: Loaded, out: Path) -> tuple[Frames, Frames, Frames | None]:
    """Frames of the training source for training, validation and test; who is where is written down."""
    splits = split_frames(loaded.frames, recipe.data.split, recipe.seed)
    splits = splits._replace(train=splits.train[_chosen(len(splits.train), recipe)])
    packed = packed_identity(recipe.data.train) is not None
    content = {"data": str(recipe.data.train) if packed else cache_file(out, loaded.key or "").name}
    content |= {name: index.tolist() for name, index in splits._asdict().items()}
    if not (path := out / SPLITS).exists() or path.read_text() != json.dumps(content):
        write_atomically(path, json.dumps(content).encode())
    train, valid, test = (loaded.frames.take(index) for index in splits)
    return train, valid, test if len(test) else None


def _chosen(count: int, recipe: Recipe) -> np.ndarray:
    """Positions, among ``count`` frames to learn, of those that the recipe wants."""
    wanted = recipe.training.train_frames
    if wanted is None:
        return np.arange(count)
    if wanted > count:
        raise DataError(f"There are {count} frames to learn, fewer than {wanted}: ask for fewer, or give more data.")
    return np.sort(np.random.default_rng(recipe.seed).permutation(count)[:wanted])


def _load(
    sources: str | tuple[str, ...],
    recipe: Recipe,
    elements: tuple[int, ...] | None,
    out: Path,
    known: str | None,
    console: Console,
    keys: Keys | None = None,
) -> Loaded:
    if known and cache_file(out, known).exists():
        return Loaded(*load_frames(cache_file(out, known)), known)
    with console.status("reading data") as status:
        loaded = load(
            sources,
            keys or keys_of(recipe),
            Limits(elements, recipe.data.max_force, periodic=_may_repeat(recipe)),
            bad_rows=recipe.data.bad_rows,
            cache=out,
            report=lambda done, files: status.update(f"reading data: {done} of {files} files"),
        )
    if loaded.skipped:
        console.print(describe_skipped(loaded.skipped) + ".", highlight=False)
    if known and known != loaded.key:
        raise DataError("The data has changed since the run began, and its own copy is gone: start anew.")
    return loaded


def _may_repeat(recipe: Recipe) -> bool:
    """Whether structures may be periodic."""
    return recipe.model.built.cutoff is not None and (recipe.target is None or recipe.target.pooling in ("sum", "mean"))


def keys_of(recipe: Recipe) -> Keys:
    """The reader's keys that a recipe asks for."""
    data = recipe.data
    return Keys(
        energy=recipe.target.name if recipe.target else data.energy_key,
        forces=data.forces_key,
        stress=data.stress_key,
        group=data.group_key,
        labels=data.labels,
    )


def metadata_of(recipe: Recipe, parts: Parts) -> Metadata:
    """The card; charge and spin are those of all structures but free atoms."""
    train = parts.train if parts.replay is None else joined(parts.train, parts.replay)
    data = recipe.metadata.training_data
    if recipe.finetune is not None:
        symbols = " ".join(chemical_symbols[number] for number in parts.train.elements)
        data += f", fine-tuned ({recipe.finetune.method}) on {len(parts.train)} frames with the elements {symbols}"
    many = train.n_atoms > 1 if (train.n_atoms > 1).any() else train.n_atoms > 0
    charges, spins = np.unique(train.charge[many]), np.unique(train.spin[many])
    if len(charges) > 1 or len(spins) > 1:
        raise DataError(
            f"The data has charges {', '.join(map(str, charges))} and spins {', '.join(map(str, spins))}; no model "
            "reads them, so train on structures of one charge and one spin."
        )
    return Metadata(
        name=recipe.name,
        theory=recipe.metadata.theory,
        training_data=data,
        licence=recipe.metadata.licence,
        charges=(int(charges[0]),),
        spins=(int(spins[0]),) if train.spins_told else (),
        forces="direct" if recipe.loss.direct_forces > 0 and recipe.loss.forces == 0 else "gradient",
    )


def check_alike(recipe: Recipe, parts: Parts, metadata: Metadata) -> None:
    """Refuse frames to validate or to test that are not of the kind that is learned, or known from the start."""
    known = set(parts.train.elements)
    if parts.replay is not None:
        known.update(parts.replay.elements)
    if recipe.model.start is not None:
        known.update(recipe.elements or ())
    for name, frames in (("validation", parts.valid), ("test", parts.test)):
        if frames is not None:
            _check_part(name, frames, known, metadata)


def _check_part(name: str, frames: Frames, known: set[int], metadata: Metadata) -> None:
    missing = sorted(set(frames.elements) - known)
    if missing:
        raise DataError(
            f"The {name} frames have the atomic numbers {missing}, which no training frame has: divide the data in "
            "another way, e.g. with another seed."
        )
    charges = sorted(set(frames.charge[frames.n_atoms > 1].tolist()) - set(metadata.charges))
    spins = sorted(set(frames.spin[frames.n_atoms > 1].tolist()) - set(metadata.spins or frames.spin.tolist()))
    if charges or spins:
        raise DataError(f"The {name} frames have charges {charges} and spins {spins} that no training frame has.")
