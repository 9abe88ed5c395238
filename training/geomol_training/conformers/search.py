"""All low conformers of a molecule by brute force: many embeddings, their minima in MMFF94s, then in a potential of
ours, then in GFN2-xTB.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolDescriptors
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from ase_geomol.calculator import GeoMolCalculator
from ase_geomol.providers.molecules import Molecule, parse
from ase_geomol.providers.refine import clusters, refusal, weigh
from ase_geomol.providers.rmsd import FEW_MATCHES, symmetry
from ase_geomol.simulate.together import relax_in_turn

from ..labelling.engine import GFN2, LABEL_ACCURACY, RejectedFrame
from .recipe import Search

KCAL = units.kcal / units.mol
ISOMERS, ISOMERS_TRIED = 16, 4
"""Stereoisomers among which is chosen, and how many are tried until one has a geometry: some are too strained."""
SECONDS_FOR_GEOMETRIES = 20
SOFTEST, STEP = 1.0, 1e-3
"""eV/Å² below which no curvature of MMFF94s is believed; Å between the gradients that give it."""


class Found(NamedTuple):
    """Conformers of a molecule from the lowest energy on, and what went into them.

    Attributes:
        conformers: with energy (eV); ``info`` has their ``smiles``, in whose order the atoms are
            (`parse`), and Boltzmann weights.
        rejected: minima, or the molecule, that were left out, by reason.
        sums: seconds of the processor and counts, to add up; "molecules" are those with conformers, of those "tried".
    """

    conformers: list[Atoms]
    rejected: Counter[str]
    sums: Counter[str]


def find_conformers(smiles: str, settings: Search, potential: GeoMolCalculator, random: np.random.Generator) -> Found:
    """Look for all conformers within the energy window of one stereoisomer, drawn where ``smiles`` leaves it open.

    Raises:
        RejectedFrame: MMFF94s does not know the molecule, or flattens it (cumulated double bonds).
    """
    sums, rejected = Counter(tried=1), Counter()
    with _timed(sums, "embedding"):
        embedded = _embedded(smiles, settings, random)
    if embedded is None:
        return Found([], Counter({"no first geometry": 1}), sums)
    molecule, built = embedded
    raw = [Chem.Mol(geometries) for geometries in built] if settings.thorough else []
    if "\\" in molecule.smiles:
        return Found([], Counter({"SMILES that extended XYZ does not keep": 1}), sums)
    with _timed(sums, "force field"):
        starts = _force_field_minima(molecule, built, settings)
        starts += [
            (_positions(geometries, name), _hessian(geometries, name))
            for geometries in raw
            for name in _names(geometries)
        ]
    with _timed(sums, "potential"):
        starts = _nearer(molecule, starts, settings, potential, sums)
    with _timed(sums, "GFN2"):
        engine, minima = GFN2(charge=molecule.charge, multiplicity=molecule.multiplicity), []
        for positions, hessian in starts:
            try:
                minima.append(_minimum(molecule, positions, hessian, settings, engine, sums))
            except RejectedFrame as rejection:
                rejected[rejection.reason] += 1
    with _timed(sums, "comparison"):
        conformers = _lowest(molecule, minima, settings)
    sums.update(
        molecules=bool(conformers),
        embedded=sum(len(_names(geometries)) for geometries in built),
        starts=len(starts),
        minima=len(minima),
    )
    return Found(conformers, rejected, sums)


def _embedded(smiles: str, settings: Search, random: np.random.Generator) -> tuple[Molecule, list[Chem.Mol]] | None:
    """A stereoisomer, and itself with geometries by ETKDGv3; None where there are none.

    In a thorough search the same again with geometries by distances alone, whatever torsions are usual.
    """
    seed = int(random.integers(2**31 - 1))
    options = StereoEnumerationOptions(maxIsomers=ISOMERS, onlyUnassigned=True, rand=seed)
    isomers = list(EnumerateStereoisomers(Chem.MolFromSmiles(smiles), options=options))
    for isomer in (isomers[place] for place in random.permutation(len(isomers))[:ISOMERS_TRIED]):
        molecule = parse(parse(Chem.MolToSmiles(isomer)).smiles)  # in the order of the spelling that is written
        bonds = rdMolDescriptors.CalcNumRotatableBonds(isomer)
        seeds = min(settings.seeds + settings.seeds_per_bond * bonds, settings.most_seeds)
        built = []
        for how in (rdDistGeom.ETKDGv3(), *([rdDistGeom.KDG()] if settings.thorough else [])):
            how.randomSeed, how.maxIterations, how.timeout = seed, 20, SECONDS_FOR_GEOMETRIES
            geometries = Chem.Mol(molecule.mol)
            if len(rdDistGeom.EmbedMultipleConfs(geometries, seeds, how)):
                built.append(geometries)
        if built:
            return molecule, built
    return None


def _names(built: Chem.Mol) -> list[int]:
    """Of its geometries."""
    return [conformer.GetId() for conformer in built.GetConformers()]


def _positions(built: Chem.Mol, name: int) -> np.ndarray:
    """(N, 3) Å of one of its geometries."""
    return built.GetConformer(name).GetPositions()


# --- MMFF94s


def _force_field_minima(
    molecule: Molecule, built: Sequence[Chem.Mol], settings: Search
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions (N, 3) and Hessians (3N, 3N; eV/Å²) of the different minima in the window; of two mirror images, one.

    Here rotamers of hydroxyls and the like are different: GFN2-xTB decides which of them is the lowest.
    """
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(built[0]):
        raise RejectedFrame("no MMFF94s parameters")
    if molecule.axes:
        raise RejectedFrame("cumulated double bonds, which MMFF94s flattens")
    minima, energies = [], []
    for geometries in built:
        outcome = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(geometries, mmffVariant="MMFF94s", maxIters=1000)
        minima += [(geometries, name) for name in _names(geometries)]
        energies += [energy * KCAL for _, energy in outcome]
    positions = [_positions(*minimum) for minimum in minima]
    kept = _different(molecule, positions, np.array(energies), settings.force_field_window, settings.apart)
    return [(positions[place], _hessian(*minima[place])) for place in kept]


