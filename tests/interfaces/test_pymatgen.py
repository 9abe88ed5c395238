"""Pymatgen and matcalc take the calculator as it is, and find what our own functions find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from ase_geomol import GeoMolCalculator, simulate

OPTIONS = {"architecture": "est", "message": "attention", "points": "icosahedral-32"}
LATTICE = 4.05
"""Å, near the minimum of aluminium."""
pytestmark = pytest.mark.filterwarnings("ignore")  # of spglib, about its own next version


@pytest.fixture(scope="module")
def checkpoints(make_checkpoint) -> dict[str, Path]:
    return {"est": make_checkpoint(seed=1, **OPTIONS), "geomformer": make_checkpoint(seed=1)}


@pytest.fixture(scope="module")
def calculator() -> GeoMolCalculator:
    return GeoMolCalculator("est-crystal", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def crystal(calculator: GeoMolCalculator) -> Atoms:
    """Aluminium, relaxed by our own function."""
    atoms = bulk("Al", a=LATTICE)
    atoms.calc = calculator
    return simulate.relax(atoms, fmax=1e-4, cell=True).atoms


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of its own for each test: both packages write files."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def matcalc():
    return pytest.importorskip("matcalc", reason="matcalc is not installed")


@pytest.fixture(scope="module")
def adaptor():
    return pytest.importorskip("pymatgen.io.ase", reason="pymatgen is not installed").AseAtomsAdaptor


@pytest.fixture(scope="module")
def start(adaptor):
    """A pymatgen structure that is not relaxed."""
    return adaptor.get_structure(bulk("Al", a=1.02 * LATTICE))


def energy(calculator: GeoMolCalculator, atoms: Atoms) -> float:
    atoms.calc = calculator
    return atoms.get_potential_energy()


@pytest.mark.parametrize("architecture", ["est", "geomformer"])
def test_molecules_of_pymatgen_relax(architecture: str, checkpoints, adaptor) -> None:
    calculator = GeoMolCalculator(checkpoints[architecture], device="cpu", dtype="float64")
    atoms = molecule("CH3CH2OH")
    relaxed = adaptor.get_molecule(atoms).relax(calculator=calculator, steps=5, fmax=1e-4)
    after = adaptor.get_atoms(relaxed)
    assert len(after) == len(atoms)
    assert energy(calculator, after) < energy(calculator, atoms)


@pytest.mark.parametrize("architecture", ["est", "geomformer"])
def test_structures_of_pymatgen_relax(architecture: str, checkpoints, adaptor, make_structure) -> None:
    calculator = GeoMolCalculator(checkpoints[architecture], device="cpu", dtype="float64")
    atoms = make_structure("bulk")
    relaxed = adaptor.get_structure(atoms).relax(calculator=calculator, steps=4, fmax=1e-4)
    after = adaptor.get_atoms(relaxed)
    assert not np.allclose(after.cell, atoms.cell, atol=1e-3)
    assert energy(calculator, after) < energy(calculator, atoms)


def test_matcalc_relaxes(matcalc, calculator: GeoMolCalculator, crystal: Atoms, start) -> None:
    found = matcalc.RelaxCalc(calculator, fmax=1e-3).calc(start)
    assert found["is_converged"]
    assert found["volume"] == pytest.approx(crystal.get_volume(), rel=1e-3)
    assert found["energy"] == pytest.approx(crystal.get_potential_energy(), abs=1e-4)


def test_matcalc_finds_the_equation_of_state(matcalc, calculator: GeoMolCalculator, crystal: Atoms, start) -> None:
    found = matcalc.EOSCalc(calculator, fmax=1e-3, max_abs_strain=0.03, n_points=7).calc(start)
    expected = simulate.equation_of_state(crystal, strain=0.03, points=7)
    assert found["bulk_modulus_bm"] == pytest.approx(expected.bulk_modulus, rel=0.05)
    assert found["r2_score_bm"] > 0.99


def test_matcalc_finds_the_elastic_constants(matcalc, calculator: GeoMolCalculator, crystal: Atoms, start) -> None:
    strains = (-0.005, 0.005)
    calculation = matcalc.ElasticityCalc(
        calculator, fmax=1e-4, norm_strains=strains, shear_strains=strains, use_equilibrium=False, units_GPa=True
    )
    found, expected = calculation.calc(start), simulate.elasticity(crystal)
    assert expected.stable
    assert found["bulk_modulus_vrh"] == pytest.approx(expected.bulk_modulus, rel=0.02)
    assert found["shear_modulus_vrh"] == pytest.approx(expected.shear_modulus, rel=0.02)


def test_matcalc_finds_the_phonons(matcalc, calculator: GeoMolCalculator, crystal: Atoms, start) -> None:
    pytest.importorskip("phonopy", reason="phonopy is not installed")
    found = matcalc.PhononCalc(calculator, supercell_matrix=np.diag([2, 2, 2])).calc(start)
    expected = simulate.phonons(crystal, supercell=(2, 2, 2))
    assert found["frequencies"].max() == pytest.approx(expected.bands.max(), rel=0.01)
    assert found["frequencies"].min() > -1e-3
    assert Path("phonon.yaml").exists()
