"""How long does one energy-and-forces call take, beside SevenNet-0 and GFN2-xTB (the theory that was learned)?

All run through their ASE calculators on the same structures, in turns; atoms move by about 0.001 Å before each call,
as in MD. The peers run in processes of their own. "share outside the network" is the part of our time that is not
spent in the network, whose forward and backward pass are timed by themselves. A peer that takes very long is timed
once. SevenNet-0 is a potential for crystals:
only its speed is compared here. Each row compares by itself, so that Ctrl-C leaves those that are done.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _frame import Answer, Row, answer, progress
from _peers import Package, Peer, PeerError, Peers
from _structures import ASPIRIN, liquid, peptide
from _timing import mover, time_in_turns, timed
from ase import Atoms
from ase.build import molecule
from ase.io import write

from ase_geomol import GeoMolCalculator
from ase_geomol.graph import edge_vectors, from_atoms
from ase_geomol.simulate.structures import load_structure

MODEL = "geomformer-organic"
OURS, SEVENNET, GFN2 = "ours", "SevenNet-0", "GFN2-xTB"
SHARE = "share outside the network"
PACKAGES = (Package(SEVENNET, "_peer_sevennet.py", "sevenn==0.13.0"), Package(GFN2, "_peer_gfn2.py"))
STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "ethanol": lambda: molecule("CH3CH2OH"),
    "aspirin": lambda: load_structure(ASPIRIN),
    **{f"alanine peptide {n}": partial(peptide, n) for n in (2, 3, 4, 5, 6, 8, 11)},
    "acetic acid, liquid 64": lambda: liquid(64),
    "acetic acid, liquid 512": lambda: liquid(512),
}
ROUNDS = 7
SLOW = 20.0
"""Seconds; a peer whose first answer takes longer is asked no more."""


def run(smoke: bool, model: str, peers: Peers) -> Answer:
    """One row a structure."""
    structures = {name: STRUCTURES[name]() for name in (["ethanol"] if smoke else STRUCTURES)}
    for name, atoms in structures.items():
        atoms.info["name"] = name
    rows: list[Row] = []
    complete = False
    with TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        file = Path(folder) / "structures.extxyz"
        write(file, list(structures.values()))
        running = {package.name: peers.start(package, str(file)) for package in PACKAGES}
        for name in progress(structures, "structures"):
            rows.append(_row(structures[name], model, running, peers, rounds=1 if smoke else ROUNDS))
        complete = True
    return Answer(rows, _summary(rows) if complete else {}, complete=complete)


def _row(atoms: Atoms, model: str, running: dict[str, Peer | None], peers: Peers, rounds: int) -> Row:
    name = str(atoms.info["name"])
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
        SHARE: _share_outside(atoms, model),
    }


def _ratio(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first / second


def _share_outside(atoms: Atoms, model: str, calls: int = 15) -> float:
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


def _summary(rows: list[Row]) -> dict[str, float | None]:
    """What the targets are about."""
    aspirin = next((row for row in rows if row["structure"] == "aspirin"), {})
    return {
        f"{OURS} / {SEVENNET} on aspirin (target: 0.25 or less)": aspirin.get(f"{OURS} / {SEVENNET}"),
        f"atoms of a molecule from which on ours is faster than {GFN2} (target: 60 or less)": _crossing(rows),
        f"{SHARE} on aspirin (target: 0.15 or less)": aspirin.get(SHARE),
    }


def _crossing(rows: list[Row]) -> int | None:
    """Atoms of the smallest molecule from which on all that were measured are faster; None if there is none."""
    molecules = [row for row in rows if "liquid" not in row["structure"] and row[f"{OURS} / {GFN2}"] is not None]
    first = None
    for row in sorted(molecules, key=lambda row: -row["atoms"]):
        if row[f"{OURS} / {GFN2}"] >= 1:
            break
        first = row["atoms"]
    return first


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, with_peers=True)
