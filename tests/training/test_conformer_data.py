"""Sets of conformers are read as they are published or as our own command writes them, and nothing is executed."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write

pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")

from geomol_training.conformers.data import load_sets
from geomol_training.conformers.geom import MOST_CONFORMERS, read_geom
from geomol_training.sections import Split
from geomol_training.splits import split_frames
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from ase_geomol.errors import DataError
from ase_geomol.models.ditmc import ORGANIC
from ase_geomol.providers.features import graph_of
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.refine import boltzmann_weights

MOLECULES = ("CCCO", "C[C@H](F)C=O", "C/C=C/Cl", "CS(C)=O", "OC1CC1", "c1cc[nH]c1", "[NH3+]CC(=O)[O-]")


def embedded(smiles: str, count: int) -> list[Chem.Mol]:
    """Molecules with one conformer each, as GEOM has them."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=1)
    return [Chem.Mol(mol, confId=conformer.GetId()) for conformer in mol.GetConformers()]


def mirrored(mol: Chem.Mol) -> Chem.Mol:
    image = Chem.Mol(mol)
    conformer = image.GetConformer()
    conformer.SetPositions(conformer.GetPositions() * (1, 1, -1))
    return image


def content(smiles: str, mols: list[Chem.Mol], weights: list[float] | None = None) -> dict:
    weights = weights or [1 / len(mols)] * len(mols)
    return {
        "smiles": smiles,
        "uniqueconfs": len(mols),
        "ensembleentropy": np.float64(1.5),
        "conformers": [
            {"geom_id": 7, "totalenergy": -10.0 - weight, "boltzmannweight": weight, "rd_mol": mol}
            for mol, weight in zip(mols, weights, strict=True)
        ],
    }


def write_geom(folder: Path, contents: dict[str, dict]) -> Path:
    folder.mkdir()
    for name, item in contents.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(item))
    return folder


def write_splits(path: Path, train: list[int], valid: list[int], test: list[int]) -> Path:
    arrays = np.empty(3, dtype=object)
    arrays[:] = [np.array(part) for part in (train, valid, test)]
    np.save(path, arrays)
    return path


def test_places_of_a_split_are_those_of_the_sorted_files(tmp_path):
    contents = {f"{number:02d}": content(smiles, embedded(smiles, 2)) for number, smiles in enumerate(MOLECULES[:5])}
    folder = write_geom(tmp_path / "qm9", dict(reversed(contents.items())))
    splits = write_splits(tmp_path / "split0.npy", [4, 0], [2], [1])
    sets = load_sets(str(folder), str(splits)).sets
    parts = dict(zip(sets.smiles.tolist(), sets.split_names[sets.split].tolist(), strict=True))
    assert parts == {"CCCO": "train", "C[C@H](F)C=O": "test", "C/C=C/Cl": "valid", "OC1CC1": "train"}
    np.save(tmp_path / "even.npy", np.array([[3], [0], [1]]))
    again = load_sets(str(folder), str(tmp_path / "even.npy")).sets
    assert set(again.smiles.tolist()) == {"C[C@H](F)C=O", "CCCO", "CS(C)=O"}
    chosen = split_frames(sets, Split(by="key"), seed=0)
    assert [sets.smiles[index].tolist() for index in chosen] == [["CCCO", "OC1CC1"], ["C/C=C/Cl"], ["C[C@H](F)C=O"]]


def test_the_most_probable_conformers_are_kept_but_all_for_the_test(tmp_path):
    mols = embedded("CCCO", MOST_CONFORMERS + 4)
    weights = np.random.default_rng(0).permutation(np.arange(1.0, len(mols) + 1)).tolist()
    folder = write_geom(tmp_path / "a", {"0": content("CCCO", mols, weights), "1": content("CCCO", mols, weights)})
    sets = load_sets(str(folder), str(write_splits(tmp_path / "split0.npy", [0], [], [1]))).sets
    assert sets.n_conformers.tolist() == [MOST_CONFORMERS, len(mols)]
    best = mols[int(np.argmax(weights))].GetConformer().GetPositions()
    np.testing.assert_allclose(sets.conformers(0)[0], best, atol=1e-6)
    assert (np.diff(sets.weights[:MOST_CONFORMERS]) < 0).all()
    assert sets.weights[:MOST_CONFORMERS].sum() == pytest.approx(1)
    assert sets.energies[0] == pytest.approx(-27.211386 * (10 + max(weights)))


