"""COV and AMR against tables worked out by hand, and distances that do not depend on labels."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")

from geomol_training.conformers import metrics
from geomol_training.conformers.metrics import distance_matrix, match, summary
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from ase_geomol.providers.molecules import parse
from ase_geomol.providers.rmsd import rmsd_matrix, rmsd_to_each, symmetry

TABLE = np.array([[0.2, 0.5, 1.0], [0.9, 0.8, 0.3]])  # two references, three samples


def test_a_table_by_hand():
    found = match(TABLE, 3, (0.3, 0.4, 0.5, 0.6))
    assert found.recall == (1 / 2, 1.0, 1.0, 1.0)  # nearest 0.2 and 0.3: exactly at the threshold is not covered
    assert found.precision == pytest.approx((1 / 3, 2 / 3, 2 / 3, 1.0))  # nearest 0.2, 0.5 and 0.3
    assert found.recall_distance == pytest.approx(0.25)
    assert found.precision_distance == pytest.approx(1 / 3)


def test_failures_are_not_covered_and_have_no_distance():
    table = np.array([[0.2, np.inf], [np.inf, np.inf], [0.4, np.inf]])
    found = match(table, 4, (0.3,))
    assert found.recall == pytest.approx((1 / 3,))
    assert found.precision == (1 / 4,)  # of four that were asked for, two are missing and one failed
    assert found.recall_distance == pytest.approx(0.3)
    assert found.precision_distance == pytest.approx(0.2)


def test_no_samples():
    found = match(np.zeros((2, 0)), 4, (0.5,))
    assert found[:2] == ((0.0,), (0.0,))
    assert math.isnan(found.recall_distance)
    assert math.isnan(found.precision_distance)


def test_mean_and_median_over_molecules():
    nothing = match(np.zeros((2, 0)), 3, (0.4,))
    found = summary([match(TABLE, 3, (0.4,)), match(TABLE + 0.2, 3, (0.4,)), nothing], (0.4,))
    assert found["COV-R 0.4 Å mean %"] == pytest.approx(0.0 / 3 + 100 * (1 + 0 + 0) / 3)
    assert found["COV-R 0.4 Å median %"] == 0
    assert found["COV-P 0.4 Å mean %"] == pytest.approx(100 * (2 / 3) / 3)
    assert found["AMR-R mean Å"] == pytest.approx((0.25 + 0.45) / 2)
    assert found["AMR-P median Å"] == pytest.approx((1 / 3 + 1 / 3 + 0.2) / 2)


def test_equivalent_atoms_may_change_places():
    """p-Xylene, turned, with its ring's atoms and methyl groups renumbered as a flip does."""
    molecule = parse("Cc1ccc(C)cc1")
    mol = Chem.Mol(molecule.mol)
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    positions = mol.GetConformer().GetPositions()
    automorphisms = molecule.mol.GetSubstructMatches(molecule.mol, uniquify=False, maxMatches=1000)
    flip = next(order for order in automorphisms if order[0] != 0)
    turned = positions[list(flip)] @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) + 3
    distances = distance_matrix(symmetry(molecule), positions[None], np.array([turned, turned * (1, 1, -1)]))
    assert distances[0, 0] < 1e-4
    apart = distance_matrix(symmetry(molecule), positions[None], positions[None] * 1.1)[0, 0]
    centred = positions[molecule.numbers > 1] - positions[molecule.numbers > 1].mean(0)
    assert apart == pytest.approx(0.1 * np.sqrt(np.square(centred).sum(1).mean()), rel=1e-3)


def test_what_fails_or_comes_too_late_has_no_distance():
    molecule = parse("CCO")
    positions = np.random.default_rng(0).normal(size=(2, len(molecule), 3))
    broken = positions.copy()
    broken[1, 0, 0] = np.nan
    distances = distance_matrix(symmetry(molecule), positions, broken)
    assert np.isinf(distances).tolist() == [[False, True], [False, True]]
    assert np.isinf(distance_matrix(symmetry(molecule), positions, broken, time.monotonic() - 1)).all()


def test_a_distance_at_which_rdkit_fails_is_none(monkeypatch):
    def fails(symmetric, conformer, others):
        for other, distance in zip(others, rmsd_to_each(symmetric, conformer, others), strict=True):
            if (other == positions[1]).all():
                raise RuntimeError("Invariant Violation")
            yield distance

    molecule = parse("CCO")
    positions = np.random.default_rng(0).normal(size=(3, len(molecule), 3))
    monkeypatch.setattr(metrics, "rmsd_to_each", fails)
    distances = distance_matrix(symmetry(molecule), positions, positions)
    expected = rmsd_matrix(symmetry(molecule), positions, positions)
    assert np.isinf(distances[:, 1]).all()
    np.testing.assert_allclose(distances[:, [0, 2]], expected[:, [0, 2]], atol=1e-6)


def test_the_time_limit_holds_within_a_reference(monkeypatch):
    def slowly(symmetric, conformer, others):
        for distance in rmsd_to_each(symmetric, conformer, others):
            time.sleep(0.05)
            yield distance

    molecule = parse("CCO")
    positions = np.random.default_rng(0).normal(size=(40, len(molecule), 3))
    monkeypatch.setattr(metrics, "rmsd_to_each", slowly)
    begin = time.monotonic()
    distances = distance_matrix(symmetry(molecule), positions[:1], positions, begin + 0.5)
    assert time.monotonic() - begin < 1
    assert 1 < np.isfinite(distances).sum() < 12
