"""PCQM4Mv2 and Molecule3D: files in their published layouts, made of QM9's molecules, and the recipe of their gaps."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from geomol_training import packed
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.fit import fit
from geomol_training.packed import preprocess
from geomol_training.readers import Keys, files_read, read_rows
from geomol_training.readers.qm9 import geometry, package_files, table_lines
from geomol_training.recipe import load_recipe
from rich.console import Console

from ase_geomol.errors import DataError, MissingExtraError

Chem = pytest.importorskip("rdkit.Chem")
RECIPES = Path(__file__).parents[2] / "training/recipes"
GAP = Keys(energy="homolumogap")
HARTREE = 27.211386


@pytest.fixture(scope="module")
def molecules() -> list[tuple[str, np.ndarray, np.ndarray, float]]:
    """SMILES, numbers, positions (Å) and gap (eV) of some molecules of QM9."""
    try:
        lines = list(islice(table_lines(package_files()[0]), 20, 32))
    except MissingExtraError as error:
        pytest.skip(str(error))
    return [(line["SMILES"], *geometry(line), HARTREE * float(line["HOMO_LUMO_gap_au"])) for line in lines]


def write_sdf(path: Path, molecules: list) -> None:
    text = ""
    for _, numbers, positions, _ in molecules:
        molecule, conformer = Chem.RWMol(), Chem.Conformer(len(numbers))
        for number, position in zip(numbers, positions, strict=True):
            conformer.SetAtomPosition(molecule.AddAtom(Chem.Atom(int(number))), position.tolist())
        molecule.AddConformer(conformer)
        text += Chem.MolToMolBlock(molecule, kekulize=False) + "$$$$\n"
    path.write_text(text)


def write_pcqm4mv2(folder: Path, molecules: list) -> Path:
    """Table, splits and structures to learn; the last two molecules are those of a test, without a gap."""
    (folder / "raw").mkdir(parents=True)
    known = len(molecules) - 2
    lines = [f"{index},{smiles},{gap if index < known else ''}" for index, (smiles, _, _, gap) in enumerate(molecules)]
    with gzip.open(folder / "raw/data.csv.gz", "wt") as file:
        file.write("\n".join(["idx,smiles,homolumogap", *lines]) + "\n")
    parts = {"train": np.arange(known - 3), "valid": np.arange(known - 3, known), "test-dev": np.array([known])}
    torch.save(parts | {"test-challenge": np.array([known + 1])}, folder / "split_dict.pt")
    write_sdf(folder / "pcqm4m-v2-train.sdf", molecules[: known - 3])
    return folder


def write_molecule3d(folder: Path, molecules: list) -> Path:
    """Structures in two parts, the table of both, and splits."""
    folder.mkdir()
    write_sdf(folder / "combined_mols_0_to_7.sdf", molecules[:7])
    write_sdf(folder / "combined_mols_7_to_12.sdf", molecules[7:])
    lines = [f"{index},{100 + index},0.1,0.2,0.3,-0.2,0.1,{gap},-40" for index, (*_, gap) in enumerate(molecules)]
    names = "index,cid,dipole x,dipole y,dipole z,homo,lumo,homolumogap,scf energy"
    (folder / "properties.csv").write_text("\n".join([names, *lines]) + "\n")
    splits = {"train": list(range(0, 12, 2)), "valid": [1, 3, 5], "test": [7, 9, 11]}
    (folder / "random_split_inds.json").write_text(json.dumps(splits))
    return folder


def test_a_table_gives_start_structures(molecules, tmp_path: Path):
    path = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules) / "raw/data.csv.gz"
    rows = list(read_rows(path, GAP))
    assert len(rows) == 10
    for row, (smiles, numbers, _, gap) in zip(rows, molecules, strict=False):
        assert sorted(row.numbers) == sorted(numbers)
        assert row.energy == pytest.approx(gap)
        assert row.group == smiles
        distances = np.linalg.norm(row.positions[:, None] - row.positions, axis=-1)[np.triu_indices(len(numbers), 1)]
        assert 0.9 < distances.min() < 1.3
    assert [row.split for row in rows] == 7 * ["train"] + 3 * ["valid"]
    assert [row.name for row in rows] == [str(index) for index in range(10)]
    again = list(read_rows(path, GAP))
    assert all(np.array_equal(first.positions, second.positions) for first, second in zip(rows, again, strict=True))


def test_molecules_without_a_structure_are_counted(tmp_path: Path):
    lines = "0,C,9.0\n1,not a molecule,8.0\n2,O,7.0\n3,C,\n4,C,wide\n5,C\n"
    (tmp_path / "data.csv").write_text(f"idx,smiles,homolumogap\n{lines}")
    loaded = load(str(tmp_path / "data.csv"), GAP, Limits(), bad_rows="skip")
    assert loaded.frames.energy.tolist() == [9.0, 7.0]
    assert loaded.skipped == {"no atoms": 1, "damaged row": 2}


@pytest.mark.parametrize("place", ["", "raw"])
def test_structures_to_learn(molecules, tmp_path: Path, place: str):
    folder = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules)
    path = (folder / "pcqm4m-v2-train.sdf").rename(folder / place / "pcqm4m-v2-train.sdf")
    frames = load(str(path), GAP, Limits()).frames
    assert len(frames) == 7
    np.testing.assert_allclose(frames.positions, np.concatenate([one[2] for one in molecules[:7]]), atol=1e-4)
    np.testing.assert_allclose(frames.energy, [one[3] for one in molecules[:7]])
    assert set(frames.split_names[frames.split]) == {"train"}


@pytest.mark.parametrize("kind", ["table", "structures"])
def test_several_processes_read_one_file(molecules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    folder = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules)
    path = folder / ("raw/data.csv.gz" if kind == "table" else "pcqm4m-v2-train.sdf")
    monkeypatch.setattr(packed, "ROWS_AT_ONCE", 3)
    seen: list[tuple[int, int, int]] = []
    frames, _ = preprocess(str(path), tmp_path / "packed", GAP, report=lambda *where: seen.append(where))
    whole = load(str(path), GAP, Limits()).frames
    assert seen[-1] == ((4, 4, 10) if kind == "table" else (3, 3, 7))
    assert np.array_equal(frames.positions, whole.positions)
    assert np.array_equal(frames.energy, whole.energy)
    assert list(frames.name) == list(whole.name)


def test_parts_of_molecule3d(molecules, tmp_path: Path):
    folder = write_molecule3d(tmp_path / "molecule3d", molecules)
    frames = load(str(folder / "*.sdf"), GAP, Limits()).frames
    np.testing.assert_allclose(frames.positions, np.concatenate([one[2] for one in molecules]), atol=1e-4)
    np.testing.assert_allclose(frames.energy, [one[3] for one in molecules])
    splits = ["train", "valid", "train", "valid", "train", "valid", "train", "test", "train", "test", "train", "test"]
    assert list(frames.split_names[frames.split]) == splits
    assert len(set(frames.group)) == 12
    (folder / "random_split_inds.json").rename(folder / "scaffold_split_inds.json")
    assert list(load(str(folder / "*.sdf"), Keys(energy="homo"), Limits()).frames.energy) == 12 * [-0.2]


def test_changed_tables_and_splits_are_read_again(molecules, tmp_path: Path):
    folder = write_molecule3d(tmp_path / "molecule3d", molecules)

    def read():
        return load(str(folder / "*.sdf"), GAP, Limits(), cache=tmp_path).frames

    assert read().energy[0] == pytest.approx(molecules[0][3])
    table = (folder / "properties.csv").read_text()
    (folder / "properties.csv").write_text(table.replace(f"{molecules[0][3]},-40", "9.875,-40", 1))
    assert read().energy[0] == 9.875
    (folder / "random_split_inds.json").write_text(json.dumps({"valid": list(range(12))}))
    frames = read()
    assert set(frames.split_names[frames.split]) == {"valid"}
    folder = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules)
    names = {path.name for path in files_read(folder / "raw/data.csv.gz")}
    assert names == {"data.csv.gz", "split_dict.pt"}


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("echo attacked > attacked.txt",)


@pytest.mark.parametrize("content", [{"train": Attack()}, {"train": torch.nn.Linear(1, 1)}])
def test_splits_rebuild_nothing_but_arrays(molecules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict):
    monkeypatch.chdir(tmp_path)
    folder = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules)
    torch.save(content, folder / "split_dict.pt")
    with pytest.raises(DataError, match=r"splits .*split_dict\.pt are damaged: UnpicklingError"):
        load(str(folder / "raw/data.csv.gz"), GAP, Limits())
    assert not (tmp_path / "attacked.txt").exists()


@pytest.mark.parametrize("share", [0.3, 0.75, 0.99])
def test_a_file_that_ends_inside_a_molecule(molecules, tmp_path: Path, share: float):
    folder = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules)
    path = folder / "pcqm4m-v2-train.sdf"
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(DataError, match=r"pcqm4m-v2-train\.sdf ends inside a molecule: download it again"):
        load(str(path), GAP, Limits(), bad_rows="skip")


def test_files_that_do_not_fit(molecules, tmp_path: Path):
    folder = write_molecule3d(tmp_path / "molecule3d", molecules)
    first, second = sorted(folder.glob("*.sdf"))
    with pytest.raises(DataError, match=r"has the columns index, cid, .* but no 'gap'"):
        list(read_rows(first, Keys(energy="gap")))
    table = (folder / "properties.csv").read_text().splitlines()
    (folder / "properties.csv").write_text("\n".join(table[:-2]))
    with pytest.raises(DataError, match="do not belong together: the table ends before molecule 3"):
        list(read_rows(second, GAP))
    first.write_text(first.read_text().replace(" C ", " Xy ", 1))
    with pytest.raises(DataError, match=r"combined_mols_0_to_7\.sdf, row \d: damaged row \(RDKit cannot read"):
        load(str(first), GAP, Limits())
    loaded = load(str(first), GAP, Limits(), bad_rows="skip")
    assert (len(loaded.frames), loaded.skipped) == (6, {"damaged row": 1})


def test_the_small_recipe_runs(molecules, tmp_path: Path):
    """As it is, but for three steps."""
    data = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules) / "raw/data.csv.gz"
    recipe = load_recipe(RECIPES / "pcqm4mv2_gap_small.yaml", [f"data.train={data}", "training.max_steps=3"])
    result = fit(recipe, tmp_path / "run", console=Console(quiet=True), threads=1)
    assert result.step == 3
    assert "test_homolumogap_MAE_meV" in result.errors


def test_the_recipe_learns_from_a_packed_table(molecules, tmp_path: Path):
    """Splits as the files name them, whatever the size of the network."""
    path = write_pcqm4mv2(tmp_path / "pcqm4m-v2", molecules) / "raw/data.csv.gz"
    preprocess(str(path), tmp_path / "packed", GAP)
    small = ["layers=1", "channels=16", "ffn_channels=16", "heads=2", "kernels=8"]
    changes = [f"data.train={tmp_path / 'packed'}", "training.max_steps=3", "training.validate_every=3"]
    recipe = load_recipe(RECIPES / "pcqm4mv2_gap.yaml", changes + [f"model.config.{change}" for change in small])
    result = fit(recipe, tmp_path / "run", console=Console(quiet=True))
    assert result.frames == {"training": 7, "replay": 0, "validation": 3, "test": 0}
    assert "validation_homolumogap_MAE_meV" in result.errors
