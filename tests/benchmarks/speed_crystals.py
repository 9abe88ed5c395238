"""How long does one call for energy, forces and stress of a crystal take, beside SevenNet-0 and CHGNet?

All run through their ASE calculators on the same structures, in turns; atoms move by about 0.001 Å before each call, as
in MD. The peers run in processes of their own, with the weights of their wheels. SevenNet-0 is the teacher of ours.
"share outside the network" is the part of our time that is not spent in the network, whose forward and backward pass
are timed by themselves. "Exponent": of the power of the number of atoms that time grows with, from 512 to 4096 atoms of
NaCl, where the peers are not asked. A peer that takes very long is timed once. Each row compares by itself, so that
Ctrl-C leaves those that are done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
from _contest import OURS, contenders, contest
from _frame import Answer, Row, answer, progress
from _peers import Package, Peers
from ase import Atoms
from ase.build import bulk

MODEL = "est-crystal"
SEVENNET, CHGNET = "SevenNet-0", "CHGNet"
PACKAGES = (
    Package(SEVENNET, "_peer_sevennet.py", "sevenn==0.13.0"),
    Package(CHGNET, "_peer_chgnet.py", "chgnet==0.4.2"),
)
ROUNDS, MOST_FOR_PEERS = 5, 512


def rattled(name: str, repeats: tuple[int, int, int]) -> Atoms:
    """Cubic cells of a crystal side by side, atoms moved by 0.05 Å."""
    atoms = bulk(name, cubic=True, **({"crystalstructure": "rocksalt", "a": 5.69} if name == "NaCl" else {})) * repeats
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, atoms.positions.shape)
    atoms.info["with_stress"] = True
    return atoms


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "NaCl, 64": partial(rattled, "NaCl", (2, 2, 2)),
    "Cu, 64": partial(rattled, "Cu", (4, 2, 2)),
    "NaCl, 512": partial(rattled, "NaCl", (4, 4, 4)),
    "Cu, 512": partial(rattled, "Cu", (8, 4, 4)),
    "NaCl, 4096": partial(rattled, "NaCl", (8, 8, 8)),
}


def run(smoke: bool, model: str, peers: Peers) -> Answer:
    """One row a structure."""
    structures = {name: STRUCTURES[name]() for name in (["NaCl, 64"] if smoke else STRUCTURES)}
    rows: list[Row] = []
    complete = False
    with contenders(PACKAGES, structures, peers) as running, suppress(KeyboardInterrupt):
        for name in progress(structures, "structures"):
            asked = running if len(structures[name]) <= MOST_FOR_PEERS else dict.fromkeys(running)
            rows.append(contest(name, structures[name], model, asked, peers, rounds=1 if smoke else ROUNDS))
        complete = True
    return Answer(rows, _summary(rows) if complete and not smoke else {}, complete=complete)


def _summary(rows: list[Row]) -> dict[str, float | None]:
    by_name = {row["structure"]: row for row in rows}
    goals = {SEVENNET: 0.25, CHGNET: 0.67}
    return {
        f"{OURS} / {peer} on {name} (target: {goal} or less)": by_name[name][f"{OURS} / {peer}"]
        for peer, goal in goals.items()
        for name in ("NaCl, 64", "Cu, 64")
    } | {
        "exponent of time over atoms, 512 to 4096 atoms (linear: 1)": math.log(
            by_name["NaCl, 4096"][f"{OURS} ms"] / by_name["NaCl, 512"][f"{OURS} ms"], 8
        )
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, with_peers=True)
