"""OC20's published formats: relaxations are written into each of them, and read back the same."""

from __future__ import annotations

import dataclasses
import json
import lzma
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from geomol_training import packed
from geomol_training.batches import make_batch
from geomol_training.checks import Limits, problem
from geomol_training.cli import app
from geomol_training.data import load
from geomol_training.fit import fit
from geomol_training.frames import Frames, Row, displacements, joined, load_frames, pack, save_frames
from geomol_training.loss import total_loss
from geomol_training.metrics import Predicted
from geomol_training.packed import preprocess
from geomol_training.readers import Keys, read_intact_rows, read_rows, row_of_atoms, start_and_end
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.readers.lmdb_files import unpickle
from geomol_training.recipe import Loss, Recipe, Relaxation, load_recipe
from geomol_training.sources import find_files, fingerprint
from geomol_training.tasks import PotentialTask, RelaxationTask
from rich.console import Console
from typer.testing import CliRunner

from ase_geomol import (
    CheckpointError,
    ConfigError,
    DataError,
    GeoMolCalculator,
    InputError,
    OutputError,
    RelaxedPredictor,
)
from ase_geomol.checkpoint import load_relaxed
from ase_geomol.potential import Prediction

lmdb = pytest.importorskip("lmdb")
OC20 = Path(__file__).parents[3] / "shared/data/oc20"
REFERENCE = -12.5


def _made() -> list[list[Atoms]]:
    """Two short relaxations of an adsorbate with tags and fixed atoms."""
    runs = []
    for seed in range(2):
        atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
        add_adsorbate(atoms, "O", 1.4 + 0.2 * seed, "fcc")
        atoms.set_tags([0] * 4 + [1] * 8 + [2])
        atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
        atoms.pbc = True
        random, run = np.random.default_rng(seed), []
        for _ in range(3):
            atoms.positions[4:] += random.normal(0, 0.05, (9, 3))
            frame = atoms.copy()
            frame.calc = EMT()
            energy, forces = frame.get_potential_energy(), frame.get_forces(apply_constraint=False)
            frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
            run.append(frame)
        runs.append(run)
    return runs


def _published() -> list[list[Atoms]]:
    return [read(path, ":")[::20] for path in sorted(OC20.glob("*.traj"))]


@pytest.fixture(
    scope="module",
    params=[
        "made",
        pytest.param(
            "published", marks=pytest.mark.skipif(not OC20.exists(), reason="no OC20 files at ../shared/data/oc20")
        ),
    ],
)
def runs(request: pytest.FixtureRequest) -> list[list[Atoms]]:
    return _made() if request.param == "made" else _published()


def fixed_of(atoms: Atoms) -> np.ndarray:
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        fixed[constraint.index] = True
    return fixed


def check(frames: Frames, structures: list[Atoms], energies: list[float]) -> None:
    assert len(frames) == len(structures)
    np.testing.assert_allclose(frames.energy, energies, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(frames.numbers, np.concatenate([a.numbers for a in structures]))
    np.testing.assert_array_equal(frames.tags, np.concatenate([a.get_tags() for a in structures]))
    np.testing.assert_array_equal(frames.fixed, np.concatenate([fixed_of(a) for a in structures]))
    np.testing.assert_allclose(frames.positions, np.concatenate([a.positions for a in structures]), atol=1e-5)
    np.testing.assert_allclose(frames.cell, [a.cell.array for a in structures], atol=1e-5)
    assert frames.pbc.all()


# --- S2EF


def write_s2ef(folder: Path, structures: list[Atoms], names: list[str], ending: str) -> None:
    """``0.extxyz.xz`` and ``0.txt.xz``, as they are published."""
    folder.mkdir(exist_ok=True)
    write(folder / f"0.extxyz{ending}", structures, format="extxyz")
    text = "".join(f"{name},{REFERENCE}\n" for name in names)
    (folder / f"0.txt{ending}").write_bytes(lzma.compress(text.encode()) if ending else text.encode())


@pytest.mark.parametrize("ending", ["", ".xz"])
def test_s2ef(runs, tmp_path: Path, ending: str):
    structures = [atoms for run in runs for atoms in run]
    names = [f"random{100 + i},frame{j}" for i, run in enumerate(runs) for j in range(len(run))]
    write_s2ef(tmp_path / "s2ef", structures, names, ending)
    frames = load(str(tmp_path / "s2ef"), Keys(), Limits()).frames
    check(frames, structures, [a.get_potential_energy() - REFERENCE for a in structures])
    forces = np.concatenate([a.get_forces(apply_constraint=False) for a in structures])
    np.testing.assert_allclose(frames.forces, forces, atol=1e-6)
    assert frames.name[:2].tolist() == ["100_0", "100_1"]
    assert len(set(frames.group)) == len(set(frames.trajectory)) == len(runs)
    save_frames(tmp_path / "packed.npz", frames)
    again, _ = load_frames(tmp_path / "packed.npz")
    for name in ("tags", "fixed", "relaxed", "name", "has_relaxed"):
        np.testing.assert_array_equal(getattr(again, name), getattr(frames, name))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("random1,frame0,1.0\n", "do not belong together: one ends after 1 frames"),
        ("random1,frame0,1.0\n" * 4, "do not belong together: one ends after 3 frames"),
        ("random1,frame0\n" * 3, "line 1: not system, frame and energy"),
        ("random1,frame0,much\n" * 3, "line 1: not system, frame and energy"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, table: str, sentence: str):
    write(tmp_path / "0.extxyz", _made()[0], format="extxyz")
    (tmp_path / "0.txt").write_text(table)
    with pytest.raises(DataError, match=sentence):
        list(read_intact_rows(tmp_path / "0.extxyz", Keys()))


def test_damaged_frames_and_lines_keep_the_others_together(tmp_path: Path):
    run = _made()[0] + _made()[1]
    write_s2ef(tmp_path, run, [f"random1,frame{number}" for number in range(6)], "")
    lines = (tmp_path / "0.extxyz").read_text().splitlines()
    lines[15 + 2] = lines[15 + 2].replace("Cu", "??")  # an atom of the second frame
    (tmp_path / "0.extxyz").write_text("\n".join(lines))
    table = (tmp_path / "0.txt").read_text().replace(f"frame3,{REFERENCE}", "frame3,-")
    (tmp_path / "0.txt").write_text(table.replace(f"frame5,{REFERENCE}", "frame5,100.0"))
    frames, skipped, _ = load(str(tmp_path), Keys(), Limits(), bad_rows="skip")
    assert skipped == {"damaged row": 2}
    assert frames.name.tolist() == ["1_0", "1_2", "1_4", "1_5"]
    references = np.array([REFERENCE, REFERENCE, REFERENCE, 100.0])
    expected = [run[number].get_potential_energy() for number in (0, 2, 4, 5)] - references
    np.testing.assert_allclose(frames.energy, expected, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"my notes on this run\n", lzma.compress(b"")])
