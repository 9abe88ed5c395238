"""How close do 950 frames of one molecule's dynamics bring our networks, beside published ones?

With `--minutes` it first trains what is missing: each of `--molecules`, on each of the official `--splits`, with each
set of `--labels` (revised MD17, and the original MD17 of the same frames), by each of `--networks`, with
`training/recipes/rmd17.yaml` and `rmd17_est.yaml`; `--data` is a folder with files of the splits, or of the archive of
rMD17 (`npz_data` and `splits`). Trainings are left in `runs`; after Ctrl-C the same command goes on. Without
`--minutes` it brings together what is there. Rows of earlier trainings stay in the result.

"changes" are all that a training had different from the recipe but for molecule, labels and split. Errors are of the
1000 test frames of the split, which neither training nor the choice of the weights has seen. Published errors are of
950 to 1000 frames to learn, means over several splits where their authors give such means, after much longer trainings
on GPUs; benzene of MD17 is theirs of 2017.

How force errors of the validation frames fell with the time, in the last column and in `results/rmd17.png`, shows how
much of the distance to published errors is a matter of time. The learning rate falls to nothing at the end of each
training, so that a curve is not what shorter trainings reach. Of trainings that are no longer in `runs` the picture has
the four errors of that column, where it has them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from _curves import Curve, draw_curves, read_curve
from _frame import RESULTS, Answer, Option, Row, answer
from _rmd17 import MOLECULES, ORIGINAL, REVISED, molecules_in
from _training import MEV, write_stand_in
from geomol_training.fit import fit
from geomol_training.keeper import LAST
from geomol_training.recipe import Recipe, load_recipe
from geomol_training.result import RESULT, read_results
from geomol_training.runs import STOPPED
from rich.console import Console

from ase_geomol.errors import ConfigError, DataError

RUNS, TABLE = Path("runs"), RESULTS / "rmd17.json"
USUAL_MINUTES = 30.0
"""Trainings of other length have it in the names of their folders."""
FALL = "validation forces MAE (meV/Å) after 1/8, 1/4, 1/2, all of the time"
RECIPES = {"geomformer": Path("training/recipes/rmd17.yaml"), "est": Path("training/recipes/rmd17_est.yaml")}
NAMES = {"geomformer": "our GeoMFormer", "est": "our EST"}
THEORY = {"revised": "PBE/def2-SVP", "original": "PBE+vdW-TS"}
ALL = "all"
OPTIONS = {
    "minutes": Option(0.0, "of each training that is not there yet; 0: train nothing"),
    "data": Option("../shared/data/rmd17", "folder of (r)MD17"),
    "molecules": Option(ALL, "names, with commas between them, or all that the folder has"),
    "splits": Option("01", "official ones, e.g. 01,02,03,04,05"),
    "labels": Option("revised", "revised, original, or both with a comma"),
    "networks": Option("geomformer", "geomformer, est, or both with a comma"),
}
FREE = ("data.labels", "metadata.theory", "data.train", "data.test", "variables.split")
"""Fields of a training that follow from molecule, labels, split and where the data are."""


class Study(NamedTuple):
    """One training."""

    molecule: str
    labels: str
    split: str
    network: str
    minutes: float = USUAL_MINUTES

    @property
    def folder(self) -> str:
        """Of the run: as the recipe names it, but for other labels, splits and lengths."""
        name = ("rmd17-" if self.labels == "revised" else "md17-") + ("est-" if self.network == "est" else "")
        name += self.molecule + ("" if self.split == "01" else f"-{self.split}")
        return name + ("" if self.minutes == USUAL_MINUTES else f"-{self.minutes:g}min")

    def changes(self, data: Path) -> list[str]:
        """Of the recipe."""
        files = {part: data / f"rmd17_{self.molecule}_{part}_{self.split}.npz" for part in ("train", "test")}
        return [
            f"variables.molecule={self.molecule}",
            f"variables.split='{self.split}'",
            f"data.labels={self.labels}",
            f"metadata.theory={THEORY[self.labels]}",
            *(f"data.{part}={path}" for part, path in files.items()),
        ]


def run(smoke: bool, **options: Any) -> Answer:
    """Published rows, then one row for each training, by molecule, labels and split."""
    if smoke:
        ours = _trained_now()
    else:
        if options["minutes"] > 0:
            _train(_studies(options), Path(options["data"]))
        ours = _trained()
        _draw(TABLE.with_suffix(".png"), ours)
    rows = [*_published(), *(trained.row for trained in ours)]
    order = {molecule: place for place, molecule in enumerate(MOLECULES)}
    rows.sort(key=lambda row: (order[row["molecule"]], row["labels"] != "revised", row["split"], row["minutes"] or 0))
    return Answer(rows, _ratios(rows))


def _studies(options: Mapping[str, Any]) -> list[Study]:
    data, names = Path(options["data"]), options["molecules"]
    molecules = molecules_in(data) if names == ALL else names.split(",")
    if not molecules:
        raise DataError(f"{data} has no files of (r)MD17.")
    chosen = [molecules, options["labels"].split(","), options["splits"].split(","), options["networks"].split(",")]
    for values, known in zip(chosen, (MOLECULES, THEORY, None, RECIPES), strict=True):
        unknown = [value for value in values if known and value not in known]
        if unknown:
            raise ConfigError(f"'{unknown[0]}' is none of {', '.join(known or ())}.")
    return [Study(*values, minutes=options["minutes"]) for values in itertools.product(*chosen)]


def _train(studies: list[Study], data: Path) -> None:
    """What has not been trained to its end, one after the other."""
    for study in studies:
        out = RUNS / study.folder
        if (out / RESULT).exists():
            continue
        recipe = load_recipe(RECIPES[study.network], study.changes(data))
        resume = (out / LAST).exists()
        found = fit(recipe, out, resume=resume, time_budget=60 * study.minutes, threads=torch.get_num_threads())
        if found.stopped_by in STOPPED:
            raise KeyboardInterrupt(f"trainings are kept in {RUNS}, the same command goes on from there")


class Trained(NamedTuple):
    """What is told of one training, and how its errors fell, where that is known."""

    row: Row
    curve: Curve | None


def _trained() -> list[Trained]:
    """Those in `RUNS`, and earlier ones of the table."""
    found = [_of_training(folder, result) for folder, result in _results().items()]
    known = {_identity(trained.row) for trained in found}
    for row in json.loads(TABLE.read_text())["rows"] if TABLE.exists() else []:
        if row["forces by"] != "paper" and _identity(row) not in known:
            words = row.get(FALL)
            found.append(Trained({**row, FALL: words}, Curve.from_words(words, row["minutes"]) if words else None))
    if not found:
        raise DataError(f"{RUNS} holds no finished training on (r)MD17: give --minutes, to train.")
    return found


def _results() -> dict[Path, dict[str, Any]]:
    """Finished trainings on (r)MD17 by their folders."""
    found = read_results(RUNS)
    return {run: result for run, result in found.items() if result["recipe"]["variables"].get("molecule") in MOLECULES}


def _identity(row: Row) -> tuple:
    names = ("molecule", "labels", "split", "network", "forces by", "changes", "seed")
    return (*(row[name] for name in names), _length(row))


def _length(row: Row) -> float:
    """Whole minutes of a training, or what it has of one: its budget, which no training keeps to the second."""
    return round(row["minutes"]) or row["minutes"]


def _trained_now() -> list[Trained]:
    """A training of a few steps on a molecule of 21 atoms, taken for aspirin, that is moved at random."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_stand_in(folder)
        changes = Study("aspirin", "revised", "01", "geomformer").changes(folder)
        changes += ["data.split.train=null", "data.split.valid=1", "training.max_steps=2"]
        changes += ["model.config.layers=1", "model.config.channels=16", "training.batch_frames=1"]
        fit(load_recipe(RECIPES["geomformer"], changes), folder / "run", threads=1, console=Console(quiet=True))
        return [_of_training(run, result) for run, result in read_results(folder).items()]


