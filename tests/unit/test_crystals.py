"""Properties of crystals by a calculator whose answers are known, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from itertools import product

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.cell import Cell

from ase_geomol import ConfigError, DataError, InputError, OutputError
from ase_geomol.simulate import (
    MDSettings,
    conventional_cell,
    crystal_pictures,
    diffusion,
    elasticity,
    eos_picture,
    equation_of_state,
    is_endless,
    mean_square_displacement,
    minimum_energy_path,
    path_picture,
    phonon_picture,
    phonons,
    radial_distribution,
    read_log,
    read_run,
    relax,
    run_md,
    surface_energy,
    trajectory_picture,
    vacancy_energy,
)
from ase_geomol.simulate.elasticity import averages
from ase_geomol.simulate.supercells import repeats


@pytest.fixture(scope="module")
def copper():
    atoms = bulk("Cu", cubic=True, a=3.6)
    atoms.calc = EMT()
    return relax(atoms, cell=True, fmax=1e-5).atoms


def test_equation_of_state_finds_the_relaxed_cell(copper, tmp_path):
    seen = []
    squeezed = copper.copy()
    squeezed.set_cell(0.99 * copper.cell, scale_atoms=True)
    squeezed.calc = EMT()
    result = equation_of_state(squeezed, on_point=lambda *point: seen.append(point))
    assert result.volume == pytest.approx(copper.get_volume(), rel=1e-3)
    assert result.energy == pytest.approx(copper.get_potential_energy(), abs=1e-3)
    assert len(seen) == len(result.volumes) == 9
    assert result.residual < 1e-3
    assert result.atoms.get_volume() == pytest.approx(result.volume)
    assert np.allclose(result.curve(np.array([result.volume])), result.energy)
    eos_picture(tmp_path / "eos.png", result, title="Cu")
    assert (tmp_path / "eos.png").stat().st_size > 5000


def test_bulk_modulus_is_the_same_by_energies_and_by_stresses(copper):
    by_energies = equation_of_state(copper, strain=0.01)
    by_stresses = elasticity(copper)
    assert by_stresses.bulk_modulus == pytest.approx(by_energies.bulk_modulus, rel=0.01)
    c = by_stresses.constants
    assert c[0, 0] == pytest.approx(c[1, 1])
    assert c[3, 3] == pytest.approx(c[5, 5])
    assert np.abs(c[:3, 3:]).max() < 1e-6
    assert by_stresses.asymmetry < 0.1
    assert by_stresses.stable


def test_elastic_constants_of_a_hexagonal_crystal_turn_with_it():
    """Shears of the basal plane are no others than those of its normal strains; beside the axis they are others."""
    argon = bulk("Ar", "hcp", a=3.75, c=6.2)
    argon.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)
    argon = relax(argon, cell=True, fmax=1e-5).atoms
    turned = argon.copy()
    turned.set_cell(argon.cell.array[:, [2, 0, 1]])
    turned.positions = argon.positions[:, [2, 0, 1]]  # x y z are now the earlier z x y
    turned.calc = argon.calc
    c, of_turned = (elasticity(atoms, points=2, fmax=1e-5).constants for atoms in (argon, turned))
    assert c[5, 5] == pytest.approx((c[0, 0] - c[0, 1]) / 2, rel=0.01)
    assert c[3, 3] == pytest.approx(c[4, 4], rel=0.01)
    assert abs(c[3, 3] / c[5, 5] - 1) > 0.05
    earlier = [2, 0, 1, 5, 3, 4]
    assert of_turned == pytest.approx(c[np.ix_(earlier, earlier)], abs=1e-3 * c.max())


def test_averages_of_an_isotropic_solid():
    bulk_modulus, shear = 100.0, 40.0
    c = np.zeros((6, 6))
    c[:3, :3] = bulk_modulus - 2 * shear / 3
    c[range(3), range(3)] += 2 * shear
    c[range(3, 6), range(3, 6)] = shear
    result = averages(c)
    assert result.bulk_modulus == pytest.approx(bulk_modulus)
    assert result.shear_modulus == pytest.approx(shear)
    assert result.youngs_modulus == pytest.approx(9 * bulk_modulus * shear / (3 * bulk_modulus + shear))
    assert result.poisson_ratio == pytest.approx((300 - 80) / (2 * (300 + 40)))
    assert result.anisotropy == pytest.approx(0, abs=1e-12)
    assert not averages(np.diag([1.0, 1, 1, -1, 1, 1])).stable


@pytest.fixture(scope="module")
def copper_phonons(copper):
    return phonons(copper, supercell=(3, 3, 3), mesh=40.0)


def test_phonons_of_copper(copper_phonons, tmp_path):
    result = copper_phonons
    assert result.stable
    assert abs(result.lowest) < 1e-3
    assert 6 < result.bands.max() < 10
    assert result.bands.shape[1] == 3, "of the primitive cell"
    assert np.trapezoid(result.dos, result.dos_frequencies) == pytest.approx(3, rel=0.02)
    assert result.heat_capacity[-1] == pytest.approx(3 * 8.314, rel=0.01), "Dulong and Petit"
    assert result.heat_capacity[0] == 0
    assert result.ticks[0] == (0.0, "Γ")
    assert all(a < b for (a, _), (b, _) in zip(result.ticks, result.ticks[1:], strict=False))
    phonon_picture(tmp_path / "phonons.png", result, title="Cu")
    result.save(tmp_path / "phonopy.yaml")
    assert "force_constants" in (tmp_path / "phonopy.yaml").read_text()
    with pytest.raises(OutputError, match="Cannot write"):
        result.save(tmp_path / "nowhere" / "phonopy.yaml")


def test_long_waves_travel_at_the_speed_of_the_elastic_constants(copper, copper_phonons):
    """Along [100] of a cubic crystal the longitudinal speed is the root of C11 over the density."""
    step = 0.02
    copper_phonons.phonopy.run_qpoints([[step / 2, 0, step / 2]])  # along a cubic axis, in the primitive basis
    wave_number = 2 * np.pi * step / copper.cell.lengths()[0]
    frequency = copper_phonons.phonopy.qpoints.frequencies[0].max()
    speed = 2 * np.pi * frequency * 1e12 / (wave_number * 1e10)  # m/s
    density = copper.get_masses().sum() * 1.66053907e-27 / (copper.get_volume() * 1e-30)
    expected = np.sqrt(elasticity(copper).constants[0, 0] * 1e9 / density)
    assert speed == pytest.approx(expected, rel=0.03)


def test_an_unstable_crystal_has_imaginary_phonons_and_no_heat_capacity(copper_phonons, tmp_path, monkeypatch):
    atoms = bulk("Cu", "sc", a=2.4)
    atoms.calc = EMT()
    result = phonons(atoms, supercell=(3, 3, 3), mesh=20.0)
    assert not result.stable
    drawn = []
    monkeypatch.setattr(crystal_pictures, "save", lambda figure, path: drawn.append(figure.axes[2]))
    for each in (copper_phonons, result):
        phonon_picture(tmp_path / "phonons.png", each, title="Cu")
    stable, unstable = drawn
    assert len(stable.lines) == 3
    assert stable.get_ylabel() == "Per mol of primitive cells of 1 atom"
    assert not unstable.lines
    assert "none: imaginary modes" in unstable.texts[0].get_text()


def test_the_path_of_phonons_is_of_the_symmetry_that_is_asked_for():
    atoms = bulk("Cu")
    atoms.set_cell(atoms.cell.array * [1, 1, 1.001], scale_atoms=True)
    atoms.calc = EMT()
    names = {}
    for symprec in (1e-2, 1e-5):
        result = phonons(atoms, supercell=(2, 2, 2), mesh=5.0, symprec=symprec)
        names[result.space_group] = {name for _, name in result.ticks}
    assert names.keys() == {"Fm-3m (225)", "I4/mmm (139)"}
    assert "L" in names["Fm-3m (225)"]
    assert "L" not in names["I4/mmm (139)"]


def test_surface_energy(copper):
    result = surface_energy(copper, (1, 1, 1), layers=3)
    assert result.slab.converged
    assert 0.5 < result.energy <= result.unrelaxed < 2
    assert np.abs(result.cut.positions - result.slab.atoms.positions).max() > 1e-3
    thicker = surface_energy(copper, (1, 1, 1), layers=4)
    assert result.energy == pytest.approx(thicker.energy, rel=0.02)
    assert not result.slab.atoms.pbc[2]
    open_face = surface_energy(copper, (1, 1, 0), layers=3)
    assert open_face.energy > result.energy
    area = np.sqrt(3) / 4 * copper.cell[0, 0] ** 2 * 2  # two atoms of the (111) plane, each a rhombus of a²√3/4
    count = len(result.slab.atoms)
    opened = result.slab.atoms.get_potential_energy() - count / 4 * copper.get_potential_energy()
    assert result.area == pytest.approx(area * count / 3 / 2, rel=1e-6)
    assert result.energy == pytest.approx(opened / (2 * result.area) * 16.0218, rel=1e-4)
    assert not result.unlike


@pytest.mark.parametrize(
    ("miller", "reduced"), [((2, 2, 2), (1, 1, 1)), ((0, -2, 2), (0, -1, 1)), ((3, 0, 0), (1, 0, 0))]
)
def test_a_common_factor_of_miller_indices_says_nothing(copper, miller, reduced):
    found, expected = (surface_energy(copper, indices, layers=2, steps=1) for indices in (miller, reduced))
    assert len(found.cut) == len(expected.cut) == 8
    assert found.area == pytest.approx(expected.area)
    assert found.unrelaxed == pytest.approx(expected.unrelaxed, rel=1e-9)


@pytest.mark.parametrize("miller", [(1, 0, 0), (1, 1, 0), (1, -1, 1), (2, 1, 0)])
@pytest.mark.parametrize("moved", [-1e-7, -1e-3, 1 - 1e-8])
def test_atoms_of_one_plane_around_the_wall_stay_together(copper, miller, moved):
    """Digits of a file leave some of them below the cell's wall and some above."""
    digits = copper.copy()
    digits.calc = EMT()
    digits.positions[0] += moved * (digits.cell.sum(0) if moved > 0.5 else 1.0)
    expected, found = (surface_energy(atoms, miller, layers=2, steps=1) for atoms in (copper, digits))
    assert found.unrelaxed == pytest.approx(expected.unrelaxed, rel=1e-3)
    assert not found.unlike
    heights = [np.sort(result.cut.positions[:, 2]) for result in (expected, found)]
    assert heights[0] == pytest.approx(heights[1], abs=2e-3)


