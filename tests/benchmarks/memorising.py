"""Does a small DiTMC learn the conformers of a few molecules by heart, and which enantiomer it is asked for?

Butane (one anti, two gauche conformers) and both enantiomers of alanine and of 2-butanol, one network for all of them.
The conformers are minima of MMFF94s. Known: share of conformers from which the nearest of 64 samples is less than
0.1 Å away (heavy atoms, symmetry-aware).
"""

from __future__ import annotations

import time

from _frame import Row, answer
from _memorise import conformers_of, memorise, recall
from rich.progress import Progress

from ase_geomol.models.ditmc import DiTMCConfig

MOLECULES = ("CCCC", "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC[C@H](C)O", "CC[C@@H](C)O")
STEPS = {"absolute": 6000, "relative": 4000, "equivariant": 1500}
SETTINGS = {"channels": 64, "layers": 3, "samples": 6, "steps": STEPS, "samples compared": 64, "most conformers": 8}


def run(smoke: bool) -> list[Row]:
    """One row for each form of the network and molecule."""
    known = {smiles: conformers_of(smiles, 8) for smiles in (MOLECULES[:2] if smoke else MOLECULES)}
    rows = []
    for form in ("absolute", "relative", "equivariant"):
        config = DiTMCConfig(positions=form, channels=64, layers=3, longest_path=24)
        steps = 3 if smoke else STEPS[form]
        with Progress() as progress:
            task = progress.add_task(form, total=steps)
            begin = time.perf_counter()
            flow = memorise(
                known, config, steps=steps, samples=6, report=lambda step, t=task: progress.update(t, completed=step)
            )
            minutes = (time.perf_counter() - begin) / 60
        for smiles, conformers in known.items():
            found = recall(flow, smiles, conformers, 4 if smoke else 64)
            rows.append({"positions": form, "molecule": smiles, **found, "minutes of training": minutes})
    return rows


if __name__ == "__main__":
    answer(__doc__ or "", run, ["rdkit"], settings=SETTINGS)
