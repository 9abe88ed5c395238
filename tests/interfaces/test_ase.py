"""The calculator in everything that ASE does with one."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import ase.db
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength
from ase.io import Trajectory, read, write
from ase.mep import NEB
from ase.phonons import Phonons
from ase.vibrations import Vibrations

from ase_geomol import ConfigError, GeoMolCalculator, InputError
from ase_geomol.checkpoint import load_checkpoint, save_checkpoint
from ase_geomol.graph import from_atoms
from ase_geomol.potential import Potential
from ase_geomol.simulate import MDSettings, run_md


@pytest.fixture
def calculator(checkpoint: Path) -> GeoMolCalculator:
    return GeoMolCalculator(checkpoint, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def members(make_checkpoint) -> list[Path]:
    return [make_checkpoint(seed=seed) for seed in (0, 1, 2)]


@pytest.fixture
def committee(members: list[Path]) -> GeoMolCalculator:
    return GeoMolCalculator(members, device="cpu", dtype="float64")


@pytest.fixture
def ethanol(make_structure, calculator: GeoMolCalculator) -> Atoms:
    atoms = make_structure("ethanol")
    atoms.calc = calculator
    return atoms


@pytest.fixture
def aluminium(make_structure, calculator: GeoMolCalculator) -> Atoms:
    atoms = make_structure("bulk")
    atoms.calc = calculator
    return atoms


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one at each evaluation of any potential."""
    calls: list[int] = []
    forward = Potential.forward

    def counted(self, *args, **kwargs):
        calls.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Potential, "forward", counted)
    return calls


def _ase(name: str):
    """A class of ASE by its path; skips the test where this version of ASE has none."""
    module, _, kind = name.rpartition(".")
    try:
        return getattr(import_module(module), kind)
    except (ImportError, AttributeError):
        pytest.skip(f"this version of ASE has no {name}")


def _assert_results_are_fresh(atoms: Atoms, checkpoint: Path) -> None:
    """What the moving atoms report is what a new calculator finds at the same place."""
    again = atoms.copy()
    again.calc = GeoMolCalculator(checkpoint, device="cpu", dtype="float64")
    assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-9)


# Results


def test_results_are_those_of_the_potential(ethanol: Atoms, aluminium: Atoms, calculator: GeoMolCalculator) -> None:
    for atoms in (ethanol, aluminium):
        assert isinstance(atoms.get_potential_energy(), float)
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
        assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        assert atoms.get_forces().shape == (len(atoms), 3)
        assert atoms.get_forces().dtype == np.float64
    assert aluminium.get_stress().shape == (6,)
    assert aluminium.get_stress(voigt=False).shape == (3, 3)


def test_forces_and_stress_agree_with_ases_own_differences(ethanol: Atoms, aluminium: Atoms) -> None:
    for atoms in (ethanol, aluminium):
        np.testing.assert_allclose(calculate_numerical_forces(atoms, eps=1e-4), atoms.get_forces(), atol=1e-5)
    np.testing.assert_allclose(calculate_numerical_stress(aluminium, eps=1e-5), aluminium.get_stress(), atol=1e-6)


def test_no_stress_of_a_molecule(ethanol: Atoms) -> None:
    with pytest.raises(PropertyNotImplementedError):
        ethanol.get_stress()
    with pytest.raises(PropertyNotImplementedError):
        ethanol.get_dipole_moment()