def test_the_ends_of_a_polar_slab_differ():
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.calc = LennardJones(sigma=2.4, epsilon=0.1)
    assert surface_energy(salt, (1, 1, 1), layers=2, steps=1).unlike
    assert not surface_energy(salt, (1, 0, 0), layers=2, steps=1).unlike
    oxide = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    oxide.calc = LennardJones(sigma=2.0, epsilon=0.1)
    assert not surface_energy(oxide, (1, 0, 0), layers=2, steps=1).unlike


def test_a_conventional_cell_of_any_cell():
    primitive = bulk("NaCl", "rocksalt", a=5.64)
    primitive.rattle(1e-4)
    found = conventional_cell(primitive)
    assert found.get_chemical_formula() == "Cl4Na4"
    assert found.cell.lengths() == pytest.approx([5.64] * 3)
    with pytest.raises(InputError, match="periodic in three directions"):
        conventional_cell(Atoms("H"))


def test_endless_bonds():
    assert is_endless(bulk("Cu"))
    assert is_endless(bulk("K").repeat((2, 1, 1)))
    assert not is_endless(molecule("C6H6"))
    boxed = molecule("C6H6", cell=[9, 9, 9], pbc=True)
    boxed.positions += 4.0
    assert not is_endless(boxed)
    boxed.wrap()
    assert not is_endless(boxed), "bonds cross the cell's walls, but lead nowhere"
    wire = Atoms("C", cell=[1.4, 9, 9], pbc=[True, False, False])
    assert is_endless(wire)
    for cell in ([0, 0, 0], [[3, 0, 0], [6, 0, 0], [0, 0, 3]], [np.nan, 3, 3]):
        assert not is_endless(Atoms("Cu", cell=cell, pbc=True)), "calculators say what is wrong with it"


