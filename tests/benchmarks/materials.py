"""Does the crystal potential give what its teacher gives: lattices, bulk moduli, phonons, vacancies, surfaces?

Thirty cubic crystals, relaxed by both from the same start; "not relaxed": a relaxation that did not converge, or left
the cubic crystal for another, whose numbers stand but mean little. Bulk modulus: from seven volumes around the minimum.
Phonons of five of them: the mean is over all frequencies on the same path through the Brillouin zone; imaginary modes
are looked for on a mesh, too. Vacancies of six elements in supercells of at least 9 Å, and their (111) surfaces of six
layers, relaxed. "Learned": whether labels of this composition were trained on, as of all elements. The teacher is
SevenNet-0 in an environment of its own (`--environments`); without it there is nothing to compare with. Rows are kept.
"""

from __future__ import annotations

import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _peers import Package, Peers
from _work import computed, each, work_folder
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from geomol_training.crystals.structures import split_of_composition
from geomol_training.crystals.teacher import Teacher

from ase_geomol import DataError, GeoMolCalculator
from ase_geomol.simulate import equation_of_state, phonons, relax, surface_energy, vacancy_energy

MODEL = "est-crystal"
TEACHER = Package("SevenNet-0", "_peer_sevennet.py", "sevenn==0.13.0")
STARTS = {
    "bcc": {"Li": 3.45, "Na": 4.2, "K": 5.3, "V": 3.0, "Nb": 3.3, "Mo": 3.16, "Ta": 3.3, "W": 3.17},
    "fcc": {
        **{"Al": 4.05, "Ni": 3.52, "Cu": 3.63, "Rh": 3.83, "Pd": 3.95, "Ag": 4.15},
        **{"Ir": 3.87, "Pt": 3.97, "Au": 4.17, "Pb": 5.04, "Ca": 5.53},
    },
    "diamond": {"C": 3.57, "Si": 5.46, "Ge": 5.76},
    "rocksalt": {"NaCl": 5.69, "LiF": 4.08, "MgO": 4.25, "CaO": 4.83},
    "zincblende": {"GaAs": 5.75, "SiC": 4.38, "ZnS": 5.45},
    "cesiumchloride": {"CsCl": 4.2},
}
"""Structures and lattice constants in Å where both relaxations begin."""
CRYSTALS = {name: (structure, a) for structure, starts in STARTS.items() for name, a in starts.items()}
PER_CUBE = {"fcc": 4, "bcc": 2, "diamond": 4, "rocksalt": 4, "zincblende": 4, "cesiumchloride": 1}
SETTINGS = {
    "crystals": sorted(CRYSTALS),
    "fmax eV/Å": 0.005,
    "most steps": 200,
    "phonons": ["Si", "Cu", "Al", "NaCl", "MgO"],
    "vacancies and surfaces": ["Cu", "Al", "Ni", "Pd", "Ag", "Pt"],
    "layers": 6,
    "imaginary below THz": -0.1,
    "modes looked for": "on the path and on a mesh",
}
QUANTITIES = ("lattice Å", "bulk modulus GPa", "vacancy eV", "surface J/m²")
FREQUENCIES = "frequencies THz"


def run(smoke: bool, model: str, peers: Peers) -> Answer:
    """One row for each crystal."""
    chosen = {name: CRYSTALS[name] for name in (["Cu"] if smoke else CRYSTALS)}
    theirs: list[Row] = [{"name": name, "error": ""} for name in chosen]
    if python := peers.environment(TEACHER):
        with work_folder("materials", SETTINGS, smoke) as folder:
            items = {name: (name, *start) for name, start in chosen.items()}
            theirs = each(items, partial(_properties, python=python, smoke=smoke), folder)
    with work_folder("materials", SETTINGS, smoke, model) as folder:
        items = {name: (name, *start) for name, start in chosen.items()}
        ours = each(items, partial(_properties, model=model, smoke=smoke), folder)
    rows = [_compared(own, other) for own, other in zip(ours, theirs, strict=True)]
    errors = {title: [row[f"{title}: error %"] for row in rows] for title in QUANTITIES}
    unseen = {title: [row[f"{title}: error %"] for row in rows if not row["learned"]] for title in QUANTITIES}
    return Answer(
        rows,
        {
            "mean error of lattice constants in % (goal: 1)": _mean(errors["lattice Å"]),
            "mean error of bulk moduli in % (goal: 15)": _mean(errors["bulk modulus GPa"]),
            "the same of crystals of which nothing was learned: lattice constants in %": _mean(unseen["lattice Å"]),
            "bulk moduli in %": _mean(unseen["bulk modulus GPa"]),
            "how many these are": _known(unseen["lattice Å"]),
            "mean error of frequencies in THz": _mean([row["frequency error THz"] for row in rows]),
            "crystals with imaginary modes where the teacher has none (goal: 0)": _count(
                rows, "imaginary modes", "only ours"
            ),
            "crystals that ours did not relax, or to no cubic one (goal: 0)": sum(
                "ours" in row["not relaxed"] for row in rows
            ),
            "mean error of vacancy energies in %": _mean(errors["vacancy eV"]),
            "mean error of surface energies in %": _mean(errors["surface J/m²"]),
            "crystals that ended with an error (goal: 0)": sum(bool(row["error"]) for row in rows),
            "crystals compared": _known(errors["lattice Å"]),
            "phonons compared": _known([row["frequency error THz"] for row in rows]),
        },
        computed([*ours, *(row for row in theirs if "date" in row)]),
    )


