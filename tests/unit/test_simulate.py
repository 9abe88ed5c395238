import errno
import os

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

from ase_geomol import ConfigError, DataError, GeoMolCalculator, GeoMolError, InputError, OutputError
from ase_geomol.simulate import (
    MDSettings,
    degrees_of_freedom,
    draw_velocities,
    evaluate,
    load_structure,
    load_structures,
    md_picture,
    names_structure_file,
    read_log,
    relax,
    run_md,
    write_structure,
)

FILES = ("trajectory.extxyz", "log.csv")


class Springs(Calculator):
    """Springs between all atoms, of the lengths of a first structure."""

    implemented_properties = ("energy", "forces")

    def __init__(self, atoms, stiffness=5.0):
        super().__init__()
        self.lengths = atoms.get_all_distances()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.positions[:, None] - self.atoms.positions
        distance = np.linalg.norm(vectors, axis=-1) + np.eye(len(self.atoms))
        stretch = (distance - self.lengths) * (1 - np.eye(len(self.atoms)))
        self.results["energy"] = self.stiffness * (stretch**2).sum() / 4
        self.results["forces"] = -self.stiffness * (vectors * (stretch / distance)[..., None]).sum(1)


@pytest.fixture
def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.calc = Springs(atoms)
    return atoms


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    return atoms


