"""Structures of a provider are plain Atoms: ASE's global searches start from them."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS
from ase.optimize.basin import BasinHopping

from ase_geomol import GeoMolCalculator, RDKitProvider


@pytest.fixture(scope="module")
def calculator() -> Calculator:
    return GeoMolCalculator("geomformer-organic")


def test_basin_hopping(calculator, tmp_path):
    (atoms,) = RDKitProvider().sample("CCO")
    atoms.calc = calculator
    start = atoms.get_potential_energy()
    hopping = BasinHopping(
        atoms,
        temperature=0.1,
        dr=0.1,
        optimizer=BFGS,
        fmax=0.3,
        trajectory=str(tmp_path / "lowest.traj"),
        local_minima_trajectory=str(tmp_path / "minima.traj"),
        logfile=None,
    )
    hopping.run(2)
    energy, lowest = hopping.get_minimum()
    assert energy < start
    assert lowest.info["smiles"] == "CCO"


def test_genetic_algorithm(calculator, tmp_path):
    """A first generation from a provider, and one of its children."""
    pytest.importorskip("ase_ga", reason="ASE's genetic algorithm is a package of its own: pip install ase-ga")
    from ase_ga.data import DataConnection, PrepareDB
    from ase_ga.population import Population
    from ase_ga.standardmutations import RattleMutation
    from ase_ga.utilities import closest_distances_generator, get_all_atom_types

    file = str(tmp_path / "search.db")
    molecules = RDKitProvider().sample("CCO", 3)
    prepared = PrepareDB(file)
    for atoms in molecules:
        prepared.add_unrelaxed_candidate(atoms)
    data = DataConnection(file)

    def relax(candidate) -> None:
        candidate.calc = calculator
        BFGS(candidate, logfile=None).run(fmax=0.5, steps=5)
        candidate.info["key_value_pairs"]["raw_score"] = -candidate.get_potential_energy()

    while data.get_number_of_unrelaxed_candidates():
        candidate = data.get_an_unrelaxed_candidate()
        relax(candidate)
        data.add_relaxed_step(candidate)
    rng = np.random.RandomState(0)
    population = Population(data, population_size=3, rng=rng)
    types = get_all_atom_types(molecules[0], list(range(len(molecules[0]))))
    mutation = RattleMutation(
        closest_distances_generator(types, ratio_of_covalent_radii=0.5), len(molecules[0]), rattle_strength=0.1, rng=rng
    )
    child, description = mutation.get_new_individual([population.get_one_candidate()])
    assert child is not None, description
    data.add_unrelaxed_candidate(child, description)
    relax(child)
    data.add_relaxed_step(child)
    population.update()
    assert len(data.get_all_relaxed_candidates()) == 4
    assert all(len(atoms) == 9 for atoms in population.get_current_population())
