"""Structures of one request as they are drawn: seeds, checks, further attempts, the time limit, what went wrong."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase import Atoms

from ..errors import ProviderError, ProviderWarning
from .molecules import Molecule, quoted
from .refine import refusal

if TYPE_CHECKING:
    from .base import Provider

TIME, DUPLICATE, HIGH = "time limit", "duplicate", "above the energy window"
"""Reasons for which there is no structure, beside those of `CHECKS` and of providers."""
LEFT_OUT = (DUPLICATE, HIGH)
"""Reasons for which a structure that was made is left out, as was asked for."""
HOPELESS = 10
"""After this many structures without a single success, no more are tried."""


class Candidate(NamedTuple):
    """What a provider draws.

    Attributes:
        positions: (N, 3) Å.
        info: what else is to be said of the structure, in values that ASE's files keep.
    """

    positions: np.ndarray
    info: Mapping[str, Any] = {}


class Ensemble(list[Atoms]):
    """Structures of one request, and what became of those that are missing.

    Attributes:
        smiles: the molecule.
        requested: how many were asked for.
        failures: how many candidates were lost, by reason; also those that another attempt replaced.
        unrelaxed: how many structures are no minima: their relaxation was ended by its steps or the time limit.
        uncompared: how many were not compared with earlier ones, since the time was over: some may be duplicates.
        others: how many structures were made by other providers than the one asked, by their names.
    """

    def __init__(
        self,
        structures: Iterable[Atoms],
        smiles: str,
        requested: int,
        failures: Mapping[str, int],
        unrelaxed: int = 0,
        uncompared: int = 0,
        others: Mapping[str, int] = {},
    ) -> None:
        super().__init__(structures)
        self.smiles, self.requested = smiles, requested
        self.unrelaxed, self.uncompared, self.others = unrelaxed, uncompared, dict(others)
        self.failures = {reason: count for reason, count in failures.items() if count}

    @property
    def shortage(self) -> str:
        """A sentence on how many are missing and why; empty if none are, but for those of `LEFT_OUT`."""
        return shortage(len(self), self.requested, self.smiles, self.failures)

    @property
    def unfinished(self) -> str:
        """Sentences on how many are no minima, or may be duplicates; empty if none are."""
        unrelaxed = f"{self.unrelaxed} of {len(self)} structures were not relaxed to the end (steps or time limit)."
        uncompared = f"{self.uncompared} of {len(self)} structures may be duplicates (time limit)."
        told = ((unrelaxed, self.unrelaxed), (uncompared, self.uncompared))
        return " ".join(sentence for sentence, count in told if count)

    @property
    def remarks(self) -> str:
        """All that a user should know of it, in sentences, or nothing."""
        fallback = [f"{count} of {len(self)} structures were made by {name}." for name, count in self.others.items()]
        return " ".join(filter(None, [self.shortage, self.unfinished, *fallback]))


def shortage(made: int, requested: int, smiles: str, failures: Mapping[str, int]) -> str:
    """A sentence on missing structures, or nothing where none are missing but those of `LEFT_OUT`."""
    if made + sum(failures.get(reason, 0) for reason in LEFT_OUT) >= requested:
        return ""
    reasons = "; ".join(f"{reason}: {count}" for reason, count in failures.items() if count)
    some = f"Only {made} of {requested} structures of {quoted(smiles)} were made"
    return f"{some if made else f'There is no structure of {quoted(smiles)}'} ({reasons})."


class Drawing(Iterator[Atoms]):
    """Structures of one request, one after the other; nothing that was given is kept. See `Provider.iterate`.

    Attributes:
        molecule: what was asked for.
        requested: how many.
        failures: how many candidates were lost so far, by reason.
        deadline: of ``time.monotonic``.
    """

    def __init__(
        self,
        makers: Sequence[Provider],
        molecule: Molecule,
        n: int,
        seed: int,
        checks: Sequence[str],
        attempts: int,
        deadline: float,
    ) -> None:
        self.molecule, self.requested = molecule, int(n)
        self.failures: Counter[str] = Counter()
        self.deadline = deadline
        self._makers, self._seed, self._checks, self._attempts = makers, int(seed), tuple(checks), attempts
        self._made, self._stream = 0, self.structures()

    def __next__(self) -> Atoms:
        structure = next(self._stream, None)
        if structure is None:
            self.report(self._made, self.requested)
            raise StopIteration
        self._made += 1
        return structure

    def is_late(self) -> bool:
        """Whether the time limit has passed."""
        return time.monotonic() > self.deadline

    def report(self, made: int, requested: int) -> None:
        """Warn if fewer than ``requested`` structures were ``made``; those of `LEFT_OUT` are no reason to.

        Raises:
            ProviderError: none was.
        """
        sentence = shortage(made, requested, self.molecule.smiles, self.failures)
        if sentence and not made:
            raise ProviderError(sentence, self.failures)
        if sentence:
            warnings.warn(sentence, ProviderWarning, stacklevel=3)

    def structures(self) -> Iterator[Atoms]:
        """Draw them, without a word on what is missing."""
        size, hopeless = self._makers[0].at_once(self.molecule), True
        for start in range(0, self.requested, size):
            if self.is_late():
                self.failures[TIME] += self.requested - start
                return
            structures = self._drawn(range(start, min(start + size, self.requested)))
            yield from structures
            hopeless &= not structures
            if hopeless and start + size >= HOPELESS:
                return

    def _drawn(self, indices: Sequence[int]) -> list[Atoms]:
        """The structures of these indices, as far as attempts, those of each maker in turn, and time suffice."""
        made: dict[int, Atoms] = {}
        for maker, attempt in product(self._makers, range(self._attempts)):
            missing = [index for index in indices if index not in made]
            if not missing or self.is_late():
                break
            seeds = [_seed(self._seed, index, attempt) for index in missing]
            candidates = maker.draw(self.molecule, seeds, self.deadline)
            for index, candidate in zip(missing, candidates, strict=True):
                reason = candidate if isinstance(candidate, str) else self._refusal(candidate)
                if isinstance(candidate, str) or reason:
                    self.failures[str(reason)] += 1
                else:
                    made[index] = self._atoms(index, candidate, maker)
        return [made[index] for index in sorted(made)]

    def _refusal(self, candidate: Candidate) -> str | None:
        return refusal(self.molecule, candidate.positions, self._checks)

    def _atoms(self, index: int, candidate: Candidate, maker: Provider) -> Atoms:
        about = {"seed": self._seed, "index": index, "provider": maker.name, "model_version": maker.version}
        return self.molecule.atoms(candidate.positions, {**about, **candidate.info})


def first_seeds(seed: int, n: int) -> list[int]:
    """Those of the first attempts at ``n`` structures."""
    return [_seed(int(seed), index, 0) for index in range(n)]


def _seed(seed: int, index: int, attempt: int) -> int:
    """A number from 0 to 2^63 - 1 that belongs to one attempt at one structure."""
    high, low = np.random.SeedSequence((seed, index, attempt)).generate_state(2)
    return (int(high) << 32 | int(low)) >> 1
