"""Run by the teacher's Python, which has ASE and the teacher, and nothing of ours: structures in, results out.

Arguments: what to import, as ``module:name``, and its arguments as JSON. One line of JSON for each structure.
"""

import importlib
import json
import sys


def main() -> None:
    """Serve until the other side ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries are chatty
    module, _, name = sys.argv[1].partition(":")
    calculator = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    from ase import Atoms

    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        atoms = Atoms(asked["numbers"], asked["positions"], cell=asked["cell"], pbc=asked["pbc"])
        atoms.calc = calculator
        try:
            found = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces().tolist()}
            if "energies" in calculator.implemented_properties:
                found["energies"] = atoms.get_potential_energies().tolist()
            if all(asked["pbc"]):
                found["stress"] = atoms.get_stress().tolist()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
