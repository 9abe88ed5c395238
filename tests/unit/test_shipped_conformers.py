"""What the shipped weights of conformers draw: the isomer that was asked for, near what RDKit makes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")

from geomol_training.conformers.isomers import is_other_isomer

from ase_geomol import ConformerProvider, RDKitProvider
from ase_geomol.checkpoint import WEIGHTS, shipped_models
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.rmsd import rmsd_matrix, symmetry
from ase_geomol.providers.stereo import count_stereo

NAMES = sorted(name for name, listed in shipped_models().items() if listed.kind == "conformer model")
ISOMERS = {
    "L-alanine": "C[C@H](N)C(=O)O",
    "D-alanine": "C[C@@H](N)C(=O)O",
    "E-butenol": "C/C=C/CO",
    "Z-butenol": r"C/C=C\CO",
    "cis ring": "C[C@H]1CC[C@@H](O)C1",
    "trans ring": "C[C@H]1CC[C@H](O)C1",
}


@pytest.fixture(scope="module", params=NAMES)
def provider(request) -> ConformerProvider:
    return ConformerProvider(request.param, device="cpu")


def test_there_are_some():
    assert "ditmc-small" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_small(name):
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 10e6


@pytest.mark.parametrize("name", ISOMERS)
def test_all_are_made_and_the_isomer_asked_for(provider, name):
    """By RDKit's own reading; most of them at the first attempt, with mirror images reflected."""
    molecule = parse(ISOMERS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble = provider.sample(ISOMERS[name], 16)
    assert count_stereo(molecule)
    assert [is_other_isomer(molecule, atoms.positions) for atoms in ensemble] == [False] * 16
    assert len(ensemble) == 16
    assert sum(ensemble.failures.values()) <= 6


@pytest.mark.parametrize("smiles", ["CCCO", "C[C@H](N)C(=O)O", "O=C1CCCO1", "OCCF", "CC(=O)NC"])
def test_every_structure_of_rdkit_has_one_near(provider, smiles):
    theirs = RDKitProvider().sample(smiles, 5, unique=0.25)
    ours = provider.sample(smiles, 32)
    positions = [np.array([atoms.positions for atoms in structures]) for structures in (theirs, ours)]
    distances = rmsd_matrix(symmetry(parse(smiles)), *positions)
    assert distances.min(1).max() < 0.2
