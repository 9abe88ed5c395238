"""Tiny networks learn conformers by heart; the full-length version is the benchmark ``memorising``."""

from __future__ import annotations

import pytest
from benchmarks._memorise import conformers_of, memorise, recall
from unit.small_ditmc import L_ALANINE

from ase_geomol.models.ditmc import DiTMCConfig

CASES = {
    "butane": ("equivariant", "correction", ("CCCC",), 400, 6),
    "both alanines": ("equivariant", "conformer", (L_ALANINE, "C[C@@H](N)C(=O)O"), 300, 4),
    "butane, the shipped form": ("absolute", "correction", ("CCCC",), 1000, 6),
    "both alanines, the shipped form": ("absolute", "correction", (L_ALANINE, "C[C@@H](N)C(=O)O"), 3000, 4),
}


@pytest.mark.parametrize(("positions", "output", "molecules", "steps", "samples"), CASES.values(), ids=CASES)
def test_conformers_are_learned_by_heart(positions, output, molecules, steps, samples):
    """Anti and both gauche conformers of butane; three of each enantiomer of alanine, in one network."""
    known = {smiles: conformers_of(smiles, 3) for smiles in molecules}
    config = DiTMCConfig(positions=positions, channels=32, layers=2, longest_path=12)
    flow = memorise(known, config, steps=steps, samples=samples, output=output)
    for smiles, conformers in known.items():
        found = recall(flow, smiles, conformers, 128)
        assert found["conformers"] == 3
        assert found["known"] == 1
        assert found["right stereochemistry"] == 1
