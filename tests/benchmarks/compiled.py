"""What do compiled blocks and mixed precision gain in a step without forces, and how far are its gradients off?

A step is the loss of a property and its gradient by the weights, of drug-like molecules side by side: what is compiled
cannot be differentiated twice, so there are no forces by gradient. "compiled" is `training.compile`, "mixed"
`training.precision: mixed`; all take turns. "off" is the distance of the gradient to that of the plain step, relative
to its length. Networks have random weights, and the sizes of `rmd17.yaml` (GeoMFormer) and `qm9.yaml` (EST). Where
there is no C++ compiler (on CUDA: no Triton), nothing is compiled. It takes some minutes: Ctrl-C leaves nothing.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _frame import Answer, Row, answer, progress
from _structures import DRUGS
from _timing import time_in_turns, timed
from geomol_training.batches import Batch, make_batch
from geomol_training.compiled import compile_blocks, compiler_watched
from geomol_training.frames import Row as Structure
from geomol_training.frames import pack
from geomol_training.mixed import use_mixed_precision
from geomol_training.recipe import Loss, load_recipe
from geomol_training.tasks import PropertyTask

from ase_geomol.errors import ConfigError
from ase_geomol.models import build_model
from ase_geomol.property import PropertyForm, ScalarProperty
from ase_geomol.simulate.structures import load_structure

RECIPES = Path(__file__).parents[2] / "training/recipes"
NETWORKS = {"GeoMFormer": "rmd17", "EST": "qm9"}
STRUCTURES, ROUNDS = 16, 9
SMOKE = {"layers": 1, "channels": 16, "without": ["invariant_self", "invariant_cross", "equivariant_self"]}
SMOKE["without"] += ["equivariant_cross", "equivariant_ffn", "equivariant_norm", "quadrupole"]
TASK = PropertyTask(Loss(), PropertyForm(name="property", unit="1"))


def run(smoke: bool) -> Answer:
    """One row a network and way of computing."""
    names = ["GeoMFormer"] if smoke else list(NETWORKS)
    rows = [row for name in progress(names, "networks") for row in _rows(name, smoke)]
    summary = {
        f"time, {row['computed']} / plain, {row['network']}": row["ms"] / plain["ms"]
        for row in rows
        for plain in rows
        if plain["network"] == row["network"] and plain["computed"] == "plain" and row is not plain
    }
    return Answer(rows, summary)


def _rows(name: str, smoke: bool) -> list[Row]:
    batch = _batch(2 if smoke else STRUCTURES)
    recipe = load_recipe(RECIPES / f"{NETWORKS[name]}.yaml")
    elements = sorted(set(batch.graph.numbers.tolist()))
    config = {**recipe.model.config, **(SMOKE if smoke else {}), "elements": elements}
    torch.manual_seed(0)
    plain = ScalarProperty(build_model(recipe.model.architecture, config), TASK.form).train()
    computed = {"plain": plain, "mixed": copy.deepcopy(plain), "compiled": copy.deepcopy(plain)}
    use_mixed_precision(computed["mixed"].model)  # type: ignore[arg-type]
    compile_blocks(computed["compiled"].model)
    gradients, first = {}, {}
    for way, predictor in list(computed.items()):
        start = time.perf_counter()
        try:
            with compiler_watched():
                gradients[way] = _gradient(predictor, batch)
        except ConfigError as error:
            print(error)
            del computed[way]
            continue
        first[way] = time.perf_counter() - start
    turns = {way: partial(timed, _step(predictor, batch)) for way, predictor in computed.items()}
    seconds = time_in_turns(turns, 1 if smoke else ROUNDS)
    length = float(gradients["plain"].norm())
    return [
        {
            "network": name,
            "atoms": batch.graph.n_atoms,
            "computed": way,
            "first step s": first[way],
            "ms": 1e3 * seconds[way],
            "off": float((gradients[way] - gradients["plain"]).norm()) / length,
        }
        for way in computed
    ]


def _batch(structures: int) -> Batch:
    random, rows = np.random.default_rng(0), []
    for index in range(structures):
        atoms = load_structure(DRUGS[index % len(DRUGS)])
        rows.append(Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, float(random.normal())))
    return make_batch(pack(rows), np.arange(structures), 5.0)


def _step(predictor: ScalarProperty, batch: Batch) -> Callable[[], Any]:
    def step() -> None:
        predictor.zero_grad()
        TASK.loss(predictor, batch).backward()

    return step


def _gradient(predictor: ScalarProperty, batch: Batch) -> torch.Tensor:
    """By all weights; zero where the property does not depend on one."""
    _step(predictor, batch)()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in predictor.parameters()]
    return torch.cat([part.flatten() for part in parts]).double()


if __name__ == "__main__":
    answer(__doc__ or "", run, settings={"structures": STRUCTURES}, packages=["lightning"])
