"""Files of users: outputs of VASP, pymatgen's structures, QM9 as arrays."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write
from ase.units import GPa
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.frames import Frames
from geomol_training.readers import Keys
from geomol_training.sources import find_files
from monty.json import MontyEncoder
from pymatgen.core import Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.ase import AseAtomsAdaptor

from ase_geomol.errors import DataError

# --- VASP: two ionic steps of NaCl, whose free energy is 0.1 eV below that for sigma -> 0

STEPS = ((0.5, -7.0), (0.52, -7.2))
FORCES = [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]]


def vasprun() -> str:
    cell = '<crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>'

    def structure(x: float) -> str:
        return f'{cell}<varray name="positions"><v>0 0 0</v><v>{x} 0.5 0.5</v></varray>'

    def step(x: float, free: float) -> str:
        energies = f'<energy><i name="e_fr_energy">{free}</i><i name="e_0_energy">{free + 0.1}</i></energy>'
        forces = "".join(f"<v>{a} {b} {c}</v>" for a, b, c in FORCES)
        return (
            f"<calculation><scstep>{energies}</scstep><structure>{structure(x)}</structure>"
            f'<varray name="forces">{forces}</varray>'
            f'<varray name="stress"><v>10 1 2</v><v>1 20 3</v><v>2 3 30</v></varray>{energies}</calculation>'
        )

    return (
        '<?xml version="1.0"?><modeling><kpoints><varray name="kpointlist"><v>0 0 0</v></varray>'
        '<varray name="weights"><v>1</v></varray></kpoints><parameters/>'
        '<atominfo><array name="atoms"><set><rc><c>Na</c></rc><rc><c>Cl</c></rc></set></array></atominfo>'
        f'<structure name="initialpos">{structure(0.5)}<varray name="selective"><v>F F F</v><v>T T T</v></varray>'
        f"</structure>{''.join(step(*values) for values in STEPS)}</modeling>"
    )


def outcar() -> str:
    kinds = "".join(f" POTCAR:    PAW_PBE {name}\n" for name in ("Na", "Cl", "Na", "Cl"))
    header = f"{kinds}   ISPIN  =      1\n   ions per type =               1   1\n - Iteration      1(   1)  -\n"

    def step(x: float, free: float) -> str:
        places = zip(([0, 0, 0], [4 * x, 2, 2]), FORCES, strict=True)
        lines = "".join(" ".join(map(str, [*place, *force])) + "\n" for place, force in places)
        return (
            "  in kB      10.0  20.0  30.0   1.0   3.0   2.0\n      direct lattice vectors     reciprocal\n"
            "     4.0  0.0  0.0     0.25  0.0  0.0\n     0.0  4.0  0.0     0.0  0.25  0.0\n"
            "     0.0  0.0  4.0     0.0  0.0  0.25\n\n POSITION                       TOTAL-FORCE (eV/Angst)\n ----\n"
            f"{lines} ----\n  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ----\n"
            f"  free  energy   TOTEN  = {free:18.8f} eV\n\n"
            f"  energy  without entropy= {free + 0.2:17.8f}  energy(sigma->0) = {free + 0.1:17.8f}\n"
        )

    return header + "".join(step(*values) for values in STEPS)


def check_vasp(frames: Frames) -> None:
    np.testing.assert_allclose(frames.energy, [free for _, free in STEPS])
    np.testing.assert_allclose(frames.positions, [[0, 0, 0], [2, 2, 2], [0, 0, 0], [2.08, 2, 2]])
    np.testing.assert_allclose(frames.forces, FORCES * 2)
    kilobar = -0.1 * GPa
    np.testing.assert_allclose(frames.stress[1], np.array([[10, 1, 2], [1, 20, 3], [2, 3, 30]]) * kilobar)
    assert frames.has_stress.all()
    assert frames.pbc.all()
    assert frames.elements == (11, 17)


@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.relax1.xml.gz", "OUTCAR", "OUTCAR.gz"])
def test_outputs_of_vasp(tmp_path: Path, name: str):
    text = outcar() if name.startswith("OUTCAR") else vasprun()
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    for source in (tmp_path, tmp_path / name):
        check_vasp(load(str(source), Keys(), Limits()).frames)
    if name == "vasprun.xml":
        assert load(str(tmp_path), Keys(), Limits()).frames.fixed.tolist() == [True, False] * 2
        named = load(str(tmp_path), Keys(energy="free_energy"), Limits()).frames
        np.testing.assert_array_equal(named.energy, [free for _, free in STEPS])


def test_fixed_atoms_of_an_outcar_stand_beside_it(tmp_path: Path):
    (tmp_path / "OUTCAR").write_text(outcar())
    cache = tmp_path / "cache"
    cache.mkdir()
    assert not load(str(tmp_path), Keys(), Limits(), cache=cache).frames.fixed.any()
    salt = bulk("NaCl", "rocksalt", a=5.6)
    salt.set_constraint(FixAtoms([1]))
    write(tmp_path / "POSCAR", salt, format="vasp")
    assert load(str(tmp_path), Keys(), Limits(), cache=cache).frames.fixed.tolist() == [False, True] * 2


def test_a_calculation_in_a_folder_is_read_once(tmp_path: Path):
    (tmp_path / "vasprun.xml").write_text(vasprun())
    (tmp_path / "OUTCAR").write_text(outcar())
    (tmp_path / "INCAR").write_text("ISMEAR = 0\n")
    assert [path.name for path in find_files(str(tmp_path))] == ["vasprun.xml"]
    check_vasp(load(str(tmp_path), Keys(), Limits()).frames)


def test_calculations_that_were_cut_off(tmp_path: Path):
    """What is finished is read; where nothing is, or it is something else, the file is named."""
    text = vasprun()
    (tmp_path / "vasprun.xml").write_text(text[:-200])
    frames = load(str(tmp_path), Keys(), Limits()).frames
    assert frames.energy.tolist() == [STEPS[0][1]]
    for name, content in (("vasprun.xml", text[:500]), ("OUTCAR", outcar()[:150]), ("OUTCAR", "something else\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            load(str(tmp_path / name), Keys(), Limits())


# --- QM9


def write_qm9(path: Path, **changes: object) -> None:
    """Methane and water."""
    atoms = [molecule("CH4"), molecule("H2O")]
    arrays = {
        "R": np.concatenate([one.positions for one in atoms]),
        "Z": np.concatenate([one.numbers for one in atoms]),
        "N": np.array([5, 3]),
        "id": np.array([1, 3]),
        "gap": np.array([13.74, 9.87]),
        "alpha": np.array([13.21, 6.31]),
    }
    np.savez(path, **{**arrays, **changes})


def test_qm9_as_arrays(tmp_path: Path):
    path = tmp_path / "qm9_eV.npz"
    write_qm9(path)
    frames = load(str(path), Keys(energy="gap"), Limits()).frames
    assert frames.energy.tolist() == [13.74, 9.87]
    assert frames.n_atoms.tolist() == [5, 3]
    np.testing.assert_array_equal(frames.positions[5:], molecule("H2O").positions)
    assert frames.name.tolist() == ["1", "3"]
    assert len(frames.group_names) == 2
    write_qm9(path, gap=np.array([0.5048, 0.3628]), e_unit="Hartree")
    np.testing.assert_allclose(load(str(path), Keys(energy="gap"), Limits()).frames.energy, [13.74, 9.87], atol=0.01)
    assert load(str(path), Keys(energy="alpha"), Limits()).frames.energy.tolist() == [13.21, 6.31]


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({}, "mu", "has alpha, gap, not mu"),
        ({}, "energy", "no 'energy': name one of them"),
        ({"gap": np.array([0.5, 0.36])}, "gap", "the median gap is 0.43, and that of QM9 6.8 eV or 0.25 Hartree"),
        ({"e_unit": "Hartree"}, "alpha", "is e_unit another one than Hartree"),
        ({"e_unit": "kcal/mol"}, "gap", "e_unit is kcal/mol"),
        ({"N": np.array([5, 4])}, "gap", "2 sizes of 9 atoms, but 2 values, 8 atoms"),
        ({"alpha": np.array([1.0])}, "alpha", "but 1 values"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, change: dict, name: str, words: str):
    write_qm9(tmp_path / "a.npz", **change)
    with pytest.raises(DataError, match=words):
        load(str(tmp_path / "a.npz"), Keys(energy=name), Limits())


# --- pymatgen


SALT = AseAtomsAdaptor.get_structure(bulk("NaCl", "rocksalt", a=5.6))
PUSHES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
PRESSURE = np.diag([0.01, 0.02, 0.03])


def write_json(path: Path, content: object) -> None:
    text = json.dumps(content, cls=MontyEncoder).encode()
    path.write_bytes(lzma.compress(text) if path.suffix == ".xz" else text)


LAYOUTS = {
    "beside": {"structure": SALT, "energy": -7.0, "forces": PUSHES, "stress": PRESSURE},
    "lists": {"structure": SALT.as_dict(), "energy": -7.0, "forces": PUSHES.tolist(), "stress": PRESSURE.tolist()},
    "outputs": {"structure": SALT, "outputs": {"energy": -7.0, "forces": PUSHES.tolist(), "stress": PRESSURE}},
    "properties": Structure.from_sites(
        SALT.copy(site_properties={"forces": PUSHES.tolist()}).sites,
        properties={"energy": -7.0, "stress": PRESSURE.tolist()},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["json", "json.xz"])
def test_structures_of_pymatgen(tmp_path: Path, layout: str, ending: str):
    entry, path = LAYOUTS[layout], tmp_path / f"salt.{ending}"
    for content in ([entry, entry], {"first": entry, "second": entry}):
        write_json(path, content)
        frames = load(str(path), Keys(), Limits()).frames
        np.testing.assert_allclose(frames.energy, [-7.0, -7.0])
        np.testing.assert_allclose(frames.positions, np.tile(SALT.cart_coords, (2, 1)), atol=1e-12)
        np.testing.assert_allclose(frames.cell[1], SALT.lattice.matrix)
        np.testing.assert_allclose(frames.forces, np.tile(PUSHES, (2, 1)))
        np.testing.assert_allclose(frames.stress[1], PRESSURE)
        assert frames.numbers.tolist() == [11, 17] * 2
        assert frames.pbc.all()
    assert frames.name.tolist() == ["first", "second"]
    write_json(path, entry)
    assert len(load(str(path), Keys(), Limits()).frames) == 1


def test_entries_and_molecules_of_pymatgen(tmp_path: Path):
    water = Molecule("OHH", molecule("H2O").positions, charge=1, spin_multiplicity=2)
    entries = [ComputedStructureEntry(SALT, -7.5), {"molecule": water, "energy": -460.0, "split": "test"}]
    write_json(tmp_path / "a.json", entries)
    frames = load(str(tmp_path / "a.json"), Keys(), Limits()).frames
    assert frames.energy.tolist() == [-7.5, -460.0]
    assert frames.pbc.any(1).tolist() == [True, False]
    assert (frames.charge.tolist(), frames.spin.tolist()) == ([0, 1], [1, 2])
    assert frames.split_names[frames.split].tolist() == ["", "test"]
    assert frames.group_names.tolist() == ["ClNa", "HHO"]
    np.testing.assert_allclose(frames.positions[2:], water.cart_coords)


def test_bad_entries_of_pymatgen(tmp_path: Path):
    mixed = Structure(SALT.lattice, [{"Na": 0.5, "K": 0.5}, "Cl"], SALT.frac_coords)
    attack = {"@module": "os", "@class": "system", "command": "true"}
    entries = [LAYOUTS["lists"], {"energy": 1.0}, "text", {"structure": mixed, "energy": 1.0}, {"structure": attack}]
    write_json(tmp_path / "a.json", entries)
    with pytest.raises(DataError, match=r"row 1: damaged row \(neither a structure nor a molecule of pymatgen\)"):
        load(str(tmp_path / "a.json"), Keys(), Limits())
    loaded = load(str(tmp_path / "a.json"), Keys(), Limits(), bad_rows="skip")
    assert (len(loaded.frames), loaded.skipped) == (1, {"damaged row": 4})
    (tmp_path / "a.json").write_text("[{")
    with pytest.raises(DataError, match=r"a\.json is damaged"):
        load(str(tmp_path / "a.json"), Keys(), Limits())


def test_databases_in_json_are_those_of_ase(tmp_path: Path):
    with connect(tmp_path / "a.json") as database:
        database.write(molecule("H2O"), key_value_pairs={"toten": -3.0})
    assert load(str(tmp_path / "a.json"), Keys(energy="toten"), Limits()).frames.energy.tolist() == [-3.0]
