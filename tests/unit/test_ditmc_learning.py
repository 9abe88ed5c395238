"""A tiny DiTMC learns the conformers of butane and of both alanines by heart."""

from __future__ import annotations

import pytest
from benchmarks._memorise import conformers_of, memorise, recall
from unit.small_ditmc import L_ALANINE

from ase_geomol.models.ditmc import DiTMCConfig

BUTANE, D_ALANINE = "CCCC", "C[C@@H](N)C(=O)O"


@pytest.fixture(scope="module")
def known():
    """Anti and two gauche conformers of butane, and those of the enantiomers of alanine."""
    conformers = {smiles: conformers_of(smiles, 3) for smiles in (BUTANE, L_ALANINE, D_ALANINE)}
    assert all(len(found) == 3 for found in conformers.values())
    return conformers


@pytest.fixture(scope="module")
def flow(known):
    config = DiTMCConfig(positions="equivariant", channels=32, layers=2, longest_path=12)
    return memorise(known, config, steps=500, samples=3)


@pytest.mark.parametrize("smiles", [BUTANE, L_ALANINE, D_ALANINE])
def test_all_conformers_are_known(known, flow, smiles):
    found = recall(flow, smiles, known[smiles], 64)
    assert found["known"] == 1
    assert found["right stereochemistry"] == 1
