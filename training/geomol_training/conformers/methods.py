"""What is compared: a conformer model beside RDKit's distance geometry, as often and as long."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ase_geomol.errors import ConfigError, GeoMolError, ProviderError, ProviderWarning
from ase_geomol.providers.base import Provider
from ase_geomol.providers.conformers import ConformerProvider
from ase_geomol.providers.etkdg import RDKitProvider
from ase_geomol.providers.molecules import Molecule

MODEL, CHECKED = "model", "model, checked"
ETKDG, MMFF = "ETKDGv3", "ETKDGv3, MMFF94s"
CLUSTERED, SAME_TIME = "clustered from 10 times as many", "clustered, in the model's time"
OVERSAMPLE, MOST_OVERSAMPLE = 10, 100
TIME_LIMIT = 600.0
"""s, of each method for each molecule."""


class Drawn(NamedTuple):
    """Structures of one molecule by one method.

    Attributes:
        positions: (P, N, 3) Å.
        seconds: of wall time.
        failures: candidates that were lost, by reason.
    """

    positions: np.ndarray
    seconds: float
    failures: dict[str, int]


class Methods:
    """Draws structures of a molecule by all methods.

    As published protocols have it, "model" takes what the network draws; "model, checked" is what a user gets, where
    structures with wrong stereochemistry, bonds or clashes are drawn again. Of ETKDGv3 with MMFF94s, "clustered from
    10 times as many" keeps representatives of ten times as many structures (Zhou et al., arXiv 2302.07061), and
    "clustered, in the model's time" of as many as are made in the seconds that the model takes.

    Args:
        model: the conformer model.
        baselines: draw structures by RDKit, too.
    """

    def __init__(self, model: ConformerProvider, *, baselines: bool = True) -> None:
        self._model, self._baselines = model, baselines
        self._bare, self._relaxed = RDKitProvider(force_field=None), RDKitProvider()

    def draw_all(self, molecule: Molecule, count: int, seed: int) -> dict[str, Drawn]:
        """``count`` structures by each method; where it has none, its ``failures`` say why."""
        found = {
            MODEL: _drawn(self._model, molecule, count, seed, checks=(), attempts=1),
            CHECKED: _drawn(self._model, molecule, count, seed),
        }
        if not self._baselines:
            return found
        found |= {
            ETKDG: _drawn(self._bare, molecule, count, seed),
            MMFF: _drawn(self._relaxed, molecule, count, seed),
            CLUSTERED: _drawn(self._relaxed, molecule, count, seed, oversample=OVERSAMPLE),
        }
        as_long = round(found[MODEL].seconds / max(found[MMFF].seconds, 1e-9))
        times = min(max(1, as_long), MOST_OVERSAMPLE)
        return {**found, SAME_TIME: _drawn(self._relaxed, molecule, count, seed, oversample=times)}

    def warm_up(self, molecule: Molecule) -> None:
        """Start what is started only once, so that the first molecule's times are as good as others'."""
        for provider in (self._model, self._bare, self._relaxed):
            _drawn(provider, molecule, 1, 0)


def _drawn(provider: Provider, molecule: Molecule, count: int, seed: int, **options) -> Drawn:
    sample: Callable = provider.sample
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProviderWarning)
        try:
            made = sample(molecule.mol, count, seed=seed, time_limit=TIME_LIMIT, **options)
            failures = dict(made.failures)
        except ProviderError as error:
            made, failures = [], dict(error.failures)
        except ConfigError:
            raise
        except Exception as error:  # what one method cannot do with one molecule is not the end of all
            known = isinstance(error, GeoMolError)
            made, failures = [], {str(error) if known else f"{type(error).__name__}: {error}": count}
    seconds = time.monotonic() - started
    positions = np.array([atoms.positions for atoms in made]).reshape(-1, len(molecule), 3)
    return Drawn(positions, seconds, failures)
