"""How long does one energy-and-forces call take, beside SevenNet-0 and GFN2-xTB (the theory that was learned)?

All run through their ASE calculators on the same structures, in turns; atoms move by about 0.001 Å before each call,
as in MD. The peers run in processes of their own. "share outside the network" is the part of our time that is not
spent in the network, whose forward and backward pass are timed by themselves. A peer that takes very long is timed
once. SevenNet-0 is a potential for crystals:
only its speed is compared here. Each row compares by itself, so that Ctrl-C leaves those that are done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from _contest import OURS, SHARE, contenders, contest
from _frame import Answer, Row, answer, progress
from _peers import Package, Peers
from _structures import ASPIRIN, liquid, peptide
from ase import Atoms
from ase.build import molecule

from ase_geomol.simulate.structures import load_structure

MODEL = "geomformer-organic"
SEVENNET, GFN2 = "SevenNet-0", "GFN2-xTB"
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
    rows: list[Row] = []
    complete = False
    with contenders(PACKAGES, structures, peers) as running, suppress(KeyboardInterrupt):
        for name in progress(structures, "structures"):
            rows.append(contest(name, structures[name], model, running, peers, rounds=1 if smoke else ROUNDS))
        complete = True
    return Answer(rows, _summary(rows) if complete else {}, complete=complete)


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
