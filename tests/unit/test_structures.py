"""Single molecules of commands come from `RDKitProvider`, whose checks and time limit then hold for them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="structures from SMILES need the extra 'providers'")

from ase_geomol import RDKitProvider
from ase_geomol.cli import common
from ase_geomol.errors import InputError
from ase_geomol.providers.geometry import bond_errors
from ase_geomol.providers.molecules import parse
from ase_geomol.simulate import load_structure


@pytest.mark.parametrize(("smiles", "info"), [("CC=C=CC", {}), ("C[NH3+]", {"charge": 1}), ("[CH3]", {"spin": 2})])
def test_one_molecule_is_checked(smiles, info):
    atoms, name = common.structure(smiles)
    (made,) = RDKitProvider().sample(smiles, seed=0)
    np.testing.assert_array_equal(atoms.positions, made.positions)
    assert bond_errors(parse(smiles), atoms.positions) == []
    assert atoms.info == info
    assert set(atoms.arrays) == {"numbers", "positions"}
    assert name == made.get_chemical_formula()


def test_isotopes_keep_their_masses():
    assert common.structure("[2H]O[2H]")[0].get_masses()[0] == pytest.approx(2.014, abs=1e-3)


def test_several_molecules_are_put_side_by_side():
    atoms, _ = common.structure("O.O")
    np.testing.assert_array_equal(atoms.positions, load_structure("O.O").positions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C1CC(", "cannot be parsed as a SMILES string, and it is no name of ASE's g2 collection"),
        ("C\ud800", "'C.ud800' is not a structure"),
        ("C.C\x00", "'C.C.x00' is not a structure"),
        ("*C", "place holder"),
        ("C[Pt@SP1](F)(Cl)Br", "square planar"),
    ],
)
def test_what_is_none_is_told(text, message):
    with pytest.raises(InputError, match=message):
        common.structure(text)