def _hessian(built: Chem.Mol, name: int) -> np.ndarray:
    """Of MMFF94s by differences of gradients, with all curvatures positive: where a minimisation can start."""
    settings = rdForceFieldHelpers.MMFFGetMoleculeProperties(built, "MMFF94s")
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(built, settings, confId=name)

    def gradient(moved: np.ndarray) -> np.ndarray:
        field.Initialize()  # or RDKit takes the distances of the call before
        return np.array(field.CalcGrad(moved.tolist())) * KCAL

    start = built.GetConformer(name).GetPositions().ravel()
    rows = [gradient(start + move) - gradient(start - move) for move in STEP * np.eye(len(start))]
    hessian = np.array(rows) / (2 * STEP)
    curvatures, directions = np.linalg.eigh((hessian + hessian.T) / 2)
    return (directions * np.maximum(np.abs(curvatures), SOFTEST)) @ directions.T


# --- the potential


def _nearer(
    molecule: Molecule,
    starts: Sequence[tuple[np.ndarray, np.ndarray]],
    settings: Search,
    potential: GeoMolCalculator,
    sums: Counter[str],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The different ones in the window, relaxed with the potential, which is near GFN2-xTB; Hessians as they were.

    What the potential does not know stays as it is.
    """
    structures, hessians = (
        [molecule.atoms(positions, {}) for positions, _ in starts],
        [hessian for _, hessian in starts],
    )
    fmax, steps = settings.potential_fmax, settings.steps
    known, energies, unknown = [], [], []
    for end in relax_in_turn(structures, potential, fmax=fmax, steps=steps, hessians=hessians):
        sums["potential steps"] += end.steps + 1
        if end.error is None:
            known.append((end.atoms.positions, hessians[end.place]))
            energies.append(end.atoms.get_potential_energy())
        else:
            unknown.append(starts[end.place])
    minima = [positions for positions, _ in known]
    kept = _different(molecule, minima, np.array(energies), settings.potential_window, settings.apart)
    return [known[place] for place in kept] + unknown


def _different(
    molecule: Molecule, minima: Sequence[np.ndarray], energies: np.ndarray, window: float, apart: float
) -> list[int]:
    """Places of the different ``minima`` (N, 3 each) in the window (kcal/mol), the lowest first; of two mirror images,
    one.
    """
    low = [place for place in np.argsort(energies, kind="stable") if energies[place] < energies.min() + window * KCAL]
    if not low:
        return []
    shapes = with_mirror_images(molecule, [minima[place] for place in low])
    images = len(shapes) // len(low)
    labels = clusters(symmetry(molecule, polar=True, most=FEW_MATCHES), np.array(shapes), apart)
    return [low[place] for place in np.flatnonzero(labels[::images] == np.arange(0, len(shapes), images))]


# --- GFN2-xTB


def _minimum(
    molecule: Molecule,
    positions: np.ndarray,
    hessian: np.ndarray,
    settings: Search,
    engine: GFN2,
    sums: Counter[str],
) -> Atoms:
    """The minimum of GFN2-xTB near by, with its energy; raises :class:`RejectedFrame`."""
    atoms = Atoms(molecule.numbers, positions, calculator=engine)
    search = BFGS(atoms, logfile=None, maxstep=0.2)
    search.H0 = hessian
    search.run(fmax=settings.fmax, steps=settings.steps)
    sums["steps"] += search.nsteps + 1
    energy, forces = engine.evaluate(atoms, LABEL_ACCURACY)
    if np.linalg.norm(forces, axis=1).max() > 2 * settings.fmax:
        raise RejectedFrame("no minimum reached")
    if reason := refusal(molecule, atoms.positions, ("stereo", "bonds")):
        raise RejectedFrame(reason)
    return _labelled(molecule, atoms.positions, energy)


def _labelled(molecule: Molecule, positions: np.ndarray, energy: float) -> Atoms:
    atoms = Atoms(molecule.numbers, positions, info={"smiles": molecule.smiles, "charge": molecule.charge})
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def _lowest(molecule: Molecule, minima: list[Atoms], settings: Search) -> list[Atoms]:
    """The different ones in the window from the lowest energy on, with mirror images where the molecule is its own."""
    if not minima:
        return []
    minima = [
        _labelled(molecule, image, atoms.get_potential_energy())
        for atoms in minima
        for image in with_mirror_images(molecule, [atoms.positions])
    ]
    minima.sort(key=Atoms.get_potential_energy)
    highest = minima[0].get_potential_energy() + settings.window * KCAL
    minima = [atoms for atoms in minima if atoms.get_potential_energy() <= highest]
    labels = clusters(
        symmetry(molecule, most=FEW_MATCHES), np.array([atoms.positions for atoms in minima]), settings.apart
    )
    kept = [minima[place] for place in np.flatnonzero(labels == np.arange(len(minima)))][: settings.most]
    weigh(kept)
    return kept


def is_achiral(molecule: Molecule) -> bool:
    """Whether no atom is a stereocentre, so that the mirror image of a conformer is a conformer, too."""
    return all(atom.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED for atom in molecule.mol.GetAtoms())


def with_mirror_images(molecule: Molecule, positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each of the positions (N, 3), where the molecule is achiral followed by its mirror image."""
    images = (1, -1) if is_achiral(molecule) else (1,)
    return [place * (1, 1, sign) for place in positions for sign in images]


@contextmanager
def _timed(sums: Counter[str], what: str) -> Iterator[None]:
    """Add the processor's seconds inside to ``sums``."""
    started = time.process_time()
    yield
    sums.update({f"{what} s": time.process_time() - started})  # type: ignore[arg-type]