def test_a_vacancy_costs_energy(copper):
    energy, relaxed = vacancy_energy(copper, size=7.0)
    assert relaxed.converged
    assert len(relaxed.atoms) == 31
    assert 0.9 < energy < 1.5
    assert energy == pytest.approx(vacancy_energy(copper, size=10.0)[0], abs=0.05)


def test_a_vacancy_hops(copper, tmp_path):
    cell = copper.repeat((2, 2, 2))
    first = cell.copy()
    hole = first.positions[0].copy()
    del first[0]
    last = first.copy()
    last.positions[0] = hole
    first.calc, last.calc = EMT(), EMT()
    first, last = relax(first, fmax=0.02).atoms, relax(last, fmax=0.02).atoms
    result = minimum_energy_path(first, last, images=3)
    assert result.converged
    assert 0.5 < result.barrier < 1.2
    assert result.highest == 2, "by symmetry"
    energies = [image.get_potential_energy() for image in result.images]
    assert np.array(energies) - energies[0] == pytest.approx(result.energies)
    assert result.end_force < 0.02
    assert result.energies[-1] == pytest.approx(0, abs=1e-3)
    assert (np.diff(result.distances) > 0).all()
    path_picture(tmp_path / "path.png", result, title="a vacancy in Cu")
    seen: list[int] = []
    short = minimum_energy_path(first, last, images=1, steps=2, fmax=1e-4, on_step=lambda step, *_: seen.append(step))
    assert not short.converged
    assert (seen, short.steps) == ([0, 1, 2, 2, 3, 4], 4), "two in each stage, none for its start"