def test_what_is_left_out_is_counted(tmp_path):
    chiral = embedded("C[C@H](F)C=O", 3)
    rearranged = embedded("C[C@H](O)C=C", 1)[0]
    others = [*chiral, mirrored(chiral[0]), embedded("CCC=O", 1)[0], rearranged]
    contents = {
        "0": content("C[C@H](F)C=O", others, [0.5, 0.2, 0.1, 0.1, 0.05, 0.05]),
        "1": content("CC.O", embedded("CC", 1)),
        "2": content("FP(F)(F)(F)F", [Chem.AddHs(Chem.MolFromSmiles("FP(F)(F)(F)F"))]),
        "3": content("not a molecule", embedded("CC", 1)),
        "4": content("CC", embedded("CC", 1)) | {"conformers": []},
    }
    skipped: Counter[str] = Counter()
    (found,) = read_geom(write_geom(tmp_path / "a", contents), None, skipped)
    assert len(found.positions) == 3
    assert found.weights == pytest.approx([5 / 8, 2 / 8, 1 / 8])
    assert +skipped == {
        "conformers that are bonded otherwise": 2,
        "conformers of another stereoisomer": 1,
        "molecules of several fragments": 1,
        "molecules with an atom of more than 4 neighbours": 1,
        "molecules whose SMILES RDKit does not understand": 1,
        "molecules without a conformer left": 1,
    }
    references = tmp_path / "test_mols.pkl"
    references.write_bytes(pickle.dumps({"C[C@H](F)C=O": others}))
    sets = load_sets(str(references)).sets
    assert sets.n_conformers.tolist() == [4]
    assert sets.split_names.tolist() == ["test"]


def test_dative_bonds_are_refused_where_sets_are_read(tmp_path):
    """RDKit makes them of a metal's bonds; no network knows them."""
    cisplatin = parse("Cl[Pt](Cl)([NH3])[NH3]")
    assert Chem.BondType.DATIVE in {bond.GetBondType() for bond in cisplatin.mol.GetBonds()}
    positions = np.random.default_rng(0).normal(size=(len(cisplatin), 3))
    known = {cisplatin.smiles: [cisplatin.with_positions(positions)], "CC": embedded("CC", 1)}
    folder = write_geom(tmp_path / "a", {str(len(smiles)): content(smiles, mols) for smiles, mols in known.items()})
    references = tmp_path / "test_mols.pkl"
    references.write_bytes(pickle.dumps(known))
    for source in (folder, references):
        sets, skipped, _ = load_sets(str(source))
        assert sets.smiles.tolist() == ["CC"]
        assert skipped == {"molecules with a dative bond": 1}
    write(tmp_path / "own.extxyz", cisplatin.atoms(positions, {}))
    with pytest.raises(DataError, match=r"own\.extxyz has no conformers that can be used: .*with a dative bond"):
        load_sets(str(tmp_path / "own.extxyz"))


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("echo attacked > attacked.txt",)


def test_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_geom(tmp_path / "a", {"0": content("CC", embedded("CC", 1)) | {"smiles": Attack()}})
    with pytest.raises(DataError, match="not on the list"):
        load_sets(str(folder))
    np.save(tmp_path / "split0.npy", np.array([Attack(), 1, 2], dtype=object))
    with pytest.raises(DataError, match="not on the list"):
        load_sets(str(folder), str(tmp_path / "split0.npy"))
    assert not (tmp_path / "attacked.txt").exists()
    (folder / "0.pickle").write_bytes(b"crdkit.Chem.rdchem\nMol\n(S'text'\ntR.")
    with pytest.raises(DataError, match="not made from bytes"):
        load_sets(str(folder))


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (b"", "is damaged"),
        (pickle.dumps([1, 2]), "is no molecule of GEOM"),
        (pickle.dumps({"smiles": "C", "conformers": [{"boltzmannweight": 1.0}]}), "KeyError 'rd_mol'"),
        (
            pickle.dumps({"smiles": "C", "conformers": [{"boltzmannweight": 1.0, "rd_mol": 3}]}),
            "is no molecule of GEOM",
        ),
    ],
)
def test_damaged_files(tmp_path, damaged, sentence):
    folder = write_geom(tmp_path / "a", {})
    (folder / "0.pickle").write_bytes(damaged)
    with pytest.raises(DataError, match=sentence):
        load_sets(str(folder))


def test_splits_of_other_files(tmp_path):
    folder = write_geom(tmp_path / "a", {"0": content("CC", embedded("CC", 1))})
    for name, parts in {"far": ([0], [5], []), "twice": ([0], [0], [])}.items():
        with pytest.raises(DataError, match="does not divide the 1 files"):
            load_sets(str(folder), str(write_splits(tmp_path / f"{name}.npy", *parts)))
    with pytest.raises(DataError, match="does not divide the 1 files"):
        load_sets(str(folder), str(folder / "0.pickle"))