def interrupt_at(step):
    def on_step(row):
        if row["step"] == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_interrupted_and_resumed_equals_uninterrupted(ensemble, copper, ethanol, tmp_path):
    atoms = copper if ensemble == "npt" else ethanol
    settings = MDSettings(ensemble, timestep=1.0, interval=4)
    whole = run_md(atoms, settings, time=30, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_md(atoms, settings, time=30, folder=tmp_path / "parts", on_step=interrupt_at(11))
    assert len(read(tmp_path / "parts" / "trajectory.extxyz", ":")) == 3
    with open(tmp_path / "parts" / "log.csv", "a") as file:  # what a hard kill may leave behind
        file.write("12,24")
    parts = run_md(atoms, settings, time=30, folder=tmp_path / "parts", resume=True)
    assert np.array_equal(whole.atoms.positions, parts.atoms.positions)
    assert np.array_equal(whole.atoms.get_momenta(), parts.atoms.get_momenta())
    for name in FILES:
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text()


def test_ctrl_c_in_the_first_step_records_the_start_once(ethanol, tmp_path):
    class Interrupting(Springs):
        count = 0

        def calculate(self, *args, **options):
            self.count += 1
            if self.count == 2:
                raise KeyboardInterrupt
            super().calculate(*args, **options)

    atoms = ethanol.copy()
    atoms.calc = Interrupting(ethanol)
    with pytest.raises(KeyboardInterrupt):
        run_md(atoms, time=10, folder=tmp_path)
    assert list(run_md(atoms, time=10, folder=tmp_path, resume=True).log["step"]) == [0, 10, 20]


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_last_step_is_recorded_and_leaves_no_trace_in_a_longer_run(ensemble, copper, ethanol, tmp_path):
    atoms = copper if ensemble == "npt" else ethanol
    settings = MDSettings(ensemble, timestep=1.0, interval=10)
    whole = run_md(atoms, settings, time=40, folder=tmp_path / "whole")
    short = run_md(atoms, settings, time=25, folder=tmp_path / "parts")
    assert list(short.log["step"]) == [0, 10, 20, 25]
    assert short.log["potential_eV"][-1] == pytest.approx(short.atoms.get_potential_energy())
    frames = read(tmp_path / "parts" / "trajectory.extxyz", ":")
    assert np.allclose(frames[-1].positions, short.atoms.positions, atol=1e-7)
    again = run_md(atoms, settings, time=25, folder=tmp_path / "parts", resume=True)
    assert list(again.log["step"]) == [0, 10, 20, 25]
    assert np.array_equal(again.atoms.positions, short.atoms.positions)
    longer = run_md(atoms, settings, time=40, folder=tmp_path / "parts", resume=True)
    assert np.array_equal(whole.atoms.positions, longer.atoms.positions)
    assert np.array_equal(whole.atoms.get_momenta(), longer.atoms.get_momenta())
    for name in FILES:
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text()


def test_run_shorter_than_the_interval(ethanol):
    assert list(run_md(ethanol, MDSettings(interval=100), time=10).log["step"]) == [0, 20]


def test_result_is_the_same_with_and_without_a_folder(ethanol, tmp_path):
    here = run_md(ethanol, time=20, folder=tmp_path / "run")
    memory = run_md(ethanol, time=20)
    assert np.array_equal(here.atoms.positions, memory.atoms.positions)
    assert np.allclose(here.log["total_eV"], memory.log["total_eV"])
    assert not np.array_equal(here.atoms.positions, ethanol.positions)
    assert "momenta" not in ethanol.arrays
    other = run_md(ethanol, MDSettings(seed=1), time=20)
    assert not np.allclose(here.atoms.positions, other.atoms.positions)


def test_energy_is_conserved(ethanol):
    result = run_md(ethanol, MDSettings("nve", timestep=0.25), time=100)
    assert abs(result.drift) < 1.0
    assert np.ptp(result.log["total_eV"]) < 0.01 * result.log["kinetic_eV"].max()


def test_thermostat_reaches_its_temperature(ethanol):
    result = run_md(ethanol, MDSettings(thermostat_time=20.0, timestep=1.0), time=4000)
    assert result.log["temperature_K"][50:].mean() == pytest.approx(300, rel=0.15)
    assert result.drift is None


@pytest.mark.parametrize(("name", "free"), [("CO2", 4), ("H2O", 3), ("H", 3)])
def test_velocities_have_no_drift_and_no_rotation(name, free):
    atoms = molecule(name)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    if len(atoms) > 1:
        assert np.allclose(atoms.get_momenta().sum(0), 0, atol=1e-10)
        assert np.allclose(atoms.get_angular_momentum(), 0, atol=1e-8)
    assert degrees_of_freedom(atoms, "nve") == free
    assert degrees_of_freedom(atoms, "nvt") == 3 * len(atoms)


def test_constant_energy_begins_at_the_temperature_that_was_asked_for(ethanol):
    for seed in range(3):
        result = run_md(ethanol, MDSettings("nve", temperature=450, seed=seed, interval=1), time=1)
        assert result.log["temperature_K"][0] == pytest.approx(450, rel=1e-9)
    assert run_md(ethanol, MDSettings("nve", temperature=0), time=1).log["temperature_K"][0] == 0


def test_temperature_of_the_first_velocities():
    atoms = bulk("Cu", cubic=True) * (5, 5, 5)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    kinetic = 2 * atoms.get_kinetic_energy() / degrees_of_freedom(atoms, "nve") / units.kB
    assert kinetic == pytest.approx(300, rel=0.1)


def test_fixed_atoms_stay(ethanol):
    ethanol.set_constraint(FixAtoms([0]))
    result = run_md(ethanol, time=10)
    assert np.array_equal(result.atoms.positions[0], ethanol.positions[0])


def test_broken_bonds_are_reported():
    atoms = Atoms("CH", [[0, 0, 0], [1.1, 0, 0]])
    atoms.calc = Springs(Atoms("CH", [[0, 0, 0], [4, 0, 0]]), stiffness=0.1)
    result = run_md(atoms, MDSettings("nve", temperature=1000), time=60)
    assert str(result.broken_bonds[0]).startswith("broken bond C0-H1 at 0.0")
    assert len(result.broken_bonds) == 1


def test_bond_that_breaks_after_the_last_interval():
    atoms = Atoms("CH", [[0, 0, 0], [1.1, 0, 0]])
    atoms.calc = Springs(Atoms("CH", [[0, 0, 0], [4, 0, 0]]), stiffness=0.1)
    result = run_md(atoms, MDSettings("nve", temperature=1000, interval=1000), time=60)
    assert [bond.label for bond in result.broken_bonds] == ["C0-H1"]


@pytest.mark.parametrize("atoms", [Atoms("Ar"), Atoms("Ar2", [[0, 0, 0], [9, 0, 0]]), bulk("Ar", a=30.0)], ids=str)
def test_structures_without_bonds(atoms, tmp_path):
    atoms.calc = Springs(atoms)
    result = run_md(atoms, time=10, folder=tmp_path)
    assert result.steps == 20
    assert result.broken_bonds == ()
    assert run_md(atoms, time=20, folder=tmp_path, resume=True).steps == 40
    md_picture(tmp_path / "a.png", result.log, result.atoms, title="a$^$[/b]", target=300.0)


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.ones((3, 3)), [[1, 0, 0], [2, 0, 0], [0, 0, 0]]])
def test_cell_of_a_molecule_means_nothing(cell, checkpoint, tmp_path):
    atoms, plain = molecule("H2O", cell=cell), molecule("H2O")
    atoms.calc = plain.calc = GeoMolCalculator(checkpoint, device="cpu", dtype="float64")
    settings = MDSettings(temperature=10.0, timestep=0.1)
    result = run_md(atoms, settings, time=1.0, folder=tmp_path)
    result = run_md(atoms, settings, time=2.0, folder=tmp_path, resume=True)
    assert np.allclose(result.atoms.positions, run_md(plain, settings, time=2.0).atoms.positions)
    md_picture(tmp_path / "a.png", result.log, result.atoms, title="a", target=None)


