# %% [markdown]
# # Crystals: lattice, elasticity, phonons, a surface, dynamics
#
# `est-crystal` knows 79 elements. It is a fast, distilled potential: good for first relaxations and trends, not for
# published numbers; its card (`ase-geomol models --card est-crystal`) says how far off it is. Each function of
# `simulate` below takes Atoms with any ASE calculator; all but the vacancy's have a command: `ase-geomol eos`,
# `elastic`, `phonons`, `surface`, `md`. Phonons need the extra `materials`; the part on pymatgen needs `labels`.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from ase import Atoms, units
from ase.build import bulk

from ase_geomol import GeoMolCalculator, GeoMolError, simulate

folder = Path(mkdtemp())
calculator = GeoMolCalculator("est-crystal", dtype="float64")  # double precision for derivatives of energies
copper = bulk("Cu", cubic=True, a=3.7)
copper.calc = calculator
relaxed = simulate.relax(copper, fmax=1e-3, cell=True)
copper = relaxed.atoms
print(f"lattice constant {copper.cell.lengths()[0]:.3f} Å after {relaxed.steps} steps (experiment: 3.61 Å)")

# %% [markdown]
# ## Equation of state and elastic constants

# %%
curve = simulate.equation_of_state(copper)
print(f"bulk modulus {curve.bulk_modulus:.0f} GPa (experiment: about 140 GPa)")
simulate.eos_picture(folder / "eos.png", curve, title="Copper")
elastic = simulate.elasticity(copper)
c11, c12, c44 = elastic.constants[0, 0], elastic.constants[0, 1], elastic.constants[3, 3]
print(f"C11 {c11:.0f}, C12 {c12:.0f}, C44 {c44:.0f} GPa; stable: {elastic.stable}")

# %% [markdown]
# ## Phonons, by phonopy
# Bands and density of states are in the picture; `found.phonopy` is phonopy's own object, with all that it can do.

# %%
primitive = bulk("Cu", a=copper.cell.lengths()[0])
primitive.calc = calculator
found = simulate.phonons(primitive)
room = np.abs(found.temperatures - 300).argmin()
print(f"lowest frequency {found.lowest:.2f} THz, highest {found.bands.max():.2f} THz")
print(f"heat capacity at 300 K: {found.heat_capacity[room]:.1f} J/K/mol (three times the gas constant: 24.9)")
simulate.phonon_picture(folder / "phonons.png", found, title="Copper")

# %% [markdown]
# ## A vacancy and a surface

# %%
energy, _ = simulate.vacancy_energy(copper, size=7.0)
surface = simulate.surface_energy(copper, (1, 1, 1), layers=3)
print(f"a vacancy costs {energy:.2f} eV, the (111) surface {surface.energy:.2f} J/m²")

# %% [markdown]
# ## Molecular dynamics at constant pressure
# Single precision is enough, and faster.

# %%
salt = bulk("NaCl", "rocksalt", a=5.69, cubic=True) * (2, 1, 1)
salt.calc = GeoMolCalculator("est-crystal")
settings = simulate.MDSettings(ensemble="npt", temperature=300, pressure=units.bar, timestep=2.0, interval=5)
run = simulate.run_md(salt, settings, time=200, folder=folder / "md")
frames, times = simulate.read_run(folder / "md")
pairs = simulate.radial_distribution(frames[len(frames) // 2 :], reach=5.0)
lags, squares = simulate.mean_square_displacement(frames, times, symbol="Na")
title = "NaCl, 300 K, 1 bar"
simulate.trajectory_picture(folder / "structure.png", pairs, lags, {"Na": squares}, title=title)
print(f"{run.steps} steps, {run.log['temperature_K'].mean():.0f} K, {len(frames)} frames")
print("pictures:", *(path.name for path in sorted(folder.glob("*.png"))))

# %% [markdown]
# ## The same in pymatgen
# `Structure.relax` takes the calculator as it is; so do matcalc's `RelaxCalc`, `EOSCalc`, `ElasticityCalc` and
# `PhononCalc`.

# %%
from pymatgen.io.ase import AseAtomsAdaptor

oxide = AseAtomsAdaptor.get_structure(bulk("MgO", "rocksalt", a=4.3))
answer = oxide.relax(calculator=calculator, fmax=0.01)
print(f"MgO: {answer.lattice.abc[0] * np.sqrt(2):.3f} Å (experiment: 4.21 Å)")

# %% [markdown]
# ## When something is wrong, it says so

# %%
for wrong in (bulk("Xe", "fcc", a=6.2), Atoms("Cu2", [[0, 0, 0], [0, 0, 0.01]], cell=[5, 5, 5], pbc=True)):
    wrong.calc = calculator
    try:
        wrong.get_potential_energy()
    except GeoMolError as error:
        print("refused:", error)