def test_our_own_files(own_conformers, tmp_path):
    frames = own_conformers("CCCO", 3, "train") + own_conformers("C[C@H](F)C=O", 2, "valid")
    write(tmp_path / "a.extxyz", frames)
    sets, skipped, key = load_sets(str(tmp_path / "a.extxyz"), cache=tmp_path)
    assert not skipped
    assert sets.n_conformers.tolist() == [3, 2]
    assert sets.group_names[sets.group].tolist() == ["key-CCCO", "key-C[C@H](F)C=O"]
    for place, start in enumerate((0, 3)):
        for conformer, atoms in zip(sets.conformers(place), frames[start:], strict=False):
            np.testing.assert_allclose(conformer, atoms.positions, atol=1e-6)
    assert sets.weights[:3] == pytest.approx(boltzmann_weights(np.array([0, 0.02, 0.04])))
    assert sets.weights[0] / sets.weights[1] == pytest.approx(np.exp(0.02 / 0.0256926), rel=1e-4)
    again = load_sets(str(tmp_path / "a.extxyz"), cache=tmp_path)
    assert again.key == key
    assert (tmp_path / f"conformers-{key}.npz").exists()
    for field in dataclasses.fields(sets):
        np.testing.assert_array_equal(getattr(again.sets, field.name), getattr(sets, field.name))
    frames[0].info["smiles"] = "OCCC"
    write(tmp_path / "a.extxyz", frames)
    with pytest.raises(DataError, match="in another order"):
        load_sets(str(tmp_path))


def test_the_most_probable_of_our_own_conformers_is_the_first(own_conformers, tmp_path):
    frames = own_conformers("CCCO", 3, "train")
    for atoms, energy in zip(frames, (-7.0, -7.5, -7.2), strict=True):
        atoms.calc.results["energy"] = energy
    unknown = own_conformers("CCCC", 3, "train")
    for atoms in unknown:
        atoms.calc = None
    write(tmp_path / "a.extxyz", [*frames, *unknown])
    sets = load_sets(str(tmp_path / "a.extxyz")).sets
    assert sets.energies[:3].tolist() == [-7.5, -7.2, -7.0]
    assert (np.diff(sets.weights[:3]) < 0).all()
    for place, order in ((0, (frames[1], frames[2], frames[0])), (1, unknown)):
        for conformer, atoms in zip(sets.conformers(place), order, strict=True):
            np.testing.assert_allclose(conformer, atoms.positions, atol=1e-6)


def test_our_own_conformers_of_another_isomer_are_left_out(own_conformers, tmp_path):
    right = own_conformers("C[C@H](F)C=O", 3, "train")
    right[0].positions[:, 2] *= -1
    bent = own_conformers("C/C=C/Cl", 1, "train")
    other = own_conformers("C/C=C/F", 1, "train")
    bent[0].positions = own_conformers(r"C/C=C\Cl", 1, "train")[0].positions
    write(tmp_path / "a.extxyz", [*right, *bent, *other])
    sets, skipped, _ = load_sets(str(tmp_path / "a.extxyz"))
    assert sets.n_conformers.tolist() == [2, 1]
    assert skipped == {"conformers of another stereoisomer": 2, "molecules without a conformer left": 1}
    assert sets.weights.tolist() == pytest.approx([*boltzmann_weights(np.array([0, 0.02])), 1])
    np.testing.assert_allclose(sets.conformers(0)[0], right[1].positions, atol=1e-6)


def test_molecules_survive_packing_and_choosing(own_conformers, tmp_path):
    write(tmp_path / "a.extxyz", [atoms for smiles in MOLECULES for atoms in own_conformers(smiles, 2, "train")])
    sets = load_sets(str(tmp_path)).sets
    chosen = sets.take(np.array([5, 1, 6, 2]))
    assert len(chosen) == 4
    for place, origin in enumerate([5, 1, 6, 2]):
        np.testing.assert_array_equal(chosen.conformers(place), sets.conformers(origin))
        ours, direct = chosen.molecule(place), parse(MOLECULES[origin])
        assert ours.smiles == direct.smiles
        np.testing.assert_array_equal(ours.bonds, direct.bonds)
        first, second = graph_of(ours, ORGANIC), graph_of(direct, ORGANIC)
        for field in dataclasses.fields(first):
            assert torch.equal(getattr(first, field.name), getattr(second, field.name))