def test_a_table_that_is_none_stops(tmp_path: Path, content: bytes):
    """Else total energies would be learned beside energies relative to references."""
    write_s2ef(tmp_path, _made()[0], ["random1,frame0"] * 3, ".xz" if content.startswith(b"\xfd") else "")
    (table,) = tmp_path.glob("0.txt*")
    table.write_bytes(content)
    with pytest.raises(DataError, match=r"0\.txt(\.xz)? is no table of OC20"):
        load(str(tmp_path), Keys(), Limits())


def test_all_files_of_a_folder_have_tables_or_none(tmp_path: Path):
    write_s2ef(tmp_path, _made()[0], ["random1,frame0"] * 3, "")
    write(tmp_path / "1.extxyz", _made()[1], format="extxyz")
    for source in (tmp_path, tmp_path / "1.*"):
        with pytest.raises(DataError, match=r"1\.extxyz has no table of references \(1\.txt or 1\.txt\.xz\)"):
            load(str(source), Keys(), Limits())
    with pytest.raises(DataError, match="has no table"):
        preprocess(str(tmp_path), tmp_path / "packed")
    (tmp_path / "0.txt").unlink()
    assert len(load(str(tmp_path), Keys(), Limits()).frames) == 6


def write_relaxations(folder: Path, place: str) -> list[list[Atoms]]:
    """As relaxation trajectories are published, with the list of systems in one folder or the other."""
    runs = _made()
    (folder / "7/7").mkdir(parents=True)
    for number, run in enumerate(runs):
        write(folder / f"7/7/random{100 + number}.extxyz", run, format="extxyz")
    systems = "".join(f"random{100 + number},{REFERENCE - number}\n" for number in range(len(runs)))
    (folder / place / "system.txt").write_text(systems)
    return runs


@pytest.mark.parametrize("place", ["7", "7/7"])
def test_relaxations_with_their_list_of_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str):
    runs = write_relaxations(tmp_path, place)
    source = str(tmp_path / "7/7")
    frames = load(source, Keys(), Limits()).frames
    relative = [atoms.get_potential_energy() - REFERENCE + number for number, run in enumerate(runs) for atoms in run]
    np.testing.assert_allclose(frames.energy, relative, atol=1e-6)
    assert frames.name.tolist() == ["100_0", "100_1", "100_2", "101_0", "101_1", "101_2"]
    assert frames.group_names[frames.group].tolist() == ["100"] * 3 + ["101"] * 3
    monkeypatch.chdir(tmp_path / "7/7")
    assert start_and_end(Path("random101.extxyz"), Keys()).name == "101"
    systems = tmp_path / place / "system.txt"
    before = fingerprint(find_files(source), Keys(), Limits(), "raise")
    write(tmp_path / "7/7/random7.extxyz.gz", runs[0], format="extxyz")
    write(tmp_path / "elsewhere.extxyz", runs[0], format="extxyz")
    with pytest.raises(DataError, match=r"elsewhere\.extxyz has no system\.txt with its reference energy, as .*100"):
        find_files([source, str(tmp_path / "elsewhere.extxyz")])
    (tmp_path / "elsewhere.txt").write_text("random1,frame0,1.0\n" * 3)  # of S2EF, which have references as well
    assert len(find_files([source, str(tmp_path / "elsewhere.extxyz")])) == 4
    (tmp_path / "7/7/random7.extxyz.gz").unlink()
    systems.write_text("random100,1.0\n\n")
    assert fingerprint(find_files(source), Keys(), Limits(), "raise") != before
    with pytest.raises(DataError, match=r"system\.txt has no reference energy of random101\.extxyz"):
        load(source, Keys(), Limits())
    systems.write_text("random100;1.0\n")
    with pytest.raises(
        DataError, match=r"system\.txt, line 1: not a system and its reference energy: 'random100;1\.0'"
    ):
        load(source, Keys(), Limits())


# --- IS2RE and IS2RS


def as_data(run: list[Atoms], sid: int):
    """An object of torch-geometric with the fields of the published files."""
    return _as_data(
        run[0],
        y_init=run[0].get_potential_energy() - REFERENCE,
        y_relaxed=run[-1].get_potential_energy() - REFERENCE,
        pos_relaxed=torch.tensor(run[-1].positions, dtype=torch.float32),
        sid=sid,
    )


def as_frame(atoms: Atoms, sid: int, fid: int):
    """The same with the fields of S2EF."""
    force = torch.tensor(atoms.get_forces(apply_constraint=False), dtype=torch.float32)
    return _as_data(atoms, y=atoms.get_potential_energy() - REFERENCE, force=force, sid=sid, fid=fid)


def _as_data(atoms: Atoms, **more):
    from torch_geometric.data import Data

    return Data(
        pos=torch.tensor(atoms.positions, dtype=torch.float32),
        cell=torch.tensor(atoms.cell.array, dtype=torch.float32).view(1, 3, 3),
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.float32),
        natoms=len(atoms),
        tags=torch.tensor(atoms.get_tags()),
        fixed=torch.tensor(fixed_of(atoms), dtype=torch.float32),
        **more,
    )


def write_lmdb(path: Path, objects: list) -> None:
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 30, lock=False)
    with environment.begin(write=True) as transaction:
        for index, content in enumerate(objects):
            transaction.put(str(index).encode(), content if isinstance(content, bytes) else pickle.dumps(content, -1))
        transaction.put(b"length", pickle.dumps(len(objects), -1))
    environment.close()


def check_relaxations(frames: Frames, runs: list[list[Atoms]]) -> None:
    check(frames, [run[0] for run in runs], [run[-1].get_potential_energy() - REFERENCE for run in runs])
    assert frames.has_relaxed.all()
    np.testing.assert_allclose(frames.relaxed, np.concatenate([run[-1].positions for run in runs]), atol=1e-5)
    assert frames.name.tolist() == [str(7 + i) for i in range(len(runs))]


def test_is2re(runs, tmp_path: Path):
    pytest.importorskip("torch_geometric")
    write_lmdb(tmp_path / "data.lmdb", [as_data(run, 7 + i) for i, run in enumerate(runs)])
    frames = load(str(tmp_path / "data.lmdb"), Keys(), Limits()).frames
    check_relaxations(frames, runs)
    rows = list(read_rows(tmp_path / "data.lmdb", Keys()))
    assert write_aselmdb(tmp_path / "data.aselmdb", rows) == len(runs)
    check_relaxations(load(str(tmp_path / "data.aselmdb"), Keys(), Limits()).frames, runs)
    with pytest.raises(OutputError, match="exists"):
        write_aselmdb(tmp_path / "data.aselmdb", rows)


