"""Structures and molecules of pymatgen with their labels, as JSON.

A file holds a list of entries, a dictionary of them by their names, or one entry. An entry is a dictionary with a
``structure`` or a ``molecule``, as pymatgen's ``as_dict`` gives it, and the labels beside it or in ``outputs`` or
``data``: ``energy`` (eV), ``forces`` (N, 3) in eV/Å, ``stress`` in eV/Å³ in ASE's sign (VASP's kbar divided by
-1602.18). Or it is such a structure itself, with energy and stress among its ``properties``, and forces among those of
its sites. pymatgen's ComputedStructureEntry is of this form, and what monty's encoder makes of all these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from ase_geomol.errors import DataError

from ..frames import Row
from .ase_files import formula_of, make_row, read_database
from .damage import row_or_damage
from .extxyz import open_text
from .keys import Keys

KINDS = ("structure", "molecule")


def is_json(path: Path) -> bool:
    """Whether it is called so, compressed or not."""
    return ".json" in path.suffixes[-2:]


def read_json(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of a file of this form, or of an ASE database in JSON.

    Nothing is made of it but these, whatever classes the file names.
    """
    with open_text(path) as file:
        content = json.load(file)
    if isinstance(content, dict) and "nextid" in content:
        yield from read_database(path, keys)
        return
    if isinstance(content, dict) and not {*KINDS, "sites"}.isdisjoint(content):
        content = [content]
    entries = content.items() if isinstance(content, dict) else (("", entry) for entry in content)
    for name, entry in entries:
        yield row_or_damage(_row, name, entry, keys)


def _row(name: str, entry: dict[str, Any], keys: Keys) -> Row:
    described = next((entry[kind] for kind in KINDS if kind in entry), entry)
    if not isinstance(described, dict) or "sites" not in described:
        raise DataError("neither a structure nor a molecule of pymatgen")
    sites, lattice = described["sites"], described.get("lattice")
    symbols = [_symbol(site) for site in sites]
    cell = np.zeros((3, 3)) if lattice is None else np.asarray(lattice["matrix"], dtype=float)
    pbc = (False,) * 3 if lattice is None else lattice.get("pbc", (True,) * 3)
    places = np.array([site["xyz" if lattice is None else "abc"] for site in sites], dtype=float)
    labels = {"name": name, "charge": described.get("charge") or 0, "spin": described.get("spin_multiplicity") or 1}
    for place in (described.get("properties"), entry.get("data"), entry.get("outputs"), entry):
        labels |= {key: _plain(value) for key, value in (place or {}).items() if key not in KINDS and value is not None}
    arrays = {
        key: np.asarray([site["properties"][key] for site in sites])
        for key in (keys.forces, keys.energies, "tags")
        if all((site.get("properties") or {}).get(key) is not None for site in sites)
    }
    return make_row(
        np.array([atomic_numbers[symbol] for symbol in symbols]),
        places if lattice is None else places @ cell,
        cell,
        np.array(pbc),
        labels,
        labels,
        arrays,
        keys,
        formula_of(symbols, pbc),
    )


def _symbol(site: dict[str, Any]) -> str:
    """The element of a site, of whatever oxidation state."""
    if len(site["species"]) != 1 or site["species"][0]["occu"] != 1:
        raise DataError("a site is not taken by one element alone")
    return site["species"][0]["element"]


def _plain(value: Any) -> Any:
    """What monty's encoder makes of an array, as numbers."""
    if isinstance(value, dict) and value.get("@module") == "numpy":
        return np.asarray(value["data"], dtype=float)
    return value
