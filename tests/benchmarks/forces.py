"""How large are the errors of forces and energies along molecular dynamics of unseen molecules at 300 K?

Twenty neutral molecules of the conformer benchmark move for 2 ps at 300 K on the forces of GFN2-xTB (Langevin, BAOAB,
1 fs), after a short relaxation (0.05 eV/Å). The first picosecond warms them up, from the second a frame is taken every
50 fs. Errors are those to GFN2-xTB on these frames. The peer is GFN1-xTB, and its energies differ by a constant for
each molecule: energies are compared counted from the molecule's mean, ours also as they are. The last row weighs every
force component and every frame alike. Goal: a mean absolute error of the forces of at most 60 meV/Å.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _gfn2 import relaxed, xtb
from _unseen import DATA, SEED, unseen
from _work import computed, dynamics, each, table, work_folder
from ase import Atoms

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import Evaluation, MDSettings, evaluate

MODEL = "geomformer-organic"
SMOKE = ("CCO",)
SETTINGS = {
    "data": DATA,
    "seed": SEED,
    "molecules": 20,
    "fmax eV/Å": 0.05,
    "most steps": 200,
    "temperature K": 300,
    "time step fs": 1.0,
    "frames from ps": 1,
    "to ps": 2,
    "every fs": 50,
}


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule, then all."""
    scale = 0.01 if smoke else 1.0
    with work_folder("forces", SETTINGS, smoke) as reference, work_folder("forces", SETTINGS, smoke, model) as folder:
        chosen = islice(unseen(SMOKE if smoke else ()), SETTINGS["molecules"])
        molecules = {atoms.info["name"]: atoms for atoms in chosen}
        rows = each(molecules, partial(_row, model=model, reference=reference, scale=scale), folder)
    weights = np.array([row["atoms"] * row["frames"] for row in rows if not row["error"]])
    frames = np.array([row["frames"] for row in rows if not row["error"]])
    by_atom, by_frame = (partial(_mean, weights=w) for w in (weights, frames))
    shown = table(
        rows,
        {
            "atoms": sum,
            "frames": sum,
            "mean force component meV/Å": by_atom,
            "RMS force component meV/Å": partial(by_atom, power=2),
            "force MAE meV/Å": by_atom,
            "force RMSE meV/Å": partial(by_atom, power=2),
            "GFN1-xTB's force MAE meV/Å": by_atom,
            "GFN1-xTB's force RMSE meV/Å": partial(by_atom, power=2),
            "energy MAE meV/atom": by_frame,
            "from the mean meV/atom": by_frame,
            "GFN1-xTB's from the mean meV/atom": by_frame,
        },
    )
    summary = {
        "force MAE of all frames in meV/Å (goal: at most 60)": shown[-1]["force MAE meV/Å"],
        "GFN1-xTB's force MAE of all frames in meV/Å": shown[-1]["GFN1-xTB's force MAE meV/Å"],
        "force RMSE of all frames in meV/Å": shown[-1]["force RMSE meV/Å"],
        "GFN1-xTB's force RMSE of all frames in meV/Å": shown[-1]["GFN1-xTB's force RMSE meV/Å"],
        "molecules that ended with an error (goal: 0)": shown[-1]["error"],
    }
    return Answer(shown, summary, computed(rows))


def _mean(values: list[float], weights: np.ndarray, power: int = 1) -> float:
    return float(np.average(np.array(values) ** power, weights=weights) ** (1 / power))


def _row(start: Atoms, model: str, reference: Path, scale: float) -> Row:
    frames = labelled_frames(start, reference / start.info["name"], scale)
    ours, peer = evaluate(frames, GeoMolCalculator(model)), evaluate(frames, xtb("GFN1-xTB"))
    forces = 1e3 * np.concatenate([both[..., 0].ravel() for both in ours.forces])
    (mae, rmse), (peer_mae, peer_rmse) = ours.errors["forces (meV/Å)"], peer.errors["forces (meV/Å)"]
    return {
        "atoms": len(start),
        "frames": len(frames),
        "mean force component meV/Å": float(np.abs(forces).mean()),
        "RMS force component meV/Å": float(np.sqrt((forces**2).mean())),
        "force MAE meV/Å": mae,
        "force RMSE meV/Å": rmse,
        "GFN1-xTB's force MAE meV/Å": peer_mae,
        "GFN1-xTB's force RMSE meV/Å": peer_rmse,
        "energy MAE meV/atom": ours.errors["energy per atom (meV)"][0],
        "from the mean meV/atom": _from_the_mean(ours),
        "GFN1-xTB's from the mean meV/atom": _from_the_mean(peer),
    }


def _from_the_mean(evaluation: Evaluation) -> float:
    """Mean absolute error of one molecule's energies (meV/atom) when both kinds count from their own mean."""
    errors = evaluation.energies[:, 1] - evaluation.energies[:, 0]
    return 1e3 * float(np.abs(errors - errors.mean()).mean()) / int(evaluation.n_atoms[0])


def labelled_frames(start: Atoms, folder: Path, scale: float) -> list[Atoms]:
    """Frames with energies and forces of GFN2-xTB; they are made once, whatever weights are measured."""
    step = SETTINGS["time step fs"]
    settings = MDSettings(
        temperature=SETTINGS["temperature K"],
        timestep=step,
        seed=SEED,
        interval=round(scale * SETTINGS["every fs"] / step) or 1,
    )
    first = (
        start
        if (folder / "state.json").exists()
        else relaxed(start, SETTINGS["fmax eV/Å"], SETTINGS["most steps"]).atoms
    )
    first.calc = xtb()
    _, frames = dynamics(first, settings, 1e3 * scale * SETTINGS["to ps"], folder)
    return [atoms for atoms in frames if atoms.info["time_fs"] > 1e3 * scale * SETTINGS["frames from ps"]]


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL, on_card=True, settings=SETTINGS)