def _of_training(run: Path, result: dict[str, Any]) -> Trained:
    recipe, errors = result["recipe"], result["errors"]
    direct = _is_direct(result)
    hardware, curve = result["hardware"], _curve(run, result)
    row = _row(
        recipe["variables"]["molecule"],
        recipe["data"]["labels"],
        recipe["variables"].get("split", "01"),
        NAMES[recipe["model"]["architecture"]],
        errors["test_energy_MAE_meV"],
        errors[f"test_{'direct_' if direct else ''}forces_MAE_meV_per_A"],
        of="direct head" if direct else "gradient",
        changes=", ".join(_changes(recipe)),
        seed=recipe["seed"],
        parameters=result["parameters"],
        steps=result["steps"],
        minutes=result["seconds"] / 60,
        hardware=f"{hardware.get('accelerator') or hardware['processor']}, "
        f"{result['processes'] * hardware['threads']} thread(s)",
        fall=None if curve is None else curve.in_words(),
    )
    return Trained(row, curve)


def _is_direct(result: Mapping[str, Any]) -> bool:
    return result["recipe"]["loss"]["forces"] == 0


def _curve(run: Path, result: Mapping[str, Any]) -> Curve | None:
    """Force errors (meV/Å) of the validation frames while it was trained."""
    error = f"{'direct_' if _is_direct(result) else ''}forces_MAE_meV_per_A"
    return read_curve(run, error, result["steps"], result["seconds"] / 60)


