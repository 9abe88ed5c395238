"""What the rows of all molecules say together: means, differences, what was lost and what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .methods import CHECKED, CHOSEN, MODEL, TIMED
from .metrics import Match, summary

DRAWN, RELAXED = "as drawn", "relaxed"
UNITS = {"energy": "kcal/mol", "lowest_energy": "kcal/mol", "dipole": "D", "gap": "kcal/mol"}
"""Of ensemble properties."""
Row = dict[str, Any]


def remarks(rows: Sequence[Row]) -> dict[str, int]:
    """How much the means leave out."""
    every, rows = rows, [row for row in rows if "error" not in row]
    ends = [item for row in rows for item in (row, *row["methods"].values()) if "lost" in item]
    measured = [
        method[stage]
        for row in rows
        for method in row["methods"].values()
        for stage in (DRAWN, RELAXED)
        if stage in method
    ]
    found = {
        "molecules whose measurement ended with an error, left out": len(every) - len(rows),
        "molecules that the potential does not know, not relaxed": sum("not relaxed" in row for row in rows),
        "molecules with more relabellings than are tried, whose distances are upper bounds": sum(
            not row["all relabellings"] for row in rows
        ),
        "distances that came too late or failed, not covered": sum(item["unknown distances"] for item in measured),
        "ensembles without a distance, whose molecules are left out of AMR": sum(
            item["recall_distance"] is None for item in measured
        ),
        "structures that end in no minimum of the molecule, left out of ensemble properties": sum(
            sum(item["lost"].values()) for item in ends
        ),
    }
    return {name: count for name, count in found.items() if count}


def failures(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How many structures each method lost, by reason."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        for name, method in row["methods"].items():
            found.setdefault(name, Counter()).update(method["failures"])
    return {name: dict(counts) for name, counts in found.items() if counts}


def summarise(rows: Sequence[Row], thresholds: Sequence[float]) -> dict[str, dict[str, dict[str, float]]]:
    """Means by method and stage, from the rows alone, over the molecules that have that stage.

    AMR, and errors of ensemble properties, are over the same molecules for all methods: those in which each that is
    not `TIMED` has one, but for methods that have none at all.
    """
    comparable = {stage: _with_distances(rows, stage) for stage in (DRAWN, RELAXED)}
    with_properties = _in_all(rows, lambda method: method.get("properties") is not None)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in _names(rows):
        of_method = [row["methods"][name] for row in rows if name in row["methods"]]
        stages = [stage for stage in (DRAWN, RELAXED) if any(stage in item for item in of_method)]
        found[name] = {stage: _of_stage(rows, name, stage, comparable[stage], thresholds) for stage in stages}
        made = sum(item[stages[0]]["made"] for item in of_method)
        seconds = sum(item["seconds"] for item in of_method)
        found[name][stages[0]]["s per conformer"] = seconds / made if made else np.nan
        mirrored = sum(item["mirrored"] for item in of_method)
        if mirrored:
            found[name][stages[0]]["reflected %"] = 100 * mirrored / made
        found[name][stages[-1]] |= _property_errors([row for row in rows if row["smiles"] in with_properties], name)
        low = sum(item.get("low minima", 0) for item in of_method)
        if low:
            unknown = sum(item.get("unknown minima", 0) for item in of_method)
            found[name][stages[-1]]["in low minima that no reference is near %"] = 100 * unknown / low
    return found


def differences(rows: Sequence[Row], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """What the model's methods have more than each of RDKit's, at the first threshold.

    A row for each two methods and stage: the mean difference over the molecules that have both, and its standard error,
    NaN where that is one molecule. Structures that were made in the model's time are not compared.
    """
    ours = (MODEL, CHECKED, CHOSEN)
    theirs = [name for name in _names(rows) if name not in (*ours, *TIMED)]
    found = []
    for stage in (DRAWN, RELAXED):
        for one in ours:
            for other in theirs:
                pairs = [
                    (row["methods"][one][stage], row["methods"][other][stage])
                    for row in rows
                    if all(stage in row["methods"].get(name, {}) for name in (one, other))
                ]
                if pairs:
                    values = [_compared(mine, beside, thresholds[0]) for mine, beside in pairs]
                    named = {name: _mean_and_error([item[name] for item in values]) for name in values[0]}
                    found.append({"stage": stage, "of": one, "beside": other, **named})
    return found


def _compared(mine: Row, beside: Row, threshold: float) -> dict[str, float]:
    """Differences of one molecule; NaN where one of the two has no distance."""
    found = {}
    for letter, field in (("R", "recall"), ("P", "precision")):
        found[f"COV-{letter} {threshold:g} Å %"] = 100 * (mine[field][0] - beside[field][0])
        distances = [item[f"{field}_distance"] for item in (mine, beside)]
        found[f"AMR-{letter} Å"] = np.nan if None in distances else distances[0] - distances[1]
    return found


def _mean_and_error(values: Sequence[float]) -> dict[str, float]:
    known = np.array([value for value in values if np.isfinite(value)])
    error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
    return {
        "mean": float(known.mean()) if len(known) else np.nan,
        "standard error": float(error),
        "molecules": len(known),
    }


def _names(rows: Sequence[Row]) -> list[str]:
    """Methods in their order; of a molecule that is not relaxed some are missing."""
    return list(dict.fromkeys(name for row in rows for name in row["methods"]))


def _with_distances(rows: Sequence[Row], stage: str) -> set[str]:
    """SMILES of the molecules in which all methods have a distance at this stage."""
    return _in_all(rows, lambda method: method.get(stage, {}).get("recall_distance") is not None)


def _in_all(rows: Sequence[Row], has: Callable[[Row], bool]) -> set[str]:
    """SMILES of the molecules in which each method has something, of those that have it anywhere, without `TIMED`."""
    found = [
        {row["smiles"] for row in rows if name in row["methods"] and has(row["methods"][name])}
        for name in _names(rows)
        if name not in TIMED
    ]
    return set.intersection(*filter(None, found)) if any(found) else set()


def _of_stage(
    rows: Sequence[Row], name: str, stage: str, comparable: set[str], thresholds: Sequence[float]
) -> dict[str, float]:
    rows = [row for row in rows if stage in row["methods"].get(name, {})]
    of_stage = [row["methods"][name][stage] for row in rows]
    matches = [_match(row["methods"][name][stage], row["smiles"] in comparable) for row in rows]
    made, asked = sum(item["made"] for item in of_stage), sum(row["methods"][name]["asked"] for row in rows)
    with_stereo = [(item, row) for item, row in zip(of_stage, rows, strict=True) if row["stereo elements"]]
    right = sum(item["made"] - item["wrong stereo"] for item, _ in with_stereo)
    of_these = sum(item["made"] for item, _ in with_stereo)
    wanted = sum(row["methods"][name]["asked"] for _, row in with_stereo)
    return {
        "molecules": len(rows),
        **summary(matches, thresholds),
        "molecules in AMR": sum(item.recall_distance < np.inf for item in matches),
        "made %": 100 * made / asked,
        "right stereo %": 100 * right / of_these if of_these else np.nan,
        "right stereo, of asked %": 100 * right / wanted if wanted else np.nan,
        "plausible %": 100 * (1 - sum(item["implausible"] for item in of_stage) / made) if made else np.nan,
    }


def _match(measured: Row, comparable: bool) -> Match:
    """What was measured, without the distances where not all methods have one."""
    found = Match(**{field: measured[field] for field in Match._fields})
    known = comparable and found.recall_distance is not None
    return found if known else found._replace(recall_distance=np.nan, precision_distance=np.nan)


def _property_errors(rows: Sequence[Row], name: str) -> dict[str, float]:
    """Median absolute errors of ensemble properties, and over how many molecules."""
    pairs = [
        (row["properties"], row["methods"][name]["properties"])
        for row in rows
        if row.get("properties") and row["methods"].get(name, {}).get("properties")
    ]
    found: dict[str, float] = {"ensembles": len(pairs)} if pairs else {}
    for what, unit in UNITS.items() if pairs else ():
        errors = [abs(ours[what] - theirs[what]) for theirs, ours in pairs]
        found[f"{what.replace('_', ' ')} error {unit}"] = float(np.median(errors))
    return found


def as_table(methods: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> tuple[list[str], dict[str, list[str]]]:
    """Headings, and the cells of each method and stage: of what has a mean and a median, the latter in brackets."""
    found = {f"{method}, {stage}": values for method, stages in methods.items() for stage, values in stages.items()}
    names = list(dict.fromkeys(name for values in found.values() for name in values if " median" not in name))
    headings = [name.replace(" mean", "") for name in names]
    return headings, {row: [_cell(values, name) for name in names] for row, values in found.items()}


def differences_as_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, list[str]]]:
    """Headings, and the cells of each two methods: the mean difference ± its standard error, each None if unknown."""
    headings = [name for name in rows[0] if name not in ("stage", "of", "beside")] if rows else []
    return headings, {
        f"{row['of']} − {row['beside']}, {row['stage']}": [_with_error(row[name]) for name in headings] for row in rows
    }


def _with_error(difference: Mapping[str, float | None]) -> str:
    mean, error = difference["mean"], difference["standard error"]
    if mean is None:
        return ""
    return f"{mean:.3g}" if error is None else f"{mean:.3g} ± {error:.2g}"


def _cell(values: Mapping[str, float | None], name: str) -> str:
    value, median = values.get(name), values.get(name.replace(" mean", " median"))
    if value is None:
        return ""
    return f"{value:.3g}" if median is None or " mean" not in name else f"{value:.3g} ({median:.3g})"
