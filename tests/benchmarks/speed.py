"""How long does one energy-and-forces call take, beside SevenNet-0 and GFN2-xTB (the theory that was learned)?

All run through their ASE calculators on the same structures, in turns; atoms move by about 0.001 Å before each call,
as in MD. The peers run in processes of their own. "calculator's share" is the part of our time that is not spent in
the potential itself. SevenNet-0 is a potential for crystals: only its speed is compared here. Each row compares by
itself, so that Ctrl-C leaves those that are done.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _frame import Answer, Row, answer, progress
from _peers import Package, Peer, PeerError, Peers
from _structures import ASPIRIN, liquid, peptide
from _timing import mover, time_in_turns, timed
from ase import Atoms
from ase.build import molecule
from ase.io import write

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate.structures import load_structure

MODEL = "geomformer-organic"
OURS, SEVENNET, GFN2 = "ours", "SevenNet-0", "GFN2-xTB"
SHARE = "calculator's share"
PACKAGES = (Package(SEVENNET, "_peer_sevennet.py", "sevenn==0.13.0"), Package(GFN2, "_peer_gfn2.py"))
STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "ethanol": lambda: molecule("CH3CH2OH"),
    "aspirin": lambda: load_structure(ASPIRIN),
    **{f"alanine peptide {n}": partial(peptide, n) for n in (2, 3, 4, 5, 6, 8, 11)},
    "acetic acid, liquid 64": lambda: liquid(64),
    "acetic acid, liquid 512": lambda: liquid(512),
}
ROUNDS = 7


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
    for contender, peer in running.items():
        if peer is not None:
            try:
                peer.ask(name)
                turns[contender] = partial(peer.ask, name)
            except PeerError as error:
                peers.leave_out(f"{contender} for {name}", error)
    seconds = time_in_turns(turns, rounds)
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
    """Median share of a call that our calculator spends outside the potential."""
    calculator = GeoMolCalculator(model)
    potential = calculator.checkpoints[0].potential
    forward, inside = potential.forward, [0.0]

    def clocked(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        output = forward(*arguments, **options)
        inside[0] = time.perf_counter() - start
        return output

    potential.forward = clocked
    call, shares = mover(atoms, calculator), []
    call()
    for _ in range(calls):
        start = time.perf_counter()
        call()
        shares.append(1 - inside[0] / (time.perf_counter() - start))
    return statistics.median(shares)


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
    answer(__doc__ or "", run, model=MODEL, with_peers=True)
