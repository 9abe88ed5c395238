# %% [markdown]
# # First steps: a molecule, a calculator, a result
#
# A *calculator* turns `ase.Atoms` into energies and forces. Ours carries its weights in the package, so nothing is
# downloaded. Everything that ASE does with a calculator works from here on.

# %%
import numpy as np
from ase import units
from ase.build import molecule
from ase.constraints import FixInternals
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from ase.vibrations import VibrationsData

from ase_geomol import GeoMolCalculator, GeoMolError, shipped_models

for name, listed in shipped_models().items():
    print(name, "|", listed.metadata.theory)
    for error, value in listed.metadata.errors.items():
        print(f"    {error}: {value:.1f}")

# %% [markdown]
# ## Relaxation
# Tight relaxations and everything with second derivatives want `dtype="float64"`; MD is fine in float32.

# %%
atoms = molecule("CH3CH2OH")
atoms.calc = GeoMolCalculator("geomformer-organic", dtype="float64")
BFGS(atoms, logfile=None).run(fmax=0.001, steps=500)
print(f"energy {atoms.get_potential_energy():.3f} eV, largest force {np.abs(atoms.get_forces()).max():.4f} eV/Å")
print(f"C-C {atoms.get_distance(0, 1):.3f} Å, C-O {atoms.get_distance(1, 2):.3f} Å")

# %% [markdown]
# ## Vibrations from the exact Hessian
# Forces are exact gradients, so second derivatives need no finite differences.

# %%
hessian = atoms.calc.get_hessian(atoms)
vibrations = VibrationsData.from_2d(atoms, hessian)
wavenumbers = vibrations.get_frequencies()
print("highest three (cm-1):", np.round(wavenumbers[-3:].real))
print("zero-point energy:", round(vibrations.get_zero_point_energy(), 3), "eV")

# %% [markdown]
# ## Molecular dynamics

# %%
atoms.calc = GeoMolCalculator("geomformer-organic")
thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(1))
random = np.random.default_rng(2)
dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.02 / units.fs, fixcm=False, rng=random)
temperatures = []
dynamics.attach(lambda: temperatures.append(atoms.get_temperature()), interval=10)
dynamics.run(200)
print(f"mean temperature over 0.1 ps: {np.mean(temperatures):.0f} K")

# %% [markdown]
# ## A torsion profile, with ASE's own constraints

# %%
profile = []
start = molecule("C2H6")
for angle in range(60, 181, 20):
    twisted = start.copy()
    twisted.set_dihedral(2, 0, 1, 5, angle, indices=[5, 6, 7])
    twisted.set_constraint(FixInternals(dihedrals_deg=[[angle, [2, 0, 1, 5]]]))
    twisted.calc = GeoMolCalculator("geomformer-organic", dtype="float64")
    BFGS(twisted, logfile=None).run(fmax=0.02, steps=100)
    profile.append(twisted.get_potential_energy())
barrier = max(profile) - min(profile)
print(f"ethane's rotation barrier: {barrier * 1e3:.0f} meV (experiment: about 126 meV)")

# %% [markdown]
# ## What the network sees: descriptors
# One row of features for each atom, equal for equivalent atoms; use them to compare environments.

# %%
descriptors = atoms.calc.get_descriptors(atoms)
print("descriptors:", descriptors.shape)

# %% [markdown]
# ## When something is wrong, it says so

# %%
iron = molecule("CH4")
iron.numbers[0] = 26
iron.calc = GeoMolCalculator("geomformer-organic")
try:
    iron.get_potential_energy()
except GeoMolError as error:
    print("refused:", error)
