"""Every kind of file gives the same frames in ASE's units; every bad row has its sentence."""

from __future__ import annotations

import lzma
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.frames import Frames, load_frames, save_frames
from geomol_training.readers import Keys, read_ase, read_rows
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.sources import find_files

from ase_geomol.errors import DataError

RMD17 = Path(__file__).parents[3] / "shared/data/rmd17"
KCAL = 0.0433641153087705  # eV, from CODATA 2014


def frames_of(path: object, **settings) -> Frames:
    return load(str(path), Keys(), Limits(), **settings).frames


def check_same(frames: Frames, structures: list[Atoms]) -> None:
    assert len(frames) == len(structures)
    np.testing.assert_allclose(frames.energy, [a.get_potential_energy() for a in structures], rtol=1e-14)
    np.testing.assert_allclose(frames.positions, np.vstack([a.positions for a in structures]), atol=1e-8)
    np.testing.assert_allclose(frames.forces, np.vstack([a.get_forces() for a in structures]), atol=1e-8)
    np.testing.assert_array_equal(frames.numbers, np.concatenate([a.numbers for a in structures]))
    assert list(frames.group_names[frames.group]) == [a.info["molecule"] for a in structures]
    assert list(frames.split_names[frames.split]) == [a.info["split"] for a in structures]
    assert list(frames.source_names[frames.source]) == ["emt"] * len(structures)
    assert frames.has_forces.all()
    assert not frames.has_stress.any()


def test_extxyz(xyz, structures):
    check_same(frames_of(xyz), structures)


@pytest.mark.parametrize("ending", ["traj", "extxyz.gz", "extxyz.xz"])
def test_other_files(ending, structures, tmp_path):
    write(tmp_path / f"frames.{ending}", structures)
    check_same(frames_of(tmp_path / f"frames.{ending}"), structures)


def test_database(structures, tmp_path):
    with connect(tmp_path / "frames.db") as database:
        for atoms in structures:
            pairs = {key: value for key, value in atoms.info.items() if isinstance(value, str)}
            database.write(atoms, key_value_pairs=pairs)
    check_same(frames_of(tmp_path / "frames.db"), structures)


def test_a_database_tells_charges(structures, tmp_path):
    with connect(tmp_path / "ions.db") as database:
        database.write(structures[0], key_value_pairs={"charge": -1})
    assert frames_of(tmp_path / "ions.db").charge.tolist() == [-1]


def test_folder_of_shards(structures, tmp_path):
    for shard in range(4):
        write(tmp_path / f"shard_{shard}.extxyz", structures[10 * shard : 10 * shard + 10])
        (tmp_path / f"shard_{shard}.json").write_text("{}")
    check_same(frames_of(tmp_path), structures)
    check_same(frames_of(tmp_path / "shard_*.extxyz"), structures)
    (tmp_path / "shard_3.extxyz").unlink()
    assert len(find_files(str(tmp_path))) == 3


