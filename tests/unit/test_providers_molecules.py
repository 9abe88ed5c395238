"""Requests, stereochemistry, distances between conformers, bonds and clashes, against RDKit and known answers."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as g2
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from ase_geomol import RDKitProvider
from ase_geomol.errors import InputError
from ase_geomol.providers.geometry import bond_errors, clashes
from ase_geomol.providers.molecules import Molecule, parse
from ase_geomol.providers.rmsd import aligned, rmsd, rmsd_matrix, symmetry
from ase_geomol.providers.stereo import count_stereo, stereo_errors, stereocentres
from ase_geomol.providers.volumes import bond_volume

# SMILES, number of specified stereocentres and double bonds.
STEREO = {
    "L-alanine": ("C[C@H](N)C(=O)O", 1),
    "D-alanine": ("C[C@@H](N)C(=O)O", 1),
    "meso-butanediol": ("C[C@H](O)[C@@H](C)O", 2),
    "R,R-butanediol": ("C[C@@H](O)[C@@H](C)O", 2),
    "Z-difluoroethene": (r"F/C=C\F", 1),
    "E-difluoroethene": ("F/C=C/F", 1),
    "two Z": (r"C/C=C\C=C/C", 2),
    "E oxime": (r"C/C(N)=N\O", 1),
    "trans-cyclooctene": ("C1CCC/C=C/CC1", 1),
    "ring cis": ("C[C@H]1CC[C@@H](C)CC1", 2),
    "ring trans": ("C[C@H]1CC[C@H](C)CC1", 2),
    "sulfoxide R": ("CC[S@](C)=O", 1),
    "sulfoxide S": ("CC[S@@](C)=O", 1),
    "phosphinate": ("CC[P@](C)(=O)OC", 1),
    "ammonium": ("C[N@+](CC)(CCC)c1ccccc1", 1),
    "aziridine": ("C[C@H]1C[N@]1C", 2),
    "glucose": ("OC[C@H]1O[C@H](O)[C@H](O)[C@@H](O)[C@@H]1O", 5),
    "centres and a double bond": ("C[C@H](F)/C=C/[C@@H](C)Cl", 3),
    "bridgeheads": ("CO[C@@]12CC[C@]1(CO)C2", 2),
    "bridgeheads that RDKit reads wrongly": ("CO[C@]12CC[C@@]1(O)[C@@H]2O", 3),
    "one of two specified": ("C[C@H](F)C(C)Cl", 1),
    "nothing specified": ("CC(F)C=CC", 0),
}


def zero_order() -> Chem.Mol:
    built = Chem.RWMol(Chem.MolFromSmiles("CC"))
    built.GetBondWithIdx(0).SetBondType(Chem.BondType.ZERO)
    return built.GetMol()


@pytest.fixture(scope="module")
def rdkit() -> RDKitProvider:
    return RDKitProvider(None)


def features(molecule: Molecule) -> list[tuple]:
    """What networks read off atoms and bonds."""
    atoms = [
        (
            atom.GetAtomicNum(),
            atom.GetTotalNumHs(),
            atom.GetTotalNumHs(includeNeighbors=True),
            atom.GetNumRadicalElectrons(),
            atom.GetIsAromatic(),
            atom.GetTotalDegree(),
            str(atom.GetHybridization()),
            atom.GetValence(Chem.ValenceType.IMPLICIT),
            atom.GetFormalCharge(),
            [atom.IsInRingSize(size) for size in range(3, 9)],
        )
        for atom in molecule.mol.GetAtoms()
    ]
    return [*atoms, *map(tuple, molecule.bonds.tolist())]


SAME = [
    "c1cc[nH]c1",
    "C[C@H](N)C(=O)[O-]",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "[CH3]",
    "C[N+](=O)[O-]",
    "[2H]OC",
    "O=C1C=CC1",
]


@pytest.mark.parametrize("smiles", SAME)
def test_all_roads_lead_to_the_same_molecule(smiles, rdkit):
    asked = parse(smiles)
    bare = Chem.MolFromSmiles(smiles)
    full = Chem.AddHs(bare)
    kekulized = Chem.Mol(full)
    Chem.Kekulize(kekulized, clearAromaticFlags=True)
    for mol in (bare, full, kekulized, asked.mol, Chem.Mol(asked.mol.ToBinary())):
        again = parse(mol)
        assert features(again) == features(asked)
        assert Chem.MolToSmiles(again.mol) == Chem.MolToSmiles(asked.mol)
    (atoms,) = rdkit.sample(smiles)
    again = parse(atoms)
    assert features(again) == features(asked)
    assert Chem.MolToSmiles(again.mol) == Chem.MolToSmiles(asked.mol)
    assert (again.charge, again.multiplicity) == (asked.charge, asked.multiplicity)


def test_the_order_of_atoms_is_that_of_the_request(rdkit):
    order = [int(place) for place in np.random.default_rng(0).permutation(13)]
    shuffled = Chem.RenumberAtoms(parse("C[C@H](N)C(=O)O").mol, order)
    (atoms,) = rdkit.sample(shuffled)
    assert atoms.numbers.tolist() == [atom.GetAtomicNum() for atom in shuffled.GetAtoms()]
    (again,) = rdkit.sample(atoms, seed=3)
    assert again.numbers.tolist() == atoms.numbers.tolist()
    assert not stereo_errors(parse(shuffled), again.positions)
    del atoms.info["bonds"]
    assert parse(atoms).smiles == "C[C@H](N)C(=O)O"


@pytest.mark.parametrize(
    ("smiles", "charge", "multiplicity"),
    [
        ("[Na+2]", 2, 2),
        ("[C+6]", 6, 1),
        ("C", 0, 1),
        ("[CH3]", 0, 2),
        ("[CH2]", 0, 3),
        ("[O][O]", 0, 3),
        ("[N]=O", 0, 2),
        ("CC(=O)[O-]", -1, 1),
        ("C[NH3+]", 1, 1),
        ("[NH3+]CC(=O)[O-]", 0, 1),
        ("[Fe+3]", 3, 2),
        ("[H+]", 1, 1),
        ("[H]", 0, 2),
    ],
)
def test_charge_and_multiplicity(smiles, charge, multiplicity):
    molecule = parse(smiles)
    assert (molecule.charge, molecule.multiplicity) == (charge, multiplicity)
    assert (molecule.numbers.sum() - charge - multiplicity) % 2 == 1  # as many electrons as it has
    atoms = molecule.atoms(np.zeros((len(molecule), 3)), {})
    assert atoms.get_initial_charges().sum() == charge
    assert atoms.get_initial_magnetic_moments().sum() == multiplicity - 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("", r"The SMILES string is empty\."),
        ("   ", r"The SMILES string is empty\."),
        ("C1CC", "'C1CC' cannot be understood as a SMILES string"),
        ("hello", "'hello' cannot be understood"),
        ("[Xx]C", "cannot be understood"),
        ("C(C)(C)(C)(C)C", r"valence for atom # 0 C, 5, is greater than permitted\."),
        ("c1ccc1c", "cannot be understood"),
        ("CC C", "there is a space in it"),
        ("C\nC", r"'C\\nC' is no SMILES string: there is a space in it"),
        ("C\ud800", r"'C\\ud800' is no SMILES string: there is '\\ud800' in it, which is not ASCII"),
        ("\u0421CO", "is no SMILES string: there is '\u0421' in it, which is not ASCII"),
        ("CC(=O)\u039f", "is no SMILES string: there is '\u039f' in it, which is not ASCII"),
        ("C#N\u2026", "is no SMILES string: there is '\u2026' in it, which is not ASCII"),
        ("C\x00", r"'C\\x00' is no SMILES string: there is a character"),
        ("CCO\x01", r"'CCO\\x01' is no SMILES string: there is a character"),
        (Atoms("C", info={"smiles": "C\x00"}), r"'C\\x00' is no SMILES string"),
        ("C" * 20_000, "20000 characters is too long"),
        ("[Na+].[Cl-]", r"is 2 separate molecules \(Na \+ Cl\): ask for one of them\."),
        ("C.C.C.C.C.C", "is 6 separate molecules"),
        ("*C", "has a place holder at atom 0"),
        ("[1*]CC", "place holder"),
        ("C[C+7]", r"'C\[C\+7\]' takes more electrons from atom 1 than it has\."),
        (Chem.Mol(), "has no atoms"),
        (Chem.MolFromSmarts("[C,N]C"), "place holder at atom 0"),
        (zero_order(), "bond between atoms 0 and 1 whose order is not known"),
        (Chem.MolFromSmiles("CC(C)(C)(C)C", sanitize=False), "is no molecule: .*valence"),
        (g2("H2O"), r"neither info\['bonds'\] nor info\['smiles'\]"),
        (42, "not <class 'int'>"),
        (Atoms("H2", info={"bonds": [[0, 5, 1]]}), r"row \(0, 5, 1\) that is no bond"),
        (Atoms("H2", info={"bonds": [[0, 1, 9]]}), r"row \(0, 1, 9\) that is no bond"),
        (Atoms("OH2", info={"bonds": [[0, 1, 1]]}), "2 separate molecules"),
    ],
)
def test_what_is_no_molecule_is_told_in_a_sentence(request_, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(request_)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


def test_isotopes_have_their_masses(rdkit):
    (atoms,) = rdkit.sample("[2H]C([2H])Cl")
    deuterium = atoms.get_masses()[[0, 2]]
    np.testing.assert_allclose(deuterium, 2.014, atol=1e-3)
    assert parse(atoms).mol.GetAtomWithIdx(0).GetIsotope() == 2
    assert "masses" not in rdkit.sample("CCl")[0].arrays


@pytest.mark.parametrize("smiles", [*(smiles for smiles, _ in STEREO.values()), "F", "C#C", "CC/C=C\\C/C=C\\C/C=C\\CC"])
def test_the_kept_spelling_is_the_same_molecule_without_backslashes(smiles):
    molecule = parse(smiles)
    assert "\\" not in molecule.smiles
    assert molecule.smiles != "F"
    assert Chem.CanonSmiles(molecule.smiles) == Chem.CanonSmiles(smiles)
    assert molecule.smiles == smiles or "\\" in smiles or smiles == "F"


@pytest.mark.parametrize("name", STEREO)
def test_no_false_alarm_on_structures_with_stereochemistry_built_in(name, rdkit):
    """The order of atoms is shuffled, and RDKit reads the same isomer off the positions."""
    smiles, count = STEREO[name]
    rng = np.random.default_rng(1)
    for seed in range(3):
        mol = parse(smiles).mol
        mol = Chem.RenumberAtoms(mol, [int(place) for place in rng.permutation(mol.GetNumAtoms())])
        molecule = parse(mol)
        assert count_stereo(molecule) == count
        for atoms in rdkit.iterate(mol, 2, seed=seed, checks=()):
            assert stereo_errors(molecule, atoms.positions) == []
            assert bond_errors(molecule, atoms.positions) == []
            assert clashes(molecule, atoms.positions) == []
    unread = ("aziridine", "bridgeheads that RDKit reads wrongly", "one of two specified", "nothing specified")
    if name not in unread:  # RDKit reads no nitrogen, but all else
        seen = molecule.with_positions(atoms.positions)
        Chem.AssignStereochemistryFrom3D(seen)
        assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(seen))) == Chem.CanonSmiles(smiles)


@pytest.mark.parametrize("name", ["bridgeheads", "bridgeheads that RDKit reads wrongly"])
def test_bridgeheads_with_bonds_in_a_plane_are_right(name):
    """Of minima in MMFF94s, in which three of a bridgehead's bonds are in a plane; and they are read as they are."""
    smiles, _ = STEREO[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble = RDKitProvider().sample(smiles, 4, attempts=1)
    molecule, flattest = parse(smiles), 1.0
    for atoms in ensemble:
        for centre, around, sign in stereocentres(molecule):
            arms = atoms.positions[around[:3]] - atoms.positions[centre]
            flattest = min(flattest, sign * bond_volume(arms))
        assert Chem.CanonSmiles(parse(atoms).smiles) == Chem.CanonSmiles(smiles)
    assert flattest < 0.1, "the case is the one that is meant"


@pytest.mark.parametrize("name", STEREO)
def test_the_mirror_image_is_noticed_at_every_centre(name, rdkit):
    smiles, _ = STEREO[name]
    molecule = parse(smiles)
    centres = [atom for atom in molecule.mol.GetAtoms() if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED]
    (atoms,) = rdkit.sample(smiles)
    errors = stereo_errors(molecule, atoms.positions * [1, 1, -1])
    assert len(errors) == len(centres)
    assert all("inverted" in error for error in errors)


@pytest.mark.parametrize("which", [("F/C=C/F", r"F/C=C\F"), ("C[C@H]1CC[C@@H](C)CC1", "C[C@H]1CC[C@H](C)CC1")])
def test_another_isomer_is_noticed(which, rdkit):
    for asked, made in (which, which[::-1]):
        atoms = rdkit.sample(made)[0]
        assert len(stereo_errors(parse(asked), atoms.positions)) == 1


@pytest.mark.parametrize(
    "smiles", [*(smiles for smiles, _ in STEREO.values()), "CC[P@](C)c1ccccc1", "CC[P@@](C)c1ccccc1"]
)
def test_positions_say_what_was_asked_for(smiles, rdkit):
    """Also of nitrogen and phosphorus with three neighbours, which RDKit leaves open."""
    (atoms,) = rdkit.sample(smiles)
    del atoms.info["smiles"]
    asked, read = parse(smiles), parse(atoms)
    assert stereo_errors(asked, atoms.positions) == stereo_errors(read, atoms.positions) == []
    signs = [
        {centre: (sorted(around), _hand(around, sign)) for centre, around, sign in stereocentres(of)}
        for of in (asked, read)
    ]
    assert signs[0].items() <= signs[1].items()
    assert Chem.CanonSmiles(parse(read.smiles).smiles) == Chem.CanonSmiles(read.smiles)


def _hand(around, sign) -> float:
    """The sign that the neighbours have in ascending order."""
    return sign * np.linalg.det(np.eye(len(around))[np.argsort(around)])


@pytest.mark.parametrize("smiles", ["C1NO1", "CC1CN1", "C1NN1"])
def test_hands_that_a_smiles_string_cannot_name_are_not_read(smiles, rdkit):
    (atoms,) = rdkit.sample(smiles)
    del atoms.info["smiles"]
    read = parse(atoms)
    assert count_stereo(read) == count_stereo(parse(read.smiles)) == len(re.findall("@+", read.smiles))


def test_shapes_of_metals_are_not_read():
    square = np.array([[0, 0, 0], [2.3, 0, 0], [0, 2.3, 0], [-2.4, 0, 0], [0, -2.6, 0]])
    atoms = Atoms([78, 17, 17, 35, 53], square)
    atoms.info["bonds"] = np.array([[0, other, 1] for other in range(1, 5)])
    atoms.set_array("formal_charge", np.array([-2, 0, 0, 0, 0]))
    molecule = parse(atoms)
    assert "@" not in molecule.smiles
    assert parse(molecule.smiles).charge == parse(molecule.mol).charge == -2


def test_flat_centres_and_twisted_bonds_are_noticed(rdkit):
    atoms = rdkit.sample("[C@H](F)(Cl)Br")[0]
    arms = atoms.positions[1:5] - atoms.positions[0]
    atoms.positions[1:5] -= np.outer(arms @ (arms[0] - arms[1]), arms[0] - arms[1]) / ((arms[0] - arms[1]) ** 2).sum()
    assert stereo_errors(parse("[C@H](F)(Cl)Br"), atoms.positions) == ["the stereocentre at atom 0 (C) is flat"]
    assert len(stereo_errors(parse("C[C@H](F)Cl"), np.zeros((8, 3)))) == 1, "a volume that is NaN is not right"
    atoms = rdkit.sample("F/C=C/F")[0]
    atoms.set_dihedral(0, 1, 2, 3, 90, indices=[3])
    (error,) = stereo_errors(parse("F/C=C/F"), atoms.positions)
    assert error == "the double bond between atoms 1 and 2 is twisted"


def test_broken_and_new_bonds_and_clashes_are_noticed(rdkit):
    molecule = parse("CCCCCC")
    atoms = rdkit.sample("CCCCCC")[0]
    assert bond_errors(molecule, atoms.positions) == clashes(molecule, atoms.positions) == []
    stretched = atoms.positions.copy()
    stretched[3:6] += 5 * (stretched[3] - stretched[2])
    assert "the bond C2-C3 is broken" in bond_errors(molecule, stretched)
    closed = atoms.positions.copy()
    closed[5] = closed[0] + [0, 0, 1.5]
    assert "C0-C5 became bonded" in bond_errors(molecule, closed)
    pressed = atoms.positions.copy()
    pressed[5] = pressed[0] + [0, 0, 1.9]
    assert "C0-C5 clash" in clashes(molecule, pressed)
    assert "C0-C5 became bonded" not in bond_errors(molecule, pressed)
    assert bond_errors(molecule, np.full_like(pressed, np.nan))


DISTANCES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(C)(C)c1ccc(C(F)(F)F)cc1",
    "OC(=O)CN(CC(=O)[O-])CC(=O)O",
    "NC(=[NH2+])CC[N+](=O)[O-]",
    "OS(=O)(=O)CCc1ccccc1",
    "CC1CCC(C)CC1",
    "CO",
]


