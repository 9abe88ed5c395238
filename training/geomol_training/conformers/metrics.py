"""Coverage and matching of two ensembles of a molecule (Ganea et al. 2021, arXiv 2106.07802; GeoMol's COV and AMR).

Recall: of the references, how many are met by a sample, and how near the nearest one is. Precision: the same with the
roles exchanged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ase_geomol.providers.rmsd import Symmetry, rmsd_to_each


class Match(NamedTuple):
    """How two ensembles of one molecule match.

    Attributes:
        recall: COV-R at each threshold, from 0 to 1.
        precision: COV-P likewise.
        recall_distance: AMR-R, Å; NaN where no reference has a distance to any sample.
        precision_distance: AMR-P, Å, likewise.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    recall_distance: float
    precision_distance: float


def match(distances: np.ndarray, asked: int, thresholds: Sequence[float]) -> Match:
    """Compare references and samples by their distances.

    A reference is covered where a sample is *nearer* than the threshold. Samples that are missing count as not
    covered, and so do distances that are not finite (failures); matching distances leave both out.

    Args:
        distances: (L, P) Å between L references and P samples; infinite where there is none.
        asked: how many samples there should be, at least P.
        thresholds: Å.
    """
    nearest = np.min(distances, axis=1, initial=np.inf)
    nearest_reference = np.min(distances, axis=0, initial=np.inf)
    return Match(
        recall=tuple(float((nearest < threshold).mean()) for threshold in thresholds),
        precision=tuple(float((nearest_reference < threshold).sum() / asked) for threshold in thresholds),
        recall_distance=_finite_mean(nearest),
        precision_distance=_finite_mean(nearest_reference),
    )


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def summary(matches: Sequence[Match], thresholds: Sequence[float]) -> dict[str, float]:
    """Mean and median over molecules of coverage (%) and matching distance (Å), which leaves out molecules without."""
    found: dict[str, float] = {}
    for name, of_all, distance in (
        ("R", [item.recall for item in matches], [item.recall_distance for item in matches]),
        ("P", [item.precision for item in matches], [item.precision_distance for item in matches]),
    ):
        for threshold, values in zip(thresholds, np.array(of_all).T, strict=True):
            found[f"COV-{name} {threshold:g} Å mean %"] = 100 * float(values.mean())
            found[f"COV-{name} {threshold:g} Å median %"] = 100 * float(np.median(values))
        known = np.array(distance, dtype=float)
        known = known[np.isfinite(known)]
        found[f"AMR-{name} mean Å"] = float(known.mean()) if len(known) else np.nan
        found[f"AMR-{name} median Å"] = float(np.median(known)) if len(known) else np.nan
    return found


def distance_matrix(
    symmetric: Symmetry, references: np.ndarray, samples: np.ndarray, deadline: float = np.inf
) -> np.ndarray:
    """Distances (L, P) in Å between ``references`` (L, N, 3) and ``samples`` (P, N, 3).

    Those that are not known at the ``deadline`` of ``time.monotonic`` are infinite, and so are those of samples whose
    positions are not finite, and those at which RDKit fails.
    """
    distances = np.full((len(references), len(samples)), np.inf)
    whole = np.flatnonzero(np.isfinite(samples).all((1, 2)))
    for row, reference in enumerate(references):
        for column, distance in zip(whole, _distances(symmetric, reference, samples[whole]), strict=True):
            if time.monotonic() > deadline:
                return distances
            distances[row, column] = distance
    return distances


def _distances(symmetric: Symmetry, reference: np.ndarray, samples: np.ndarray) -> Iterator[float]:
    """Distance to each of the samples, computed as they are asked for; infinite where RDKit fails."""
    known = 0
    while known < len(samples):
        try:
            for distance in rmsd_to_each(symmetric, reference, samples[known:]):
                known += 1
                yield distance
        except (RuntimeError, ValueError):
            known += 1
            yield np.inf
