"""Which molecules there are to label: pools without duplicates, and random draws from them."""

from __future__ import annotations

import lzma
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ase_geomol.errors import DataError

from .druglike import random_druglike
from .molecules import SPLITS, Molecule, connectivity_key, small_molecules
from .qm9 import sample_qm9
from .recipe import Chemistry

SPLIT_SHARES = (0.90, 0.05, 0.05)
HETERO = frozenset({9, 15, 16, 17, 35, 53})
ATTEMPTS = 5000
"""Drug-like molecules in a row that are not wanted before the search ends."""


def excluded_keys(path: Path | None) -> tuple[frozenset[str], str]:
    """Connectivity keys of the file's molecules, and a note on what was found; raises :class:`DataError`."""
    if path is None:
        return frozenset(), "nothing was asked to be left out"
    if not path.exists():
        raise DataError(
            f"{path}, whose molecules must not be labelled, is absent: say where it is with --set exclude=…, or label "
            "them too with --set exclude=null."
        )
    try:
        with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as lines:
            found = {match[1] or match[2] for line in lines if (match := _SMILES.search(line))}
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"The molecules to leave out cannot be read from {path}: {error}") from error
    keys = {smiles: connectivity_key(smiles) for smiles in found}
    unread = sorted(smiles for smiles, key in keys.items() if key is None)
    if not found or unread:
        raise DataError(f"{path} has no readable SMILES for the molecules to leave out: {unread or 'none found'}.")
    return frozenset(key for key in keys.values() if key), f"{len(found)} molecules of {path}"


_SMILES = re.compile(r'\bsmiles=(?:"([^"]*)"|(\S+))')


class Pools:
    """Molecules of each kind without duplicates, and random draws from one split of them.

    ``sizes`` says how many of ``qm9``, ``druglike`` and ``hetero`` (drug-like with at least two elements of F P S
    Cl Br I) there are; the small molecules are all there. With a ``split``, no molecule is of another one.
    """

    def __init__(
        self,
        recipe: Chemistry,
        sizes: dict[str, int],
        forbidden: frozenset[str],
        rng: np.random.Generator,
        split: str | None = None,
    ) -> None:
        seen = set(forbidden) | {molecule.key for molecule in small_molecules()}

        def wanted(molecule: Molecule) -> bool:
            return molecule.key not in seen and split in (None, molecule.split)

        def hetero(molecule: Molecule) -> bool:
            return wanted(molecule) and len(molecule.elements() & HETERO) > 1

        qm9 = sizes.get("qm9", 0)
        rows = round(qm9 * (1.05 if split is None else 1.25)) + 5  # some are of another split or have no SMILES
        found = {
            "qm9": (molecule for molecule in sample_qm9(rows if qm9 else 0, rng) if wanted(molecule)),
            "druglike": druglike_molecules(recipe, wanted, rng),
            "hetero": druglike_molecules(recipe, hetero, rng),
        }
        self.of = {"small": [molecule for molecule in small_molecules() if molecule.key not in forbidden]}
        for kind, candidates in found.items():
            self.of[kind] = []
            for molecule in islice(candidates, sizes.get(kind, 0)):
                seen.add(molecule.key)
                self.of[kind].append(molecule)
        self._by_split: dict[tuple[str, str], list[Molecule]] = defaultdict(list)
        for kind, molecules in self.of.items():
            for molecule in molecules:
                self._by_split[kind, molecule.split].append(molecule)

    def draw(self, rng: np.random.Generator, split: str, shares: dict[str, float], largest: int = 10**6) -> Molecule:
        """A random molecule of ``split`` from the pools that ``shares`` weights.

        It has at most ``largest`` atoms; where none is found, the smallest one is taken.
        """
        kinds = [kind for kind in shares if self._by_split[kind, split]]
        if not kinds:
            raise DataError(f"The recipe's molecules have none in split {split}: ask for more molecules.")
        weights = np.array([shares[kind] for kind in kinds])
        for _ in range(1000):
            pool = self._by_split[kinds[rng.choice(len(kinds), p=weights / weights.sum())], split]
            molecule = pool[int(rng.integers(len(pool)))]
            if molecule.size() <= largest:
                return molecule
        return min((m for kind in kinds for m in self._by_split[kind, split]), key=Molecule.size)

    def draw_split(self, rng: np.random.Generator, shares: dict[str, float]) -> str:
        """A split that has molecules in the pools of ``shares``: 90 %, 5 %, 5 % where all have some."""
        filled = [any(self._by_split[kind, split] for kind in shares) for split in SPLITS]
        if not any(filled):
            raise DataError(f"The recipe draws from {sorted(shares)} but asks for no such molecules.")
        weights = np.array(SPLIT_SHARES) * filled
        return SPLITS[rng.choice(len(SPLITS), p=weights / weights.sum())]


def _sized(molecule: Molecule | None, recipe: Chemistry, rng: np.random.Generator) -> Molecule | None:
    """Leave out every second large molecule: the same surroundings of atoms cost less in smaller ones."""
    large = molecule is not None and molecule.size() > recipe.common_druglike_atoms
    return None if large and rng.random() < 0.5 else molecule


def druglike_molecules(
    recipe: Chemistry, wanted: Callable[[Molecule], bool], rng: np.random.Generator
) -> Iterator[Molecule]:
    """Molecules that are ``wanted``, endlessly; raises :class:`DataError` where there seem to be no more."""
    missed = 0
    while missed < ATTEMPTS:
        molecule = _sized(random_druglike(rng, recipe.druglike_atoms), recipe, rng)
        if molecule is None or not wanted(molecule):
            missed += 1
            continue
        missed = 0
        yield molecule
    raise DataError(
        f"{ATTEMPTS} drug-like molecules in a row were too small, too large or known already: widen druglike_atoms "
        f"{list(recipe.druglike_atoms)}, or ask for fewer drug-like molecules."
    )