def test_radial_distribution_of_a_gas_and_of_a_crystal(tmp_path):
    rng = np.random.default_rng(0)
    gas = [Atoms("Ar500", 20 * rng.random((500, 3)), cell=[20] * 3, pbc=True) for _ in range(4)]
    found = radial_distribution(gas)
    assert found.values[20:].mean() == pytest.approx(1.0, abs=0.02)
    crystal = radial_distribution([bulk("Cu", cubic=True, a=3.6)], reach=4.0, bins=80)
    within = crystal.coordination[np.searchsorted(crystal.distances, 2.8)]
    assert within == pytest.approx(12), "images are counted in a cell smaller than the reach"
    small = radial_distribution([bulk("Si")], reach=20.0, bins=40)
    mean = np.average(small.values[20:], weights=small.distances[20:] ** 2)
    assert mean == pytest.approx(1.0, abs=0.05), "an atom's own images count in the density, too"
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert radial_distribution([salt], reach=3.0, pair=("Na", "Cl")).coordination[-1] == pytest.approx(6)
    assert radial_distribution([salt], reach=3.0, pair=("Na", "Na")).coordination[-1] == 0
    trajectory_picture(tmp_path / "gas.png", found, np.arange(3.0), {"Ar": np.arange(3.0)}, title="gas")


@pytest.mark.parametrize("angle", [23.13, 60, 90, 109.5, 119])
def test_images_are_apart_in_cells_of_all_angles(angle: float):
    """Vectors may be long and their sums short: bismuth telluride has 24 degrees."""
    cell = Cell.fromcellpar([10.48, 10.48, 10.48, angle, angle, angle])
    counts = repeats(cell, 10.0)
    steps = np.array(list(product(range(-6, 7), repeat=3)))
    images = steps[steps.any(1)] @ (cell.array * np.array(counts)[:, None])
    assert np.linalg.norm(images, axis=1).min() >= 10.0
    assert max(counts) <= 3
    assert repeats(bulk("Cu").cell, 10.0) == (4, 4, 4)


def test_diffusion_of_a_random_walk():
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(0, 0.1, (400, 200, 3)), axis=0)
    frames = [Atoms("Ar200", positions, cell=[50] * 3, pbc=True) for positions in walk]
    lags, squares = mean_square_displacement(frames, 10.0 * np.arange(400))
    assert squares[0] == 0
    assert diffusion(lags, squares) == pytest.approx(3 * 0.01 / 6 / 0.01, rel=0.1)


def test_a_cell_that_breathes_moves_no_atom():
    """A crystal whose cell alone changes does not diffuse; what atoms do beside that is measured in the mean cell."""
    crystal = bulk("Cu", cubic=True).repeat(3)
    frames = []
    for scale in 1 + 0.02 * np.sin(np.arange(20)):
        frames.append(crystal.copy())
        frames[-1].set_cell(crystal.cell * scale, scale_atoms=True)
    _, squares = mean_square_displacement(frames, np.arange(20.0))
    assert squares.max() < 1e-20
    frames[-1].positions[0, 0] += 1.0
    _, squares = mean_square_displacement(frames, np.arange(20.0))
    assert squares[-1] > 1e-4


