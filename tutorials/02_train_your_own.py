# %% [markdown]
# # Train a potential on your own data
#
# Any file that ASE reads will do, as long as its frames carry energies and forces. Here the "reference method" is
# ASE's EMT for a small copper-gold cluster, so that the tutorial needs no other program and runs in a minute; in
# earnest it is your DFT.

# %%
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from ase_geomol import GeoMolCalculator

random = np.random.default_rng(0)
cluster = Atoms("Cu4Au2", positions=2.6 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) / 2**0.5)


def labelled(atoms: Atoms) -> Atoms:
    """A copy that carries its EMT energy and forces."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


frames = []
for _ in range(120):
    moved = cluster.copy()
    moved.positions += random.normal(0, 0.08, moved.positions.shape)
    frames.append(labelled(moved))
write("train.extxyz", frames[:80])
write("valid.extxyz", frames[80:100])
write("test.extxyz", frames[100:])

# %% [markdown]
# ## A recipe
# One YAML holds everything that decides the result. Unknown or impossible fields are refused with a sentence.

# %%
RECIPE
