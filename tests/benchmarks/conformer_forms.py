"""Which form of DiTMC draws the best conformers after equal time, or steps: three of positions, two of pairs of atoms?

With `--minutes` it first trains what is missing, each form so long, with `training/recipes/shipped/ditmc_small.yaml`,
on sets of conformers that `geomol-train conformers` made; with `--steps`, forms that made more steps in this time are
trained with so many as well. `--positions`, `--pairs`, `--noise` (of the flow, Å) and `--output` are values of these
choices, with commas.
All forms are trained as that recipe says, by Muon with a rate of 0.005, which was chosen for absolute positions (others
might do better with one of their own), but reach this rate in 30 steps: the slowest made 170 in ten minutes.
Trainings are left in `runs`, their rows in `evaluation`; after Ctrl-C the same command goes on. Without `--minutes` it
measures what is there of the forms asked for, which must have taken equally long, on the same data. Twice as many
samples as a molecule has references, of molecules of the validation, as they are drawn; the test is for what is chosen.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from _frame import Answer, Option, Row, answer
from _memorise import conformers_of
from ase import Atoms
from ase.io import write
from geomol_training.conformers.evaluate import ROWS as ROW_FILES
from geomol_training.conformers.evaluate import Options, evaluate_conformers
from geomol_training.conformers.methods import MODEL
from geomol_training.conformers.summary import DRAWN
from geomol_training.fit import fit
from geomol_training.keeper import LAST
from geomol_training.recipe import load_recipe
from geomol_training.result import RESULT, read_results
from geomol_training.runs import STOPPED
from rich.console import Console

from ase_geomol.errors import DataError
from ase_geomol.providers.conformers import ConformerProvider
from ase_geomol.providers.molecules import parse

RECIPE = Path("training/recipes/shipped/ditmc_small.yaml")
RUNS, ROWS = Path("runs/conformer_forms"), Path("evaluation/conformer_forms_valid")
SHOWN = ("COV-R 0.5 Å mean %", "COV-P 0.5 Å mean %", "right stereo %", "plausible %")
NEARLY = 1.1
"""Ratio of times, or numbers of steps, up to which they count as equal."""
WARMUP = 30
"""Steps."""
OPTIONS = {
    "minutes": Option(0.0, "of each training that is not there yet; 0: train nothing"),
    "steps": Option(0, "of further trainings, of forms that made more of them in this time; 0: none"),
    "data": Option("data/conformers", "sets of conformers"),
    "positions": Option("absolute,relative,equivariant", "what the network sees of positions"),
    "pairs": Option("all-pair,bond-pair", "what it knows of pairs of atoms"),
    "noise": Option("0.25", "Å, of the flow"),
    "output": Option("correction", "what the network's output is"),
    "molecules": Option(60, "of the validation"),
}


class Form(NamedTuple):
    """One training."""

    positions: str
    pairs: str
    noise: float
    output: str
    steps: int = 0
    """0: until the time is over."""

    @property
    def name(self) -> str:
        """Of the run's folder."""
        name = f"{self.positions}-{self.pairs}-{self.noise:g}-{self.output}"
        return f"{name}-{self.steps}-steps" if self.steps else name

    @property
    def changes(self) -> list[str]:
        """Of the recipe."""
        config = [f"model.config.positions={self.positions}", f"model.config.conditioning={self.pairs}"]
        flow = [f"flow.noise={self.noise}", f"flow.output={self.output}"]
        extent = [f"training.max_steps={self.steps}"] if self.steps else []
        return [*config, *flow, *extent, f"schedule.warmup_steps={WARMUP}", f"name=ditmc-small-{self.name}"]


def run(
    smoke: bool,
    minutes: float,
    steps: int,
    data: str,
    positions: str,
    pairs: str,
    noise: str,
    output: str,
    molecules: int,
) -> Answer:
    """One row for each training."""
    choices = (text.split(",") for text in (positions, pairs, noise, output))
    forms = [Form(where, what, float(size), meaning) for where, what, size, meaning in itertools.product(*choices)]
    if smoke:
        with TemporaryDirectory() as folder:
            return _smoke(Path(folder), forms[:2])
    changes = [f"data.train={data}"]
    if minutes > 0:
        for form in forms:
            _train(form, changes, RUNS / form.name, 60 * minutes)
    found = _found(forms)
    _see_equal_times(found)
    if steps > 0:
        trained = [form for form in forms if RUNS / form.name in found]
        longer = [form for form in trained if found[RUNS / form.name]["steps"] > NEARLY * steps]
        shortened = [form._replace(steps=steps) for form in longer]
        if minutes > 0:
            for form in shortened:
                _train(form, changes, RUNS / form.name, None)
        found |= _found(shortened)
    _see_comparable(found, data)
    return _ranked([_measured(path, result, data, ROWS / path.name, molecules) for path, result in found.items()])


def _found(forms: list[Form]) -> dict[Path, dict[str, Any]]:
    """Results of their finished trainings."""
    names = [form.name for form in forms]
    return {path: result for path, result in read_results(RUNS).items() if path.name in names}


