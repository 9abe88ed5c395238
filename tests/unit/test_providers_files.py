"""Conformers in files: what survives a round trip, files of SMILES strings, work on many molecules that is resumed."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
import tomllib
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from rdkit import Chem

import ase_geomol
from ase_geomol import GeoMolCalculator, RDKitProvider
from ase_geomol.errors import ConfigError, DataError, InputError, OutputError, ProviderError, ProviderWarning
from ase_geomol.providers.batch import Outcome, run_lines
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.pictures import ensemble_picture
from ase_geomol.providers.smiles_files import Line, parse_lines, read_lines, read_smiles
from ase_geomol.providers.stereo import stereo_errors
from ase_geomol.providers.stores import from_database, open_store, write_structures
from ase_geomol.providers.viewer import write_viewer

# No bond, one, three (as many rows as columns); stereochemistry, charge, radical, isotope.
KEPT = ["[Na+]", "F", "N", r"F/C=C\F", "C[C@H](N)C(=O)[O-]", "[CH3]", "[2H]OC"]
LINES = [Line(1, "CCO", "ethanol"), Line(2, "C.C", "two"), Line(3, "bad", ""), Line(4, "O", "12")]


@pytest.fixture(scope="module")
def rdkit() -> RDKitProvider:
    return RDKitProvider()


@pytest.fixture(scope="module")
def kept(rdkit) -> list[Atoms]:
    return [atoms for smiles in KEPT for atoms in rdkit.sample(smiles, 2, seed=9)]


@pytest.fixture(scope="module")
def relaxed(rdkit) -> list[Atoms]:
    calculator = GeoMolCalculator("geomformer-organic")
    with pytest.warns(ProviderWarning, match="not relaxed to the end"):
        return rdkit.sample("CCCC", 6, relax=calculator, relax_steps=2, rank=True, unique=0.3)


def assert_same(read_back: Atoms, atoms: Atoms, digits: int = 8) -> None:
    np.testing.assert_allclose(read_back.positions, atoms.positions, atol=10**-digits)
    np.testing.assert_array_equal(read_back.numbers, atoms.numbers)
    np.testing.assert_array_equal(read_back.arrays["formal_charge"], atoms.arrays["formal_charge"])
    np.testing.assert_allclose(read_back.get_masses(), atoms.get_masses(), atol=1e-6)
    bonds = np.asarray(read_back.info["bonds"]).reshape(-1, 3)
    np.testing.assert_array_equal(bonds, atoms.info["bonds"])
    assert read_back.info.keys() == atoms.info.keys()
    for key in atoms.info.keys() - {"bonds"}:
        assert read_back.info[key] == atoms.info[key], key
    before, after = parse(atoms), parse(read_back)
    assert (after.charge, after.multiplicity) == (before.charge, before.multiplicity)
    assert Chem.MolToSmiles(after.mol) == Chem.MolToSmiles(before.mol)


def test_what_ase_writes_as_extended_xyz_comes_back(kept, relaxed, tmp_path):
    write(tmp_path / "kept.extxyz", [*kept, *relaxed])
    for after, before in zip(read(tmp_path / "kept.extxyz", ":"), [*kept, *relaxed], strict=True):
        assert_same(after, before)
    last = read(tmp_path / "kept.extxyz")
    assert last.get_potential_energy() == pytest.approx(relaxed[-1].get_potential_energy())


def test_trajectories_lose_formal_charges_and_nothing_else(kept, tmp_path):
    write(tmp_path / "kept.traj", kept)
    for after, before in zip(read(tmp_path / "kept.traj", ":"), kept, strict=True):
        assert "formal_charge" not in after.arrays
        assert Chem.MolToSmiles(parse(after).mol) == Chem.MolToSmiles(parse(before).mol)
        after.set_array("formal_charge", before.arrays["formal_charge"])
        assert_same(after, before)


def test_databases_come_back(kept, relaxed, tmp_path):
    write_structures(tmp_path / "kept.db", [*kept, *relaxed])
    database = ase.db.connect(tmp_path / "kept.db")
    for row, before in zip(database.select(), [*kept, *relaxed], strict=True):
        assert_same(from_database(row), before)
    assert from_database(row).get_potential_energy() == pytest.approx(relaxed[-1].get_potential_energy())
    assert database.count("total_charge=1") == database.count("total_charge=-1") == 2
    assert database.count("spin=2") == 2
    assert database.count(smiles="[2H]OC") == 2


def test_sdf_has_bonds_charges_and_isomers(kept, relaxed, tmp_path):
    write_structures(tmp_path / "kept.sdf", [*kept, *relaxed])
    mols = list(Chem.SDMolSupplier(str(tmp_path / "kept.sdf"), removeHs=False))
    for mol, atoms in zip(mols, [*kept, *relaxed], strict=True):
        np.testing.assert_allclose(mol.GetConformer().GetPositions(), atoms.positions, atol=1e-4)
        assert Chem.MolToSmiles(parse(mol).mol) == Chem.MolToSmiles(parse(atoms).mol)
        assert not stereo_errors(parse(mol), atoms.positions)
    assert float(mols[-1].GetProp("energy_eV")) == relaxed[-1].get_potential_energy()
    assert mols[-1].GetProp("_Name") == "CCCC"


@pytest.mark.parametrize("suffix", [".extxyz", ".sdf", ".db"])
def test_a_store_goes_back_to_a_mark(kept, tmp_path, suffix):
    path = tmp_path / f"store{suffix}"
    store = open_store(path)
    store.append(kept[:3])
    mark = store.mark
    store.append(kept[3:])
    store.append([])
    store.close()
    again = open_store(path, mark)
    assert again.mark == mark
    again.append(kept[5:6])
    again.close()
    assert count(path) == 4
    fresh = open_store(path)
    assert fresh.mark == 0
    fresh.close()
    assert count(path) == 0


def count(path: Path) -> int:
    if path.suffix == ".db":
        return ase.db.connect(path).count()
    return path.read_text().count("$$$$" if path.suffix == ".sdf" else "Properties=")


def test_other_formats_and_places_are_refused(kept, tmp_path):
    with pytest.raises(OutputError, match="not to"):
        write_structures(tmp_path / "x.pdb", kept)
    for suffix in (".extxyz", ".db"):
        with pytest.raises(OutputError, match="Cannot write"):
            write_structures(tmp_path / "nowhere" / f"x{suffix}", kept)
    assert not list(tmp_path.iterdir())


def test_lines_of_a_file():
    text = "SMILES name\nCCO ethanol\n\n# no\nO\tof the sea\n  N  \nC[N+](C)(C)C  a b\n"
    assert parse_lines(text.splitlines()) == [
        Line(2, "CCO", "ethanol"),
        Line(5, "O", "of the sea"),
        Line(6, "N", ""),
        Line(7, "C[N+](C)(C)C", "a b"),
    ]


def test_lines_with_commas():
    text = 'smiles,name,mass\nCCO,ethanol,46.1\n"O","water, heavy"\n#no,thing\n,missing\nN\nC methane\n[Na+],\n'
    assert parse_lines(text.splitlines(), commas=True) == [
        Line(2, "CCO", "ethanol"),
        Line(3, "O", "water, heavy"),
        Line(5, "", "missing"),
        Line(6, "N", ""),
        Line(7, "C", "methane"),
        Line(8, "[Na+]", ""),
    ]
    text = "id,SMILES,mass\na,CCO,46.1\nb,O,18.0\nc\n"
    assert parse_lines(text.splitlines(), commas=True) == [Line(2, "CCO", "a"), Line(3, "O", "b"), Line(4, "", "c")]


@pytest.mark.parametrize("start", ["\ufeff", "\ufeffSMILES,name\n"])
def test_files_of_spreadsheets(tmp_path, start):
    (tmp_path / "x.csv").write_text(start + "CCO,ethanol\n", encoding="utf-8")
    ((_, *line),) = read_lines(tmp_path / "x.csv")
    assert line == ["CCO", "ethanol"]
    (tmp_path / "x.smi").write_text("\ufeffO water\n", encoding="utf-8")
    assert read(tmp_path / "x.smi", format="smiles").info["name"] == "water"


def test_files_without_molecules(tmp_path):
    (tmp_path / "empty.smi").write_text("# nothing\n")
    (tmp_path / "binary.smi").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="There are no molecules in"):
        read_lines(tmp_path / "empty.smi")
    for name in ("binary.smi", "missing.smi"):
        with pytest.raises(InputError, match="cannot be read"):
            read_lines(tmp_path / name)


def test_reading_structures_of_a_file(tmp_path):
    path = tmp_path / "x.smi"
    path.write_text("CCO ethanol\nO\nC.C salt\n")
    with path.open() as file:
        first, second = read_smiles(file, slice(0, 2), seed=1)
    assert (first.info["name"], first.info["seed"]) == ("ethanol", 1)
    assert "name" not in second.info
    with path.open() as file, pytest.raises(InputError, match=r"Line 3: 'C\.C' is 2 separate"):
        list(read_smiles(file, slice(None)))
    with path.open() as file:
        assert [a.get_chemical_formula() for a in read_smiles(file, 1)] == ["H2O"]
    for index in (7, "7:"):
        with pytest.raises(InputError, match=r"There is no molecule from index 7 on in .*x.smi, which has 3\."):
            read(path, index, format="smiles")
    for index in (":0", "7:9", "2:1"):
        assert read(path, index, format="smiles") == []
    with path.open() as file, pytest.raises(InputError, match="from index 7 on"):
        list(read_smiles(file, 7))
    path.write_text("# nothing\n")
    for index in (-1, ":"):
        with pytest.raises(InputError, match=r"There are no molecules in .*x\.smi\."):
            read(path, index, format="smiles")


@pytest.mark.parametrize("suffix", [".extxyz", ".sdf", ".db"])
def test_names_that_look_like_something_else_come_back(rdkit, tmp_path, suffix):
    names = ["F", "T", "12", "1e5", "007", "1 2 3", "T F", "true", "_JSON x", 'a "b"', "water"]
    structures = rdkit.sample("O", len(names))
    for atoms, name in zip(structures, names, strict=True):
        atoms.info["name"] = name
    path = tmp_path / f"names{suffix}"
    write_structures(path, structures)
    if suffix == ".db":
        found = [from_database(row).info["name"] for row in ase.db.connect(path).select()]
    elif suffix == ".sdf":
        found = [mol.GetProp("_Name") for mol in Chem.SDMolSupplier(str(path))]
    else:
        found = [atoms.info["name"] for atoms in read(path, ":")]
    assert found == names
    assert all(atoms.info["name"] == name for atoms, name in zip(structures, names, strict=True))


def test_ase_reads_smiles_files_through_its_entry_point(tmp_path):
    """As installed; where the installation is older than the entry point, with metadata made from pyproject.toml."""
    root = Path(ase_geomol.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    formats = project["entry-points"]["ase.ioformats"]
    installed = {point.name for point in entry_points(group="ase.ioformats")}
    if not formats.keys() <= installed:
        made = tmp_path / "made-0.dist-info"
        made.mkdir()
        (made / "METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 0\n")
        lines = "".join(f"{name} = {target}\n" for name, target in formats.items())
        (made / "entry_points.txt").write_text(f"[ase.ioformats]\n{lines}")
    (tmp_path / "x.smi").write_text("CCO ethanol\nN\n")
    program = (
        "import sys; from ase.io import read; assert 'torch' not in sys.modules and 'rdkit' not in sys.modules;"
        "a = read('x.smi', ':'); b = read('x.smi', format='smiles', index=0, seed=3);"
        "print(*(x.symbols for x in a), b.info['name'], b.info['seed'])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "C2OH6 NH3 ethanol 3\n"


def run(rdkit, out: Path, lines=LINES, settings=None, **options) -> list[Outcome]:
    return list(run_lines(lines, partial(rdkit.sample_many, n=2), out, settings or {"n": 2}, **options))


def many(sample):
    """As `Provider.sample_many`, of a function that makes the structures of one molecule."""

    def sample_many(requests):
        for request in requests:
            try:
                yield sample(request)
            except Exception as error:
                yield error

    return sample_many


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))


def test_each_line_ends_as_structures_or_as_a_sentence(rdkit, tmp_path):
    out = tmp_path / "all.extxyz"
    outcomes = run(rdkit, out)
    assert [outcome.structures for outcome in outcomes] == [2, 0, 0, 2]
    assert "2 separate molecules" in outcomes[1].message
    assert "cannot be understood" in outcomes[2].message
    frames = read(out, ":")
    assert [(frame.info["line"], frame.info.get("name")) for frame in frames[:2]] == [(1, "ethanol")] * 2
    assert len(frames) == 4
    assert [row["structures"] for row in rows(out)] == ["2", "0", "0", "2"]
    assert rows(out)[2]["message"] == outcomes[2].message
    assert json.loads(out.with_suffix(".json").read_text()) == {"n": 2}


def test_a_very_long_line_and_one_in_another_encoding_are_two_sentences(rdkit, tmp_path):
    """And the run's table, which keeps them, is read again."""
    source, out = tmp_path / "x.smi", tmp_path / "all.extxyz"
    source.write_bytes(b"CCO \xe9thanol\n" + b"C" * 200_000 + b" long\nC\xe9C\nCO\n")
    lines = read_lines(source)
    outcomes = run(rdkit, out, lines)
    assert [outcome.structures for outcome in outcomes] == [2, 0, 0, 2]
    assert "200000 characters is too long" in outcomes[1].message
    assert run(rdkit, out, lines, resume=True)[1].message == outcomes[1].message
    (tmp_path / "x.csv").write_text(f"name,smiles\nlong,{'C' * 200_000}\nshort,CO\n")
    assert [line.name for line in read_lines(tmp_path / "x.csv")] == ["long", "short"]