@pytest.mark.parametrize("smiles", DISTANCES)
def test_distances_are_those_of_rdkit(smiles, rdkit):
    molecule = parse(smiles)
    positions = np.array([atoms.positions for atoms in rdkit.iterate(smiles, 4)])
    heavy = Chem.Mol(molecule.mol)
    for conformer in positions:
        heavy.AddConformer(molecule.with_positions(conformer).GetConformer(), assignId=True)
    for atom in heavy.GetAtoms():
        atom.SetNoImplicit(False)
    heavy = Chem.RemoveHs(heavy)
    symmetric = symmetry(molecule)
    assert symmetric.complete
    expected = [[rdMolAlign.GetBestRMS(heavy, heavy, i, j) for j in range(4)] for i in range(4)]
    matrix = rmsd_matrix(symmetric, positions, positions)
    same = np.eye(4, dtype=bool)
    np.testing.assert_allclose(matrix[~same], np.array(expected)[~same], atol=1e-6)
    assert matrix[same].max() < 1e-4  # RDKit takes a root of a small difference


def test_distances_do_not_see_labels_of_equivalent_atoms(rdkit):
    molecule = parse("Cc1ccc(C)cc1")
    flipped = rdkit.sample("Cc1ccc(C)cc1")[0].positions.copy()
    positions = flipped.copy()
    flipped[[2, 3, 6, 7]] = flipped[[7, 6, 3, 2]]  # the ring turned by 180°
    assert rmsd(symmetry(molecule), flipped, positions) < 1e-4
    assert rmsd(symmetry(molecule), flipped + 0.0, positions @ np.diag([-1, -1, 1]) + 3) < 1e-4


