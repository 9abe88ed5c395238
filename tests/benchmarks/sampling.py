"""How many conformers a second does a DiTMC draw, beside RDKit's ETKDGv3 with and without MMFF94s?

Untrained networks of the small size (4 layers of 128 channels) and the shipped one, 20 steps, without checks, 32
conformers of a molecule. All on one thread, as RDKit works; "threads" is the shipped one on as many as were asked for.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from _frame import Answer, answer
from _timing import time_in_turns, timed
from rich.progress import track

from ase_geomol import ConformerProvider, RDKitProvider, save_checkpoint
from ase_geomol.checkpoint import Metadata
from ase_geomol.models.ditmc import ConformerFlow, DiTMC, DiTMCConfig, FlowForm
from ase_geomol.providers.molecules import parse

MOLECULES = ("CCO", "CC(C)CC(=O)OC", "CC(=O)Oc1ccccc1C(=O)O", "CCOC(=O)C1CCN(CC1)C(=O)c1ccc(OC)cc1")
FORMS = ("absolute", "relative", "equivariant")
MODEL, GOAL = "ditmc-small", "CC(C)CC(=O)OC"
"""What is shipped, and a molecule of 20 atoms."""
SETTINGS = {"conformers": 32, "steps": 20, "seed": 0}
METADATA = Metadata(name="untrained", theory="none", training_data="none")


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule."""
    count = 2 if smoke else SETTINGS["conformers"]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        providers = {form: _provider(Path(folder), form) for form in FORMS}
    providers |= {"shipped": ConformerProvider(model, device="cpu", steps=20)}
    providers |= {"ETKDGv3": RDKitProvider(force_field=None), "ETKDGv3, MMFF94s": RDKitProvider()}
    rows, threads, repeats = [], torch.get_num_threads(), 1 if smoke else 3
    for smiles in track(MOLECULES[:1] if smoke else MOLECULES, "molecules"):
        tasks = {
            name: partial(timed, partial(provider.sample, smiles, count, checks=()))
            for name, provider in providers.items()
        }
        torch.set_num_threads(1)
        seconds = time_in_turns(tasks, repeats)
        torch.set_num_threads(threads)
        seconds["threads"] = time_in_turns({"threads": tasks["shipped"]}, repeats)["threads"]
        rates = {f"{name} /s": count / taken for name, taken in seconds.items()}
        rows.append({"molecule": smiles, "atoms": len(parse(smiles)), **rates})
    of_twenty = {row["molecule"]: row for row in rows}.get(GOAL)
    if of_twenty is None:
        return Answer(rows, {})
    told = "conformers of 20 atoms a second, {} (goal: 20 or more on two cores)"
    return Answer(
        rows, {told.format("one thread"): of_twenty["shipped /s"], told.format("all threads"): of_twenty["threads /s"]}
    )


def _provider(folder: Path, form: str) -> ConformerProvider:
    config = DiTMCConfig(positions=form, layers=4, channels=128, longest_path=24)
    path = folder / f"{form}.safetensors"
    save_checkpoint(path, ConformerFlow(DiTMC(config), FlowForm()), METADATA)
    return ConformerProvider(path, device="cpu", steps=20)


if __name__ == "__main__":
    answer(__doc__ or "", run, ["rdkit"], model=MODEL, on_card=True, settings=SETTINGS)