def test_s2ef_in_databases(runs, tmp_path: Path):
    """LMDB of torch-geometric's objects, as S2EF was used, and what `convert` makes of it."""
    pytest.importorskip("torch_geometric")
    write_lmdb(tmp_path / "data.lmdb", [as_frame(a, 7 + i, j) for i, run in enumerate(runs) for j, a in enumerate(run)])
    write_aselmdb(tmp_path / "data.aselmdb", read_rows(tmp_path / "data.lmdb", Keys()))
    structures = [atoms for run in runs for atoms in run]
    for name in ("data.lmdb", "data.aselmdb"):
        frames = load(str(tmp_path / name), Keys(), Limits()).frames
        check(frames, structures, [a.get_potential_energy() - REFERENCE for a in structures])
        assert frames.has_forces.all()
        assert not frames.has_relaxed.any()
        forces = np.concatenate([a.get_forces(apply_constraint=False) for a in structures])
        np.testing.assert_allclose(frames.forces, forces, atol=1e-5)
        assert frames.name[:2].tolist() == ["7_0", "7_1"]
        assert len(set(frames.group)) == len(set(frames.trajectory)) == len(runs)


def test_the_first_generation_of_objects(tmp_path: Path):
    """torch-geometric 1 kept the fields in the object itself."""
    pytest.importorskip("torch_geometric")
    run = _made()[0]
    fields = as_data(run, 3).to_dict()
    write_lmdb(tmp_path / "old.lmdb", [_pickled_plainly(fields)])
    (row,) = read_rows(tmp_path / "old.lmdb", Keys())
    np.testing.assert_allclose(row.positions, run[0].positions, atol=1e-5)
    assert row.name == "3"


def _pickled_plainly(fields: dict) -> bytes:
    """A pickle that says: torch_geometric's Data, with this ``__dict__``."""
    import sys
    import types

    kind = type("Data", (), {"__module__": "torch_geometric.data.data"})
    module = types.ModuleType("torch_geometric.data.data")
    module.Data = kind  # type: ignore[attr-defined]
    before = sys.modules.get("torch_geometric.data.data")
    sys.modules["torch_geometric.data.data"] = module
    try:
        instance = kind()
        instance.__dict__.update(fields)
        return pickle.dumps(instance, 2)
    finally:
        if before is None:
            del sys.modules["torch_geometric.data.data"]
        else:
            sys.modules["torch_geometric.data.data"] = before


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("echo attacked > attacked.txt",)


def test_nothing_else_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_lmdb(tmp_path / "data.lmdb", [Attack()])
    with pytest.raises(DataError, match="not on the list"):
        list(read_intact_rows(tmp_path / "data.lmdb", Keys()))
    assert not (tmp_path / "attacked.txt").exists()
    for content in (print, np.zeros(2), np.zeros(2, dtype=object), torch.nn.Linear(1, 1)):
        with pytest.raises(pickle.UnpicklingError):
            unpickle(pickle.dumps(content))
    assert unpickle(pickle.dumps([np.float64(2.5), np.int32(-3), np.bool_(True)])) == [2.5, -3, True]


def test_a_pickle_cannot_point_into_memory():
    """An object array over bytes that are taken for addresses would kill the process."""
    content = b"cnumpy\nndarray\n((I1\ntcnumpy\ndtype\n(S'O'\ntRS'AAAAAAAA'\ntR."
    with pytest.raises(pickle.UnpicklingError, match="not on the list"):
        unpickle(content)
    with pytest.raises(pickle.UnpicklingError, match="no plain number"):
        unpickle(b"cnumpy\ndtype\n(S'O'\ntR.")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"no database"), "no LMDB file"),
        (lambda path: path.write_bytes(path.read_bytes()[:9000]), "is truncated"),
        (lambda path: (path.unlink(), write_lmdb(path, [b"no pickle"])), "damaged"),
        (lambda path: (path.unlink(), write_lmdb(path, [5])), "no object of torch-geometric"),
    ],
)
def test_damaged_files(tmp_path: Path, damage, sentence: str):
    pytest.importorskip("torch_geometric")
    path = tmp_path / "data.lmdb"
    write_lmdb(path, [as_data(_made()[0], 1)])
    damage(path)
    with pytest.raises(DataError, match=sentence):
        list(read_intact_rows(path, Keys()))


@pytest.mark.parametrize(
    ("entry", "detail"),
    [
        (b"no pickle", "UnpicklingError"),
        (lambda: pickle.dumps(as_data(_made()[0], 1))[:-40], "Error"),
        (lambda: {"pos": np.zeros(3)}, "UnpicklingError it names numpy"),
        (lambda: 5, "entry 1 is no object of torch-geometric"),
        (lambda: without("cell"), "no cell"),
        (lambda: without("cell", cell="a cube"), "ValueError could not convert"),
        (lambda: without("sid", sid="one"), "ValueError invalid literal"),
    ],
)
def test_a_damaged_entry_is_one_row(tmp_path: Path, entry, detail: str):
    """The next one is read, by several processes, too."""
    pytest.importorskip("torch_geometric")
    good = as_data(_made()[0], 1)
    write_lmdb(tmp_path / "data.lmdb", [good, entry() if callable(entry) else entry, good])
    with pytest.raises(DataError, match=rf"data\.lmdb, row 1: damaged row \(.*{detail}"):
        load(str(tmp_path / "data.lmdb"), Keys(), Limits())
    frames, skipped, _ = load(str(tmp_path / "data.lmdb"), Keys(), Limits(), bad_rows="skip")
    assert len(frames) == 2
    assert skipped == {"damaged row": 1}
    assert preprocess(str(tmp_path / "data.lmdb"), tmp_path / "packed", bad_rows="skip")[1] == skipped


def without(name: str, **changes):
    """A structure of IS2RE without one of its fields, or with another content."""
    data = as_data(_made()[0], 1)
    delattr(data, name)
    for field, content in changes.items():
        setattr(data, field, content)
    return data


@pytest.mark.parametrize("damage", ["no JSON", "text", "missing"])
def test_a_damaged_entry_of_ase_lmdb_is_one_row(tmp_path: Path, damage: str):
    path = tmp_path / "a.aselmdb"
    write_aselmdb(path, relaxations(3))
    if damage == "no JSON":
        environment = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
        with environment.begin(write=True) as transaction:
            transaction.put(b"2", zlib.compress(b"{")[:-1])
        environment.close()
    else:
        change = {
            "text": lambda fields: fields["data"].update(sid=1, y_relaxed="low"),
            "missing": lambda fields: fields.pop("cell"),
        }
        change_entry(path, 2, change[damage])
    with pytest.raises(DataError, match=r"a\.aselmdb, row 1: damaged row"):
        load(str(path), Keys(), Limits())
    assert load(str(path), Keys(), Limits(), bad_rows="skip").skipped == {"damaged row": 1}