def test_only_what_ends_lines_elsewhere_ends_them_here(tmp_path):
    """And not the rarer characters that Python takes for ends of lines."""
    path = tmp_path / "x.smi"
    path.write_bytes("C a\x0bb\r\nN c\x1cd\x0ce\rO f\u2028g\x85h\nCC last\n".encode())
    names = ["a\x0bb", "c\x1cd\x0ce", "f\u2028g\x85h", "last"]
    assert [(line.number, line.name) for line in read_lines(path)] == list(enumerate(names, start=1))


def test_what_was_left_out_is_told(rdkit, tmp_path):
    """Where fewer are left than were asked for, and nowhere else."""
    lines, sample_many = [Line(1, "C", ""), Line(2, "CCCO", "")], partial(rdkit.sample_many, n=3, unique=0.1)
    outcomes = list(run_lines(lines, sample_many, tmp_path / "a.sdf", {}))
    assert [outcome.structures for outcome in outcomes] == [1, 3]
    assert [outcome.message for outcome in outcomes] == ["Kept 1 of 3 structures (duplicate: 2).", ""]
    assert [outcome.is_remarkable for outcome in outcomes] == [False, False]
    assert rows(tmp_path / "a.sdf")[0]["message"] == outcomes[0].message


def test_lines_that_the_time_limit_ended_are_tried_again(rdkit, tmp_path):
    def late(smiles: str):
        raise ProviderError(f"There is no structure of '{smiles}' (time limit: 2).", {"time limit": 2})

    out = tmp_path / "all.sdf"
    first = list(run_lines(LINES, many(lambda s: late(s) if s == "CCO" else rdkit.sample(s, 2)), out, {}))
    assert [outcome.again for outcome in first] == [True, False, False, False]
    second = run_lines(LINES, many(lambda s: rdkit.sample(s, 2)), out, {}, resume=True)
    assert {outcome.line: outcome.structures for outcome in second if not outcome.earlier} == {1: 2}


