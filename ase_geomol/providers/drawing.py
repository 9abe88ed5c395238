"""Structures of one request as they are drawn: seeds, checks, further attempts, the time limit, what went wrong."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
KEPT = "Kept"
"""How the sentence begins that says what was left out."""
HOPELESS = 10
"""After this many structures without a single success, no more are drawn, nor relaxed."""


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
        sought: how many were to be made, to keep ``requested`` of them.
        made: how many of these were, before duplicates and what is above the energy window were left out.
        unrelaxed: how many of those made are no minima: their relaxation was ended by its steps or the time limit.
        uncompared: how many were not compared with earlier ones, since the time was over: some may be duplicates.
        unchosen: how many are the first ones and not representatives of all, since the time was over.
        others: how many structures were made by other providers than the one asked, by their names.
    """

    def __init__(
        self,
        structures: Iterable[Atoms],
        drawing: Drawing,
        requested: int,
        *,
        made: int,
        unrelaxed: int,
        uncompared: int,
        unchosen: int,
        others: Mapping[str, int],
    ) -> None:
        super().__init__(structures)
        self.smiles, self.requested = drawing.molecule.smiles, requested
        self.sought, self.made = drawing.requested, made
        self.unrelaxed, self.uncompared, self.unchosen, self.others = unrelaxed, uncompared, unchosen, dict(others)
        self.failures = {reason: count for reason, count in drawing.failures.items() if count}

    @property
    def shortage(self) -> str:
        """A sentence on how many are missing and why; empty if none are, or if all that were sought were made."""
        if len(self) == self.requested or self.made == self.sought:
            return ""
        return shortage(len(self), self.requested, self.smiles, self.failures)

    @property
    def selection(self) -> str:
        """A sentence on what was left out where fewer than asked for are left; empty where `shortage` says it."""
        left_out = {reason: self.failures[reason] for reason in (DUPLICATE, HIGH) if reason in self.failures}
        if len(self) == self.requested or self.shortage or not left_out:
            return ""
        return f"{KEPT} {len(self)} of {self.requested} structures ({_listed(left_out)})."

    @property
    def unfinished(self) -> str:
        """Sentences on how many are no minima, may be duplicates, or were not chosen; empty if none are."""
        unrelaxed = f"{self.unrelaxed} of {self.made} structures were not relaxed to the end (steps or time limit)."
        uncompared = f"{self.uncompared} of {len(self)} structures may be duplicates (time limit)."
        unchosen = f"{self.unchosen} of {len(self)} structures are the first ones, not representatives (time limit)."
        told = ((unrelaxed, self.unrelaxed), (uncompared, self.uncompared), (unchosen, self.unchosen))
        return " ".join(sentence for sentence, count in told if count)

    @property
    def remarks(self) -> str:
        """All that a user should know of it, in sentences, or nothing."""
        fewer = len(self) == self.requested and self.made < self.sought
        choice = f"Only {self.made} of {self.sought} structures to choose from were made ({_listed(self.failures)})."
        fallback = [f"{count} of {len(self)} structures were made by {name}." for name, count in self.others.items()]
        return " ".join(filter(None, [self.shortage, choice if fewer else "", self.unfinished, *fallback]))


def shortage(made: int, requested: int, smiles: str, failures: Mapping[str, int]) -> str:
    """A sentence on missing structures."""
    some = f"Only {made} of {requested} structures of {quoted(smiles)} were made"
    return f"{some if made else f'There is no structure of {quoted(smiles)}'} ({_listed(failures)})."


def report(sentence: str, made: int, failures: Mapping[str, int]) -> None:
    """Warn with a sentence on missing structures, if there is one.

    Raises:
        ProviderError: with the sentence, where none was ``made``.
    """
    if sentence and not made:
        raise ProviderError(sentence, failures)
    if sentence:
        warnings.warn(sentence, ProviderWarning, stacklevel=3)


def _listed(failures: Mapping[str, int]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in failures.items())


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
        self._asked, self._given = [0] * len(makers), [0] * len(makers)
        self._stream = self.structures()

    def __next__(self) -> Atoms:
        structure = next(self._stream, None)
        if structure is not None:
            return structure
        if self.given < self.requested:
            report(shortage(self.given, self.requested, self.molecule.smiles, self.failures), self.given, self.failures)
        raise StopIteration

    @property
    def given(self) -> int:
        """How many structures were given so far."""
        return sum(self._given)

    def is_late(self) -> bool:
        """Whether the time limit has passed."""
        return time.monotonic() > self.deadline

    def structures(self) -> Iterator[Atoms]:
        """Draw them, without a word on what is missing."""
        return self._made(0, range(self.requested))

    def _made(self, place: int, indices: Sequence[int]) -> Iterator[Atoms]:
        """The structures of these indices by the maker at ``place``; what it fails at is left to those after it.

        Each maker is asked for as many as it makes at once, until the time is over, or `HOPELESS` structures have
        failed without a success of it or of those after it.
        """
        size = self._makers[place].at_once(self.molecule)
        for start in range(0, len(indices), size):
            if self._asked[place] >= HOPELESS and not any(self._given[place:]):
                return
            if self.is_late():
                if place == 0:  # the others were asked for what is among the failures already
                    self.failures[TIME] += len(indices) - start
                return
            asked = indices[start : start + size]
            drawn = self._drawn(self._makers[place], asked)
            self._asked[place] += len(asked)
            for index in sorted(drawn):
                self._given[place] += 1
                yield drawn[index]
            if place + 1 < len(self._makers):
                yield from self._made(place + 1, [index for index in asked if index not in drawn])

    def _drawn(self, maker: Provider, indices: Sequence[int]) -> dict[int, Atoms]:
        """What a maker makes of the structures of these indices, as far as attempts and time suffice."""
        made: dict[int, Atoms] = {}
        for attempt in range(self._attempts):
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
        return made

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
