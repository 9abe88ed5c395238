"""Run by a `Worker`: positions of a molecule by RDKit's distance geometry. Imports nothing of this package.

One line of JSON for each request: ``molecule`` (base64 of RDKit's binary), ``seed``, ``force_field``, ``held``
(torsions of four atoms, and the angles of which the nearest is held, as force fields do not know them), ``seconds``; or
nothing. One line for each answer: ``positions`` and ``method``, or ``reason``; to nothing, nothing.
"""

import base64
import json
import signal
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

TRIES = 3000
"""Starts of each way of embedding, divided by the number of atoms; at least `FEWEST_TRIES`."""
FEWEST_TRIES = 10
MOST_STEPS = 2000
"""Of a force field's minimisation."""
STIFF = 100.0
"""kcal/mol/degree², of a torsion that is held, beyond `SLACK`."""
SLACK = 1.0
"""Degrees."""
GRACE = 2.0
"""Seconds after the time limit at which the process ends even if nobody is left to kill it."""


Held: TypeAlias = "tuple[list[int], list[float]]"


def main() -> None:
    """Serve until the other side ends."""
    rdBase.DisableLog("rdApp.*")
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_answer(asked) if asked else {}), flush=True)


def _end_after(seconds: float | None) -> None:
    """Set the alarm that ends this process, or take it back."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else seconds + GRACE)


def _answer(asked: dict[str, Any]) -> dict[str, object]:
    _end_after(asked["seconds"])
    mol = Chem.Mol(base64.b64decode(asked["molecule"]))  # pyright: ignore[reportCallIssue, reportArgumentType]
    answer = _embedded(mol, asked["seed"], asked["force_field"], asked["held"])
    _end_after(None)
    return answer


def _embedded(mol: Chem.Mol, seed: int, force_field: str | None, held: list[Held]) -> dict[str, object]:
    ways = (method for method, options in _ways(mol, seed) if rdDistGeom.EmbedMolecule(mol, options) == 0)
    method = next(ways, None)
    if method is None:
        return {"reason": "no embedding found"}
    field = _optimise(mol, force_field, held)
    return {"positions": mol.GetConformer().GetPositions().tolist(), "method": f"{method}, {field}"}


def _ways(mol: Chem.Mol, seed: int) -> Iterator[tuple[str, rdDistGeom.EmbedParameters]]:
    """ETKDG, then from random coordinates (large rings), then without what is known of angles (strained cages)."""
    for method, known, random in (
        ("ETKDGv3", True, False),
        ("ETKDGv3 from random coordinates", True, True),
        ("distance geometry", False, True),
    ):
        options = rdDistGeom.ETKDGv3() if known else rdDistGeom.EmbedParameters()
        options.randomSeed = seed
        options.maxIterations = max(FEWEST_TRIES, TRIES // mol.GetNumAtoms())
        options.useRandomCoords = random
        options.ignoreSmoothingFailures = not known
        yield method, options


def _optimise(mol: Chem.Mol, force_field: str | None, held: list[Held]) -> str:
    """Relax the only conformer; which force field did it."""
    if force_field is not None and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant=force_field)
        field, name = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties), force_field
        hold = field.MMFFAddTorsionConstraint
    elif force_field is not None and rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        field, name = rdForceFieldHelpers.UFFGetMoleculeForceField(mol), f"UFF ({force_field} lacks parameters)"
        hold = field.UFFAddTorsionConstraint
    else:
        return "no force field"
    field.Initialize()
    for atoms, angles in held:
        torsion = rdMolTransforms.GetDihedralDeg(mol.GetConformer(), *atoms)
        nearest = min(angles, key=lambda angle: abs((torsion - angle + 180) % 360 - 180))
        hold(*atoms, False, nearest - SLACK, nearest + SLACK, STIFF)
    left = field.Minimize(maxIts=MOST_STEPS)
    return name + ", cumulated double bonds held" * bool(held) + ", not converged" * (left != 0)


if __name__ == "__main__":
    main()