def test_an_unexpected_error_is_not_the_end_of_all(tmp_path):
    def fails(smiles: str):
        raise ZeroDivisionError("oh\r\nno\rno")

    outcomes = list(run_lines(LINES[:2], many(fails), tmp_path / "all.sdf", {}))
    assert [outcome.message for outcome in outcomes] == ["ZeroDivisionError: oh\r\nno\rno"] * 2
    assert [row["message"] for row in rows(tmp_path / "all.sdf")] == ["ZeroDivisionError: oh no no"] * 2


def test_lines_that_ended_by_an_error_that_may_pass_are_tried_again(rdkit, tmp_path):
    asked: list[str] = []

    def sample(smiles: str):
        asked.append(smiles)
        if smiles == "CCO" and asked.count("CCO") == 1:
            raise MemoryError("full")
        return rdkit.sample(smiles, 2)

    out = tmp_path / "all.sdf"
    first = list(run_lines(LINES, many(sample), out, {}))
    assert [outcome.again for outcome in first] == [True, False, False, False]
    asked.clear()
    second = list(
        run_lines(LINES, many(lambda smiles: asked.append(smiles) or rdkit.sample(smiles, 2)), out, {}, resume=True)
    )
    assert asked == ["CCO"]
    assert [(outcome.line, outcome.structures) for outcome in second] == [(2, 0), (3, 0), (4, 2), (1, 2)]
    assert [row["line"] for row in rows(out)] == ["2", "3", "4", "1"]
    assert count(out) == 4
    assert all(outcome.earlier for outcome in run_lines(LINES, many(sample), out, {}, resume=True))


