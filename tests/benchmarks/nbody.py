"""How far off are predictions for five charged particles, beside EGNN's and GeoMFormer's, and what does each part do?

The trainings are made one by one with `geomol-train nbody` (training/README.md has the commands); this brings what
they left in runs/nbody together. Trainings that differ in nothing but the seed share a row; a training without a part
is compared with the full ones of the same seeds, norm, length and other options. "changes" are other options than the
default ones. "exact rules" is the simulator itself, told
positions and velocities that are off by normal deviates: close encounters amplify what is not known exactly.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from _frame import Answer, Row, answer
from geomol_training.nbody.learning import make_settings
from geomol_training.nbody.simulate import (
    INPUT_STEP,
    SEED,
    TARGET_STEP,
    USED,
    Samples,
    Start,
    draw,
    load,
    simulate,
    trajectory,
)
from geomol_training.nbody.train import run as train
from geomol_training.result import read_results

from ase_geomol.errors import DataError

RUNS, DATA = Path("runs/nbody"), Path("data/nbody")
DEVIATIONS = (0.01, 0.001)
PUBLISHED = {"EGNN, published": 0.0071, "GeoMFormer, published": 0.0047}
PUBLISHED_RISE = {
    "invariant_self": 8.5,
    "invariant_cross": 8.5,
    "equivariant_self": 19.1,
    "equivariant_cross": 14.9,
    "invariant_ffn": 4.3,
    "equivariant_ffn": 17.0,
    "invariant_norm": 8.5,
    "equivariant_norm": 63.8,
    "equivariant_norm invariant_norm": 55.3,
    "structural_bias": 53.2,
}
"""By how many percent the paper's error (arXiv 2406.16853, ablation of the N-body model) rises without a part."""
SETTINGS = {"data": f"nbody_small, seed {SEED}", "samples": " + ".join(f"{n} {part}" for part, n in USED.items())}


def run(smoke: bool) -> Answer:
    """One row for the trainings that differ in nothing but the seed."""
    samples = dict.fromkeys(USED, simulate(draw(np.random.RandomState(SEED), 8))) if smoke else load(DATA)
    results = _trained_now(samples) if smoke else _results(RUNS)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        groups[_key(result)].append(result)
    published = [_row(name, mse=mse) for name, mse in PUBLISHED.items()]
    ours = [_summary(group, groups) for group in groups.values()]
    ours.sort(key=lambda row: (row["without"], row["steps"], row["MSE"]))
    full = [group for group in groups.values() if not group[0]["settings"]["network"]["without"]]
    summary = {}
    if full:
        chosen = min(full, key=lambda group: statistics.mean(result["valid_mse"] for result in group))
        error = statistics.mean(result["test_mse"] for result in chosen)
        summary = {f"ours with the best validation / {name}": error / mse for name, mse in PUBLISHED.items()}
    return Answer(_without_network(samples) + published + ours, summary)


def _results(folder: Path) -> list[dict[str, Any]]:
    results = list(read_results(folder).values())
    if not results:
        raise DataError(f"{folder} holds no trainings: train first, e.g. with  geomol-train nbody --time-budget 35min")
    return results


def _without_network(samples: dict[str, Samples]) -> list[Row]:
    """Errors of no motion, of a straight line as long as fits the training simulations, and of the exact rules."""
    train, test = samples["train"], samples["test"]
    time = ((train.targets - train.positions) * train.velocities).sum() / (train.velocities**2).sum()
    guesses = {"no motion": test.positions, "straight line": test.positions + time * test.velocities}
    for deviation in DEVIATIONS:
        random = np.random.default_rng(SEED)
        start = Start(test.charges, *(x + random.normal(0, deviation, x.shape) for x in test[1:3]))
        *_, (positions, _) = trajectory(start, TARGET_STEP - INPUT_STEP)
        guesses[f"exact rules, told with an error of {deviation}"] = positions
    return [_row(name, mse=float(np.square(guess - test.targets).mean())) for name, guess in guesses.items()]


def _trained_now(samples: dict[str, Samples]) -> list[dict[str, Any]]:
    """Three trainings of a few steps on a few simulations."""
    with TemporaryDirectory() as folder:
        for seed, without in ((0, ()), (1, ()), (0, ("equivariant_norm",))):
            settings = make_settings(network={"layers": 1, "channels": 16, "without": without}, seed=seed, batch=4)
            train(settings, samples, Path(folder) / settings.name, steps=4, threads=1)
        return _results(Path(folder))


def _key(result: dict[str, Any], without: list[str] | None = None) -> str:
    """All choices but the seed, as a text; ``without`` replaces the parts that were left out."""
    settings = {name: value for name, value in result["settings"].items() if name != "seed"}
    if without is not None:
        settings["network"] = {**settings["network"], "without": without}
    return json.dumps([settings, result["asked"], result["samples"]], sort_keys=True)


def _summary(group: list[dict[str, Any]], groups: dict[str, list[dict[str, Any]]]) -> Row:
    group = sorted(group, key=lambda result: result["settings"]["seed"])
    errors = {result["settings"]["seed"]: result["test_mse"] for result in group}
    network, hardware = group[0]["settings"]["network"], group[0]["hardware"]
    without = " ".join(sorted(network["without"]))
    full = {r["settings"]["seed"]: r["test_mse"] for r in groups.get(_key(group[0], without=[]), [])}
    rises = [100 * (error / full[seed] - 1) for seed, error in errors.items() if without and seed in full]
    return _row(
        f"ours, {network['equivariant_norm']}",
        without,
        statistics.mean(errors.values()),
        changes=", ".join(make_settings(**group[0]["settings"]).changes),
        deviation=statistics.stdev(errors.values()) if len(errors) > 1 else None,
        seeds=", ".join(f"{seed}: {error:.5f}" for seed, error in errors.items()),
        rise=statistics.mean(rises) if rises else None,
        steps=statistics.mean(result["steps"] for result in group),
        minutes=statistics.mean(result["seconds"] for result in group) / 60,
        parameters=group[0]["parameters"],
        hardware=f"{hardware['processor']}, {hardware['threads']} thread(s)",
    )


def _row(name: str, without: str = "", mse: float | None = None, **measured: Any) -> Row:
    return {
        "network": name,
        "without": without,
        "changes": measured.get("changes"),
        "MSE": mse,
        "± over seeds": measured.get("deviation"),
        "of each seed": measured.get("seeds"),
        "rise %": measured.get("rise"),
        "published rise %": PUBLISHED_RISE.get(without),
        "steps": measured.get("steps"),
        "minutes": measured.get("minutes"),
        "parameters": measured.get("parameters"),
        "hardware": measured.get("hardware"),
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, settings=SETTINGS)
