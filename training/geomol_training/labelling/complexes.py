"""Molecules that meet: pairs at all distances, small clusters, and atoms pushed onto each other (Å)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from .geometry import open_direction, random_direction, random_rotation, touch, turn_onto
from .recipe import Complexes, Contacts, Trajectories
from .sampling import Tray, relax, run_dynamics

MONOMER_RELAX_STEPS = 8
CLUSTER_CONTACT = (1.7, 2.8)  # Å


def settled(atoms: Atoms, rng: np.random.Generator, tray: Tray) -> Atoms:
    """A monomer after a few GFN2 steps, centred, with a thermal-like rattle of 0.03 Å."""
    monomer = relax(atoms, MONOMER_RELAX_STEPS, tray)
    monomer.positions += rng.normal(size=monomer.positions.shape) * 0.03 - monomer.positions.mean(axis=0)
    return monomer


def pair_scan(first: Atoms, second: Atoms, settings: Complexes, rng: np.random.Generator, tray: Tray) -> None:
    """Label two molecules in random orientations at many closest contacts, and a few relaxed ones."""
    for _ in range(settings.orientations):
        direction = random_direction(rng)
        body, guest = _turned(first, rng), _turned(second, rng)
        for contact in _contacts(settings, rng):
            tray.add(_joined(body, guest, touch(body.positions, guest.positions, direction, contact)), "dimer")
        near = _joined(body, guest, touch(body.positions, guest.positions, direction, rng.uniform(2.0, 3.0)))
        tray.attempt(relax, near, int(rng.integers(4, 13)), tray, 2, "dimer")


def cluster(monomers: list[Atoms], settings: Trajectories, rng: np.random.Generator, tray: Tray) -> None:
    """Pack molecules, relax a few steps and run short dynamics."""
    together = packed(monomers, CLUSTER_CONTACT, rng)
    tray.add(together, "cluster")
    relaxed = tray.attempt(relax, together, 10, tray, 2, "cluster")
    if relaxed is not None:
        run_dynamics(relaxed, "cluster", settings, rng, tray, frames=6)


def packed(monomers: list[Atoms], contact: tuple[float, float], rng: np.random.Generator) -> Atoms:
    """Molecules around the first one, each at a closest contact (Å) drawn from a range."""
    together = monomers[0].copy()
    for monomer in monomers[1:]:
        guest = _turned(monomer, rng)
        direction = random_direction(rng)
        shift = touch(together.positions, guest.positions, direction, rng.uniform(*contact))
        together = _joined(together, guest, shift)
        together.positions -= together.positions.mean(axis=0)
    return together


def push_together(
    first: Atoms,
    second: Atoms,
    elements: tuple[int, int] | None,
    settings: Contacts,
    rng: np.random.Generator,
    tray: Tray,
) -> None:
    """Bring an atom of each molecule together from its open side until a force is too large.

    ``elements`` are the atomic numbers of the two atoms; None takes any two atoms.
    """
    i = _atom_of(first, elements and elements[0], rng)
    j = _atom_of(second, elements and elements[1], rng)
    direction = open_direction(first.positions, i, rng)
    guest = second.copy()
    turn = turn_onto(open_direction(second.positions, j, rng), -direction, rng)
    guest.positions = turn.apply(guest.positions - guest.positions[j])
    radii = covalent_radii[first.numbers[i]] + covalent_radii[second.numbers[j]]
    edges = np.linspace(settings.reach[1], settings.reach[0], settings.distances + 1)
    for far, near in pairwise(edges):
        distance = radii * rng.uniform(near, far)
        if not tray.add(_joined(first, guest, first.positions[i] + distance * direction), "contact"):
            return


def _contacts(settings: Complexes, rng: np.random.Generator) -> np.ndarray:
    """Distances (Å), evenly in their square root so that short ones are common, one in each interval."""
    low, high = np.sqrt(settings.contact)
    edges = np.linspace(low, high, settings.distances + 1)
    return rng.uniform(edges[:-1], edges[1:]) ** 2


def _turned(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    turned = atoms.copy()
    turned.positions = random_rotation(rng).apply(turned.positions)
    return turned


def _joined(first: Atoms, second: Atoms, shift: np.ndarray) -> Atoms:
    moved = second.copy()
    moved.positions += shift
    return first + moved


def _atom_of(atoms: Atoms, element: int | None, rng: np.random.Generator) -> int:
    choices = np.arange(len(atoms)) if element is None else np.nonzero(atoms.numbers == element)[0]
    return int(rng.choice(choices))
