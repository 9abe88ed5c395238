"""Times of one call, ours and peers', in turns on the same structures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _frame import Row
from _peers import Package, Peer, PeerError, Peers
from _timing import mover, time_in_turns, timed
from ase import Atoms
from ase.io import write

from ase_geomol import GeoMolCalculator
from ase_geomol.graph import edge_vectors, from_atoms

OURS = "ours"
SHARE = "share outside the network"
SLOW = 20.0
"""Seconds; a peer whose first answer takes longer is asked no more."""


@contextmanager
def contenders(
    packages: Sequence[Package], structures: Mapping[str, Atoms], peers: Peers
) -> Iterator[dict[str, Peer | None]]:
    """The running peers; each has read all structures, by name."""
    for name, atoms in structures.items():
        atoms.info["name"] = name
    with TemporaryDirectory() as folder:
        file = Path(folder) / "structures.extxyz"
        write(file, list(structures.values()))
        yield {package.name: peers.start(package, str(file)) for package in packages}


def contest(name: str, atoms: Atoms, model: str, running: Mapping[str, Peer | None], peers: Peers, rounds: int) -> Row:
    """One structure's row: milliseconds of a call, ours over each peer's, our share outside the network."""
    turns: dict[str, Callable[[], float]] = {OURS: partial(timed, mover(atoms, GeoMolCalculator(model)))}
    once: dict[str, float] = {}
    for contender, peer in running.items():
        if peer is not None:
            try:
                begun = time.perf_counter()
                first = peer.ask(name)
                if time.perf_counter() - begun > SLOW:
                    once[contender] = first
                else:
                    turns[contender] = partial(peer.ask, name)
            except PeerError as error:
                peers.leave_out(f"{contender} for {name}", error)
    seconds = {**time_in_turns(turns, rounds), **once}
    return {
        "structure": name,
        "atoms": len(atoms),
        **{f"{contender} ms": _ratio(seconds.get(contender), 1e-3) for contender in (OURS, *running)},
        **{f"{OURS} / {contender}": _ratio(seconds[OURS], seconds.get(contender)) for contender in running},
        SHARE: share_outside(atoms, model, calls=2 * rounds + 1),
    }


def _ratio(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first / second


def share_outside(atoms: Atoms, model: str, calls: int) -> float:
    """Share of a call through the calculator that is not the network's: medians of both, in turns."""
    calculator = GeoMolCalculator(model)
    potential = calculator.checkpoints[0].potential
    graph = from_atoms(atoms, potential.cutoff)
    vectors = edge_vectors(graph, graph.positions, graph.cell).to(potential.dtype)

    def network() -> None:
        edges = vectors.detach().requires_grad_()
        energies = potential.model(graph.numbers, graph.system, graph.edge_index, edges).energies
        torch.autograd.grad(energies.sum(), edges)

    whole, inside = mover(atoms, calculator), network
    for call in (whole, inside):
        call()
    times = [(timed(whole), timed(inside)) for _ in range(calls)]
    of_whole, of_network = (statistics.median(column) for column in zip(*times, strict=True))
    return 1 - of_network / of_whole