def test_own_extxyz_reader_equals_ase(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = (True, True, False)
    rng = np.random.default_rng(0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=rng.normal(size=(4, 3)), stress=rng.normal(size=6))
    atoms.info |= {"spin": 3, "charge": -1, "smiles": "C=C(=O)#N", "molecule": "a b", "list": [1, 2]}
    atoms.arrays["other"] = rng.normal(size=(4, 2))
    path = tmp_path / "bulk.extxyz"
    write(path, [atoms, atoms])
    for own, other in zip(read_rows(path, Keys()), read_ase(path, Keys()), strict=True):
        for name, value, expected in zip(own._fields, own, other, strict=True):
            if name != "trajectory":  # only our reader knows the file
                np.testing.assert_array_equal(value, expected, err_msg=name)
    assert own.stress is not None
    assert own.spin == 3
    assert own.group == "a b"


@pytest.mark.parametrize(
    "pairs",
    [
        "Lattice={9 0 0 0 9 0 0 0 9} energy=-1.0 stress={1 0 0 0 1 0 0 0 1}",
        'Lattice = "9 0 0 0 9 0 0 0 9" energy = -1.0',
        "Lattice='9 0 0 0 9 0 0 0 9' energy='-1.0'",
    ],
)
def test_pairs_that_are_written_in_another_way(pairs, tmp_path):
    """Without its lattice a crystal would be learned as a cluster."""
    text = f"1\n{pairs} Properties=species:S:1:pos:R:3:forces:R:3\nCu 0 0 0 0 0 0\n"
    (tmp_path / "old.extxyz").write_text(text)
    (row,) = read_rows(tmp_path / "old.extxyz", Keys())
    assert (row.energy, row.damage) == (-1.0, "")
    np.testing.assert_array_equal(row.cell, 9 * np.eye(3))
    assert row.pbc.all()
    if "stress" in pairs:
        np.testing.assert_array_equal(row.stress, np.eye(3))


def test_an_apostrophe_inside_a_value(tmp_path):
    """Where a quotation would begin for ASE."""
    lattice = 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"'
    text = f"1\nenergy=-1.0 config=5'-ATP {lattice} Properties=species:S:1:pos:R:3\nCu 0 0 0\n"
    (tmp_path / "names.extxyz").write_text(text)
    (row,) = read_rows(tmp_path / "names.extxyz", Keys(group="config"))
    assert (row.energy, row.group) == (-1.0, "5'-ATP")
    np.testing.assert_array_equal(row.cell, 9 * np.eye(3))


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_a_supercell_has_the_composition_of_its_cell(ending, tmp_path):
    cell = bulk("NaCl", "rocksalt", 5.64)
    molecules = [Atoms("CH2"), Atoms("C2H4", np.eye(6)[:, :3])]
    structures = [cell, cell.repeat((1, 2, 2)), *molecules]
    for atoms in structures:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    write(tmp_path / f"mixed.{ending}", structures)
    groups = [row.group for row in read_rows(tmp_path / f"mixed.{ending}", Keys())]
    assert groups == ["ClNa", "ClNa", "CHH", "CCHHHH"]


def test_tags_go_through_ase(structures, tmp_path):
    atoms = structures[0].copy()
    atoms.calc = structures[0].calc
    atoms.set_tags(range(len(atoms)))
    write(tmp_path / "tags.extxyz", atoms)
    assert frames_of(tmp_path / "tags.extxyz").energy[0] == pytest.approx(atoms.get_potential_energy())


def test_names_of_labels(structures, tmp_path):
    atoms = structures[0].copy()
    atoms.info["dft_energy"] = -3.0
    atoms.arrays["dft_force"] = np.ones((len(atoms), 3))
    write(tmp_path / "named.extxyz", atoms)
    keys = Keys(energy="dft_energy", forces="dft_force")
    frames = load(str(tmp_path / "named.extxyz"), keys, Limits()).frames
    assert frames.energy[0] == -3.0
    assert (frames.forces == 1).all()


def write_rmd17(path: Path) -> None:
    rng = np.random.default_rng(0)
    forces = rng.normal(size=(3, 2, 3))
    coords = np.array([[[0, 0, 0], [0, 0, 1.0 + 0.1 * i]] for i in range(3)])
    np.savez(
        path,
        nuclear_charges=np.array([6, 8], dtype=np.uint8),
        coords=coords,
        energies=np.array([1.0, 2.0, 3.0]),
        forces=forces,
        old_energies=np.array([10.0, 20.0, 30.0]),
        old_forces=-forces,
    )


def test_rmd17_units_and_labels(tmp_path):
    path = tmp_path / "rmd17_co_train_01.npz"
    write_rmd17(path)
    revised = frames_of(path)
    np.testing.assert_allclose(revised.energy, KCAL * np.array([1.0, 2.0, 3.0]), rtol=1e-6)
    original = load(str(path), Keys(labels="original"), Limits()).frames
    np.testing.assert_allclose(original.energy, 10 * revised.energy, rtol=1e-14)
    np.testing.assert_allclose(original.forces, -revised.forces, rtol=1e-14)
    assert revised.positions[-1, 2] == pytest.approx(1.2)
    assert list(revised.group_names) == ["co"]


def write_archive(folder: Path) -> None:
    """All frames of a molecule, and two splits of them."""
    for name in ("npz_data", "splits"):
        (folder / name).mkdir()
    write_rmd17(folder / "npz_data/rmd17_co.npz")
    for name, places in (("train_01", [2, 0]), ("test_01", [1]), ("train_02", [7])):
        (folder / f"splits/index_{name}.csv").write_text("".join(f"{place}\n" for place in places))


@pytest.mark.parametrize(("labels", "times"), [("revised", 1), ("original", 10)])
def test_portions_of_the_archive_of_rmd17(tmp_path, labels, times):
    write_archive(tmp_path)
    load_portion = partial(load, keys=Keys(labels=labels), limits=Limits(), cache=tmp_path)
    frames = load_portion(str(tmp_path / "rmd17_co_train_01.npz")).frames
    np.testing.assert_allclose(frames.energy, times * KCAL * np.array([3.0, 1.0]), rtol=1e-6)
    np.testing.assert_allclose(frames.positions[[1, 3], 2], [1.2, 1.0])
    assert list(frames.group_names) == ["co"]
    test = str(tmp_path / "rmd17_co_test_01.npz")
    assert len(load_portion(test).frames) == 1
    (tmp_path / "splits/index_test_01.csv").write_text("0\n1\n")
    assert len(load_portion(test).frames) == 2


@pytest.mark.parametrize("unit", ["kcal/mol", b"kcal/mol", "eV", b"eV"])
def test_units_of_md17(unit, tmp_path):
    arrays = {"z": np.array([1, 1]), "R": np.eye(3)[None, :2], "E": np.ones((1, 1)), "F": np.ones((1, 2, 3))}
    np.savez(tmp_path / "md17_h2.npz", e_unit=unit, r_unit="Ang", **arrays)
    if unit in ("eV", b"eV"):
        with pytest.raises(DataError, match=r"md17_h2\.npz: e_unit is eV, not kcal/mol"):
            list(read_rows(tmp_path / "md17_h2.npz", Keys()))
    else:
        (row,) = read_rows(tmp_path / "md17_h2.npz", Keys())
        assert row.energy == pytest.approx(KCAL)


def test_portions_that_are_not_there(tmp_path):
    write_archive(tmp_path)
    with pytest.raises(DataError, match=r"rmd17_co_test_03\.npz' is no file"):
        frames_of(tmp_path / "rmd17_co_test_03.npz")
    with pytest.raises(DataError, match=r"rmd17_co_train_02\.npz is damaged .* index 7 is out of bounds"):
        frames_of(tmp_path / "rmd17_co_train_02.npz")
    (tmp_path / "npz_data/rmd17_co.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"npz_data/rmd17_co\.npz is empty"):
        frames_of(tmp_path / "rmd17_co_train_01.npz")


@pytest.mark.skipif(not RMD17.exists(), reason="the rMD17 files are not at ../shared/data/rmd17")
def test_rmd17_itself():
    frames = frames_of(RMD17 / "rmd17_ethanol_train_01.npz")
    assert len(frames) == 1000
    assert frames.elements == (1, 6, 8)
    assert -4300 < frames.energy.mean() < -4150  # eV: PBE total energy of ethanol is about -154.9 Hartree
    assert 0.5 < frames.forces.std() < 2.0


# --- bad rows

GOOD = """2
Properties=species:S:1:pos:R:3:forces:R:3 molecule=m energy=-1.0 pbc="F F F"
C 0.0 0.0 0.0 0.1 0.2 0.3
O 0.0 0.0 1.2 0.4 0.5 0.6
"""

BAD = {
    "no energy": (" energy=-1.0", ""),
    "energy is not finite": ("-1.0", "nan"),
    "forces not finite": ("0.6", "nan"),
    "positions not finite": ("1.2", "inf"),
    "unknown element": ("C 0.0", "Cu 0.0"),
    "atoms on top of each other": ("1.2", "0.01"),
    "force above the limit": ("0.6", "60.0"),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_rows(reason, tmp_path):
    path = tmp_path / "rows.extxyz"
    path.write_text(GOOD + GOOD.replace(*BAD[reason]) + GOOD)
    limits = Limits(elements=(6, 8), max_force=30.0)
    with pytest.raises(DataError, match=rf"rows\.extxyz, row 1: {reason}"):
        load(str(path), Keys(), limits)
    frames, skipped, _ = load(str(path), Keys(), limits, bad_rows="skip")
    assert len(frames) == 2
    assert skipped == {reason: 1}


def test_an_energy_of_another_name(tmp_path):
    """It is not said to be a bad row first: what was looked for, what there is, and how to name it."""
    path = tmp_path / "rows.extxyz"
    path.write_text(GOOD.replace("energy", "REF_energy"))
    words = r"row 0: no energy \(looked for 'energy' among molecule, REF_energy\)\. If it has another name, give that: "
    with pytest.raises(DataError, match=rf"{words}data\.energy_key .*--energy-key, or leave such rows out"):
        frames_of(path)
    write(tmp_path / "rows.traj", read(StringIO(GOOD), format="extxyz"))
    with pytest.raises(DataError, match="looked for 'toten' among energy, forces, molecule"):
        load(str(tmp_path / "rows.traj"), Keys(energy="toten"), Limits())
    write_aselmdb(tmp_path / "rows.aselmdb", read_rows(tmp_path / "rows.traj", Keys()))
    with pytest.raises(DataError, match="looked for 'toten' among energy, "):
        load(str(tmp_path / "rows.aselmdb"), Keys(energy="toten"), Limits())


def test_periodic_atoms_on_top_of_each_other(tmp_path):
    atoms = Atoms("C2", positions=[[0, 0, 0], [0, 0, 3.99]], cell=[4, 4, 4], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    write(tmp_path / "image.extxyz", atoms)
    with pytest.raises(DataError, match="on top of each other"):
        frames_of(tmp_path / "image.extxyz")


def test_wrong_shapes(tmp_path):
    path = tmp_path / "rows.extxyz"
    path.write_text(GOOD.replace("energy", 'Lattice="9 0 0 0 9 0 0 0 9" stress="1 2 3" energy'))
    with pytest.raises(DataError, match=r"row 0: wrong shape .*stress \(3,\)"):
        frames_of(path)
    rmd17 = tmp_path / "wrong.npz"
    write_rmd17(rmd17)
    arrays = dict(np.load(rmd17))
    np.savez(rmd17, **{**arrays, "forces": arrays["forces"][:, :1]})
    with pytest.raises(DataError, match=r"row 0: wrong shape .*forces \(1, 3\)"):
        frames_of(rmd17)
    np.savez(rmd17, **{**arrays, "energies": arrays["energies"][:2]})
    with pytest.raises(DataError, match="3 structures, 2 energies"):
        frames_of(rmd17)


def test_nothing_left(tmp_path):
    (tmp_path / "rows.extxyz").write_text(GOOD.replace(" energy=-1.0", ""))
    with pytest.raises(DataError, match="No usable row in 1 files: 1 rows left out: 1 no energy"):
        frames_of(tmp_path / "rows.extxyz", bad_rows="skip")


CELLS = {
    "unusable cell .*NaN": 'Lattice="nan 0 0 0 9 0 0 0 9" pbc="T T T"',
    "unusable cell .*singular": 'Lattice="9 0 0 9 0 0 0 0 9" pbc="T T T"',
    "unusable cell .*along c, but that cell vector is zero": 'Lattice="9 0 0 0 9 0 0 0 0" pbc="T T T"',
    "unusable cell .*along a": 'pbc="T F F"',
    "unusable cell .*infinite": 'Lattice="inf 0 0 0 9 0 0 0 9" pbc="F F F"',
}


@pytest.mark.parametrize("reason", CELLS)
def test_bad_cells(reason, tmp_path):
    path = tmp_path / "rows.extxyz"
    path.write_text(GOOD + GOOD.replace('pbc="F F F"', CELLS[reason]))
    with pytest.raises(DataError, match=f"row 1: {reason}"):
        frames_of(path)
    assert load(str(path), Keys(), Limits(), bad_rows="skip").skipped == {"unusable cell": 1}


def test_a_network_without_cutoff_refuses_periodic_rows(tmp_path):
    path = tmp_path / "rows.extxyz"
    path.write_text(GOOD + GOOD.replace('pbc="F F F"', 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"'))
    assert len(frames_of(path)) == 2
    with pytest.raises(DataError, match=r"row 1: periodic \(a network without a cutoff"):
        load(str(path), Keys(), Limits(periodic=False))


def test_charge_and_spin_as_the_calculator_sees_them(tmp_path):
    path = tmp_path / "rows.extxyz"
    path.write_text(
        GOOD + GOOD.replace("energy=", "charge=1 spin=2 energy=") + GOOD.replace("energy=", "spin=3 energy=")
    )
    assert len(frames_of(path)) == 3
    limits = Limits(charges=(0,), spins=(1,))
    assert load(str(path), Keys(), limits, bad_rows="skip").skipped == {"unknown charge or spin": 2}
    assert load(str(path), Keys(), Limits(charges=(0,)), bad_rows="skip").skipped == {"unknown charge or spin": 1}
    with pytest.raises(DataError, match=r"row 1: unknown charge or spin .*charge 0 only.* --skip-bad"):
        load(str(path), Keys(), limits)


def test_stress_needs_a_volume(tmp_path):
    stress = 'stress="1 2 3 4 5 6" energy'
    flat = GOOD.replace("energy", f'Lattice="9 0 0 0 9 0 0 0 0" {stress}')
    full = GOOD.replace("energy", f'Lattice="9 0 0 0 9 0 0 0 9" {stress}')
    (tmp_path / "rows.extxyz").write_text(GOOD.replace("energy", stress) + flat + full)
    assert frames_of(tmp_path / "rows.extxyz").has_stress.tolist() == [False, False, True]


def test_later_frames_with_other_columns(tmp_path):
    other = GOOD.replace("forces:R:3", "forces:R:3:tags:I:1").replace("0.3\n", "0.3 1\n").replace("0.6\n", "0.6 2\n")
    path = tmp_path / "rows.extxyz"
    path.write_text((GOOD + other + GOOD).replace("molecule=m ", ""))
    frames = frames_of(path)
    np.testing.assert_array_equal(frames.forces, np.tile([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], (3, 1)))
    assert len(frames.group_names) == 1


# --- bad files


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db", "a.npz"])
def test_empty_file(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"{name} is empty"):
        frames_of(tmp_path / name)


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db", "a.npz", "a.extxyz.xz", "a.unknown"])
def test_garbage(name, tmp_path):
    (tmp_path / name).write_bytes(bytes(range(256)) * 20)
    with pytest.raises(DataError, match=r"a\.\w+"):
        frames_of(tmp_path / name)


@pytest.mark.parametrize("ending", ["extxyz", "traj", "extxyz.xz", "npz"])
def test_truncated_file(ending, structures, tmp_path):
    path = tmp_path / f"frames.{ending}"
    if ending == "npz":
        write_rmd17(path)
    else:
        write(path, structures)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match="frames"):
        frames_of(path)


def test_truncated_between_rows_names_the_row(tmp_path):
    path = tmp_path / "rows.extxyz"
    path.write_text(GOOD + GOOD[: GOOD.rindex("O ")])
    with pytest.raises(DataError, match=r"row 1: .*line 5: .* ends inside it: 1 of 2 atoms"):
        frames_of(path)
    path.write_text(GOOD + GOOD.replace("0.5", "five"))
    with pytest.raises(DataError, match=r"row 1: damaged row \(line 5: "):
        frames_of(path)


def test_a_damaged_frame_of_extxyz_is_one_row(tmp_path):
    path = tmp_path / "rows.extxyz"
    through_ase = (
        GOOD.replace("forces:R:3", "forces:R:3:site:S:1").replace("0.3\n", "0.3 a\n").replace("0.6\n", "0.6 b\n")
    )
    broken = [
        GOOD.replace("0.5", "five"),
        through_ase.replace("0.5", "five"),
        GOOD.replace("energy=", "charge=no energy="),
    ]
    path.write_text("".join([GOOD, *broken, through_ase, GOOD]) + GOOD[: GOOD.rindex("O ")])
    frames, skipped, _ = load(str(path), Keys(), Limits(), bad_rows="skip")
    np.testing.assert_array_equal(frames.forces, np.tile([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], (3, 1)))
    assert skipped == {"damaged row": 4}
    path.write_text(GOOD + GOOD.replace("O ", "", 1)[: GOOD.rindex("O ")] + GOOD)  # nobody knows where the third begins
    with pytest.raises(DataError, match=r"rows\.extxyz, row 2, line 9: not a number of atoms"):
        load(str(path), Keys(), Limits(), bad_rows="skip")


@pytest.mark.parametrize("ending", ["traj", "db"])
def test_a_damaged_row_of_ase_is_one_row(ending, structures, tmp_path):
    frames, path = [atoms.copy() for atoms in structures[:3]], tmp_path / f"frames.{ending}"
    for atoms, good in zip(frames, structures, strict=False):
        atoms.calc = good.calc
    frames[1].info["charge"] = "unknown"
    if ending == "db":
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms, key_value_pairs={"charge": atoms.info["charge"]})
    else:
        write(path, frames)
    with pytest.raises(DataError, match=rf"frames\.{ending}, row 1: damaged row"):
        frames_of(path)
    assert load(str(path), Keys(), Limits(), bad_rows="skip").skipped == {"damaged row": 1}


def test_what_cannot_be_read_further_names_the_row(tmp_path):
    text = lzma.compress(((GOOD + "\n") * 3000).encode())
    (tmp_path / "rows.extxyz.xz").write_bytes(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"rows\.extxyz\.xz, row \d+, and what follows cannot be read: EOFError"):
        load(str(tmp_path / "rows.extxyz.xz"), Keys(), Limits(), bad_rows="skip")


def test_missing(tmp_path):
    with pytest.raises(DataError, match="is no file, no folder"):
        frames_of(tmp_path / "absent.extxyz")
    with pytest.raises(DataError, match="is no file, no folder"):
        frames_of(tmp_path)  # empty


# --- cache


def test_cache_is_used_until_a_file_changes(xyz, structures, tmp_path):
    source = tmp_path / "copy.extxyz"
    source.write_bytes(xyz.read_bytes())
    first = load(str(source), Keys(), Limits(), cache=tmp_path)
    cached = tmp_path / f"data-{first.key}.npz"
    time_of_cache = cached.stat().st_mtime_ns
    again = load(str(source), Keys(), Limits(), cache=tmp_path)
    assert cached.stat().st_mtime_ns == time_of_cache
    assert again.skipped == {}
    check_same(again.frames, structures)
    write(source, structures[:3])
    assert len(load(str(source), Keys(), Limits(), cache=tmp_path).frames) == 3


def test_cache_remembers_what_was_left_out(tmp_path):
    (tmp_path / "rows.extxyz").write_text(GOOD + GOOD.replace(" energy=-1.0", ""))
    for _ in range(2):
        loaded = load(str(tmp_path / "rows.extxyz"), Keys(), Limits(), bad_rows="skip", cache=tmp_path)
        assert loaded.skipped == {"no energy": 1}


def test_packed_frames_are_immutable_and_damage_is_noticed(xyz, tmp_path):
    frames = frames_of(xyz)
    with pytest.raises(ValueError, match="read-only"):
        frames.positions[0] = 0
    path = tmp_path / "packed.npz"
    save_frames(path, frames, {"no energy": 2})
    check, skipped = load_frames(path)
    assert skipped == {"no energy": 2}
    np.testing.assert_array_equal(check.positions, frames.positions)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        load_frames(path)


def test_take_keeps_atoms_together(xyz, structures):
    taken = frames_of(xyz).take(np.array([7, 2, 2]))
    check_same(taken, [structures[7], structures[2], structures[2]])