def test_pressure_compresses_by_the_bulk_modulus(copper):
    """The sign and the size of the pressure, by an integrator that is not ours."""
    settings = MDSettings("npt", temperature=20.0, timestep=4.0, barostat_time=150.0, pressure=10 * units.GPa)
    volumes: list[float] = []
    start = copper.repeat(2)
    start.calc = EMT()
    run_md(start, settings, time=2000.0, on_step=lambda row: volumes.append(row["volume_A3"]))
    curve = equation_of_state(copper, strain=0.04)
    expected = 8 * curve.volume * (1 + curve.derivative * 10 / curve.bulk_modulus) ** (-1 / curve.derivative)
    assert np.mean(volumes[len(volumes) // 2 :]) == pytest.approx(expected, rel=0.01)
    assert expected < 0.95 * 8 * curve.volume


def test_an_optimiser_by_size(copper):
    large = copper.repeat((4, 4, 4))
    large.calc = EMT()
    assert relax(large, steps=1).optimizer == "LBFGS"
    assert relax(copper, steps=1).optimizer == "BFGS"


def test_inner_relaxations_that_did_not_end_are_counted(copper, monkeypatch):
    assert equation_of_state(copper, points=5).unrelaxed == elasticity(copper, points=2).unrelaxed == 0
    for name in ("eos", "elasticity"):
        module = import_module(f"ase_geomol.simulate.{name}")  # the function has its name
        monkeypatch.setattr(module, "relax", lambda *given, **named: replace(relax(*given, **named), converged=False))
    assert equation_of_state(copper, points=5).unrelaxed == 5
    assert elasticity(copper, points=2).unrelaxed == 12


def test_a_run_is_read_back_evenly(tmp_path, copper):
    settings = MDSettings(interval=4, timestep=1.0)
    run_md(copper, settings, time=10.0, folder=tmp_path)
    frames, times = read_run(tmp_path)
    assert times.tolist() == [0, 4, 8], "the last frame, after two steps more, is left out"
    assert len(frames) == 3
    (tmp_path / "trajectory.extxyz").unlink()
    with pytest.raises(DataError, match=r"trajectory\.extxyz cannot be read"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read"),
        ("", "holds no steps"),
        ("step,time_fs\n", "holds no steps"),
        ("step\n0\n", "holds no steps"),
        ("step,time_fs\n0,zero\n", "cannot be read"),
        ("step,time_fs\n0\n", "cannot be read"),
    ],
)
def test_a_log_that_is_none_is_named(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "log.csv").write_text(text)
    for reader in (read_log, read_run):
        with pytest.raises(DataError, match=rf"log\.csv {sentence}"):
            reader(tmp_path)


ETHANOL = molecule("CH3CH2OH")


def across_the_wall(atoms):
    """The same crystal, with an atom given in the next cell."""
    atoms.positions[0] += atoms.cell[1]
    return atoms


@pytest.mark.parametrize(
    ("work", "error", "sentence"),
    [
        (lambda: equation_of_state(ETHANOL), InputError, "periodic in three directions"),
        (lambda: elasticity(ETHANOL), InputError, "periodic in three directions"),
        (lambda: phonons(ETHANOL), InputError, "periodic in three directions"),
        (lambda: surface_energy(ETHANOL, (1, 1, 1)), InputError, "periodic in three directions"),
        (lambda: vacancy_energy(ETHANOL), InputError, "periodic in three directions"),
        (lambda: vacancy_energy(bulk("NaCl", "rocksalt", a=5.6)), InputError, "for elements"),
        (lambda: vacancy_energy(bulk("Cu"), 1), ConfigError, "no atom 1"),
        (lambda: equation_of_state(bulk("Cu"), points=3), ConfigError, "at least 5"),
        (lambda: elasticity(bulk("Cu"), points=3), ConfigError, "even"),
        (lambda: phonons(bulk("Cu"), supercell=(0, 1, 1)), ConfigError, "positive"),
        (lambda: surface_energy(bulk("Cu"), (0, 0, 0)), ConfigError, "make no slab"),
        (lambda: minimum_energy_path(ETHANOL, molecule("CH3OCH3")), InputError, "same atoms"),
        (lambda: minimum_energy_path(ETHANOL, ETHANOL), InputError, "same structure"),
        (lambda: minimum_energy_path(ETHANOL, ETHANOL, fmax=0), ConfigError, "positive"),
        (lambda: minimum_energy_path(bulk("Cu"), across_the_wall(bulk("Cu"))), InputError, "same structure"),
        (lambda: minimum_energy_path(ETHANOL, ETHANOL, images=0), ConfigError, "at least one"),
        (lambda: minimum_energy_path(bulk("Cu"), bulk("Cu", a=4.0)), InputError, "same cell"),
        (lambda: radial_distribution([ETHANOL]), InputError, "periodic in three directions"),
        (lambda: radial_distribution([bulk("Cu")], pair=("Cu", "Au")), InputError, "no Au"),
        (lambda: radial_distribution([bulk("Cu")], reach=-1), ConfigError, "positive"),
        (lambda: mean_square_displacement([ETHANOL], np.zeros(1)), InputError, "at least two"),
    ],
)
def test_what_is_refused(work, error, sentence):
    with pytest.raises(error, match=sentence):
        work()


def test_no_minimum_among_these_volumes():
    atoms = bulk("Ar", cubic=True, a=4.0)
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=8.0)
    with pytest.raises(InputError, match=r"no minimum|No equation"):
        equation_of_state(atoms, strain=0.01)
