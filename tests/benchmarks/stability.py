"""Do molecules that the potential never saw survive relaxation and 1 ps of MD at 300 K?

Molecules come from the conformer benchmark of drug-like molecules in ``../shared/data`` (kept out of training, see
the labels' recipe); the smoke mode takes two SMILES instead. Each is relaxed (0.02 eV/Å), then moves for 1 ps in
steps of 0.5 fs at 300 K. A bond is broken when it gets longer than 1.5 times the sum of its covalent radii, looked
at every 10 steps; a molecule whose run ends with an error counts as broken, too. The peer is the theory that was
learned: from each minimum a relaxation with GFN2-xTB goes on.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _frame import Row, answer
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.data import covalent_radii
from ase.io import iread
from ase.neighborlist import natural_cutoffs, neighbor_list
from tblite.ase import TBLite

from ase_geomol import GeoMolCalculator
from ase_geomol.errors import DataError
from ase_geomol.simulate import MDSettings, load_structure, relax, run_md

MODEL = "geomformer-organic"
BENCHMARK = Path("../shared/data/conformers/conformer_benchmark.extxyz.xz")
SMOKE = ("CCO", "c1ccccc1C(=O)O")
MOLECULES, SEED = 50, 7
STRETCH = 1.5
RMSD, ABOVE = "RMSD to GFN2 Å", "energy above GFN2's minimum meV/atom"


def run(smoke: bool, model: str) -> list[Row]:
    """One row a molecule, then one for all."""
    molecules = [load_structure(smiles) for smiles in SMOKE] if smoke else list(_unseen())
    time = 10.0 if smoke else 1000.0
    with ProcessPoolExecutor(2, get_context("spawn"), _one_thread) as pool:
        rows = list(pool.map(_row, molecules, [model] * len(molecules), [time] * len(molecules)))
    everything = {name: _over([row[name] for row in rows if row[name] is not None], name) for name in rows[0]}
    return [*rows, {**everything, "molecule": f"all {len(rows)}"}]


def _over(values: list, name: str) -> float | int | None:
    """One number for all molecules that have one."""
    if name in ("molecule", "error"):
        return sum(bool(value) for value in values)
    if not values:
        return None
    kind = {"longest bond / radii": np.max, "mean K": np.mean, RMSD: np.median, ABOVE: np.median}.get(name, np.sum)
    return kind(values).item()


def _unseen() -> Iterator[Atoms]:
    """The first conformer of neutral benchmark molecules, drawn with a fixed seed."""
    if not BENCHMARK.exists():
        raise DataError(f"There is no {BENCHMARK}: run from the repository's root with the data beside it, or --smoke.")
    first: dict[str, Atoms] = {}
    with lzma.open(BENCHMARK, "rt") as file:
        text = io.StringIO(file.read())  # ASE's reader jumps to and fro, which is slow in a compressed file
    for atoms in iread(text, format="extxyz"):
        if int(atoms.info.get("charge", 0)) == 0:
            first.setdefault(str(atoms.info["molecule"]), atoms)
    names = sorted(first)
    for index in np.random.default_rng(SEED).permutation(len(names))[:MOLECULES]:
        atoms = first[names[index]]
        atoms.info = {"name": names[index], "charge": 0}
        yield atoms


def _row(start: Atoms, model: str, time: float) -> Row:
    """What one molecule went through; an error on the way is a result, not the end of all."""
    about: Row = {"molecule": start.info.get("name", str(start.symbols)), "atoms": len(start)}
    try:
        return {**about, **_survive(start, model, time), "error": ""}
    except Exception as error:
        lost = dict.fromkeys(("longest bond / radii", "mean K", RMSD, ABOVE))
        return {**about, "relaxed": 0, "broken bonds": 1, **lost, "error": f"{type(error).__name__}: {error}"}


def _survive(start: Atoms, model: str, time: float) -> Row:
    atoms = start.copy()
    atoms.calc = GeoMolCalculator(model)
    minimum = relax(atoms, fmax=0.02, steps=600, optimizer="LBFGS")
    with TemporaryDirectory() as folder:
        settings = MDSettings(temperature=300, timestep=0.5, seed=SEED)
        result = run_md(minimum.atoms, settings, time=time, folder=Path(folder) / "md")
        frames = [minimum.atoms, *iread(Path(folder) / "md" / "trajectory.extxyz")]
    longest = _longest_bond(start, frames)
    rmsd, above = _beside_gfn2(minimum.atoms)
    return {
        "relaxed": int(minimum.converged),
        "broken bonds": int(longest > STRETCH),
        "longest bond / radii": longest,
        "mean K": float(np.mean(result.log["temperature_K"])),
        RMSD: rmsd,
        ABOVE: above,
    }


def _longest_bond(start: Atoms, frames: list[Atoms]) -> float:
    """Largest length of a bond of ``start`` in any frame, in sums of its covalent radii."""
    first, second = neighbor_list("ij", start, natural_cutoffs(start, mult=1.2))
    radii = covalent_radii[start.numbers[first]] + covalent_radii[start.numbers[second]]
    lengths = [np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1) for atoms in frames]
    return float((np.array(lengths) / radii).max())


def _beside_gfn2(minimum: Atoms) -> tuple[float, float]:
    """From our minimum on to GFN2-xTB's: RMSD in Å, and our minimum's GFN2 energy above it in meV/atom."""
    gfn2 = minimum.copy()
    gfn2.calc = TBLite(method="GFN2-xTB", verbosity=0)
    relaxed = relax(gfn2, fmax=0.02, steps=600, optimizer="LBFGS")
    above = 1e3 * (relaxed.energies[0] - relaxed.energies[-1]) / len(gfn2)
    gfn2, ours = relaxed.atoms, minimum.copy()
    minimize_rotation_and_translation(gfn2, ours)
    return float(np.sqrt(((gfn2.positions - ours.positions) ** 2).sum(1).mean())), float(above)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL)
