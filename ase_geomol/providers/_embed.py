"""Run by a `Worker`: positions of a molecule by RDKit's distance geometry. Imports nothing of this package.

One line of JSON for each request: ``molecule`` (base64 of RDKit's binary), ``seed``, ``force_field``, ``seconds``.
One line for each answer: ``positions`` and ``method``, or ``reason``.
"""

import base64
import json
import signal
import sys
from collections.abc import Iterator

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

TRIES = 3000
"""Starts of each way of embedding, divided by the number of atoms; at least `FEWEST_TRIES`."""
FEWEST_TRIES = 10
MOST_STEPS = 2000
"""Of a force field's minimisation."""
GRACE = 2.0
"""Seconds after the time limit at which the process ends even if nobody is left to kill it."""


def main() -> None:
    """Serve until the other side ends."""
    rdBase.DisableLog("rdApp.*")
    for line in sys.stdin:
        asked = json.loads(line)
        _end_after(asked["seconds"])
        mol = Chem.Mol(base64.b64decode(asked["molecule"]))  # pyright: ignore[reportCallIssue, reportArgumentType]
        answer = _answer(mol, asked["seed"], asked["force_field"])
        _end_after(None)
        print(json.dumps(answer), flush=True)


def _end_after(seconds: float | None) -> None:
    """Set the alarm that ends this process, or take it back."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else seconds + GRACE)


def _answer(mol: Chem.Mol, seed: int, force_field: str | None) -> dict[str, object]:
    ways = (method for method, options in _ways(mol, seed) if rdDistGeom.EmbedMolecule(mol, options) == 0)
    method = next(ways, None)
    if method is None:
        return {"reason": "no embedding found"}
    field = _optimise(mol, force_field)
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


def _optimise(mol: Chem.Mol, force_field: str | None) -> str:
    """Relax the only conformer; which force field did it."""
    if force_field is not None and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        left = rdForceFieldHelpers.MMFFOptimizeMolecule(mol, mmffVariant=force_field, maxIters=MOST_STEPS)
        return force_field + ", not converged" * (left != 0)
    if force_field is not None and rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        left = rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=MOST_STEPS)
        return f"UFF ({force_field} lacks parameters)" + ", not converged" * (left != 0)
    return "no force field"


if __name__ == "__main__":
    main()