def _see_equal_times(found: dict[Path, dict[str, Any]]) -> None:
    if not found:
        raise DataError(f"{RUNS} holds no finished training of these forms: give --minutes, to train.")
    seconds = [result["seconds"] for result in found.values()]
    if max(seconds) > NEARLY * min(seconds):
        raise DataError(f"The trainings in {RUNS} took {min(seconds):.0f} to {max(seconds):.0f} s: compare equal ones.")


def _see_comparable(found: dict[Path, dict[str, Any]], data: str) -> None:
    """Raises :class:`DataError` where trainings are of other data, warm-up or hardware."""
    for path, result in found.items():
        if result["recipe"]["data"]["train"] != data:
            raise DataError(f"{path} learned from {result['recipe']['data']['train']}, not from {data}.")
        if result["recipe"]["schedule"]["warmup_steps"] != WARMUP:
            raise DataError(f"{path} did not reach its full rate in {WARMUP} steps: train it anew.")
    machines = sorted({_machine(result) for result in found.values()})
    if len(machines) > 1:
        raise DataError(f"The trainings in {RUNS} ran on {' and '.join(machines)}: compare those of one.")


def _machine(result: dict[str, Any]) -> str:
    return result["hardware"].get("accelerator") or result["hardware"]["processor"]


def _train(form: Form, changes: list[str], out: Path, seconds: float | None, **options: Any) -> None:
    if (out / RESULT).exists():
        return
    recipe = load_recipe(RECIPE, [*form.changes, *changes])
    resume = (out / LAST).exists()
    found = fit(recipe, out, resume=resume, time_budget=seconds, threads=torch.get_num_threads(), **options)
    if found.stopped_by in STOPPED:
        raise KeyboardInterrupt(f"trainings are kept in {RUNS}, the same command goes on from there")


def _measured(path: Path, result: dict[str, Any], data: str, out: Path, molecules: int) -> tuple[Row, list[float]]:
    """The row of a training, and the AMR-R of each molecule (Å)."""
    recipe = result["recipe"]
    options = Options(split="valid", molecules=molecules, relax_steps=0, baselines=False)
    found = evaluate_conformers(ConformerProvider(path / "model.safetensors"), data, out, options)
    measured = found["methods"][MODEL][DRAWN]
    rows = [json.loads(file.read_text()) for file in sorted((out / ROW_FILES).glob("*.json"))[:molecules]]
    for row in rows:
        if "error" in row:
            raise DataError(
                f"{row['smiles']} was not measured with {path.name}, and forms need the same molecules: {row['error']}"
            )
    drawn = [row["methods"][MODEL][DRAWN] for row in rows]  # of all, whether checked structures could be made or not
    recall, precision = ([one[f"{name}_distance"] for one in drawn] for name in ("recall", "precision"))
    row = {
        "positions": recipe["model"]["config"]["positions"],
        "pairs": recipe["model"]["config"]["conditioning"],
        "noise Å": recipe["flow"]["noise"],
        "output": recipe["flow"]["output"],
        "ended by": "steps" if recipe["training"]["max_steps"] else "time",
        "parameters": result["parameters"],
        "minutes": result["seconds"] / 60,
        "steps": result["steps"],
        "validation loss Å²": result["errors"]["validation_flow_loss_A2"],
        **{name: measured[name] for name in SHOWN},
        "AMR-R mean Å": float(np.mean(recall)),
        "AMR-P mean Å": float(np.mean(precision)),
        "s per conformer": measured["s per conformer"],
        "molecules": found["rows"],
        "hardware": _machine(result),
    }
    return row, recall


def _ranked(measured: list[tuple[Row, list[float]]]) -> Answer:
    """The best first, and how much worse each is than this one over the same molecules."""
    measured.sort(key=lambda one: one[0]["AMR-R mean Å"])
    best = measured[0][1]
    rows = []
    for row, distances in measured:
        more = np.subtract(distances, best)
        row["AMR-R more than the best Å"] = float(more.mean())
        row["its standard error Å"] = float(more.std(ddof=1) / np.sqrt(len(more))) if len(more) > 1 else None
        rows.append(row)
    return Answer(rows, {"AMR-R of the best training (Å)": rows[0]["AMR-R mean Å"]})


def _smoke(folder: Path, forms: list[Form]) -> Answer:
    """Two forms after two steps on two conformers."""
    frames = []
    for smiles, split in (("CCCC", "train"), ("CCC=O", "valid")):
        molecule = parse(smiles)
        about = {"smiles": molecule.smiles, "molecule": smiles, "split": split}
        frames += [Atoms(molecule.numbers, positions, info=about) for positions in conformers_of(smiles, 2)]
    write(folder / "conformers.extxyz", frames)
    data = str(folder / "conformers.extxyz")
    changes = [f"data.train={data}", "training.max_steps=2", "model.config.layers=1", "model.config.channels=32"]
    for form in forms:
        _train(form, changes, folder / form.name, None, console=Console(quiet=True))
    found = read_results(folder)
    return _ranked([_measured(path, result, data, folder / "rows" / path.name, 1) for path, result in found.items()])


if __name__ == "__main__":
    answer(__doc__ or "", run, ["rdkit"], settings={"recipe": str(RECIPE)}, options=OPTIONS)