def _properties(item: tuple[str, str, float], smoke: bool, model: str | None = None, python: Path | None = None) -> Row:
    """What one calculator, of the ``model`` or the teacher of that ``python``, says of one crystal."""
    name, structure, a = item
    if python is not None:
        try:
            return _measured(name, structure, a, teacher(python), smoke)
        except DataError:
            teacher.cache_clear()  # it has died: the next crystal starts another one
            raise
    return _measured(name, structure, a, GeoMolCalculator(str(model), dtype="float64"), smoke)


def _measured(name: str, structure: str, a: float, calculator: Calculator, smoke: bool) -> Row:
    atoms = bulk(name, structure, a=a)
    atoms.calc = calculator
    relaxed = relax(atoms, fmax=SETTINGS["fmax eV/Å"], cell=True, steps=SETTINGS["most steps"])
    rest = relaxed.atoms
    rest.calc = calculator
    curve = equation_of_state(rest, points=7, fmax=None)
    lattice = (curve.volume * PER_CUBE[structure]) ** (1 / 3)
    at_rest = [relaxed.converged and _same_shape(rest, atoms)]
    row: Row = {"lattice Å": lattice, "bulk modulus GPa": curve.bulk_modulus}
    if name in SETTINGS["phonons"]:
        primitive = bulk(name, structure, a=lattice)
        primitive.calc = calculator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # spglib's, about its own next version
            found = phonons(primitive)
        row[FREQUENCIES], row["lowest THz"] = found.bands.tolist(), found.lowest
    if name in SETTINGS["vacancies and surfaces"] and not smoke:
        cube = bulk(name, structure, a=lattice, cubic=True)
        cube.calc = calculator
        row["vacancy eV"], hole = vacancy_energy(cube)
        surface = surface_energy(cube, (1, 1, 1), layers=SETTINGS["layers"])
        row["surface J/m²"] = surface.energy
        at_rest += [hole.converged, surface.slab.converged]
    row["at rest"] = all(at_rest)
    return row


def _same_shape(atoms: Atoms, start: Atoms) -> bool:
    """Whether the cell is that of the start, but for its volume."""
    now, before = (np.array(a.cell.cellpar()) / ([a.get_volume() ** (1 / 3)] * 3 + [1] * 3) for a in (atoms, start))
    return bool(np.allclose(now, before, rtol=1e-3))


@cache
def teacher(python: Path) -> Calculator:
    """One for each process."""
    return Teacher(python, "sevenn.calculator:SevenNetCalculator", {"model": "7net-0", "device": "cpu"})


def _compared(ours: Row, theirs: Row) -> Row:
    row: Row = {"name": ours["name"], "learned": split_of_composition(Atoms(ours["name"])) == "train"}
    for title in QUANTITIES:
        own, other = ours.get(title), theirs.get(title)
        row[title], row[f"{title}: teacher"] = own, other
        row[f"{title}: error %"] = None if own is None or other is None else 100 * abs(own / other - 1)
    row["frequency error THz"] = row["imaginary modes"] = None
    if FREQUENCIES in ours and FREQUENCIES in theirs:
        own, other = np.array(ours[FREQUENCIES]), np.array(theirs[FREQUENCIES])
        row["frequency error THz"] = float(np.abs(own - other).mean())
        soft = [found["lowest THz"] < SETTINGS["imaginary below THz"] for found in (ours, theirs)]
        row["imaginary modes"] = {
            (False, False): "none",
            (True, True): "both",
            (True, False): "only ours",
            (False, True): "only the teacher's",
        }[soft[0], soft[1]]
    row["not relaxed"] = ", ".join(
        who for who, found in (("ours", ours), ("teacher", theirs)) if not found.get("at rest", True)
    )
    row["error"] = "; ".join(f"{who}: {r['error']}" for who, r in (("ours", ours), ("teacher", theirs)) if r["error"])
    return row


def _count(rows: list[Row], name: str, value: str) -> int | None:
    """Rows of this value, of those that know it; None where none does."""
    known = [row[name] for row in rows if row[name] is not None]
    return known.count(value) if known else None


def _known(values: list[float | None]) -> int:
    return sum(value is not None for value in values)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["phonopy"], model=MODEL, on_card=True, settings=SETTINGS, with_peers=True)
