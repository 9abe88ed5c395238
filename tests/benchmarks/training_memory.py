"""How much memory does a training step take, and what does it save to compute blocks again?

A step is energies, forces, a loss of both and its gradient by the weights, so the forces are differentiated once more;
or energies alone, whose blocks need not be kept for a second derivative.
Drug-like molecules side by side; each case in a fresh process. "memory" is the peak of the process above what it held,
with weights and batch, before its first step. With "again" (`training.recompute`) the networks' blocks keep nothing for
the derivatives and are computed once more. EST has random weights and the sizes of `rmd17_est.yaml`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import _training
import torch
from _frame import Answer, Row, answer, progress
from _peers import Package, PeerError, Peers
from geomol_training.recipe import Loss, load_recipe
from geomol_training.tasks import PotentialTask

from ase_geomol.checkpoint import Metadata, load_checkpoint, save_checkpoint
from ase_geomol.models import build_model
from ase_geomol.potential import Potential

MODEL = "geomformer-organic"
EST = Path(__file__).parents[2] / "training/recipes/rmd17_est.yaml"
STRUCTURES = (10, 40)
STEP = "_peer_step.py"
ENERGIES = "energies"


def run(smoke: bool, model: str, peers: Peers) -> Answer:
    """One row for each network, loss, batch, and way to compute; without forces of the largest batch alone."""
    with TemporaryDirectory() as folder:
        models = {"GeoMFormer": model, "EST": _untrained(Path(folder) / "est.safetensors", model)}
        sizes = STRUCTURES[:1] if smoke else STRUCTURES
        steps = [("energies, forces", structures) for structures in sizes] + [(ENERGIES, sizes[-1])]
        cases = [
            (name, learns, structures, again) for name in models for learns, structures in steps for again in (0, 1)
        ]
        rows = [
            row
            for name, learns, structures, again in progress(cases, "cases")
            if (row := _row(name, models[name], learns, structures, bool(again), peers)) is not None
        ]
    saved = {
        f"{kept['network']}, {kept['learns']}, {kept['atoms']} atoms: memory, again / kept": again["memory MB"]
        / kept["memory MB"]
        for kept, again in zip(rows[::2], rows[1::2], strict=False)
    }
    return Answer(rows, saved)


def _untrained(path: Path, model: str) -> str:
    torch.manual_seed(0)
    known = load_checkpoint(model).potential
    network = build_model("est", {"elements": known.elements, **load_recipe(EST).model.config})
    save_checkpoint(path, Potential(network), Metadata(name="est", theory="none", training_data="none"))
    return str(path)


def _row(name: str, model: str, learns: str, structures: int, again: bool, peers: Peers) -> Row | None:
    title = f"{name}, {learns}, {structures} structures, {'again' if again else 'kept'}"
    script, first = (Path(__file__).name, [ENERGIES]) if learns == ENERGIES else (STEP, [])
    peer = peers.start(Package(title, script), *first, model, str(structures), *(["again"] if again else []))
    if peer is None:
        return None
    try:
        seconds, memory = peer.ask("step"), peer.ask("memory")
    except PeerError as error:
        peers.leave_out(title, error)
        return None
    finally:
        peer.stop()
    atoms = int(peer.about["atoms"])
    return {
        "network": name,
        "learns": learns,
        "structures": structures,
        "atoms": atoms,
        "blocks": "again" if again else "kept",
        "memory MB": memory / 1e6,
        "memory kB an atom": memory / 1e3 / atoms,
        "step ms": 1e3 * seconds,
    }


def _step_of_energies() -> None:
    """The peer of the other rows, with a loss that has no forces."""
    _training.TASK = PotentialTask(Loss(forces=0.0))
    del sys.argv[1]
    runpy.run_path(str(Path(__file__).with_name(STEP)), run_name="__main__")


if __name__ == "__main__" and sys.argv[1:2] == [ENERGIES]:
    _step_of_energies()
elif __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, with_peers=True)