def test_results_are_kept_until_something_changes(ethanol: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _calls(monkeypatch)
    ethanol.get_potential_energy()
    ethanol.get_forces()
    ethanol.get_potential_energies()
    assert len(calls) == 1
    ethanol.set_initial_charges(np.ones(len(ethanol)))
    ethanol.get_potential_energy()
    assert len(calls) == 1, "charges of atoms do not enter"
    ethanol.positions[0, 0] += 1e-6
    ethanol.get_forces()
    assert len(calls) == 2


def test_charge_and_spin_in_info_are_noticed(ethanol: Atoms, monkeypatch) -> None:
    """A result is never handed out for a structure that has become one the potential refuses."""
    calls = _calls(monkeypatch)
    ethanol.get_forces()
    for key, wrong in [("charge", -1), ("spin", 2), ("charge", None)]:
        ethanol.info[key] = wrong
        with pytest.raises(InputError, match=key):
            ethanol.get_potential_energy()
        del ethanol.info[key]
        ethanol.get_potential_energy()
    assert len(calls) == 4
    ethanol.info["title"] = "unrelated"
    ethanol.get_potential_energy()
    assert len(calls) == 4


def test_direct_forces(make_checkpoint, make_structure) -> None:
    """Only on demand, and then they are those of the model's own head."""
    path, atoms = make_checkpoint(seed=6, direct_forces=True), make_structure("ethanol")
    found = {}
    for direct in (False, True):
        atoms.calc = GeoMolCalculator(path, device="cpu", dtype="float64", direct_forces=direct)
        found[direct] = atoms.get_forces()
        assert atoms.calc.todict()["direct_forces"] is direct
        assert atoms.calc.identity["direct_forces"] is direct
    potential = atoms.calc.checkpoints[0].potential
    expected = potential(from_atoms(atoms, potential.cutoff), forces=False).direct_forces
    assert np.allclose(found[True], expected.numpy(), rtol=0, atol=1e-12)
    assert np.abs(found[True] - found[False]).max() > 1e-2


def test_forces_are_taken_as_they_were_learned(make_checkpoint, make_structure, tmp_path) -> None:
    """A potential that has learned forces by its direct head alone never gives a gradient that nobody has trained."""
    source, atoms = make_checkpoint(seed=6, direct_forces=True), make_structure("ethanol")
    known = load_checkpoint(source)
    path = tmp_path / "direct.safetensors"
    save_checkpoint(path, known.potential, known.metadata.model_copy(update={"name": "direct", "forces": "direct"}))
    options = {"device": "cpu", "dtype": "float64"}
    forces = GeoMolCalculator(path, **options).get_forces(atoms)
    assert np.array_equal(forces, GeoMolCalculator(source, **options, direct_forces=True).get_forces(atoms))
    assert np.abs(forces - GeoMolCalculator(source, **options).get_forces(atoms)).max() > 1e-2
    with pytest.raises(ConfigError, match="direct learned forces by its direct head alone: leave direct_forces out"):
        GeoMolCalculator(path, direct_forces=False)
    with pytest.raises(ConfigError, match="small-0 has no direct head"):
        GeoMolCalculator([path, make_checkpoint(seed=0)])


def test_the_callers_atoms_stay_as_they_are(aluminium: Atoms) -> None:
    aluminium.info = {"title": "aluminium", "tags": [1, 2]}
    aluminium.positions += 30.0
    before = aluminium.copy()
    aluminium.get_stress()
    aluminium.calc.get_descriptors(aluminium)
    assert aluminium.info == {"title": "aluminium", "tags": [1, 2]}
    assert aluminium == before
    assert aluminium.arrays.keys() == before.arrays.keys()


def test_results_do_not_change_under_the_callers_hands(ethanol: Atoms) -> None:
    forces = ethanol.get_forces()
    expected = forces.copy()
    forces += 1.0
    np.testing.assert_array_equal(ethanol.get_forces(), expected)


# Relaxation

OPTIMIZERS = [
    "ase.optimize.BFGS",
    "ase.optimize.LBFGS",
    "ase.optimize.LBFGSLineSearch",
    "ase.optimize.BFGSLineSearch",
    "ase.optimize.QuasiNewton",
    "ase.optimize.GoodOldQuasiNewton",
    "ase.optimize.FIRE",
    "ase.optimize.FIRE2",
    "ase.optimize.MDMin",
    "ase.optimize.GPMin",
    "ase.optimize.RFO",
    "ase.optimize.ODE12r",
    "ase.optimize.sciopt.SciPyFminCG",
    "ase.optimize.sciopt.SciPyFminBFGS",
    "ase.optimize.precon.PreconLBFGS",
    "ase.optimize.precon.PreconFIRE",
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str, ethanol: Atoms, checkpoint: Path) -> None:
    start = ethanol.get_potential_energy()
    with _ase(name)(ethanol, logfile=None) as optimizer:
        optimizer.run(fmax=1e-3, steps=5)  # random weights soon meet a wall, where GPMin gives up
    assert ethanol.get_potential_energy() < start
    _assert_results_are_fresh(ethanol, checkpoint)


def test_a_relaxation_reaches_a_tight_minimum(calculator: GeoMolCalculator) -> None:
    """Forces are consistent enough to go to 1e-6 eV/Å in float64, whatever the surface."""
    water = molecule("H2O")
    water.calc = calculator
    with _ase("ase.optimize.BFGS")(water, logfile=None, maxstep=0.05) as optimizer:
        assert optimizer.run(fmax=1e-6, steps=1000)
    assert np.abs(water.get_forces()).max() < 1e-6


FILTERS = ["FrechetCellFilter", "UnitCellFilter", "ExpCellFilter", "StrainFilter"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", FILTERS)
def test_cell_filters(name: str, aluminium: Atoms, checkpoint: Path) -> None:
    start, cell = aluminium.get_potential_energy(), aluminium.cell.copy()
    with _ase("ase.optimize.BFGS")(_ase(f"ase.filters.{name}")(aluminium), logfile=None) as optimizer:
        optimizer.run(fmax=1e-3, steps=5)  # random weights soon meet a wall, where GPMin gives up
    assert aluminium.get_potential_energy() < start
    assert not np.allclose(cell, aluminium.cell)
    _assert_results_are_fresh(aluminium, checkpoint)


def test_cell_aware_bfgs(aluminium: Atoms, checkpoint: Path) -> None:
    start = aluminium.get_potential_energy()
    filtered = _ase("ase.filters.FrechetCellFilter")(aluminium, exp_cell_factor=1.0)
    with _ase("ase.optimize.CellAwareBFGS")(filtered, logfile=None) as optimizer:
        optimizer.run(fmax=1e-3, smax=1e-4, steps=3)
    assert aluminium.get_potential_energy() < start
    _assert_results_are_fresh(aluminium, checkpoint)


def test_constraints(ethanol: Atoms, checkpoint: Path) -> None:
    start, bond = ethanol.positions.copy(), ethanol.get_distance(1, 2)
    ethanol.set_constraint([FixAtoms([0]), FixBondLength(1, 2)])
    with _ase("ase.optimize.FIRE")(ethanol, logfile=None) as optimizer:
        optimizer.run(fmax=1e-3, steps=5)  # random weights soon meet a wall, where GPMin gives up
    np.testing.assert_array_equal(ethanol.positions[0], start[0])
    assert ethanol.get_distance(1, 2) == pytest.approx(bond, abs=1e-8)
    assert np.abs(ethanol.positions[3:] - start[3:]).max() > 1e-3
    assert (ethanol.get_forces()[0] == 0).all()
    assert np.abs(ethanol.get_forces(apply_constraint=False)[0]).max() > 0
    ethanol.set_constraint()
    _assert_results_are_fresh(ethanol, checkpoint)


# Dynamics

FS = units.fs
BAR = units.bar
INTEGRATORS = {
    "verlet.VelocityVerlet": (False, {}),
    "langevin.Langevin": (False, {"temperature_K": 300, "friction": 0.01 / FS}),
    "langevinbaoab.LangevinBAOAB": (False, {"temperature_K": 300, "T_tau": 50 * FS}),
    "andersen.Andersen": (False, {"temperature_K": 300, "andersen_prob": 0.1}),
    "nvtberendsen.NVTBerendsen": (False, {"temperature_K": 300, "taut": 50 * FS}),
    "bussi.Bussi": (False, {"temperature_K": 300, "taut": 50 * FS}),
    "nose_hoover_chain.NoseHooverChainNVT": (False, {"temperature_K": 300, "tdamp": 50 * FS}),
    "nose_hoover_chain.IsotropicMTKNPT": (
        True,
        {"temperature_K": 300, "pressure_au": 1e4 * BAR, "tdamp": 50 * FS, "pdamp": 500 * FS},
    ),
    "nose_hoover_chain.MTKNPT": (
        True,
        {"temperature_K": 300, "pressure_au": 1e4 * BAR, "tdamp": 50 * FS, "pdamp": 500 * FS},
    ),
    "nose_hoover_chain.MaskedMTKNPT": (
        True,
        {
            "temperature_K": 300,
            "pressure_au": 1e4 * BAR,
            "tdamp": 50 * FS,
            "pdamp": 500 * FS,
            "mask": np.array([True, True, False]),  # ASE indexes with it: a tuple would select nothing
        },
    ),
    "nptberendsen.NPTBerendsen": (
        True,
        {"temperature_K": 300, "pressure_au": 1e4 * BAR, "taup": 500 * FS, "compressibility_au": 1e-6 / BAR},
    ),
    "nptberendsen.Inhomogeneous_NPTBerendsen": (
        True,
        {"temperature_K": 300, "pressure_au": 1e4 * BAR, "taup": 500 * FS, "compressibility_au": 1e-6 / BAR},
    ),
    "npt.NPT": (True, {"temperature_K": 300, "externalstress": 0.0, "ttime": 50 * FS, "pfactor": 1e3 * FS**2}),
    "melchionna.MelchionnaNPT": (
        True,
        {"temperature_K": 300, "externalstress": 0.0, "ttime": 50 * FS, "pfactor": 1e3 * FS**2},
    ),
    "langevinbaoab.LangevinBAOAB with pressure": (
        True,
        {"temperature_K": 300, "externalstress": 0.0, "T_tau": 50 * FS, "P_tau": 500 * FS},
    ),
}
RANDOM = {"langevin.Langevin", "langevinbaoab.LangevinBAOAB", "andersen.Andersen", "bussi.Bussi"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrators(name: str, ethanol: Atoms, aluminium: Atoms, checkpoint: Path) -> None:
    changes_cell, options = INTEGRATORS[name]
    path = name.split()[0]
    integrator = _ase(f"ase.md.{path}")
    if path in RANDOM:
        options = {**options, "rng": np.random.RandomState(0)}
    atoms = aluminium if changes_cell else ethanol
    atoms.set_momenta(np.random.default_rng(0).normal(0, 0.5, (len(atoms), 3)))
    start, cell = atoms.positions.copy(), atoms.cell.copy()
    with integrator(atoms, timestep=0.2 * FS, **options) as dynamics:
        dynamics.run(6)
    assert np.isfinite(atoms.positions).all()
    assert 1e-5 < np.abs(atoms.positions - start).max() < 1.0
    assert np.allclose(cell, atoms.cell, rtol=0, atol=1e-12) != changes_cell
    _assert_results_are_fresh(atoms, checkpoint)


@pytest.mark.parametrize("name", ["aluminium", "ethanol"])
def test_a_stopped_run_goes_on_with_the_same_bits(name: str, request, make_checkpoint, tmp_path: Path) -> None:
    """A resumed run makes its neighbour list at another step, and still rounds as the uninterrupted one."""
    atoms, checkpoint = request.getfixturevalue(name).copy(), make_checkpoint(seed=0)  # random, but holds together
    settings = MDSettings(temperature=900, timestep=2.0, interval=5)

    def stop(row: dict) -> None:
        if row["step"] == 23:
            raise KeyboardInterrupt

    def run(folder: str, **options) -> Atoms:
        atoms.calc = GeoMolCalculator(checkpoint, device="cpu", skin=0.4)
        return run_md(atoms, settings, time=100, folder=tmp_path / folder, **options).atoms

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", on_step=stop)
    resumed = run("parts", resume=True)
    assert np.array_equal(resumed.positions, whole.positions)
    assert np.array_equal(resumed.get_momenta(), whole.get_momenta())


# Paths, vibrations, phonons


@pytest.mark.parametrize("shared", [True, False])
def test_nudged_elastic_band(make_structure, members: list[Path], shared: bool) -> None:
    """On the member on whose random surface no image falls into a steep valley beside the path."""
    calculator = GeoMolCalculator(members[2], device="cpu", dtype="float64")
    start, end = make_structure("water_dimer"), make_structure("water_dimer")
    end.positions[3:] += [0.3, 0.5, -0.2]
    images = [start, *(start.copy() for _ in range(3)), end]
    for image in images:
        image.calc = calculator if shared else deepcopy(calculator)
    band = NEB(images, allow_shared_calculator=shared, method="improvedtangent")
    band.interpolate()
    before = np.abs(band.get_forces()).max()
    with _ase("ase.optimize.FIRE")(band, logfile=None) as optimizer:
        optimizer.run(fmax=1e-3, steps=5)  # random weights soon meet a wall, where GPMin gives up
    assert np.abs(band.get_forces()).max() < before
    for image in images[1:-1]:
        _assert_results_are_fresh(image, members[2])


def test_vibrations_agree_with_the_exact_hessian(ethanol: Atoms, tmp_path: Path) -> None:
    vibrations = Vibrations(ethanol, name=str(tmp_path / "vib"), delta=2e-4, nfree=4)
    vibrations.run()
    by_differences = vibrations.get_vibrations().get_hessian_2d()
    exact = ethanol.calc.get_hessian(ethanol)
    assert np.abs(by_differences - exact).max() < 1e-5 * np.abs(exact).max()


def test_phonons(calculator: GeoMolCalculator, tmp_path: Path) -> None:
    phonons = Phonons(bulk("Al", a=4.05), calculator, supercell=(2, 2, 2), delta=0.01, name=str(tmp_path / "phonon"))
    phonons.run()
    phonons.read(acoustic=True)
    assert np.isfinite(phonons.band_structure([[0, 0, 0], [0.1, 0, 0]])).all()


# Files


def _same_results(first: Atoms, second: Atoms, *, stress: bool, tolerance: float = 0.0) -> None:
    assert second.get_potential_energy() == pytest.approx(first.get_potential_energy(), abs=tolerance or 1e-12)
    np.testing.assert_allclose(second.get_forces(), first.get_forces(), atol=tolerance, rtol=1e-15)
    if stress:
        np.testing.assert_allclose(second.get_stress(), first.get_stress(), atol=tolerance, rtol=1e-15)


@pytest.mark.parametrize("kind", ["one", "committee"])
def test_database(aluminium: Atoms, committee: GeoMolCalculator, tmp_path: Path, kind: str) -> None:
    if kind == "committee":
        aluminium.calc = committee
    aluminium.get_stress()
    database = ase.db.connect(tmp_path / "results.db")
    key = database.write(aluminium, label="bulk")
    row = database.get(key)
    assert row.energy == aluminium.get_potential_energy()
    assert row.calculator == ("small-0" if kind == "one" else "small-0+small-1+small-2")
    assert row.calculator_parameters["dtype"] == "float64"
    _same_results(aluminium, row.toatoms(), stress=True)


@pytest.mark.parametrize("kind", ["one", "committee"])
def test_trajectory(ethanol: Atoms, aluminium: Atoms, committee: GeoMolCalculator, tmp_path: Path, kind: str) -> None:
    for atoms in (ethanol, aluminium):
        if kind == "committee":
            atoms.calc = committee
        atoms.get_forces()
        with Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
            trajectory.write()
        again = read(tmp_path / "run.traj")
        _same_results(atoms, again, stress=atoms is aluminium)
        np.testing.assert_array_equal(again.get_potential_energies(), atoms.get_potential_energies())


@pytest.mark.parametrize("kind", ["one", "committee"])
def test_extxyz(ethanol: Atoms, aluminium: Atoms, committee: GeoMolCalculator, tmp_path: Path, kind: str) -> None:
    for atoms in (ethanol, aluminium):
        if kind == "committee":
            atoms.calc = committee
        atoms.get_forces()
        write(tmp_path / "run.extxyz", atoms)
        _same_results(atoms, read(tmp_path / "run.extxyz"), stress=atoms is aluminium, tolerance=1e-7)


def test_a_molecule_is_written_without_being_asked_for_stress(ethanol: Atoms, tmp_path: Path) -> None:
    """Nothing was computed yet: writing computes nothing and fails at nothing."""
    write(tmp_path / "plain.extxyz", ethanol)
    write(tmp_path / "plain.traj", ethanol)
    assert ase.db.connect(tmp_path / "plain.db").write(ethanol) == 1
    assert ethanol.calc.results == {}


@pytest.mark.parametrize("kind", ["one", "committee"])
def test_frozen_in_a_single_point(aluminium: Atoms, committee: GeoMolCalculator, kind: str) -> None:
    if kind == "committee":
        aluminium.calc = committee
    aluminium.get_stress()
    known = {name: value for name, value in aluminium.calc.results.items() if name in all_properties}
    frozen = aluminium.copy()
    frozen.calc = SinglePointCalculator(frozen, **known)
    _same_results(aluminium, frozen, stress=True)
    assert {"energy", "free_energy", "energies", "forces", "stress"} <= known.keys()


# Copies


@pytest.mark.parametrize("copied", [deepcopy, lambda calculator: pickle.loads(pickle.dumps(calculator))])
@pytest.mark.parametrize("kind", ["fresh", "used", "committee"])
def test_copies(calculator: GeoMolCalculator, committee: GeoMolCalculator, make_structure, copied, kind: str) -> None:
    calculator = committee if kind == "committee" else calculator
    atoms, other = make_structure("ethanol"), make_structure("water_dimer")
    atoms.calc = calculator
    if kind == "used":
        atoms.get_forces()
    atoms.calc = copied(calculator)
    forces = atoms.get_forces()
    other.calc = calculator
    other.get_forces()
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    again = make_structure("ethanol")
    again.calc = calculator
    np.testing.assert_array_equal(again.get_forces(), forces)
    assert atoms.calc.name == calculator.name


def test_deepcopy_of_atoms_takes_the_calculator_along(ethanol: Atoms) -> None:
    energy = ethanol.get_potential_energy()
    both = deepcopy([ethanol])[0]
    both.positions[0] += 0.1
    assert both.get_potential_energy() != energy
    assert ethanol.get_potential_energy() == energy


@pytest.mark.parametrize("kind", ["one", "committee"])
def test_todict_makes_it_again(ethanol: Atoms, committee: GeoMolCalculator, kind: str) -> None:
    if kind == "committee":
        ethanol.calc = committee
    options = json.loads(json.dumps(ethanol.calc.todict()))
    again = ethanol.copy()
    again.calc = GeoMolCalculator(**options)
    assert again.calc.todict() == ethanol.calc.todict()
    assert again.get_potential_energy() == ethanol.get_potential_energy()


# Several at once


def test_two_precisions_in_one_process(checkpoint: Path, make_structure) -> None:
    default = torch.get_default_dtype()
    alone = {}
    for dtype in ("float32", "float64"):
        atoms = make_structure("ethanol")
        atoms.calc = GeoMolCalculator(checkpoint, device="cpu", dtype=dtype)
        alone[dtype] = atoms.get_forces()
    together = {dtype: GeoMolCalculator(checkpoint, device="cpu", dtype=dtype) for dtype in alone}
    for dtype in ("float32", "float64", "float32"):
        atoms = make_structure("ethanol")
        atoms.calc = together[dtype]
        np.testing.assert_array_equal(atoms.get_forces(), alone[dtype])
    difference = np.abs(alone["float32"] - alone["float64"]).max()
    assert 0 < difference < 1e-4
    assert torch.get_default_dtype() == default


def test_one_calculator_for_many_structures(calculator: GeoMolCalculator, make_structure) -> None:
    names = ["ethanol", "bulk", "chain", "ethanol", "slab", "atom", "bulk"]
    energies: dict[str, set[float]] = {}
    for name in names:
        atoms = make_structure(name)
        atoms.calc = calculator
        energies.setdefault(name, set()).add(atoms.get_potential_energy())
    assert all(len(values) == 1 for values in energies.values())


def test_sum_of_calculators(calculator: GeoMolCalculator, ethanol: Atoms) -> None:
    energy, forces = ethanol.get_potential_energy(), ethanol.get_forces()
    ethanol.calc = SumCalculator([calculator, deepcopy(calculator)])
    assert ethanol.get_potential_energy() == pytest.approx(2 * energy, abs=1e-10)
    np.testing.assert_allclose(ethanol.get_forces(), 2 * forces, atol=1e-10)


def test_committee_is_the_mean_and_the_spread_of_its_members(
    members: list[Path], committee: GeoMolCalculator, make_structure
) -> None:
    def result_of(model: object, name: str) -> dict:
        atoms = make_structure(name)
        atoms.calc = model if isinstance(model, GeoMolCalculator) else GeoMolCalculator(model, dtype="float64")
        atoms.get_potential_energy()
        return atoms.calc.results

    for name in ("ethanol", "bulk"):
        single = [result_of(path, name) for path in members]
        ours = result_of(committee, name)
        energy = np.array([one["energy"] for one in single])
        forces = np.array([one["forces"] for one in single])
        assert ours["energy"] == pytest.approx(energy.mean(), abs=1e-10)
        assert ours["energy_std"] == pytest.approx(np.sqrt(((energy - energy.mean()) ** 2).sum() / 2), abs=1e-10)
        np.testing.assert_allclose(ours["forces"], forces.mean(0), atol=1e-10)
        spread = np.sqrt(((forces - forces.mean(0)) ** 2).sum(0) / 2)
        np.testing.assert_allclose(ours["forces_std"], spread, atol=1e-10)
        np.testing.assert_allclose(ours["energies"], np.mean([one["energies"] for one in single], 0), atol=1e-10)
        if name == "bulk":
            np.testing.assert_allclose(ours["stress"], np.mean([one["stress"] for one in single], 0), atol=1e-10)
        assert ours["energy_std"] > 0
    assert committee.get_property("energy_std", make_structure("bulk")) == ours["energy_std"]


def test_one_model_has_no_spread(ethanol: Atoms) -> None:
    ethanol.get_forces()
    assert "energy_std" not in ethanol.calc.results
    with pytest.raises(PropertyNotImplementedError):
        ethanol.calc.get_property("energy_std", ethanol)


# Descriptors and Hessian


def test_descriptors_do_not_depend_on_the_view(ethanol: Atoms, calculator: GeoMolCalculator) -> None:
    scalars, vectors = calculator.get_descriptors(ethanol), calculator.get_descriptors(ethanol, vectors=True)
    assert scalars.shape == (9, 16)
    assert vectors.shape == (9, 3, 16)
    rotation = -np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    order = np.random.default_rng(1).permutation(len(ethanol))
    turned = Atoms(ethanol.numbers, ethanol.positions @ rotation.T + [3.0, 1.0, -8.0])[order]
    np.testing.assert_allclose(calculator.get_descriptors(turned), scalars[order], atol=1e-10)
    expected = np.einsum("ij,njd->nid", rotation, vectors)[order]
    np.testing.assert_allclose(calculator.get_descriptors(turned, vectors=True), expected, atol=1e-10)
    assert np.abs(scalars[0] - scalars[1]).max() > 1e-3


def test_descriptors_of_the_last_structure(ethanol: Atoms) -> None:
    ethanol.get_potential_energy()
    np.testing.assert_array_equal(ethanol.calc.get_descriptors(), ethanol.calc.get_descriptors(ethanol))


def test_descriptors_of_another_structure_leave_results_alone(ethanol: Atoms, make_structure) -> None:
    forces = ethanol.get_forces()
    ethanol.calc.get_descriptors(make_structure("bulk"))
    ethanol.calc.get_hessian(make_structure("water_dimer"))
    np.testing.assert_array_equal(ethanol.get_forces(), forces)


def test_hessian_of_a_committee_is_the_mean(members: list[Path], committee: GeoMolCalculator, make_structure) -> None:
    atoms = make_structure("water_dimer")
    single = [GeoMolCalculator(path, device="cpu", dtype="float64").get_hessian(atoms) for path in members]
    hessian = committee.get_hessian(atoms)
    assert hessian.shape == (18, 18)
    np.testing.assert_allclose(hessian, np.mean(single, 0), atol=1e-10)
    np.testing.assert_array_equal(hessian, hessian.T)
