"""What all structure providers share: a request in, checked Atoms out, within a time limit.

A provider implements one method, `Provider.draw`: positions of one molecule from seeds. Structure k of a request
depends on the request, the seed and k alone, however many are asked for and in whatever batches they are drawn.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from ..errors import ConfigError, InputError, ProviderWarning
from .drawing import DUPLICATE, HIGH, HOPELESS, TIME, Candidate, Drawing, Ensemble, first_seeds, report
from .molecules import Molecule, Request, parse
from .refine import CHECKS, clusters, refusal, representatives, weigh
from .rmsd import FEW_MATCHES, symmetry

if TYPE_CHECKING:
    from ..simulate.together import Relaxed

__all__ = ["TIME", "Candidate", "Drawing", "Ensemble", "Limits", "Provider"]


@dataclass(frozen=True)
class Limits:
    """What a provider can make.

    Attributes:
        atoms: at most this many, hydrogens included.
        elements: atomic numbers that it knows; None: all.
    """

    atoms: int
    elements: Collection[int] | None = None

    def check(self, molecule: Molecule) -> None:
        """Refuse a molecule that is beyond the limits.

        Raises:
            InputError: with what is too much, and where.
        """
        if len(molecule) > self.atoms:
            raise InputError(f"This molecule has {len(molecule)} atoms; this provider makes up to {self.atoms}.")
        if self.elements is None:
            return
        for index, number in enumerate(molecule.numbers):
            if number not in self.elements:
                known = " ".join(chemical_symbols[z] for z in sorted(self.elements))
                symbol = chemical_symbols[number]
                raise InputError(f"Atom {index} is {symbol}, which this provider does not know: {known}.")


class Provider(ABC):
    """Makes structures of molecules.

    Attributes:
        name: written into ``info["provider"]``.
        limits: which molecules it takes.
    """

    name: ClassVar[str]
    limits: Limits

    @property
    @abstractmethod
    def version(self) -> str:
        """What decides the structures beside the request and the seed; written into ``info["model_version"]``."""

    @abstractmethod
    def draw(self, molecule: Molecule, seeds: Sequence[int], deadline: float) -> Iterable[Candidate | str]:
        """Draw one candidate for each seed, or say in a few words why there is none.

        Args:
            molecule: within `limits`.
            seeds: whole numbers from 0 to 2^63 - 1; a candidate depends on the molecule and its own seed alone.
            deadline: of ``time.monotonic``; what is not drawn by then is "time limit".
        """

    def at_once(self, molecule: Molecule) -> int:
        """How many structures of a molecule are best drawn at once."""
        return 1

    def together(self, molecules: Sequence[Molecule], n: int) -> bool:
        """Whether ``n`` structures of each of these are better drawn all at once than one molecule after the other."""
        return False

    def prepare(self) -> None:
        """Start what `draw` needs, once, before the time limit of a request begins."""
        return

    def foresee(self, molecules: Sequence[Molecule], seeds: Sequence[int], deadline: float) -> None:
        """Draw a candidate of each molecule for each seed at once, and keep them until `draw` is asked for them.

        Called where `together` says so. An error, or TimeoutError at the deadline, leaves all to `draw`.
        """
        raise NotImplementedError

    def sample(
        self,
        request: Request,
        n: int = 1,
        *,
        seed: int = 0,
        checks: Sequence[str] = tuple(CHECKS),
        attempts: int = 4,
        oversample: int = 1,
        relax: Calculator | None = None,
        relax_steps: int = 1000,
        fmax: float = 0.02,
        rank: bool = False,
        window: float | None = None,
        unique: float | None = None,
        time_limit: float | None = 600.0,
        on_structure: Callable[[Atoms], object] = lambda atoms: None,
    ) -> Ensemble:
        """Make structures of one molecule: draw, relax, leave out what is too high or a duplicate, choose.

        Each structure carries in ``info``: ``smiles``, ``seed``, ``index`` (its k), ``charge``, ``spin``
        (multiplicity), ``provider``, ``model_version`` and ``bonds`` (M, 3), rows of two atoms and an order code; in
        ``arrays``: ``formal_charge`` (N,); initial charges and magnetic moments are those of ions and radicals, so
        that some calculators (tblite, MOPAC, Gaussian) know them. With ``relax`` it carries its energy and forces, and
        ``info["converged"]``; with ``rank`` also ``relative_energy`` (eV) and ``boltzmann_weight`` at 298.15 K.

        Args:
            request: SMILES string, RDKit molecule, or Atoms with ``info["bonds"]`` or ``info["smiles"]``.
            n: how many.
            seed: structure k depends on it and on k alone.
            checks: which of "stereo", "bonds", "clashes" a structure must pass, before and after ``relax``.
            attempts: how many candidates are drawn, at most, for a structure whose candidates fail.
            oversample: make this many times ``n``, and of what is left in the end keep ``n`` that represent it by their
                shapes: the most central of each cluster, with ``relax`` the lowest one. All pairs are compared; where
                there is no time left for it, the first ones are kept, and a warning says so.
            relax: relax each structure with this calculator as soon as it is drawn; that of one of this package's
                potentials does many at once.
            relax_steps: at most this many; 0: only energies and forces.
            fmax: eV/Å; a relaxation ends when no force is larger.
            rank: sort by energy, and weigh.
            window: eV; leave out structures whose energy is more than that above the lowest one, and sort by energy.
            unique: Å; leave out structures that are nearer than that to an earlier (where they are sorted: lower)
                one, by the symmetry-aware distance of heavy atoms and of hydrogens that are not on carbon.
            time_limit: seconds for everything; what is drawn, and relaxed as far as it got, by then is given. A single
                call of the calculator, the reading of the request and the clustering of ``oversample`` are not
                interrupted, and the start of RDKit's process is not counted. None: no limit.
            on_structure: called with each structure when it is drawn and relaxed, ``n * oversample`` times where none
                fails: in any order, before any is left out.

        Returns:
            At most ``n`` structures. Where some are missing, ``failures`` says why, and so does a `ProviderWarning`
            unless all ``n * oversample`` were made, and the missing ones are duplicates or above the window. Another
            one says how many of those made were not relaxed to the end, since their energies, by which they are left
            out, kept and weighed, are not those of minima, and how many were not compared for ``unique`` in time.

        Raises:
            InputError: the request is no molecule that this provider makes, or none that a calculator of this package
                knows; where another one does not, relaxations fail, and after ten of them no more are tried.
            ConfigError: an argument makes no sense.
            ProviderError: there is no structure at all; its ``failures`` say why.
        """
        if relax is None and (rank or window is not None):
            needs = "give a calculator as relax (with relax_steps=0, no relaxation)"
            raise ConfigError(f"Ranking and an energy window need energies: {needs}.")
        check_arguments(n, oversample=oversample, relax_steps=relax_steps, fmax=fmax, window=window, unique=unique)
        relaxing = None if relax is None else _relaxation(relax, relax_steps, fmax)
        drawing = self.iterate(
            request, n * oversample, seed=seed, checks=checks, attempts=attempts, time_limit=time_limit
        )
        if relax is not None:
            _see_known(drawing.molecule, relax)
        made = []
        for atoms in drawing.structures() if relaxing is None else _relaxed(drawing, relaxing, checks):
            made.append(atoms)
            on_structure(atoms)
        unrelaxed = sum(not atoms.info["converged"] for atoms in made) if relax is not None and relax_steps else 0
        sort = rank or window is not None
        kept, uncompared, unchosen = _selected(
            drawing, made, n, sort=sort, window=window, unique=unique, lowest=relax is not None
        )
        counts = {"made": len(made), "unrelaxed": unrelaxed, "uncompared": uncompared, "unchosen": unchosen}
        ensemble = Ensemble(kept, drawing, n, **counts, others=_others(self, kept))
        report(ensemble.shortage, len(ensemble), ensemble.failures)
        if rank:
            weigh(ensemble)
        if ensemble.unfinished:
            warnings.warn(ensemble.unfinished, ProviderWarning, stacklevel=2)
        return ensemble

    def sample_many(
        self,
        requests: Iterable[Request],
        n: int = 1,
        *,
        seed: int = 0,
        oversample: int = 1,
        time_limit: float | None = 600.0,
        **options: Any,
    ) -> Iterator[Ensemble | Exception]:
        """Make structures of many molecules, in their order; several small ones are drawn at once where that is faster.

        Args:
            requests: looked at as they are needed, a few ahead.
            n: of each.
            seed: as of `sample`, and so are all others.
            oversample: see there.
            time_limit: seconds for each.
            options: more arguments of `sample`.

        Yields:
            What `sample` gives for each, or the error that it raises.

        Raises:
            ConfigError: an argument makes no sense, whatever the molecule.
        """
        check_arguments(n, seed=seed, oversample=oversample, time_limit=time_limit)
        for group in self._groups(requests, n * oversample):
            limit = self._foreseen(group, n * oversample, seed, time_limit)
            for request in group:
                try:
                    yield self.sample(request, n, seed=seed, oversample=oversample, time_limit=limit, **options)
                except ConfigError:
                    raise
                except Exception as error:
                    yield error

    def _groups(self, requests: Iterable[Request], n: int) -> Iterator[list[Request]]:
        """What is drawn at once: molecules of this provider that belong together, anything else alone."""
        group: list[Request] = []
        for request in requests:
            molecule = self._own(request)
            if group and molecule is not None and self.together([*group, molecule], n):  # type: ignore[list-item]
                group.append(molecule)
                continue
            if group:
                yield group
            group = [] if molecule is None else [molecule]
            if molecule is None:
                yield [request]
        if group:
            yield group

    def _own(self, request: Request) -> Molecule | None:
        """The molecule, if this provider makes it; `sample` tells why not, whatever the error."""
        try:
            molecule = parse(request)
            self.check(molecule)
        except Exception:
            return None
        return molecule

    def _foreseen(self, group: list[Request], n: int, seed: int, time_limit: float | None) -> float | None:
        """Draw the first candidates of a group; the time limit that is left for each of it, at least half.

        Where that fails, each is drawn, and its error told, by itself.
        """
        if len(group) == 1:
            return time_limit
        begin = time.monotonic()
        deadline = np.inf if time_limit is None else begin + time_limit / 2
        with suppress(Exception):
            self.foresee(group, first_seeds(seed, n), deadline)  # type: ignore[arg-type]
        return None if time_limit is None else max(time_limit / 2, time_limit - (time.monotonic() - begin))

    def iterate(
        self,
        request: Request,
        n: int,
        *,
        seed: int = 0,
        checks: Sequence[str] = tuple(CHECKS),
        attempts: int = 4,
        time_limit: float | None = 600.0,
    ) -> Drawing:
        """Make structures one after the other, for numbers that need not be in memory together.

        Arguments and errors are those of `sample`; what is missing is told when the iterator ends. What another one of
        `makers` makes comes after those of its batch that this one makes.
        """
        check_arguments(n, seed=seed, checks=checks, attempts=attempts, time_limit=time_limit)
        begin = time.monotonic()
        molecule = parse(request)
        makers = [maker for maker in self.makers if maker.makes(molecule)]
        if not makers:
            self.makers[-1].check(molecule)
        reading = time.monotonic() - begin
        for maker in makers:
            maker.prepare()
        deadline = np.inf if time_limit is None else time.monotonic() + time_limit - reading
        return Drawing(makers, molecule, n, seed, checks, attempts, deadline)

    def check(self, molecule: Molecule) -> None:
        """Raise InputError for a molecule that this provider does not make."""
        self.limits.check(molecule)

    def makes(self, molecule: Molecule) -> bool:
        """Whether `check` has nothing against a molecule."""
        try:
            self.check(molecule)
        except InputError:
            return False
        return True

    @property
    def makers(self) -> Sequence[Provider]:
        """Who makes structures: this provider, and others in turn for what those before do not make or fail at."""
        return (self,)


def check_arguments(
    n: int = 1,
    *,
    seed: int = 0,
    checks: Sequence[str] = (),
    attempts: int = 1,
    oversample: int = 1,
    relax_steps: int = 0,
    fmax: float = 1.0,
    window: float | None = None,
    unique: float | None = None,
    time_limit: float | None = None,
) -> None:
    """Refuse arguments of `Provider.sample` that make no sense for any molecule.

    Raises:
        ConfigError: with the one that is wrong.
    """
    whole = (("n", n, 1), ("seed", seed, 0), ("attempts", attempts, 1), ("oversample", oversample, 1))
    for name, value, least in (*whole, ("relax_steps", relax_steps, 0)):
        if not (isinstance(value, int | np.integer) and value >= least):
            raise ConfigError(f"{name} is {value!r}; it is a whole number, {least} or larger.")
    if isinstance(checks, str) or not set(checks) <= set(CHECKS):
        raise ConfigError(f"checks is {checks!r}; it is a list of {', '.join(CHECKS)}, or empty.")
    if not fmax > 0:
        raise ConfigError(f"fmax is {fmax!r}; it is a positive force in eV/Å.")
    if window is not None and not window > 0:
        raise ConfigError(f"window is {window!r}; it is a positive energy in eV, or None.")
    if unique is not None and not unique > 0:
        raise ConfigError(f"unique is {unique!r}; it is a positive length in Å, or None.")
    if time_limit is not None and not time_limit > 0:
        raise ConfigError(f"time_limit is {time_limit!r}; it is a positive number of seconds, or None.")


def _relaxation(calculator: Calculator, steps: int, fmax: float) -> Callable[..., Iterator[Relaxed]]:
    """`relax_in_turn` so set; it needs torch, whose import takes seconds that are not to count."""
    from ..simulate.together import relax_in_turn

    return partial(relax_in_turn, calculator=calculator, steps=steps, fmax=fmax)


def _see_known(molecule: Molecule, calculator: Calculator) -> None:
    """Raise InputError for a molecule that a calculator of this package does not know, whatever its positions."""
    from ..calculator import GeoMolCalculator
    from ..checks import check_atoms

    if isinstance(calculator, GeoMolCalculator):
        atoms = molecule.atoms(np.zeros((len(molecule), 3)), {})
        check_atoms(atoms, calculator.elements, calculator.charges, calculator.spins)


def _relaxed(drawing: Drawing, relaxing: Callable[..., Iterator[Relaxed]], checks: Sequence[str]) -> Iterator[Atoms]:
    """The structures, relaxed, in the order in which they are ready; those that fail or come too late are counted.

    No more are drawn when all so far, `HOPELESS` or more, have failed.
    """
    waiting, failed = drawing.structures(), 0
    for end in relaxing(waiting, deadline=drawing.deadline):
        if end.error is not None:
            reason = f"failed relaxation ({type(end.error).__name__}: {end.error})"
        else:
            refused = refusal(drawing.molecule, end.atoms.positions, checks)
            reason = refused and f"{refused} after relaxation"
        if reason:
            drawing.failures[reason] += 1
            failed += 1
        else:
            end.atoms.info["converged"] = end.converged
            yield end.atoms
        if failed == drawing.given >= HOPELESS:
            return
    for _ in waiting:
        drawing.failures[TIME] += 1


def _selected(
    drawing: Drawing,
    made: list[Atoms],
    n: int,
    *,
    sort: bool,
    window: float | None,
    unique: float | None,
    lowest: bool,
) -> tuple[list[Atoms], int, int]:
    """What `Provider.sample` keeps of all that were made; how many were not compared for ``unique``, and not chosen.

    ``sort``: by energy, not by number; ``lowest``: the lowest ones represent others, not the most central ones.
    """
    made = sorted(made, key=lambda atoms: atoms.info["index"])
    if sort:
        made.sort(key=Atoms.get_potential_energy)
    if window is not None:
        made = _low(drawing, made, window)
    uncompared: set[int] = set()
    if unique is not None:
        made, uncompared = _unique(drawing, made, unique)
    kept, unchosen = _representatives(drawing, made, n, lowest)
    return kept, sum(atoms.info["index"] in uncompared for atoms in kept), unchosen


def _low(drawing: Drawing, structures: list[Atoms], window: float) -> list[Atoms]:
    """Of structures that are sorted by energy those no more than ``window`` (eV) above the first."""
    energies = _energies(structures)
    kept = int((energies <= energies.min(initial=np.inf) + window).sum())
    drawing.failures[HIGH] += len(structures) - kept
    return structures[:kept]


def _unique(drawing: Drawing, structures: list[Atoms], threshold: float) -> tuple[list[Atoms], set[int]]:
    """The different ones, and the numbers of those that there was no time to compare."""
    numbers = [atoms.info["index"] for atoms in structures]
    if not structures or drawing.is_late():
        return structures, set(numbers)
    symmetric = symmetry(drawing.molecule, polar=True, most=FEW_MATCHES)
    labels = clusters(symmetric, _positions(structures), threshold, drawing.deadline)
    unknown = labels < 0
    kept = unknown | (labels == np.arange(len(structures)))
    drawing.failures[DUPLICATE] += int((~kept).sum())
    return [structures[index] for index in np.flatnonzero(kept)], {numbers[index] for index in np.flatnonzero(unknown)}


def _representatives(drawing: Drawing, structures: list[Atoms], n: int, lowest: bool) -> tuple[list[Atoms], int]:
    """At most ``n`` that stand for all, and how many are the first ones instead, since the time was over.

    Of each cluster the most central one, or the ``lowest``.
    """
    if len(structures) <= n:
        return structures, 0
    if drawing.is_late():
        return structures[:n], n
    symmetric = symmetry(drawing.molecule, most=FEW_MATCHES)
    energies = _energies(structures) if lowest else None
    try:
        chosen = representatives(symmetric, _positions(structures), n, drawing.deadline, energies)
    except TimeoutError:
        return structures[:n], n
    return [structures[index] for index in chosen], 0


def _energies(structures: Sequence[Atoms]) -> np.ndarray:
    return np.array([atoms.get_potential_energy() for atoms in structures])


def _others(provider: Provider, structures: Iterable[Atoms]) -> Counter[str]:
    """How many structures other providers made, by their names."""
    makers = [(atoms.info["provider"], atoms.info["model_version"]) for atoms in structures]
    return Counter(name for name, version in makers if (name, version) != (provider.name, provider.version))


def _positions(structures: Sequence[Atoms]) -> np.ndarray:
    return np.array([atoms.positions for atoms in structures])
