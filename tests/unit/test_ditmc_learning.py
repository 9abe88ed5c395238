"""Tiny networks learn conformers by heart; the full-length version is the benchmark ``memorising``."""

from __future__ import annotations

import pytest
from benchmarks._memorise import conformers_of, memorise, recall
from unit.small_ditmc import L_ALANINE

from ase_geomol.models.ditmc import DiTMCConfig

TINY = DiTMCConfig(positions="equivariant", channels=32, layers=2, longest_path=12)


@pytest.mark.parametrize(
    ("molecules", "steps", "samples"),
    [(("CCCC",), 400, 6), ((L_ALANINE, "C[C@@H](N)C(=O)O"), 300, 4)],
    ids=["butane", "both alanines"],
)
def test_conformers_are_learned_by_heart(molecules, steps, samples):
    """Anti and both gauche conformers of butane; three of each enantiomer of alanine, in one network."""
    known = {smiles: conformers_of(smiles, 3) for smiles in molecules}
    flow = memorise(known, TINY, steps=steps, samples=samples)
    for smiles, conformers in known.items():
        found = recall(flow, smiles, conformers, 128)
        assert found["conformers"] == 3
        assert found["known"] == 1
        assert found["right stereochemistry"] == 1
