"""What is compared: a conformer model beside RDKit's distance geometry, as often and as long."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ase_geomol.errors import ConfigError, GeoMolError, ProviderError, ProviderWarning
from ase_geomol.providers.base import Provider
from ase_geomol.providers.conformers import ConformerProvider
from ase_geomol.providers.etkdg import RDKitProvider
from ase_geomol.providers.molecules import Molecule
from ase_geomol.providers.refine import representatives
from ase_geomol.providers.rmsd import FEW_MATCHES, symmetry

MODEL, CHECKED = "model", "model, checked"
ETKDG, MMFF = "ETKDGv3", "ETKDGv3, MMFF94s"
CLUSTERED = "clustered from 10 times as many"
ETKDG_TIME, CLUSTERED_TIME = "ETKDGv3, in the model's time", "clustered, in the model's time"
CHOSEN, MMFF_CHOSEN = "model, chosen", "ETKDGv3, MMFF94s, chosen"
TIMED = (ETKDG_TIME, CLUSTERED_TIME)
"""Of these there may be none of a molecule, and that is no failure."""
OVERSAMPLE, MOST_OVERSAMPLE = 10, 100
"""Times as many structures, and at most in the model's time."""
WINDOW = 0.26
"""eV above the lowest structure that is kept where energies choose: 6 kcal/mol, as in the search for references."""
TIME_LIMIT = 600.0
"""s, of each method for each molecule."""


class Drawn(NamedTuple):
    """Structures of one molecule by one method.

    Attributes:
        positions: (P, N, 3) Å.
        asked: how many there should be, at least P.
        seconds: of wall time.
        failures: candidates that were lost, by reason.
        mirrored: how many of the structures were reflected.
    """

    positions: np.ndarray
    asked: int
    seconds: float
    failures: dict[str, int]
    mirrored: int = 0


class Methods:
    """Draws structures of a molecule by all methods.

    "model" takes what the network draws, but for those whose mirror image has no fault of stereochemistry, which are
    reflected (published protocols reflect where all stereocentres are inverted, whatever double bonds are); "model,
    checked" is what a user gets, where structures with wrong stereochemistry, bonds or clashes are drawn again. Of
    ETKDGv3 with MMFF94s, "clustered from 10 times as many" keeps representatives of ten times as many structures (Zhou
    et al., arXiv 2302.07061), and "clustered, in the model's time" of as many as are made in the seconds that "model"
    takes: fewer than asked for where it is faster. The time of the choice comes on top. "ETKDGv3, in the model's time"
    has all that it makes in these seconds, unchecked as the model's, up to a hundred times as many, and counts as if it
    had been asked for them.

    "model, chosen" and "ETKDGv3, MMFF94s, chosen" are what a user gets who asks for ten times as many, relaxed with a
    potential, within `WINDOW` of the lowest, and for representatives of these. Both choose by the energies of the
    potential, and there are no such structures without it. Relaxing counts in their seconds.

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
        seconds = found[MODEL].seconds
        bare = _drawn_within(self._bare, molecule, count, MOST_OVERSAMPLE, seed, seconds)
        many = _drawn_within(self._relaxed, molecule, count, MOST_OVERSAMPLE, seed, seconds)
        return {
            **found,
            ETKDG_TIME: bare._replace(asked=max(count, len(bare.positions))),
            CLUSTERED_TIME: _chosen(molecule, many, count),
        }

    def draw_chosen(
        self, molecule: Molecule, count: int, seed: int, potential: Calculator, steps: int
    ) -> dict[str, Drawn]:
        """At most ``count`` structures by each method that chooses by the energies of a potential.

        Args:
            molecule: that the potential knows.
            count: how many there should be.
            seed: of all.
            potential: relaxes each.
            steps: of relaxation, at most.
        """
        choice = {"oversample": OVERSAMPLE, "relax": potential, "relax_steps": steps, "window": WINDOW}
        makers = {CHOSEN: self._model, **({MMFF_CHOSEN: self._relaxed} if self._baselines else {})}
        return {name: _drawn(maker, molecule, count, seed, **choice) for name, maker in makers.items()}

    def warm_up(self, molecule: Molecule) -> None:
        """Start what is started only once, so that the first molecule's times are as good as others'."""
        for provider in (self._model, self._bare, self._relaxed):
            _drawn(provider, molecule, 1, 0)


def _drawn(provider: Provider, molecule: Molecule, count: int, seed: int, **options) -> Drawn:
    """What a user gets; where that is an error, its reason."""
    sample: Callable = provider.sample
    made: list[Atoms] = []
    failures: Mapping[str, int] = {}
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProviderWarning)
        try:
            made = sample(molecule.mol, count, seed=seed, time_limit=TIME_LIMIT, **options)
            failures = made.failures  # type: ignore[attr-defined]
        except Exception as error:
            failures = _reasons(error, count)
    return _as_drawn(molecule, made, count, time.monotonic() - started, failures)


def _drawn_within(provider: Provider, molecule: Molecule, count: int, times: int, seed: int, seconds: float) -> Drawn:
    """What is ready within ``seconds``, at most ``times`` as many as ``count``."""
    made: list[Atoms] = []
    failures: Counter[str] = Counter()
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProviderWarning)
        try:
            drawing = provider.iterate(
                molecule.mol, times * count, seed=seed, checks=(), attempts=1, time_limit=TIME_LIMIT
            )
            made += takewhile(lambda _: time.monotonic() - started <= seconds, drawing)
            failures += drawing.failures
        except Exception as error:
            failures.update(_reasons(error, count))
    taken = time.monotonic() - started
    if taken > seconds and len(made) < count:
        failures["not made in the model's time"] += count - len(made)
    return _as_drawn(molecule, made, count, taken, failures)


def _chosen(molecule: Molecule, many: Drawn, count: int) -> Drawn:
    """So many that represent the many."""
    started = time.monotonic()
    positions = many.positions
    if len(positions) > count:
        positions = positions[representatives(symmetry(molecule, most=FEW_MATCHES), positions, count)]
    return many._replace(positions=positions, asked=count, seconds=many.seconds + time.monotonic() - started)


def _as_drawn(
    molecule: Molecule, made: Sequence[Atoms], asked: int, seconds: float, failures: Mapping[str, int]
) -> Drawn:
    positions = np.array([atoms.positions for atoms in made]).reshape(-1, len(molecule), 3)
    return Drawn(positions, asked, seconds, dict(failures), sum(bool(atoms.info.get("mirrored")) for atoms in made))


def _reasons(error: Exception, count: int) -> Mapping[str, int]:
    """Why there is nothing: what one method cannot do with one molecule is not the end of all."""
    if isinstance(error, ConfigError):
        raise error
    if isinstance(error, ProviderError):
        return error.failures
    return {str(error) if isinstance(error, GeoMolError) else f"{type(error).__name__}: {error}": count}