def test_cell_vector_along_which_nothing_repeats(tmp_path):
    slab = fcc111("Al", (1, 1, 2), vacuum=5.0)
    slab.set_cell([*slab.cell[:2], slab.cell[0]])
    slab.calc = Springs(slab)
    result = run_md(slab, time=5)
    md_picture(tmp_path / "a.png", result.log, result.atoms, title="a", target=300.0)


@pytest.mark.parametrize(
    ("atoms", "sentence"),
    [(Atoms("H2", [[0, 0, 0], [np.nan, 0, 0]]), "position that is NaN"), (Atoms(), "no atoms")],
    ids=["NaN", "empty"],
)
@pytest.mark.parametrize("simulation", [run_md, relax])
def test_bad_structures_bring_the_calculators_sentence(atoms, sentence, simulation, checkpoint, tmp_path):
    atoms = atoms.copy()
    atoms.calc = GeoMolCalculator(checkpoint, device="cpu")
    place = {"trajectory": tmp_path / "a.extxyz"} if simulation is relax else {"folder": tmp_path}
    with pytest.raises(InputError, match=sentence):
        simulation(atoms, **place)
    assert not list(tmp_path.iterdir())


def test_bad_structure_with_any_calculator(ethanol):
    ethanol.positions[0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        run_md(ethanol, time=5)


@pytest.mark.parametrize("folder", [None, "run"])
def test_explosion_is_an_error_and_keeps_what_was_before(folder, tmp_path):
    atoms = Atoms("CH", [[0, 0, 0], [1.1, 0, 0]])
    atoms.calc = Springs(Atoms("CH", [[0, 0, 0], [9, 0, 0]]), stiffness=5.0)
    with pytest.raises(GeoMolError, match=r"exploded at 0\.\d+ ps"):
        run_md(atoms, MDSettings(interval=1), time=100, folder=folder and tmp_path / folder)
    if folder:
        log = read_log(tmp_path / folder)
        assert len(read(tmp_path / folder / "trajectory.extxyz", ":")) == len(log["step"])
        assert log["temperature_K"].max() < 6000


def test_full_disk(ethanol, tmp_path, monkeypatch):
    pwrite, written = os.pwrite, []

    def full(handle, content, offset):
        written.append(offset)
        if len(written) > 6:
            pwrite(handle, content[:20], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, content, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match="No space left"):
            run_md(ethanol, time=40, folder=tmp_path)
    assert len(read(tmp_path / "trajectory.extxyz", ":")) == 3
    resumed = run_md(ethanol, time=40, folder=tmp_path, resume=True)
    assert np.array_equal(resumed.atoms.positions, run_md(ethanol, time=40).atoms.positions)


def test_what_cannot_be_resumed(ethanol, tmp_path):
    with pytest.raises(ConfigError, match="in a folder"):
        run_md(ethanol, time=10, resume=True)
    with pytest.raises(DataError, match="no run"):
        run_md(ethanol, time=10, folder=tmp_path, resume=True)
    run_md(ethanol, time=10, folder=tmp_path)
    with pytest.raises(DataError, match="seed 0, not 1"):
        run_md(ethanol, MDSettings(seed=1), time=10, folder=tmp_path, resume=True)
    other = molecule("H2O")
    other.calc = ethanol.calc
    with pytest.raises(DataError, match="another structure"):
        run_md(other, time=10, folder=tmp_path, resume=True)
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(DataError, match=r"log\.csv is missing or shorter"):
        run_md(ethanol, time=20, folder=tmp_path, resume=True)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        run_md(ethanol, time=20, folder=tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["missing", "empty", "nonsense"])
def test_resume_without_its_trajectory(damage, ethanol, tmp_path):
    run_md(ethanol, time=10, folder=tmp_path)
    trajectory = tmp_path / "trajectory.extxyz"
    size = trajectory.stat().st_size
    trajectory.unlink()
    if damage != "missing":
        trajectory.write_text("x" * size if damage == "nonsense" else "")
    with pytest.raises(DataError, match="cannot be read" if damage == "nonsense" else "missing or shorter"):
        run_md(ethanol, time=20, folder=tmp_path, resume=True)


@pytest.mark.parametrize("other", ["dtype", "pbc", "charge", "spin"])
def test_resume_with_another_potential_or_system(other, ethanol, tmp_path):
    ethanol.calc.identity = {"dtype": "float32", "weights": ["abc"]}
    run_md(ethanol, time=5, folder=tmp_path)
    if other == "dtype":
        ethanol.calc.identity = {"dtype": "float64", "weights": ["abc"]}
    elif other == "pbc":
        ethanol.set_cell([20, 20, 20])
        ethanol.pbc = True
    else:
        ethanol.info[other] = 3
    with pytest.raises(DataError, match=f"was made with {other} "):
        run_md(ethanol, time=10, folder=tmp_path, resume=True)


def test_resume_with_another_dtype_or_weights_of_our_own(checkpoint, make_checkpoint, tmp_path):
    def go(weights, **options):
        atoms = molecule("H2O")
        atoms.calc = GeoMolCalculator(weights, device="cpu", **options)
        settings = MDSettings(temperature=10.0, timestep=0.1)
        return run_md(atoms, settings, time=1.0, folder=tmp_path, resume=(tmp_path / "state.json").exists())

    go(checkpoint)
    go(checkpoint, skin=1.0)
    with pytest.raises(DataError, match="dtype float32, not float64"):
        go(checkpoint, dtype="float64")
    with pytest.raises(DataError, match="weights"):
        go(make_checkpoint(seed=0, scale=1.0))  # the same name


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"timestep": 0.0}, "timestep is 0.0; it must be positive"),
        ({"timestep": np.inf}, "timestep is inf; it must be a finite number"),
        ({"timestep": "1fs"}, "timestep is '1fs'"),
        ({"temperature": -1.0}, "cannot be negative"),
        ({"temperature": np.nan}, "temperature is nan"),
        ({"thermostat_time": np.inf}, "thermostat_time is inf"),
        ({"ensemble": "x"}, "ensemble is 'x'"),
        ({"ensemble": "npt", "pressure": np.nan}, "pressure is nan"),
        ({"interval": 0}, "interval is 0"),
        ({"interval": 2.5}, "interval is 2.5; it must be a whole number"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"seed": -1}, "cannot be negative"),
    ],
)
def test_settings_are_checked(wrong, sentence):
    with pytest.raises(ConfigError, match=sentence):
        MDSettings(**wrong)