def test_an_option_that_is_wrong_for_every_line_ends_the_run(rdkit, tmp_path):
    out = tmp_path / "all.sdf"
    with pytest.raises(ConfigError, match="seed is -1"):
        list(run_lines(LINES, partial(rdkit.sample_many, seed=-1), out, {}))
    assert rows(out) == []


@pytest.mark.parametrize("suffix", [".extxyz", ".sdf", ".db"])
def test_an_interrupted_run_goes_on(rdkit, tmp_path, suffix):
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"all{suffix}"
    run(rdkit, whole)
    asked: list[str] = []

    def sample(smiles: str):
        asked.append(smiles)
        if asked == ["CCO", "C.C", "bad", "O"]:
            raise KeyboardInterrupt
        return rdkit.sample(smiles, 2)

    with pytest.raises(KeyboardInterrupt):
        list(run_lines(LINES, many(sample), out, {"n": 2}))
    assert [row["line"] for row in rows(out)] == ["1", "2", "3"]
    with out.with_suffix(".csv").open("a") as table:
        table.write("4,O,12,2,,0.1,,False,99")  # killed while it wrote a row, after structures
    if suffix != ".db":
        with out.open("a") as file:
            file.write("half a structure")
    asked.clear()
    outcomes = list(run_lines(LINES, many(lambda s: asked.append(s) or rdkit.sample(s, 2)), out, {"n": 2}, resume=True))
    assert asked == ["O"]
    assert [outcome.earlier for outcome in outcomes] == [True, True, True, False]
    assert count(out) == count(whole) == 4
    if suffix != ".db":
        assert out.read_text() == whole.read_text()
    assert all(outcome.earlier for outcome in run(rdkit, out, resume=True))


