"""A request, as a SMILES string, an RDKit molecule or Atoms with bonds, becomes one kind of molecule.

All roads end in `_normalised`, so that what is read off a molecule (aromaticity, hydrogen counts, radicals) does not
depend on how it was handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols

from ..errors import InputError
from ._rdkit import Chem, rdBase
from .axes import Axis, axes
from .marks import refuse_marks
from .volumes import FLAT, bond_volume

LONGEST = 5_000
"""Characters of a SMILES string."""
LARGEST = 1_000
"""Atoms of a molecule of which another spelling is looked for; no provider makes larger ones."""
MOST_UNPAIRED = 4
"""Electrons of an atom, as RDKit counts them."""
MOST_ROOTS = 40
"""Atoms from which a SMILES string is written, in search of one that files keep."""
ORDER_CODES = {
    Chem.BondType.SINGLE: 1,
    Chem.BondType.DOUBLE: 2,
    Chem.BondType.TRIPLE: 3,
    Chem.BondType.AROMATIC: 4,
    Chem.BondType.DATIVE: 5,
}
"""The last column of ``atoms.info["bonds"]``."""
TURNS = {Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CW: -1}
"""Sign of the volume that the bonds of a stereocentre span in their order, by RDKit's tag."""
_ORDERS = {code: order for order, code in ORDER_CODES.items()}

