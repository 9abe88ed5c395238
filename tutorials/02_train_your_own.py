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
cluster = Atoms(
    "Cu4Au2", positions=2.6 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) / 2**0.5
)


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
recipe = """
name: copper-gold
data: {train: train.extxyz, valid: valid.extxyz}
model:
  architecture: geomformer
  config: {elements: [29, 79], cutoff: 5.0, layers: 2, channels: 32, ffn_channels: 32, heads: 4, kernels: 16}
loss: {kind: l1, energy: 1.0, forces: 1.0}
optimiser: {name: adamw, lr: 0.005}
schedule: {kind: cosine, warmup_steps: 10, floor: 1.0e-5}
training: {batch_atoms: 48, max_steps: 300, validate_every: 100, ema: 0.98}
metadata: {theory: EMT, training_data: 80 rattled Cu4Au2 clusters}
"""
Path("copper-gold.yaml").write_text(recipe)


def run(*command: str) -> None:
    """Run a command as you would in a shell."""
    print("$", " ".join(command))
    subprocess.run([sys.executable, "-m", "geomol_training.cli", *command[1:]], check=True)


# %% [markdown]
# ## Fit
# It writes as it goes: stop it at any time and go on with `--resume`, or give it a `--time-budget`.

# %%
run("geomol-train", "fit", "copper-gold.yaml", "--out", "copper-gold", "--threads", "1")

# %% [markdown]
# ## Evaluate
# Errors on frames that the training never saw, with a parity plot.

# %%
run("geomol-train", "evaluate", "copper-gold/model.safetensors", "test.extxyz", "--out", "evaluation")

# %% [markdown]
# ## Use
# The exported file is a model like the shipped ones: hand its path to the calculator.

# %%
frame = read("test.extxyz", 0)
wanted = frame.get_forces()
frame.calc = GeoMolCalculator("copper-gold/model.safetensors")
found = frame.get_forces()
print(
    f"force error of one frame: {1e3 * np.abs(found - wanted).mean():.0f} meV/Å, of {1e3 * np.abs(wanted).mean():.0f}"
)
