"""Does the check of stereochemistry say what RDKit reads off the positions, of 1,000 molecules and their mirror images?

Drug-like molecules with stereocentres or double bonds, one random isomer of each; one structure by ETKDGv3, without a
force field, and its mirror image. A false alarm is a structure that the check refuses and in which RDKit sees the
isomer that was asked for; missed is one that the check takes and in which RDKit sees another.
"""

from __future__ import annotations

from _frame import Answer, answer
from _isomers import compare, isomers

from ase_geomol import RDKitProvider
from ase_geomol.errors import ProviderError

SETTINGS = {"molecules": 1000, "atoms": (10, 60), "seed": 5}


def run(smoke: bool) -> Answer:
    """One row."""
    maker, count = RDKitProvider(force_field=None), 10 if smoke else SETTINGS["molecules"]
    counts = ("molecules", "without a structure", "elements", "structures", "read by RDKit", "false alarms", "missed")
    row = dict.fromkeys(counts, 0)
    for place, molecule in enumerate(isomers(count, SETTINGS["seed"], SETTINGS["atoms"])):
        row["molecules"] += 1
        try:
            found = compare(molecule, maker, place)
        except ProviderError:
            row["without a structure"] += 1
            continue
        row |= {name: row[name] + number for name, number in found.items()}
    summary = {"false alarms (goal: 0)": row["false alarms"], "missed (goal: 0)": row["missed"]}
    return Answer([row], summary)


if __name__ == "__main__":
    answer(__doc__ or "", run, ["rdkit"], settings=SETTINGS)