def test_only_the_same_run_is_resumed(rdkit, tmp_path):
    out = tmp_path / "all.sdf"
    with pytest.raises(OutputError, match="no run to resume"):
        run(rdkit, out, resume=True)
    run(rdkit, out)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="other settings"):
        run(rdkit, out, settings={"n": 3}, resume=True)
    with pytest.raises(DataError, match="Line 1 was 'CCO'"):
        run(rdkit, out, lines=[Line(1, "CCC", ""), *LINES[1:]], resume=True)
    out.with_suffix(".csv").write_text("nonsense\n1\n")
    with pytest.raises(DataError, match="damaged"):
        run(rdkit, out, resume=True)
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", [".extxyz", ".sdf", ".db"])
def test_structures_that_are_gone_are_missed(rdkit, tmp_path, suffix):
    out = tmp_path / f"all{suffix}"
    run(rdkit, out)
    table, whole = out.with_suffix(".csv").read_bytes(), out.read_bytes()
    if suffix == ".db":
        ase.db.connect(out).delete([4])
    else:
        out.write_bytes(whole[:-20])
    for _ in range(2):
        with pytest.raises(DataError, match=f"all{suffix} lacks structures that were written to it"):
            run(rdkit, out, resume=True)
        assert out.with_suffix(".csv").read_bytes() == table
        out.unlink(missing_ok=True)  # then without the file
    assert not out.exists()
    out.write_bytes(whole)
    assert all(outcome.earlier for outcome in run(rdkit, out, resume=True))


def test_a_full_disk_leaves_whole_structures(rdkit, tmp_path, monkeypatch):
    out, pwrite = tmp_path / "all.extxyz", os.pwrite

    def full(handle: int, content: bytes, offset: int) -> int:
        if b"O1" in content or b'line="4"' in content or b"line=4" in content:
            pwrite(handle, content[:10], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left"):
        run(rdkit, out)
    monkeypatch.undo()
    assert len(read(out, ":")) == 2
    assert [row["line"] for row in rows(out)] == ["1", "2", "3"]
    assert [outcome.structures for outcome in run(rdkit, out, resume=True)] == [2, 0, 0, 2]


def test_picture_and_page(relaxed, rdkit, tmp_path):
    ensemble_picture(tmp_path / "ranked.png", relaxed, title="C4H10 <b>&")
    ensemble_picture(tmp_path / "bare.png", rdkit.sample("O"), title="water")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))
    write_viewer(tmp_path / "page.html", relaxed, title="C4H10 </script><b>& {{data}}")
    page = (tmp_path / "page.html").read_text()
    assert "http" not in page  # nothing is fetched
    assert "C4H10 &lt;/script&gt;&lt;b&gt;&amp; {{data}}</h1>" in page
    assert "{{title}}" not in page
    assert "<th>index</th>" in page
    assert "conformer.index," in page
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["symbols"] == relaxed[0].get_chemical_symbols()
    assert [conformer["energy"] for conformer in data["conformers"]] == [a.info["relative_energy"] for a in relaxed]
    shown = np.reshape(data["conformers"][1]["positions"], (-1, 3))
    distances = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (shown, relaxed[1].positions)]
    np.testing.assert_allclose(*distances, atol=2e-3)
