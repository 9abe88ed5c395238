"""Sets of conformers, one set for each molecule, in one packed, immutable container of flat arrays."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from ase_geomol.errors import DataError
from ase_geomol.providers.molecules import Molecule

from ..arrays import write_arrays
from ..frames import SKIPPED, coded


class MoleculeSet(NamedTuple):
    """The conformers of one molecule as a reader hands them over, the most probable first.

    Attributes:
        molecule: in whose order the atoms are.
        positions: (K, N, 3) Å.
        weights: (K,) shares of the conformers, which sum to 1.
        energies: (K,) eV; NaN where the data have none.
        group: what must not be divided between training and validation: the skeleton, or the data's own name.
        split: part that the data assign.
        source: where the molecule is from.
    """

    molecule: Molecule
    positions: np.ndarray
    weights: np.ndarray
    energies: np.ndarray
    group: str = ""
    split: str = ""
    source: str = ""


@dataclass(frozen=True)
class ConformerSets:
    """G molecules with C conformers in all.

    The atoms of molecule g are ``offsets[g]:offsets[g+1]`` of ``numbers``, its conformers ``first[g]:first[g+1]``, and
    their positions, one conformer after the other, begin at ``rows[g]``.

    Attributes:
        numbers: atomic numbers, once for each molecule.
        offsets: (G+1,).
        positions: (T, 3) Å, float32.
        rows: (G+1,).
        first: (G+1,).
        weights: (C,) as in `MoleculeSet`; likewise energies.
        energies: (C,) eV.
        smiles: (G,) text.
        graphs: bytes of the molecules, as RDKit packs them.
        graph_ends: (G,) where each of them ends.
        group: (G,) index into ``group_names``; likewise ``split`` and ``source``.
        group_names: text; likewise ``split_names`` and ``source_names``.
    """

    numbers: np.ndarray
    offsets: np.ndarray
    positions: np.ndarray
    rows: np.ndarray
    first: np.ndarray
    weights: np.ndarray
    energies: np.ndarray
    smiles: np.ndarray
    graphs: np.ndarray
    graph_ends: np.ndarray
    group: np.ndarray
    group_names: np.ndarray
    split: np.ndarray
    split_names: np.ndarray
    source: np.ndarray
    source_names: np.ndarray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name).flags.writeable = False

    def __len__(self) -> int:
        return len(self.smiles)

    @property
    def n_atoms(self) -> np.ndarray:
        """Number of atoms (G,) of each molecule."""
        return np.diff(self.offsets)

    @property
    def n_conformers(self) -> np.ndarray:
        """Number of conformers (G,) of each molecule."""
        return np.diff(self.first)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(int(number) for number in np.unique(self.numbers))

    def molecule(self, index: int) -> Molecule:
        """One of the molecules."""
        start = self.graph_ends[index - 1] if index else 0
        packed = self.graphs[start : self.graph_ends[index]].tobytes()
        return Molecule(str(self.smiles[index]), Chem.Mol(packed))  # pyright: ignore[reportCallIssue, reportArgumentType]

    def conformers(self, index: int) -> np.ndarray:
        """Positions (K, N, 3) in Å of its conformers."""
        return self.positions[self.rows[index] : self.rows[index + 1]].reshape(
            self.first[index + 1] - self.first[index], -1, 3
        )

    def take(self, index: np.ndarray) -> ConformerSets:
        """The molecules ``index``, in that order."""
        starts = np.concatenate([[0], self.graph_ends[:-1]])

        def chosen(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
            return np.concatenate([values[:0], *(values[begin[i] : end[i]] for i in index)])

        def ends(sizes: np.ndarray) -> np.ndarray:
            return np.concatenate([[0], np.cumsum(sizes[index])])

        return dataclasses.replace(
            self,
            numbers=chosen(self.numbers, self.offsets[:-1], self.offsets[1:]),
            offsets=ends(self.n_atoms),
            positions=chosen(self.positions, self.rows[:-1], self.rows[1:]),
            rows=ends(np.diff(self.rows)),
            first=ends(self.n_conformers),
            weights=chosen(self.weights, self.first[:-1], self.first[1:]),
            energies=chosen(self.energies, self.first[:-1], self.first[1:]),
            graphs=chosen(self.graphs, starts, self.graph_ends),
            graph_ends=ends(self.graph_ends - starts)[1:],
            **{name: getattr(self, name)[index] for name in ("smiles", "group", "split", "source")},
        )


def pack_sets(found: Iterable[MoleculeSet]) -> ConformerSets:
    """Put sets into one container."""
    sets = list(found)
    packed = [item.molecule.mol.ToBinary() for item in sets]
    sizes, counts = ([len(item.molecule) for item in sets], [len(item.positions) for item in sets])

    def flat(parts: list[np.ndarray], dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        return np.concatenate(
            [np.zeros((0, *shape), dtype), *(part.reshape(-1, *shape) for part in parts)], dtype=dtype
        )

    names: dict[str, np.ndarray] = {}
    for name in ("group", "split", "source"):
        names[name], names[f"{name}_names"] = coded([getattr(item, name) for item in sets])
    return ConformerSets(
        numbers=flat([item.molecule.numbers for item in sets], np.int64, ()),
        offsets=np.cumsum([0, *sizes]),
        positions=flat([item.positions for item in sets], np.float32, (3,)),
        rows=np.cumsum([0, *(size * count for size, count in zip(sizes, counts, strict=True))]),
        first=np.cumsum([0, *counts]),
        weights=flat([item.weights for item in sets], np.float64, ()),
        energies=flat([item.energies for item in sets], np.float64, ()),
        smiles=np.array([item.molecule.smiles for item in sets], dtype=np.str_),
        graphs=np.frombuffer(b"".join(packed), dtype=np.uint8).copy(),
        graph_ends=np.cumsum([len(content) for content in packed], dtype=np.int64),
        **names,
    )


def save_sets(path: Path, sets: ConformerSets, skipped: Mapping[str, int]) -> None:
    """Write an .npz without pickles, whole or not at all; raises :class:`OutputError`.

    ``skipped`` tells how many molecules and conformers were left out for which reason.
    """
    arrays: dict[str, Any] = {field.name: getattr(sets, field.name) for field in dataclasses.fields(sets)}
    arrays[SKIPPED] = np.array(json.dumps(dict(skipped)))
    write_arrays(path, arrays)


def read_packed_sets(path: Path) -> tuple[ConformerSets, Counter[str]]:
    """Read what `save_sets` wrote; raises :class:`DataError` where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            sets = ConformerSets(**{field.name: arrays[field.name] for field in dataclasses.fields(ConformerSets)})
            return sets, Counter(json.loads(str(arrays[SKIPPED])))
    except Exception as error:  # numpy and zipfile have a dozen ways to say that a file is damaged
        raise DataError(f"The packed data {path} is damaged: delete it and start again ({error}).") from error