def test_distances_see_handedness(rdkit):
    molecule = parse("C[C@H](F)Cl")
    positions = rdkit.sample("C[C@H](F)Cl")[0].positions
    assert rmsd(symmetry(molecule), positions, positions * [1, 1, -1]) > 0.3


def test_distances_of_molecules_with_fewer_than_two_heavy_atoms():
    water, hydrogen = parse("O"), parse("[H][H]")
    first = g2("H2O").positions
    second = first[[0, 2, 1]]
    assert rmsd(symmetry(water), first, second) < 1e-4
    assert rmsd(symmetry(hydrogen), np.array([[0, 0, 0.0], [0, 0, 0.7]]), np.array([[0, 0, 0.0], [0, 0, 0.9]])) > 0.05
    assert rmsd(symmetry(parse("[Na+]")), np.zeros((1, 3)), np.ones((1, 3))) == 0


def test_polar_hydrogens_can_be_compared_too(rdkit):
    molecule = parse("CCO")
    positions = rdkit.sample("CCO")[0]
    turned = positions.copy()
    turned.set_dihedral(0, 1, 2, 8, positions.get_dihedral(0, 1, 2, 8) + 120, indices=[8])
    assert rmsd(symmetry(molecule), positions.positions, turned.positions) < 1e-4
    assert rmsd(symmetry(molecule, polar=True), positions.positions, turned.positions) > 0.2