def _draw(path: Path, ours: list[Trained]) -> None:
    """The curves of all trainings of which they are known, a panel for each molecule and its labels."""
    panels: dict[str, dict[str, Curve]] = {}
    marks: dict[str, dict[str, float]] = {}
    for row in _published():
        marks.setdefault(_title(row), {})[row["network"]] = row["forces MAE (meV/Å)"]
    for row, curve in ours:
        if curve is not None:
            panels.setdefault(_title(row), {})[_legend(row)] = curve
    if panels:
        draw_curves(path, panels, marks, "forces MAE (meV/Å), validation")


def _legend(row: Row) -> str:
    changes = f", {row['changes']}" if row["changes"] else ""
    which = "" if (row["split"], row["seed"]) == ("01", 0) else f", split {row['split']}, seed {row['seed']}"
    return f"{row['network']}, {row['forces by']}{changes}{which}, {_length(row):g} min"


def _title(row: Row) -> str:
    return f"{row['molecule']}, {row['labels']} labels"


def _changes(recipe: dict[str, Any]) -> list[str]:
    """Fields not as in the recipe for this molecule and this split; what an older training lacks has its default."""
    recipe = Recipe.model_validate(recipe).model_dump(mode="json")
    variables = [f"variables.{name}='{value}'" for name, value in recipe["variables"].items()]
    plain = load_recipe(RECIPES[recipe["model"]["architecture"]], variables).model_dump(mode="json")
    before, now = _flat(plain), _flat(recipe)
    return [
        f"{name}={now.get(name)}" for name in now | before if now.get(name) != before.get(name) and name not in FREE
    ]


def _flat(fields: dict[str, Any], parents: str = "") -> dict[str, Any]:
    """Nested fields by their path."""
    flat = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{parents}{name}.") if isinstance(value, dict) else {parents + name: value}
    return flat


def _published() -> list[Row]:
    rows = []
    for network, molecules in ORIGINAL.items():
        for molecule, (energy, forces) in molecules.items():
            rows.append(
                _row(
                    molecule,
                    "original",
                    "",
                    network,
                    None if energy is None else energy * MEV,
                    forces * MEV,
                    of="paper",
                )
            )
    for network, molecules in REVISED.items():
        for molecule, (energy, forces) in molecules.items():
            rows.append(_row(molecule, "revised", "", network, energy, forces, of="paper"))
    return rows


def _row(
    molecule: str, labels: str, split: str, network: str, energy: float | None, forces: float, **about: Any
) -> Row:
    return {
        "molecule": molecule,
        "labels": labels,
        "split": split,
        "network": network,
        "forces by": about["of"],
        "energy MAE (meV)": energy,
        "forces MAE (meV/Å)": forces,
        "(kcal/mol)": None if energy is None else energy / MEV,
        "(kcal/mol/Å)": forces / MEV,
        "parameters": about.get("parameters"),
        "changes": about.get("changes"),
        "seed": about.get("seed"),
        "steps": about.get("steps"),
        "minutes": about.get("minutes"),
        "hardware": about.get("hardware"),
        FALL: about.get("fall"),
    }


def _ratios(rows: list[Row]) -> dict[str, float | None]:
    """Of the recipe's gradient forces, the mean over its splits, to those of the best published network, for each
    molecule, its labels and the length of the training.
    """
    published: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["forces by"] == "paper":
            key = row["molecule"], row["labels"]
            published[key] = min(published.get(key, np.inf), row["forces MAE (meV/Å)"])
    ours: dict[tuple[str, str, str, float], dict[str, list[float]]] = {}
    for row in rows:
        if row["forces by"] == "gradient" and row["changes"] == "":
            which = row["network"], row["molecule"], row["labels"], _length(row)
            ours.setdefault(which, {}).setdefault(row["split"], []).append(row["forces MAE (meV/Å)"])
    ratios = {}
    for (network, molecule, labels, minutes), by_split in ours.items():
        best = published.get((molecule, labels))
        if best:
            of = "" if len(by_split) == 1 else f", {len(by_split)} splits"
            name = f"forces, {network} / best published, {molecule}, {labels} labels, {minutes:.3g} min{of}"
            ratios[name] = float(np.mean([np.mean(forces) for forces in by_split.values()])) / best
    return ratios


if __name__ == "__main__":
    answer(
        __doc__ or "",
        run,
        settings={"data": "(r)MD17, official splits: 950 frames to learn, 50 to validate, 1000 to test"},
        options=OPTIONS,
    )
