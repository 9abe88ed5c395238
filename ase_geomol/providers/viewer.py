"""A web page that shows an ensemble and can be turned with the mouse; it needs no network and no other file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from ..files import write_atomically
from .refine import superimposed

TEMPLATE = Path(__file__).with_name("viewer.html")


def write_viewer(path: Path, structures: Sequence[Atoms], *, title: str) -> None:
    """Write the page.

    Args:
        path: HTML file.
        structures: conformers of one molecule, with ``info["bonds"]``.
        title: above them.

    Raises:
        OutputError: the file cannot be written.
    """
    first = structures[0]
    positions = superimposed(structures)
    positions -= positions[0].mean(0)
    data = {
        "symbols": first.get_chemical_symbols(),
        "colors": ["#{:02x}{:02x}{:02x}".format(*np.rint(255 * jmol_colors[z]).astype(int)) for z in first.numbers],
        "radii": [round(float(covalent_radii[z]), 3) for z in first.numbers],
        "bonds": np.asarray(first.info["bonds"]).reshape(-1, 3).astype(int).tolist(),
        "conformers": [
            {
                "positions": np.round(conformer, 3).ravel().tolist(),
                "energy": atoms.info.get("relative_energy"),
                "weight": atoms.info.get("boltzmann_weight"),
                "index": int(atoms.info.get("index", place)),
            }
            for place, (atoms, conformer) in enumerate(zip(structures, positions, strict=True))
        ],
    }
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    filled = {"title": escape(title), "data": embedded}
    page = re.sub("{{(title|data)}}", lambda place: filled[place[1]], TEMPLATE.read_text(encoding="utf-8"))
    write_atomically(path, page.encode())