def test_too_many_relabellings_give_an_upper_bound(rdkit):
    smiles = "CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1"
    molecule = parse(smiles)
    positions = np.array([atoms.positions for atoms in rdkit.iterate(smiles, 3)])
    every, few = symmetry(molecule), symmetry(molecule, most=10)
    assert every.complete
    assert not few.complete
    assert (len(every.maps), len(few.maps)) == (1296, 10)
    exact, bound = (rmsd_matrix(s, positions, positions) for s in (every, few))
    assert (bound >= exact - 1e-9).all()
    assert (bound > exact + 0.01).any()


def test_aligned_conformers_are_as_near_as_their_distance(rdkit):
    smiles = "CC(=O)Oc1ccccc1C(=O)O"
    symmetric = symmetry(parse(smiles))
    positions = np.array([atoms.positions for atoms in rdkit.iterate(smiles, 5)])
    moved = aligned(symmetric, positions, positions[0])
    distances = rmsd_matrix(symmetric, positions, positions[:1])[:, 0]
    for conformer, before, distance in zip(moved, positions, distances, strict=True):
        inside = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (conformer, before)]
        np.testing.assert_allclose(*inside, atol=1e-9)
        places = symmetric.atoms[symmetric.maps]
        apart = np.linalg.norm(conformer[symmetric.atoms] - positions[0][places], axis=-1)
        assert np.sqrt((apart**2).mean(-1)).min() == pytest.approx(distance, abs=1e-6)