def test_a_database_of_ase_lmdb_as_others_write_it(tmp_path: Path):
    """Arrays as ASE's JSON has them, an entry that was deleted, energies in the row itself."""
    atoms = _made()[0][0]

    def nested(array: np.ndarray) -> dict:
        return {"__ndarray__": [list(array.shape), str(array.dtype), array.ravel().tolist()]}

    fields = {
        "numbers": nested(atoms.numbers),
        "positions": nested(atoms.positions),
        "cell": {"__ase_objtype__": "cell", "array": nested(atoms.cell.array)["__ndarray__"][2]},
        "pbc": nested(atoms.pbc),
        "energy": -3.5,
        "forces": nested(atoms.get_forces(apply_constraint=False)),
        "tags": nested(atoms.get_tags()),
        "constraints": [{"name": "FixAtoms", "kwargs": {"indices": [0, 1, 2, 3]}}],
    }
    environment = lmdb.open(str(tmp_path / "a.aselmdb"), subdir=False, map_size=1 << 24, lock=False)
    with environment.begin(write=True) as transaction:
        for number in (1, 2, 10):
            transaction.put(str(number).encode(), zlib.compress(json.dumps({**fields, "energy": -number}).encode()))
        for name, value in (("nextid", 11), ("deleted_ids", [2]), ("metadata", {})):
            transaction.put(name.encode(), zlib.compress(json.dumps(value).encode()))
    environment.close()
    frames = load(str(tmp_path / "a.aselmdb"), Keys(), Limits()).frames
    check(frames, [atoms, atoms], [-1.0, -10.0])
    np.testing.assert_allclose(frames.forces[:13], atoms.get_forces(apply_constraint=False), atol=1e-12)
    assert frames.group_names.tolist() == ["Cu" * 12 + "O"]


# --- large data


