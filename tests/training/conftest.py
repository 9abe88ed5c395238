"""Labelled structures made on the spot with ASE's EMT, and a recipe small enough for a test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training.recipe import Recipe

NAMES = ("CH3CH2OH", "CH4", "H2O", "C2H6", "CH3OH")
RMD17 = Path(__file__).parents[3] / "shared/data/rmd17"


def labelled(name: str, seed: int, *, width: float = 0.06) -> Atoms:
    """A rattled molecule with EMT energy and forces."""
    atoms = molecule(name)
    atoms.positions += np.random.default_rng(seed).normal(size=atoms.positions.shape) * width
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    atoms.info = {"molecule": name, "source": "emt", "charge": 0}
    return atoms


@pytest.fixture(scope="session")
def structures() -> list[Atoms]:
    """40 frames of five molecules; the last two are for validation."""
    frames = [labelled(NAMES[i % 5], i) for i in range(40)]
    for atoms in frames:
        atoms.info["split"] = "train" if atoms.info["molecule"] in NAMES[:3] else "valid"
    return frames


@pytest.fixture(scope="session")
def xyz(structures: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "frames.extxyz"
    write(path, structures)
    return path


@pytest.fixture(scope="session")
def own_conformers() -> Callable[..., list[Atoms]]:
    """A function that gives conformers of a molecule as ``geomol-train conformers`` does, by RDKit alone."""
    pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    from ase_geomol.providers.molecules import parse

    def make(smiles: str, count: int, split: str) -> list[Atoms]:
        molecule = parse(smiles)
        mol, frames = Chem.Mol(molecule.mol), []
        rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=1)
        for place, conformer in enumerate(mol.GetConformers()):
            atoms = Atoms(molecule.numbers, conformer.GetPositions())
            atoms.info = {"smiles": molecule.smiles, "molecule": f"key-{smiles}", "split": split, "source": "own"}
            atoms.calc = SinglePointCalculator(atoms, energy=-100 + 0.02 * place)
            frames.append(atoms)
        return frames

    return make


@pytest.fixture(scope="session")
def make_recipe(xyz: Path) -> Callable[..., Recipe]:
    """A function that makes recipes on ``xyz``; arguments replace fields of the sections."""

    def make(data: dict | None = None, **sections: dict) -> Recipe:
        config = {"elements": [1, 6, 8], "cutoff": 4.0, "layers": 1, "channels": 8, "heads": 2}
        config |= sections.get("model", {})
        if config["elements"] == "those of the data":
            del config["elements"]
        return Recipe.model_validate(
            {
                "name": "tiny",
                "data": {"train": str(xyz), "split": {"by": "key"}, **(data or {})},
                "model": {"config": config},
                "loss": sections.get("loss", {}),
                "optimiser": {"lr": 0.003, **sections.get("optimiser", {})},
                "schedule": {"warmup_steps": 3, **sections.get("schedule", {})},
                "training": {"batch_edges": 200, "max_steps": 20, "validate_every": 8, **sections.get("training", {})},
                "metadata": {"theory": "EMT", "training_data": "five molecules"},
            }
        )

    return make


@contextmanager
def _occupied(folder: Path) -> Iterator[None]:
    program = "import sys; from pathlib import Path; from geomol_training.alone import alone_in\n"
    program += "with alone_in(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        yield
        other.communicate("")


@pytest.fixture
def occupied() -> Callable[[Path], AbstractContextManager[None]]:
    """Makes another process work in a folder."""
    if sys.platform == "win32":
        pytest.skip("Windows has other locks")
    return _occupied