def test_settings_of_numpy_are_recorded(ethanol, tmp_path):
    settings = MDSettings(seed=np.int64(3), temperature=np.float32(300))  # type: ignore[arg-type]
    run_md(ethanol, settings, time=5, folder=tmp_path)
    assert run_md(ethanol, settings, time=10, folder=tmp_path, resume=True).steps == 20


@pytest.mark.parametrize("time", [0.0, 0.1, -1.0, np.inf, np.nan])
def test_time_of_no_step(time, ethanol):
    with pytest.raises(ConfigError, match="at least one step"):
        run_md(ethanol, time=time)


def test_state_is_saved_only_now_and_then(ethanol, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("ase_geomol.simulate.record.write_atomically", lambda *args: saved.append(args))
    run_md(ethanol, time=50, folder=tmp_path)
    assert 2 <= len(saved) <= 4  # first, last, and one for every two seconds


def test_relax_molecule(ethanol, tmp_path):
    ethanol.rattle(0.1, seed=0)
    start = ethanol.get_positions()
    result = relax(ethanol, fmax=0.001, trajectory=tmp_path / "t.extxyz")
    assert result.converged
    assert result.energies[-1] < 1e-4
    assert result.fmax[-1] < 0.001
    assert np.array_equal(ethanol.positions, start)
    assert len(read(tmp_path / "t.extxyz", ":")) == result.steps + 1
    assert relax(result.atoms, fmax=0.001).steps == 0


def test_relax_cell(copper):
    copper.set_cell(copper.cell * 1.05, scale_atoms=True)
    result = relax(copper, cell=True, fmax=0.001)
    assert result.converged
    assert np.abs(result.atoms.get_stress()).max() < 1e-4


def test_relax_refuses(ethanol):
    with pytest.raises(InputError, match="cell"):
        relax(ethanol, cell=True)
    with pytest.raises(ConfigError, match="BFGS"):
        relax(ethanol, optimizer="magic")  # type: ignore[arg-type]
    ethanol.calc.stiffness = np.nan
    with pytest.raises(GeoMolError, match="NaN"):
        relax(ethanol)


@pytest.mark.parametrize(
    ("smiles", "info"),
    [("CCO", {}), ("C[NH3+]", {"charge": 1}), ("[CH3]", {"spin": 2}), ("[Na+].[Cl-]", {}), ("O.O.O", {})],
)
def test_smiles(smiles, info):
    atoms = load_structure(smiles)
    assert atoms.info == info
    assert atoms.get_all_distances()[np.triu_indices(len(atoms), 1)].min() > 0.9
    assert np.array_equal(atoms.positions, load_structure(smiles).positions)


def test_g2_radical_and_frames(tmp_path):
    assert load_structure("O2").info == {"spin": 3}
    write(tmp_path / "a.xyz", [molecule("H2O"), molecule("CH4")])
    assert len(load_structure(str(tmp_path / "a.xyz"))) == 5
    assert len(load_structure(str(tmp_path / "a.xyz"), 0)) == 3
    with pytest.raises(InputError, match="frame 7"):
        load_structure(str(tmp_path / "a.xyz"), 7)
    (tmp_path / "bad.xyz").write_text("nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        load_structure(str(tmp_path / "bad.xyz"))


@pytest.mark.parametrize("text", ["C6H7", "nonsense", "C" * 300 + "(", "", "g2:nothing", "."])
def test_not_a_structure(text):
    with pytest.raises(InputError):
        load_structure(text)


CIF = """data_alloy
_cell_length_a 3.8
_cell_length_b 3.8
_cell_length_c 3.8
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
 _atom_site_label
 _atom_site_type_symbol
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
 Cl1 Cl 0.5 0.5 0.5 1.0
"""


@pytest.mark.parametrize(
    ("sites", "told"),
    [
        (["Na1 Na 0 0 0 0.6(1)", "K1 K 0 0 0 0.4(1)"], "its site 1 is occupied by Na 0.6, K 0.4"),
        (["Na1 Na 0 0 0 0.8"], "its site 1 is occupied by Na 0.8"),
        (["Na1 Na 0 0 0 0.998(3)"], None),
        (["Na1 Na 0 0 0 1"], None),
        (["Na1 Na 0 0 0 ?"], None),
    ],
)
def test_a_disordered_crystal_is_refused(tmp_path, sites, told):
    path = tmp_path / "alloy.cif"
    path.write_text(CIF + "".join(f" {site}\n" for site in sites))
    for load in (load_structure, load_structures):
        if told is None:
            found = load(str(path))
            assert str((found if isinstance(found, Atoms) else found[0]).symbols) == "ClNa"
        else:
            with pytest.raises(InputError, match=told):
                load(str(path))


@pytest.mark.parametrize(
    ("name", "file"),
    [("out.cif", True), ("out.xyz.gz", True), ("my.mol.extxyz", True), ("results", False), ("res.v2", False)],
)
def test_file_or_folder(name, file, tmp_path):
    assert names_structure_file(tmp_path / name) is file
    (tmp_path / name).mkdir()
    assert not names_structure_file(tmp_path / name)


def test_format_that_ase_cannot_write(tmp_path):
    with pytest.raises(OutputError, match="ASE writes no files like"):
        names_structure_file(tmp_path / "a.out")


@pytest.mark.parametrize("name", ["a.vasp", "a.xtl", "a.pwi", "a.out", "a.nothing"])
def test_structure_is_kept_when_its_format_fails(name, ethanol, tmp_path):
    with pytest.raises(OutputError, match=rf"ASE cannot write .*{name} .* is in .*{name}\.extxyz instead"):
        write_structure(tmp_path / name, ethanol)
    assert np.allclose(read(tmp_path / f"{name}.extxyz").positions, ethanol.positions)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.extxyz"]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["energy", "forces"])
def test_labels_that_are_not_finite(what, wrong, ethanol):
    labels = {"energy": 1.0, "forces": np.zeros((9, 3))}
    frames = [molecule("CH3CH2OH"), molecule("CH3CH2OH")]
    frames[0].calc = SinglePointCalculator(frames[0], **labels)
    labels["energy" if what == "energy" else "forces"] = wrong if what == "energy" else np.full((9, 3), wrong)
    frames[1].calc = SinglePointCalculator(frames[1], **labels)
    with pytest.raises(DataError, match=r"Structure 1 has an? (energy|force) that is not finite"):
        evaluate(frames, ethanol.calc)


def test_results_of_another_structure_are_never_written(ethanol, tmp_path):
    energy = ethanol.get_potential_energy()
    write_structure(tmp_path / "own.extxyz", ethanol)
    assert read(tmp_path / "own.extxyz").get_potential_energy() == pytest.approx(energy)
    ethanol.rattle(0.2)
    write_structure(tmp_path / "moved.extxyz", ethanol)
    assert read(tmp_path / "moved.extxyz").calc is None


def test_a_finished_run_has_its_own_results(ethanol, tmp_path):
    done = run_md(ethanol, time=20, folder=tmp_path)
    energy = done.atoms.get_potential_energy()
    ethanol.rattle(0.2)
    ethanol.get_potential_energy()
    again = run_md(ethanol, time=20, folder=tmp_path, resume=True)
    assert again.atoms.calc.results["energy"] == pytest.approx(energy)
    assert not again.atoms.calc.check_state(again.atoms)