def same_frames(first: Frames, second: Frames) -> None:
    for field in dataclasses.fields(first):
        if field.name not in ("group", "split", "source", "trajectory"):
            np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    for kind in ("group", "split", "source", "trajectory"):
        names = [getattr(f, f"{kind}_names")[getattr(f, kind)].tolist() for f in (first, second)]
        assert names[0] == names[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_packed_frames_are_those_of_the_files(tmp_path: Path, workers: int):
    for index, run in enumerate(_made()):
        names = [f"random{index},frame{j}" for j in range(len(run))]
        write_s2ef(tmp_path / "s2ef", run, names, "")
        for ending in ("extxyz", "txt"):
            (tmp_path / f"s2ef/0.{ending}").rename(tmp_path / f"s2ef/{index + 1}.{ending}")
    seen: list[tuple[int, int, int]] = []
    frames, skipped = preprocess(
        str(tmp_path / "s2ef"), tmp_path / "packed", workers=workers, report=lambda *where: seen.append(where)
    )
    same_frames(frames, load(str(tmp_path / "s2ef"), Keys(), Limits()).frames)
    same_frames(load(str(tmp_path / "packed"), Keys(), Limits()).frames, frames)
    assert isinstance(frames.positions, np.memmap)
    assert seen[-1] == (2, 2, 6)
    assert not skipped
    assert not (tmp_path / "packed/shards").exists()
    again, _ = preprocess(str(tmp_path / "s2ef"), tmp_path / "packed")
    same_frames(again, frames)
    with pytest.raises(DataError, match="other data, or other settings"):
        preprocess(str(tmp_path / "s2ef"), tmp_path / "packed", limits=Limits(max_force=5.0))
    with pytest.raises(DataError, match=r"atomic numbers \[8\]"):
        load(str(tmp_path / "packed"), Keys(), Limits(elements=(29,)))
    for settings, sentence in (
        ((Keys(energy="gap"), Limits()), "packed with 'energy' as its energy, and 'gap' is asked for"),
        ((Keys(), Limits(max_force=5.0)), "forces up to any size, and 5 eV/Å is asked for"),
        ((Keys(), Limits(periodic=False)), "periodic structures, which this network cannot see"),
        ((Keys(), Limits(charges=(1,))), r"charges \[0\]"),
    ):
        with pytest.raises(DataError, match=sentence):
            load(str(tmp_path / "packed"), *settings)
    travelled = pickle.loads(pickle.dumps(frames))
    assert isinstance(travelled.positions, np.memmap)
    assert len(pickle.dumps(frames)) < 5000
    same_frames(travelled, frames)
    same_frames(pickle.loads(pickle.dumps(frames.take(np.arange(2)))), frames.take(np.arange(2)))
    (tmp_path / "packed/positions.npy").write_bytes(b"")
    with pytest.raises(DataError, match="is damaged: preprocess again"):
        load(str(tmp_path / "packed"), Keys(), Limits())


def test_what_no_structure_has_is_not_stored(tmp_path: Path):
    rows = [row._replace(relaxed=None, charge=1, spin=2) for row in relaxations(3)]
    write_aselmdb(tmp_path / "0.aselmdb", rows)
    frames, _ = preprocess(str(tmp_path / "0.aselmdb"), tmp_path / "packed")
    for name in ("forces", "energies", "stress", "relaxed"):
        assert not (tmp_path / f"packed/{name}.npy").exists()
        assert getattr(frames, name).shape == getattr(pack(rows), name).shape
    assert frames.relaxed is frames.positions
    save_frames(tmp_path / "a.npz", frames)
    with np.load(tmp_path / "a.npz") as arrays:
        assert not {"forces", "energies", "stress", "relaxed"} & set(arrays)
    for same in (load_frames(tmp_path / "a.npz")[0], pickle.loads(pickle.dumps(frames))):
        same_frames(same, frames)
    content = json.loads((tmp_path / "packed/packed.json").read_text())
    expected = {"elements": [8, 29], "charges": [1], "spins": [2], "periodic": True}
    assert {name: content[name] for name in expected} == expected
    with pytest.raises(DataError, match=r"charges \[\] and spins \[2\], which are not known here"):
        load(str(tmp_path / "packed"), Keys(), Limits(charges=(1,), spins=(1,)))
    other = preprocess([str(tmp_path / "0.aselmdb"), str(ends(tmp_path))], tmp_path / "both")[0]
    assert other.has_relaxed.tolist() == [False] * 3 + [True] * 2
    np.testing.assert_array_equal(other.relaxed[:39], other.positions[:39])
    also = joined(frames, load(str(ends(tmp_path)), Keys(), Limits()).frames)
    np.testing.assert_array_equal(also.relaxed, other.relaxed)
    np.testing.assert_array_equal(also.has_relaxed, other.has_relaxed)
    few = other.take(np.arange(2))
    assert few.relaxed is few.positions
    assert few.energies.strides == (0,)


def ends(folder: Path) -> Path:
    """A database of two relaxations."""
    path = folder / "1.aselmdb"
    if not path.exists():
        write_aselmdb(path, relaxations(2))
    return path


@pytest.mark.parametrize(("spins", "told"), [((2, 4), True), ((1, 3), False), ((2, 1), False)])
def test_packed_data_tell_whether_spins_fit(spins, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """355 electrons want an even multiplicity; an atom alone, whose spin does not fit, does not count."""
    copper, slab = Atoms("Cu"), relaxations(1)[0]._replace(charge=1)
    copper.calc = SinglePointCalculator(copper, energy=0.0)
    for number, row in enumerate((row_of_atoms(copper, Keys()), *(slab._replace(spin=spin) for spin in spins))):
        write_aselmdb(tmp_path / f"{number}.aselmdb", [row])
    frames, _ = preprocess(f"{tmp_path}/*.aselmdb", tmp_path / "packed")
    assert load(f"{tmp_path}/*.aselmdb", Keys(), Limits()).frames.spins_told is told
    monkeypatch.setattr("geomol_training.frames.spins_fit", lambda _: pytest.fail("all atoms were read"))
    assert frames.spins_told is told


def test_elements_of_packed_data_are_known_without_a_look_at_all_atoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_aselmdb(tmp_path / "a.aselmdb", relaxations(2))
    preprocess(str(tmp_path / "a.aselmdb"), tmp_path / "packed")
    monkeypatch.setattr(np, "bincount", lambda *_: pytest.fail("all atoms were read"))
    assert load(str(tmp_path / "packed"), Keys(), Limits(elements=(8, 29))).frames.elements == (8, 29)


def test_preprocessing_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for index in range(4):
        write(tmp_path / f"{index}.extxyz", _made()[0], format="extxyz")
    read = packed._read_one

    def interrupted(piece: packed.Piece, *rest):
        if piece.file.name == "2.extxyz":
            raise KeyboardInterrupt
        return read(piece, *rest)

    monkeypatch.setattr(packed, "_read_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preprocess(str(tmp_path), tmp_path / "packed")
    monkeypatch.setattr(packed, "_read_one", lambda piece, *rest: files.append(piece.file.name) or read(piece, *rest))
    files: list[str] = []
    frames, _ = preprocess(str(tmp_path), tmp_path / "packed")
    assert files == ["2.extxyz", "3.extxyz"]
    assert len(frames) == 12


@pytest.mark.parametrize(("kind", "workers"), [("lmdb", 1), ("aselmdb", 2)])
def test_several_processes_read_one_database(kind: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / f"a.{kind}"
    write_lmdb(tmp_path / "a.lmdb", [as_data(_made()[number % 2], number) for number in range(6)])
    rows = list(read_rows(tmp_path / "a.lmdb", Keys()))
    if kind == "aselmdb":
        write_aselmdb(path, rows)
    monkeypatch.setattr(packed, "ROWS_AT_ONCE", 4)
    seen: list[tuple[int, int, int]] = []
    frames, _ = preprocess(str(path), tmp_path / "packed", workers=workers, report=lambda *where: seen.append(where))
    assert seen[-1] == (2, 2, 6)
    same_frames(frames, load(str(path), Keys(), Limits()).frames)
    rows[5].positions[0, 0] = np.nan
    write_aselmdb(tmp_path / "bad.aselmdb", rows)
    with pytest.raises(DataError, match=r"bad\.aselmdb, row 5: positions not finite"):
        preprocess(str(tmp_path / "bad.aselmdb"), tmp_path / "bad")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("tags", lambda tags: tags[:-1], "wrong shape"),
        ("tags", lambda tags: [None, *tags[1:]], "tags not finite"),
        ("pos_relaxed", lambda relaxed: relaxed[:-1], "wrong shape"),
        ("pos_relaxed", lambda relaxed: [[0.0, float("nan"), 0.0], *relaxed[1:]], "relaxed not finite"),
    ],
)
def test_what_else_belongs_to_atoms_fits_them(tmp_path: Path, name: str, change, reason: str):
    """One tag too few would shift the tags of all structures that follow."""

    def damage(fields: dict) -> None:
        place = fields if name in fields else fields["data"]
        place[name] = change(place[name])

    write_aselmdb(tmp_path / "a.aselmdb", relaxations(3))
    change_entry(tmp_path / "a.aselmdb", 2, damage)
    with pytest.raises(DataError, match=f"row 1: {reason}"):
        load(str(tmp_path / "a.aselmdb"), Keys(), Limits())
    frames, skipped, _ = load(str(tmp_path / "a.aselmdb"), Keys(), Limits(), bad_rows="skip")
    assert skipped == {reason: 1}
    assert frames.tags.reshape(2, 13)[:, -1].tolist() == [2, 2]


def test_fixed_atoms_are_as_many_as_atoms():
    row = relaxations(1)[0]
    assert problem(row, Limits()) is None
    found = problem(row._replace(fixed=row.fixed[:-1]), Limits())
    assert found == ("wrong shape", "fixed (12,), expected (13,)")


def change_entry(path: Path, number: int, change: Callable[[dict], None]) -> None:
    """Rewrite an entry of an ASE-LMDB database."""
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
    with environment.begin(write=True) as transaction:
        fields = json.loads(zlib.decompress(transaction.get(str(number).encode())))
        change(fields)
        transaction.put(str(number).encode(), zlib.compress(json.dumps(fields).encode()))
    environment.close()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is damaged"), ("[]", "is damaged"), ('{"identity": "2-abc"}', "is of another version")],
)
def test_packed_data_that_cannot_be_used(tmp_path: Path, content: str, sentence: str):
    write_aselmdb(tmp_path / "a.aselmdb", relaxations(1))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/packed.json").write_text(content)
    with pytest.raises(DataError, match=f"packed {sentence}: delete it and preprocess again"):
        preprocess(str(tmp_path / "a.aselmdb"), tmp_path / "packed")
    with pytest.raises(DataError, match=sentence):
        load(str(tmp_path / "packed"), Keys(), Limits())


def test_sizes_published_beside_databases_are_no_data(tmp_path: Path):
    """But an .npz of this name alone is read, and refused where it is none of molecules."""
    np.savez(tmp_path / "metadata.npz", natoms=np.array([13, 13]), neighbors=np.array([5, 5]))
    with pytest.raises(DataError, match=r"metadata\.npz is no file of MD17"):
        load(str(tmp_path), Keys(), Limits())
    write_aselmdb(tmp_path / "data.0000.aselmdb", relaxations(2))
    assert len(load(str(tmp_path), Keys(), Limits()).frames) == 2


def test_a_changed_table_is_read_again(tmp_path: Path):
    source = tmp_path / "s2ef"
    write_s2ef(source, _made()[0], ["random1,frame0"] * 3, "")
    before = load(str(source), Keys(), Limits(), cache=tmp_path)
    (source / "0.txt").write_text("random1,frame0,-100.0\n" * 3)
    after = load(str(source), Keys(), Limits(), cache=tmp_path)
    np.testing.assert_allclose(after.frames.energy - before.frames.energy, 100 + REFERENCE)


def test_bad_rows_of_packed_data(tmp_path: Path):
    good, bad = _made()[0][:2]
    bad.positions[0, 0] = np.nan
    write(tmp_path / "a.extxyz", [good, bad], format="extxyz")
    with pytest.raises(DataError, match="row 1"):
        preprocess(str(tmp_path / "a.extxyz"), tmp_path / "stops")
    frames, skipped = preprocess(str(tmp_path / "a.extxyz"), tmp_path / "skips", bad_rows="skip")
    assert len(frames) == 1
    assert skipped.total() == 1
    assert load(str(tmp_path / "skips"), Keys(), Limits()).skipped == skipped


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.extxyz", _made()[0], format="extxyz")
    runner = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"})
    done = runner.invoke(app, ["preprocess", "a.extxyz", "--out", "packed", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "3 frames, 39 atoms of 2 elements in packed" in done.output
    done = runner.invoke(app, ["convert", "a.extxyz", "a.aselmdb"])
    assert done.exit_code == 0, done.output
    same = load("a.aselmdb", Keys(), Limits()).frames
    np.testing.assert_allclose(same.energy, load("a.extxyz", Keys(), Limits()).frames.energy)


def other_names(folder: Path) -> list[str]:
    """A file whose labels have names of their own, with one row that is damaged; and options that name them."""
    rows = [atoms.copy() for atoms in _made()[0]]
    for number, atoms in enumerate(rows):
        atoms.info |= {"toten": -1.0 - number, "run": f"run{number}", "virial": np.arange(6) / 100}
        atoms.arrays["push"] = np.full((len(atoms), 3), 0.5)
    rows[1].positions[0, 0] = np.nan
    write(folder / "own.extxyz", rows, format="extxyz")
    return ["--energy-key", "toten", "--forces-key", "push", "--stress-key", "virial", "--group-key", "run"]


def test_converted_data_keep_labels_of_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    options, runner = other_names(tmp_path), CliRunner(env={"COLUMNS": "160", "TERM": "dumb"})
    stops = runner.invoke(app, ["convert", "own.extxyz", "a.aselmdb", *options])
    assert "row 1: positions not finite" in str(stops.exception)
    done = runner.invoke(app, ["convert", "own.extxyz", "a.aselmdb", "--skip-bad", *options])
    assert done.exit_code == 0, done.output
    assert "1 rows left out: 1 positions not finite" in done.output
    lines = [" ".join(line.replace("│", " ").split()) for line in done.output.splitlines()]
    assert {"energy 2 0", "forces 2 0", "stress 2 0", "relaxed structure 0 2"} <= set(lines)
    frames = load("a.aselmdb", Keys(), Limits()).frames
    assert frames.energy.tolist() == [-1.0, -3.0]
    assert (frames.forces == 0.5).all()
    assert frames.has_stress.all()
    assert frames.group_names.tolist() == ["run0", "run2"]
    done = runner.invoke(app, ["convert", "own.extxyz", "b.aselmdb", "--skip-bad"])
    lines = [" ".join(line.replace("│", " ").split()) for line in done.output.splitlines()]
    assert {"energy 0 2", "forces 0 2", "stress 0 2"} <= set(lines)


def test_packed_data_keep_labels_of_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    call = ["preprocess", "own.extxyz", "--out", "packed", "--workers", "1", "--skip-bad", *other_names(tmp_path)]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    keys = Keys("toten", "push", "virial", "run")
    frames = load("packed", keys, Limits()).frames
    assert frames.has_stress.all()
    assert frames.group_names.tolist() == ["run0", "run2"]
    with pytest.raises(DataError, match="packed with 'virial' as its stress, and 'stress' is asked for"):
        load("packed", Keys("toten", "push", group="run"), Limits())


# --- ends of relaxations


def relaxation_recipe(data: Path, steps: int = 60, **relaxation) -> Recipe:
    config = {"cutoff": 4.0, "layers": 2, "channels": 16, "heads": 2, "kernels": 8, "ffn_channels": 16}
    return Recipe.model_validate(
        {
            "name": "relaxed",
            "data": {"train": str(data), "valid": str(data), "test": str(data)},
            "model": {"config": {**config, "direct_forces": True}},
            "relaxation": {"energy": 1.0, "displacement": (1.0, 1.0), "tagged": True, **relaxation},
            "optimiser": {"name": "muon", "lr": 0.01},
            "training": {"batch_frames": 4, "max_steps": steps, "validate_every": steps, "ema": 0.9},
            "metadata": {"theory": "EMT", "training_data": "made"},
        }
    )


def relaxations(count: int = 8) -> list[Row]:
    """An oxygen above copper that falls to a height and an energy which depend on where it is."""
    rows = []
    random = np.random.default_rng(0)
    for index in range(count):
        atoms = _made()[0][0]
        height = random.uniform(1.2, 2.2)
        atoms.positions[-1, 2] = atoms.positions[-2, 2] + height
        end = atoms.positions.copy()
        end[-1, 2] = atoms.positions[-2, 2] + 1.1
        end[-1] += atoms.cell[0]  # the same place in another image
        rows.append(
            Row(
                atoms.numbers,
                atoms.positions,
                atoms.cell.array,
                atoms.pbc,
                energy=3 * height - 20,
                name=str(index),
                tags=atoms.get_tags(),
                fixed=fixed_of(atoms),
                relaxed=end,
            )
        )
    return rows


@pytest.mark.parametrize("noisy", [False, True])
def test_ends_of_relaxations_are_learned(tmp_path: Path, noisy: bool):
    rows = relaxations()
    write_aselmdb(tmp_path / "data.aselmdb", rows)
    recipe = relaxation_recipe(tmp_path / "data.aselmdb", 150, noisy_nodes=noisy, noise=0.02)
    result = fit(recipe, tmp_path / "run", threads=1)
    energies = np.array([row.energy for row in rows])
    assert result.errors["test_energy_MAE_meV"] < 0.5 * 1000 * np.abs(energies - energies.mean()).mean()
    assert result.errors["test_ADwT_percent"] > result.errors["test_ADwT_percent_without_motion"]
    starts = read_atoms(rows)
    ends = RelaxedPredictor(result.model).predict(starts)
    for row, start, end in zip(rows, starts, ends, strict=True):
        assert end.get_potential_energy() == pytest.approx(row.energy, abs=1.0)
        assert np.abs(end.positions - start.positions)[:4].max() == 0
        assert start.calc is None
        assert end.positions[-1, 2] < start.positions[-1, 2] - 0.2 * (start.positions[-1, 2] - row.relaxed[-1, 2])


def read_atoms(rows: list[Row]) -> list[Atoms]:
    return [
        Atoms(
            row.numbers,
            row.positions,
            cell=row.cell,
            pbc=row.pbc,
            tags=row.tags,
            constraint=FixAtoms(np.flatnonzero(row.fixed)),
        )
        for row in rows
    ]


def test_displacements_go_to_the_nearest_image():
    frames = pack(relaxations(3))
    moved = displacements(frames)
    np.testing.assert_allclose(moved[:12], 0, atol=1e-12)
    assert (moved[[12, 25, 38], 2] < 0).all()
    assert np.abs(moved[:, :2]).max() < 1e-9
    batch = make_batch(frames, np.arange(3), 4.0)
    np.testing.assert_allclose(batch.displacement, moved, atol=1e-9)


def test_noisy_nodes_move_free_atoms_of_half_of_the_structures():
    frames = pack(relaxations(200))
    task = RelaxationTask(Loss(), Relaxation(noisy_nodes=True, noise=0.3, displacement=(15, 1)))
    moved = task.disturb(frames, np.random.default_rng(0)).positions - frames.positions
    fixed, atoms = frames.fixed, moved.reshape(200, 13, 3)
    assert np.abs(moved[fixed]).max() == 0
    changed = np.abs(atoms).max((1, 2)) > 0
    assert 70 < changed.sum() < 130
    assert atoms[changed][:, 4:12].std() == pytest.approx(0.3, rel=0.05)
    falls = displacements(frames).reshape(200, 13, 3)[changed][:, 12, 2]
    assert atoms[changed][:, 12, 2].mean() == pytest.approx(0.5 * falls.mean(), abs=0.1)
    np.testing.assert_array_equal(task.disturb(frames, np.random.default_rng(0)).positions - frames.positions, moved)


def test_structures_without_an_end_do_not_count():
    rows = relaxations(3)
    rows[1] = rows[1]._replace(relaxed=None)
    frames = pack(rows)
    task = RelaxationTask(Loss(), Relaxation(energy=0, displacement=(1, 1)))
    right = displacements(frames)
    wrong = right + np.where(np.arange(39)[:, None] // 13 == 1, 7.0, 0.0)
    assert task.errors(frames, Predicted(frames.energy, wrong)) == task.errors(frames, Predicted(frames.energy, right))
    batch = make_batch(frames, np.arange(3), 4.0)
    assert batch.whole.free_atoms_with_ends == 18
    assert batch.has_relaxed.tolist() == [True, False, True]


def test_molecules_and_layers_have_displacements_too():
    """Without a cell nothing is an image; in a layer, steps across the boundary are short."""
    molecule = Atoms("OH", [[0, 0, 0], [0, 0, 1.0]])
    start = molecule.positions
    free = Row(molecule.numbers, start, np.zeros((3, 3)), molecule.pbc, 0.0, relaxed=start + 1)
    assert displacements(pack([free])).tolist() == [[1, 1, 1], [1, 1, 1]]
    cell = np.diag([3.0, 3.0, 0.0])
    pbc = np.array([True, True, False])
    layer = Row(molecule.numbers, start, cell, pbc, 0.0, relaxed=start + np.array([2.9, 0, 0.1]))
    np.testing.assert_allclose(displacements(pack([layer])), [[-0.1, 0, 0.1]] * 2, atol=1e-12)
    assert make_batch(pack([free]), np.arange(1), 3.0).displacement.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_adwt_by_hand():
    frames = pack(relaxations(2))
    perfect = displacements(frames)
    task = RelaxationTask(Loss(), Relaxation(displacement=(1, 1)))
    off = perfect.copy()
    off[4:13] += [0.2551, 0, 0]  # of the first structure: within half of the thresholds from 0.01 to 0.5
    assert task.errors(frames, Predicted(frames.energy, perfect))["ADwT_percent"] == 100
    assert task.errors(frames, Predicted(frames.energy, off))["ADwT_percent"] == pytest.approx(75, abs=0.2)
    far = task.errors(frames, Predicted(frames.energy + np.array([0.019, 0.021]), perfect))
    assert far["EwT_percent"] == 50


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tagged": True, "tags": None}, "4 of 4 structures have no atom with a tag above 0"),
        ({"relaxed": None}, "No structure has a relaxed one beside it"),
    ],
)
def test_data_that_do_not_tell(tmp_path: Path, change: dict, sentence: str):
    fields = {name: value for name, value in change.items() if name in ("tags", "relaxed")}
    write_aselmdb(tmp_path / "data.aselmdb", [row._replace(**fields) for row in relaxations(4)])
    with pytest.raises((ConfigError, DataError), match=sentence):
        fit(relaxation_recipe(tmp_path / "data.aselmdb", 2), tmp_path / "run")


def test_what_a_relaxed_predictor_refuses(tmp_path: Path):
    write_aselmdb(tmp_path / "data.aselmdb", relaxations(4))
    result = fit(relaxation_recipe(tmp_path / "data.aselmdb", 2), tmp_path / "run")
    start = read_atoms(relaxations(1))[0]
    start.set_tags(0)
    with pytest.raises(InputError, match="No atom has a tag above 0"):
        RelaxedPredictor(result.model).predict(start)
    with pytest.raises(CheckpointError, match="predicts the end of relaxations and is no potential"):
        GeoMolCalculator(result.model)


def test_fixed_atoms_do_not_count(tmp_path: Path):
    """In the loss as in the errors, beside OC20's cosine and EFwT by hand."""
    write_aselmdb(tmp_path / "a.aselmdb", [row_of_atoms(atoms, Keys()) for run in _made() for atoms in run])
    frames = load(str(tmp_path / "a.aselmdb"), Keys(), Limits()).frames
    batch = make_batch(frames, np.arange(6), 4.0)
    free = ~frames.fixed
    forces = frames.forces + np.where(free[:, None], 0.01, 5.0)
    prediction = Prediction(batch.energy, torch.zeros(0), torch.tensor(forces))
    for only, expected in ((True, 0.01 * np.sqrt(3)), (False, (9 * 0.01 + 4 * 5.0) / 13 * np.sqrt(3))):
        loss = total_loss(prediction, batch, Loss(free_atoms_only=only))
        assert loss.item() == pytest.approx(expected, rel=1e-4)
    task = PotentialTask(Loss(free_atoms_only=True))
    energy = frames.energy + np.array([0.0, 0.01, 0.03, 0.0, 0.0, 0.0])
    found = task.errors(frames, Predicted(energy, forces))
    assert found["forces_MAE_meV_per_A"] == pytest.approx(10.0)
    assert found["EFwT_percent"] == pytest.approx(100 * 5 / 6)
    cosines = [(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(forces, frames.forces, strict=True)]
    assert found["forces_cosine"] == pytest.approx(np.mean(np.array(cosines)[free]))
    assert PotentialTask(Loss()).errors(frames, Predicted(energy, forces))["forces_MAE_meV_per_A"] > 1000


def test_a_trajectory_is_a_relaxation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    runs = _made()
    for index, run in enumerate(runs):
        write(f"run{index}.traj", run)
    call = ["convert", "run0.traj", "run1.traj", "ends.aselmdb", "--relaxations"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    frames = load("ends.aselmdb", Keys(), Limits()).frames
    check(frames, [run[0] for run in runs], [run[-1].get_potential_energy() for run in runs])
    np.testing.assert_allclose(frames.relaxed, np.concatenate([run[-1].positions for run in runs]))
    assert frames.name.tolist() == ["run0", "run1"]
    write("one.traj", runs[0][:1])
    with pytest.raises(DataError, match="no relaxation"):
        start_and_end(Path("one.traj"), Keys())


def test_total_energies_have_references(tmp_path: Path):
    rows = [row._replace(energy=row.energy - 1000.0 * len(row.numbers)) for row in relaxations(6)]
    write_aselmdb(tmp_path / "data.aselmdb", rows)
    recipe = relaxation_recipe(tmp_path / "data.aselmdb", 2, references=True)
    state, *_ = load_relaxed(fit(recipe, tmp_path / "run").model)
    known = state.references[torch.tensor(rows[0].numbers)].sum() + state.mean
    assert abs(float(known) + 13020) < 5


# --- the small recipes


@pytest.fixture(scope="module")
def published_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The relaxations at hand in the published formats: all of them as IS2RE and IS2RS, some frames of each as S2EF."""
    if not OC20.exists():
        pytest.skip("no OC20 files at ../shared/data/oc20")
    folder = tmp_path_factory.mktemp("published")
    paths = sorted(OC20.glob("*.traj"))
    runs = [[*read(path, "::60"), read(path, -1)] for path in paths]
    for atoms in (atoms for run in runs for atoms in run):
        atoms.set_tags(np.where(fixed_of(atoms), 0, 1))  # their own do not tell adsorbates
    names = [f"{path.stem},frame{number}" for path, run in zip(paths, runs, strict=True) for number in range(len(run))]
    write_s2ef(folder / "s2ef", [atoms for run in runs for atoms in run], names, ".xz")
    write_lmdb(
        folder / "data.lmdb",
        [as_data(run, int(path.stem.removeprefix("random"))) for path, run in zip(paths, runs, strict=True)],
    )
    return folder


@pytest.mark.parametrize(
    ("recipe", "data", "errors"),
    [
        ("s2ef_small", "s2ef", {"energy_MAE_meV", "forces_MAE_meV_per_A", "EFwT_percent"}),
        ("is2re_small", "data.lmdb", {"energy_MAE_meV", "EwT_percent", "ADwT_percent"}),
        ("is2rs_small", "data.lmdb", {"ADwT_percent", "ADwT_percent_without_motion"}),
    ],
)
def test_small_recipes_run(published_files: Path, tmp_path: Path, recipe: str, data: str, errors: set[str]):
    """As they are, but for three steps."""
    path = Path(__file__).parents[2] / f"training/recipes/oc20/{recipe}.yaml"
    changes = [f"data.train={published_files / data}", "training.max_steps=3", "training.valid_frames=2"]
    result = fit(load_recipe(path, changes), tmp_path, console=Console(quiet=True), threads=1)
    assert result.step == 3
    assert {f"{part}_{name}" for part in ("validation", "test") for name in errors} <= set(result.errors)
    assert all(np.isfinite(value) for value in result.errors.values())


SHRUNK = {
    "est": {"layers": 1, "channels": 8, "message_heads": 2, "expert_channels": 8, "kernels": 8, "radial_channels": 8},
    "geomformer": {"layers": 1, "channels": 16, "ffn_channels": 16, "heads": 2, "kernels": 8, "radial_channels": 8},
}
DIRECT = ["model.config.direct_forces=true", "loss.direct_forces=100", "loss.forces=0"]


@pytest.mark.parametrize(
    ("recipe", "data", "changes", "errors"),
    [
        ("s2ef_est", "s2ef", [], {"energy_MAE_meV", "forces_MAE_meV_per_A", "EFwT_percent"}),
        ("s2ef_est", "s2ef", DIRECT, {"energy_MAE_meV", "direct_forces_MAE_meV_per_A"}),
        ("is2re_est", "data.lmdb", [], {"energy_MAE_meV", "EwT_percent"}),
        ("is2re_geomformer", "data.lmdb", [], {"energy_MAE_meV", "EwT_percent", "ADwT_percent"}),
        ("is2rs_geomformer", "data.lmdb", [], {"ADwT_percent", "ADwT_percent_without_motion"}),
    ],
)
def test_published_recipes_run(
    published_files: Path, tmp_path: Path, recipe: str, data: str, changes: list[str], errors: set[str]
):
    """As they are, but for two steps of a small network."""
    path = Path(__file__).parents[2] / f"training/recipes/oc20/{recipe}.yaml"
    shrunk = SHRUNK["est" if "est" in recipe else "geomformer"]
    source = published_files / data
    changes = [*changes, *(f"model.config.{name}={value}" for name, value in shrunk.items())]
    changes += [f"data.train={source}", f"data.valid={source}", "training.valid_frames=2", "training.validate_every=2"]
    changes += ["training.max_steps=2", "training.max_epochs=null"]
    changes += ["training.batch_atoms=200", "training.parts=2"] if "s2ef" in recipe else ["training.batch_frames=3"]
    result = fit(load_recipe(path, changes), tmp_path, console=Console(quiet=True), threads=1)
    assert result.step == 2
    assert {f"validation_{name}" for name in errors} <= set(result.errors)
    assert all(np.isfinite(value) for value in result.errors.values())
