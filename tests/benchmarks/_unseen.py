"""Molecules that no shipped potential was trained on.

They are those of the conformer benchmark of drug-like molecules in ``../shared/data``, which the recipes of the labels
leave out: a test sees to it, and the manifest of labels tells under ``left_out`` whether the file was there. Of
other weights given with ``--model`` nobody can tell. The smoke mode takes a few SMILES instead, and needs no data.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from ase.io.extxyz import key_val_str_to_dict

from ase_geomol.errors import DataError
from ase_geomol.simulate import load_structure

BENCHMARK = Path("../shared/data/conformers/conformer_benchmark.extxyz.xz")
DATA = "conformer_benchmark.extxyz.xz (Folmsbee and Hutchison), neutral molecules"
SEED = 7


def unseen(smoke: tuple[str, ...] = ()) -> Iterator[Atoms]:
    """Neutral benchmark molecules, the first conformer of each, in an order drawn with a fixed seed.

    ``info`` holds ``name`` and ``smiles``. Where ``smoke`` names SMILES, these molecules come instead.
    """
    for smiles in smoke:
        atoms = load_structure(smiles)
        yield _named(atoms, atoms.get_chemical_formula(), smiles)
    if smoke:
        return
    first: dict[str, tuple[dict[str, Any], str]] = {}
    for info, frame in benchmark_frames():
        if is_neutral(info):
            first.setdefault(str(info["molecule"]), (info, frame))
    names = sorted(first)
    for index in np.random.default_rng(SEED).permutation(len(names)):
        info, frame = first[names[index]]
        yield _named(as_atoms(frame), names[index], str(info["smiles"]))


def benchmark_frames() -> Iterator[tuple[dict[str, Any], str]]:
    """Header and text of every structure of the benchmark; the text becomes Atoms only where it is needed."""
    if not BENCHMARK.exists():
        raise DataError(f"There is no {BENCHMARK}: run from the repository's root with the data beside it, or --smoke.")
    with lzma.open(BENCHMARK, "rt") as file:
        lines = file.read().splitlines()
    start = 0
    while start < len(lines):
        end = start + int(lines[start]) + 2
        yield key_val_str_to_dict(lines[start + 1]), "\n".join(lines[start:end]) + "\n"
        start = end


def is_neutral(info: dict[str, Any]) -> bool:
    """Whether a header is that of a molecule without charge."""
    return int(info.get("charge", 0)) == 0


def as_atoms(frame: str) -> Atoms:
    """One structure of its extended-XYZ text."""
    atoms = read(io.StringIO(frame), format="extxyz")
    assert isinstance(atoms, Atoms)
    return atoms


def _named(atoms: Atoms, name: str, smiles: str) -> Atoms:
    atoms.info = {"name": name, "smiles": smiles, "charge": 0}
    return atoms