Request: TypeAlias = "str | Chem.Mol | Atoms | Molecule"


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule with all its hydrogens as atoms, without positions.

    Attributes:
        smiles: how it was asked for, in a spelling that ASE's files keep.
        mol: the RDKit molecule; its atoms are in the order of all arrays.
        numbers: (N,) atomic numbers.
        bonds: (M, 3) first atom, second atom, order: 1, 2, 3, 4 for aromatic, 5 for dative.
        formal_charges: (N,).
        unpaired: (N,) unpaired electrons, all parallel.
        charge: of the whole.
        multiplicity: 2S+1.
        axes: rows of cumulated double bonds of which it is known how the planes at their ends lie.
    """

    smiles: str
    mol: Chem.Mol
    numbers: np.ndarray = field(init=False)
    bonds: np.ndarray = field(init=False)
    formal_charges: np.ndarray = field(init=False)
    unpaired: np.ndarray = field(init=False)
    charge: int = field(init=False)
    multiplicity: int = field(init=False)
    axes: list[Axis] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        atoms = list(self.mol.GetAtoms())
        numbers = np.array([atom.GetAtomicNum() for atom in atoms])
        charges = np.array([atom.GetFormalCharge() for atom in atoms])
        unpaired = np.array([atom.GetNumRadicalElectrons() for atom in atoms])
        unpaired = np.where(unpaired > MOST_UNPAIRED, (numbers - charges) % 2, unpaired)  # RDKit's, of [Na+2]
        electrons = int(numbers.sum() - charges.sum())
        if (electrons - unpaired.sum()) % 2:  # RDKit does not count the electrons of a metal
            unpaired = np.where(np.arange(len(atoms)) == numbers.argmax(), electrons % 2, 0)
        bonds = [
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), ORDER_CODES[bond.GetBondType()])
            for bond in self.mol.GetBonds()
        ]
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "bonds", np.array(bonds, dtype=int).reshape(-1, 3))
        object.__setattr__(self, "formal_charges", charges)
        object.__setattr__(self, "unpaired", unpaired)
        object.__setattr__(self, "charge", int(charges.sum()))
        object.__setattr__(self, "multiplicity", int(unpaired.sum()) + 1)
        object.__setattr__(self, "axes", axes(self.mol))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def formula(self) -> str:
        """For example "C9H8O4"."""
        return Atoms(self.numbers).get_chemical_formula()

    def atoms(self, positions: np.ndarray, info: Mapping[str, Any]) -> Atoms:
        """Atoms at ``positions`` (N, 3) in Å, with charge, multiplicity and bonds, and ``info`` added.

        Where there are any, formal charges are the initial charges too, and unpaired electrons the initial magnetic
        moments, from which some calculators (tblite, MOPAC, Gaussian) know how many electrons there are.
        """
        atoms = Atoms(self.numbers, positions)
        isotopes = [atom.GetIdx() for atom in self.mol.GetAtoms() if atom.GetIsotope()]
        if isotopes:
            masses = atomic_masses[self.numbers]
            masses[isotopes] = [self.mol.GetAtomWithIdx(index).GetMass() for index in isotopes]
            atoms.arrays["masses"] = masses
        atoms.set_array("formal_charge", self.formal_charges, int)
        if self.formal_charges.any():
            atoms.set_initial_charges(self.formal_charges)
        if self.unpaired.any():
            atoms.set_initial_magnetic_moments(self.unpaired)
        about = {"smiles": self.smiles, "charge": self.charge, "spin": self.multiplicity, "bonds": self.bonds.copy()}
        atoms.info.update({**about, **info})
        return atoms

    def with_positions(self, positions: np.ndarray) -> Chem.Mol:
        """An RDKit molecule with one conformer at ``positions`` (N, 3) in Å."""
        mol = Chem.Mol(self.mol)
        conformer = Chem.Conformer(len(self))
        conformer.SetPositions(np.ascontiguousarray(positions, dtype=float))
        mol.AddConformer(conformer, assignId=True)
        return mol


def parse(request: Request) -> Molecule:
    """Make a molecule of a request.

    Args:
        request: a SMILES string; an RDKit molecule, with or without hydrogens; or Atoms, with
            ``info["bonds"]`` (M, 3), ``arrays["formal_charge"]`` and the stereochemistry of their positions, else
            with ``info["smiles"]``. The order of atoms is that of the request; hydrogens that are no atoms come last.
            A molecule is given back as it is.

    Raises:
        InputError: with one sentence on what is wrong: empty, no SMILES string, an impossible valence, several
            molecules, an atom or bond that is none, stereochemistry that is not made.
    """
    if isinstance(request, Molecule):
        return request
    with rdBase.BlockLogs():
        if isinstance(request, str):
            text = request.strip()
            mol = _normalised(_from_smiles(text), quoted(text))
            return Molecule(_lasting(text, mol), mol)
        if isinstance(request, Chem.Mol):
            refuse_marks(request, "The RDKit molecule")
            mol = _normalised(request, "The RDKit molecule")
            return Molecule(_lasting(Chem.MolToSmiles(_without_hydrogens(mol)), mol), mol)
        if isinstance(request, Atoms):
            smiles = request.info.get("smiles")
            if "bonds" in request.info and ("formal_charge" in request.arrays or smiles is None):
                mol = _normalised(_from_atoms(request), f"The structure {request.symbols}")
                return Molecule(_lasting(Chem.MolToSmiles(_without_hydrogens(mol)), mol), mol)
            if isinstance(smiles, str):  # ASE's trajectories lose formal charges
                return parse(smiles)
    if isinstance(request, Atoms):
        raise InputError("These Atoms carry neither info['bonds'] nor info['smiles']: which molecule they are is open.")
    raise InputError(f"A molecule is asked for by a SMILES string, an RDKit molecule or Atoms, not {type(request)}.")


def _from_smiles(text: str) -> Chem.Mol:
    if not text:
        raise InputError("The SMILES string is empty.")
    if len(text) > LONGEST:
        raise InputError(f"A SMILES string of {len(text)} characters is too long: the limit is {LONGEST}.")
    strange = next((character for character in text if not character.isascii()), None)
    if strange is not None:  # RDKit drops them at either end
        raise InputError(f"{quoted(text)} is no SMILES string: there is {quoted(strange)} in it, which is not ASCII.")
    if len(text.split()) > 1:
        raise InputError(f"{quoted(text)} is no SMILES string: there is a space in it.")
    if not text.isprintable():
        raise InputError(f"{quoted(text)} is no SMILES string: there is a character in it that cannot be printed.")
    mol = Chem.MolFromSmiles(text)
    unchecked = Chem.MolFromSmiles(text, sanitize=False)
    if mol is not None:
        refuse_marks(unchecked, quoted(text))
        return mol
    problems = Chem.DetectChemistryProblems(unchecked) if unchecked is not None else ()
    why = f": {problems[0].Message().rstrip('.')}" if problems else ""
    raise InputError(f"{quoted(text)} cannot be understood as a SMILES string{why}.")


def _from_atoms(atoms: Atoms) -> Chem.Mol:
    bonds = np.asarray(atoms.info["bonds"]).reshape(-1, 3).astype(int)
    charges = atoms.arrays.get("formal_charge", np.zeros(len(atoms), dtype=int))
    built = Chem.RWMol()
    odd = atoms.has("masses") & (np.abs(atoms.get_masses() - atomic_masses[atoms.numbers]) > 0.05)
    for number, charge, isotope, mass in zip(atoms.numbers, charges, odd, atoms.get_masses(), strict=True):
        atom = Chem.Atom(int(number))
        atom.SetFormalCharge(int(charge))
        atom.SetIsotope(round(float(mass)) if isotope else 0)
        atom.SetNoImplicit(True)
        built.AddAtom(atom)
    for first, second, code in bonds.tolist():
        if not (0 <= first < len(atoms) and 0 <= second < len(atoms) and first != second and code in _ORDERS):
            raise InputError(f"info['bonds'] has a row ({first}, {second}, {code}) that is no bond of these atoms.")
        built.AddBond(first, second, _ORDERS[code])
        if _ORDERS[code] == Chem.BondType.AROMATIC:
            for end in (first, second):
                built.GetAtomWithIdx(end).SetIsAromatic(True)
    for bond in built.GetBonds():
        bond.SetIsAromatic(bond.GetBondType() == Chem.BondType.AROMATIC)
    mol = _sanitized(built.GetMol(), f"The structure {atoms.symbols}")
    conformer = Chem.Conformer(len(atoms))
    conformer.SetPositions(np.ascontiguousarray(atoms.positions))
    mol.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(mol)
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() not in TURNS:  # shapes of metals, which nobody makes
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    _read_by_all_bonds(mol, atoms.positions)
    return mol


def _read_by_all_bonds(mol: Chem.Mol, positions: np.ndarray) -> None:
    """Mend what RDKit reads off positions (N, 3): it looks at three of four bonds, and leaves nitrogen and phosphorus
    with three bonds open. Nitrogen with a hydrogen stays open: usual SMILES strings cannot name its hand.
    """
    found = [place for place in Chem.FindPotentialStereo(mol) if place.type == Chem.StereoType.Atom_Tetrahedral]
    for atom in (mol.GetAtomWithIdx(place.centeredOn) for place in found):
        arms = positions[[bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]] - positions[atom.GetIdx()]
        nameable = len(arms) in (3, 4) and not (atom.GetAtomicNum() == 7 and len(arms) == 3 and _has_hydrogen(atom))
        volume = bond_volume(arms) if nameable else 0.0
        if abs(volume) > FLAT:
            atom.SetChiralTag(next(tag for tag, turn in TURNS.items() if turn * volume > 0))


def _has_hydrogen(atom: Chem.Atom) -> bool:
    return any(other.GetAtomicNum() == 1 for other in atom.GetNeighbors())


def _normalised(mol: Chem.Mol, name: str) -> Chem.Mol:
    """All hydrogens as atoms, one perception of aromaticity, radicals and stereochemistry, no positions."""
    _refuse(mol, name)
    built = Chem.Mol(mol)
    built.RemoveAllConformers()
    try:
        Chem.Kekulize(built, clearAromaticFlags=True)
        built.UpdatePropertyCache()
        built = Chem.AddHs(built)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no molecule: {_first_line(error)}.") from error
    for atom in built.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(0)
        atom.SetAtomMapNum(0)
    built = _sanitized(built, name)
    Chem.AssignStereochemistry(built, cleanIt=True, force=True)
    return built


def _sanitized(mol: Chem.Mol, name: str) -> Chem.Mol:
    try:
        Chem.SanitizeMol(mol)
    except ValueError as error:
        raise InputError(f"{name} is no molecule: {_first_line(error)}.") from error
    return mol


def _refuse(mol: Chem.Mol, name: str) -> None:
    if mol.GetNumAtoms() == 0:
        raise InputError(f"{name} has no atoms.")
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 0 or atom.HasQuery():
            raise InputError(f"{name} has a place holder at atom {atom.GetIdx()} instead of an element.")
        if atom.GetFormalCharge() > atom.GetAtomicNum():
            raise InputError(f"{name} takes more electrons from atom {atom.GetIdx()} than it has.")
    for bond in mol.GetBonds():
        if bond.GetBondType() not in ORDER_CODES or bond.HasQuery():
            ends = f"{bond.GetBeginAtomIdx()} and {bond.GetEndAtomIdx()}"
            raise InputError(f"{name} has a bond between atoms {ends} whose order is not known.")
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) > 1:
        sizes = " + ".join(_formula(mol, fragment) for fragment in fragments[:4])
        more = " + …" if len(fragments) > 4 else ""
        raise InputError(f"{name} is {len(fragments)} separate molecules ({sizes}{more}): ask for one of them.")


def _formula(mol: Chem.Mol, fragment: tuple[int, ...]) -> str:
    """The elements of a fragment, without its hydrogens, for a message."""
    counts: dict[str, int] = {}
    for index in fragment:
        symbol = chemical_symbols[mol.GetAtomWithIdx(index).GetAtomicNum()]
        counts[symbol] = counts.get(symbol, 0) + 1
    return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in counts.items())


def _lasting(text: str, mol: Chem.Mol) -> str:
    """A spelling of the SMILES string without what ASE's extended XYZ does not keep.

    That format loses backslashes and reads "F" as false. With several cis double bonds it takes a spelling with all
    hydrogens, and a few molecules may have none: theirs is kept as it is.
    """
    rooted = (
        Chem.MolToSmiles(spelled, rootedAtAtom=atom)
        for spelled in (_without_hydrogens(mol), mol)
        for atom in range(min(spelled.GetNumAtoms(), MOST_ROOTS))
    )
    return text if _lasts(text) or mol.GetNumAtoms() > LARGEST else next(filter(_lasts, rooted), text)


def _lasts(smiles: str) -> bool:
    return "\\" not in smiles and smiles != "F"


def _without_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    bare = Chem.Mol(mol)
    for atom in bare.GetAtoms():  # or hydrogens that cannot be implied would make RDKit complain
        atom.SetNoImplicit(False)
    return Chem.RemoveHs(bare)


def quoted(text: str) -> str:
    """A text in quotation marks for a message, whose odd characters are spelled out; a long one is cut."""
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return f"'{text}'" if len(text) <= 80 else f"'{text[:77]}…'"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
