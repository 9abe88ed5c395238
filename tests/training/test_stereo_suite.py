"""The check of stereochemistry on many molecules; the benchmark ``stereo`` does the same on 1,000."""

from __future__ import annotations

import pytest

pytest.importorskip("rdkit", reason="providers need the extra 'providers'")

import numpy as np
import torch
from benchmarks._graphs import bonds_of, centres_of
from benchmarks._isomers import compare, isomers
from geomol_training.conformers.isomers import is_wrong
from rdkit import Chem

from ase_geomol import RDKitProvider
from ase_geomol.errors import ProviderError
from ase_geomol.models.ditmc import DRUGS
from ase_geomol.providers.features import graph_of
from ase_geomol.providers.molecules import parse

MOLECULES = 100


@pytest.fixture(scope="module")
def molecules():
    return isomers(MOLECULES, seed=0, atoms=(10, 40))


def test_no_false_alarm_and_no_mirror_image_missed(molecules):
    """In 100 structures by RDKit and their mirror images."""
    maker, lost = RDKitProvider(force_field=None), 0
    total = {"elements": 0, "structures": 0, "read by RDKit": 0, "false alarms": 0, "missed": 0}
    for place, molecule in enumerate(molecules):
        try:
            found = compare(molecule, maker, place)
        except ProviderError:
            lost += 1
            continue
        total = {name: number + found[name] for name, number in total.items()}
    assert lost <= 0.05 * MOLECULES
    assert total["structures"] == 2 * (MOLECULES - lost)
    assert total["read by RDKit"] >= 0.95 * total["structures"]
    assert total["elements"] > 1.5 * MOLECULES
    kinds = [bond.GetStereo() != Chem.BondStereo.STEREONONE for m in molecules for bond in m.mol.GetBonds()]
    assert sum(kinds) >= 0.05 * MOLECULES, "there are double bonds among them"
    assert total["false alarms"] == total["missed"] == 0


@pytest.mark.parametrize("smiles", ["CO[C@@]12CC[C@]1(CO)C2", "CO[C@]12CC[C@@]1(O)[C@@H]2O", "O[C@]12C[C@@]1(F)CC2"])
def test_bridgeheads_of_small_rings_are_no_other_isomer(smiles):
    """Three of their bonds are in a plane, off which RDKit may read anything."""
    molecule = parse(smiles)
    for atoms in RDKitProvider().sample(smiles, 4, attempts=1):
        assert not is_wrong(molecule, atoms.positions)
        assert is_wrong(molecule, atoms.positions * [1, 1, -1])


def test_features_do_not_depend_on_the_order_of_atoms(molecules):
    random = np.random.default_rng(0)
    for molecule in molecules:
        order = random.permutation(len(molecule))
        first = graph_of(molecule, DRUGS)
        second = graph_of(parse(Chem.RenumberAtoms(molecule.mol, order.tolist())), DRUGS)
        for name in ("numbers", "atom_features"):
            assert torch.equal(getattr(second, name), getattr(first, name)[order]), molecule.smiles
        for name in ("hops", "sides"):
            assert torch.equal(getattr(second, name), getattr(first, name)[order][:, order]), molecule.smiles
        assert bonds_of(second, order) == bonds_of(first), molecule.smiles
        assert centres_of(second, order) == centres_of(first), molecule.smiles
        torch.testing.assert_close(second.root, first.root[order][:, order])
