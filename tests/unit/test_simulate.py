import errno
import os

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write

from ase_geomol import ConfigError, DataError, GeoMolError, InputError, OutputError
from ase_geomol.simulate import (
    MDSettings,
    degrees_of_freedom,
    draw_velocities,
    load_structure,
    read_log,
    relax,
    run_md,
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
    with pytest.raises(DataError, match="shorter"):
        run_md(ethanol, time=20, folder=tmp_path, resume=True)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        run_md(ethanol, time=20, folder=tmp_path, resume=True)


@pytest.mark.parametrize("wrong", [{"timestep": 0.0}, {"temperature": -1.0}, {"ensemble": "x"}, {"interval": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError):
        MDSettings(**wrong)


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
