# %% [markdown]
# # Conformers: a SMILES string in, structures out
#
# A *provider* turns a request into `ase.Atoms`. `RDKitProvider` makes conformers of a molecule from its SMILES string
# by distance geometry; every provider has the same `sample`. What comes out carries its bonds, charge and
# multiplicity, and works with any calculator.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from ase.io import read, write

from ase_geomol import GeoMolCalculator, GeoMolError, RDKitProvider
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.pictures import ensemble_picture
from ase_geomol.providers.rmsd import rmsd_matrix, symmetry
from ase_geomol.providers.stores import write_structures
from ase_geomol.providers.viewer import write_viewer

provider = RDKitProvider()
conformers = provider.sample("C[C@H](N)C(=O)O", n=6, seed=0)  # L-alanine
print(conformers[0])
print({key: value for key, value in conformers[0].info.items() if key != "bonds"})

# %% [markdown]
# Structure number *k* depends on the seed and on *k* alone, so the first of many are those of few. The stereoisomer
# is checked; a structure that fails is drawn again, and what cannot be made is told, never left out in silence.

# %%
more = provider.sample("C[C@H](N)C(=O)O", n=8, seed=0)
assert np.array_equal(more[5].positions, conformers[5].positions)
for request in ("CC(=O)[O-].[Na+]", "C1CC", "C" * 400):
    try:
        provider.sample(request)
    except GeoMolError as error:
        print("refused:", error)

# %% [markdown]
# ## Relaxed, ranked, without duplicates
# With a calculator each conformer is relaxed; `rank` sorts by energy and gives Boltzmann weights at 298 K; `unique`
# leaves out what is nearer than that (Å) to a lower one, whatever the labels of equivalent atoms.

# %%
calculator = GeoMolCalculator("geomformer-organic")
ensemble = provider.sample("C[C@H](N)C(=O)O", n=8, seed=0, relax=calculator, fmax=0.05, rank=True, unique=0.15)
for atoms in ensemble:
    energy, weight = atoms.info["relative_energy"], atoms.info["boltzmann_weight"]
    print(f"conformer {atoms.info['index']}: {1000 * energy:6.1f} meV, weight {100 * weight:5.1f} %")
print("left out:", ensemble.failures)

# %% [markdown]
# How far apart are they? The distance of heavy atoms, over all rotations and relabellings:

# %%
positions = np.array([atoms.positions for atoms in ensemble])
print(np.round(rmsd_matrix(symmetry(parse(ensemble[0])), positions, positions), 2))

# %% [markdown]
# ## A picture, a page, a file
# `conformers.html` is a page to turn the conformers with the mouse; it needs no network. The same from the command
# line: `ase-geomol conformers "C[C@H](N)C(=O)O" -n 8 --relax`.

# %%
folder = Path(mkdtemp())
ensemble_picture(folder / "alanine.png", ensemble, title="L-alanine")
write_viewer(folder / "alanine.html", ensemble, title="L-alanine")
write_structures(folder / "alanine.sdf", ensemble)
write(folder / "alanine.extxyz", ensemble)
print(sorted(path.name for path in folder.iterdir()))
again = read(folder / "alanine.extxyz", 0)
assert parse(again).smiles == "C[C@H](N)C(=O)O"

# %% [markdown]
# ## Many
# `iterate` gives structures one by one. With `oversample` many are drawn, and relaxed where that is asked for; `window`
# leaves out what is too high in energy (eV), `unique` duplicates, and of the rest representative ones are kept.
# `sample_many` takes many molecules, and gives for each what `sample` gives, or its error. Everything else of ASE
# starts from here: molecular dynamics, basin hopping, genetic algorithms.

# %%
widest = max(provider.iterate("NCCCCN", 30), key=lambda atoms: np.ptp(atoms.positions, axis=0).max())
print(f"the longest of 30: {np.ptp(widest.positions, axis=0).max():.1f} Å")
few = provider.sample("NCCCCN", 5, oversample=6)
print("kept:", [atoms.info["index"] for atoms in few])
for result in provider.sample_many(["CCO", "C1CC", "CC#N"], 2):
    print(result if isinstance(result, Exception) else f"{result.smiles}: {len(result)} conformers")
