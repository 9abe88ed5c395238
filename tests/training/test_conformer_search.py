"""Sets of conformers: complete for molecules whose conformers are known, true to stereochemistry, resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.io import read

pytest.importorskip("rdkit", reason="conformers need the extra 'labels'")
pytest.importorskip("tblite", reason="conformers need the extra 'labels'")
pytest.importorskip("yaml", reason="recipes need the extra 'train'")

import yaml
from geomol_training.conformers import run
from geomol_training.conformers.recipe import ConformerRecipe, Search, load_conformer_recipe
from geomol_training.conformers.run import is_wanted, make_conformer_plan, make_conformers, run_conformer_job
from geomol_training.conformers.search import find_conformers
from geomol_training.labelling.engine import GFN2, RejectedFrame

from ase_geomol import GeoMolCalculator
from ase_geomol.errors import ConfigError, DataError
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.rmsd import rmsd_matrix, symmetry
from ase_geomol.providers.stereo import stereo_errors

SHIPPED = Path(__file__).parents[2] / "training/recipes/shipped/ditmc_small_conformers.yaml"
POTENTIAL = GeoMolCalculator("geomformer-organic", device="cpu")
SEARCH = Search.model_validate(yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["search"])


def tiny_recipe(**search) -> ConformerRecipe:
    """Two drug-like molecules."""
    fields = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    fields |= {"exclude": None, "druglike_atoms": [8, 16]}
    fields["molecules"] |= {"qm9": 0, "druglike": 2}
    fields["search"] |= {"seeds": 2, "seeds_per_bond": 1, **search}
    return ConformerRecipe.model_validate(fields)


def torsion(atoms) -> float:
    return abs(atoms.get_dihedral(0, 1, 2, 3) - 180)


def test_butane_has_an_anti_and_two_gauche_conformers():
    found = find_conformers("CCCC", SEARCH, POTENTIAL, np.random.default_rng(0))
    anti, *gauche = found.conformers
    assert torsion(anti) < 2
    assert [110 < torsion(atoms) < 120 for atoms in gauche] == [True, True]
    signs = [np.sign(atoms.get_dihedral(0, 1, 2, 3) - 180) for atoms in gauche]
    assert sorted(signs) == [-1, 1]
    energies = np.array([atoms.get_potential_energy() for atoms in found.conformers])
    assert 0.01 < energies[1] - energies[0] < 0.05  # eV
    weights = [atoms.info["boltzmann_weight"] for atoms in found.conformers]
    assert sum(weights) == pytest.approx(1)
    assert weights[0] > weights[1] == pytest.approx(weights[2])
    assert not found.rejected


def test_conformers_are_minima_of_the_isomer_and_apart():
    smiles = "C[C@H](O)[C@@H](F)C=O"
    found = find_conformers(smiles, SEARCH, POTENTIAL, np.random.default_rng(1))
    molecule = parse(found.conformers[0].info["smiles"])
    assert parse(smiles).smiles == molecule.smiles
    for atoms in found.conformers:
        assert np.array_equal(atoms.numbers, molecule.numbers)
        assert not stereo_errors(molecule, atoms.positions)
        energy, forces = GFN2().evaluate(atoms, 1.0)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert np.linalg.norm(forces, axis=1).max() < 2 * SEARCH.fmax
    energies = [atoms.get_potential_energy() for atoms in found.conformers]
    assert energies == sorted(energies)
    assert len(energies) > 3
    positions = np.array([atoms.positions for atoms in found.conformers])
    apart = rmsd_matrix(symmetry(molecule), positions, positions)
    assert apart[~np.eye(len(apart), dtype=bool)].min() >= SEARCH.apart


def test_the_potential_saves_steps_of_gfn2_and_loses_no_conformer():
    smiles = "O=CC1CC1CO"
    found = find_conformers(smiles, SEARCH, POTENTIAL, np.random.default_rng(0))
    nothing = SEARCH.model_copy(update={"potential_fmax": 1e3, "potential_window": 1e3})
    without = find_conformers(smiles, nothing, POTENTIAL, np.random.default_rng(0))
    assert found.sums["potential steps"] > without.sums["potential steps"] == without.sums["starts"]
    assert found.sums["steps"] < 0.8 * without.sums["steps"]
    lowest = [result.conformers[0].get_potential_energy() for result in (found, without)]
    assert lowest[0] == pytest.approx(lowest[1], abs=1e-3)
    positions = [np.array([atoms.positions for atoms in result.conformers]) for result in (without, found)]
    missed = rmsd_matrix(symmetry(parse(found.conformers[0].info["smiles"])), *positions).min(1)
    assert (missed < 2 * SEARCH.apart).all()


def test_a_molecule_that_the_potential_does_not_know():
    found = find_conformers("CC[SiH3]", SEARCH, POTENTIAL, np.random.default_rng(0))
    assert found.sums["potential steps"] == found.sums["starts"] == 1
    assert len(found.conformers) == 1


def test_odd_molecules_are_counted_and_not_the_end_of_all(tmp_path, monkeypatch):
    with pytest.raises(RejectedFrame, match="no MMFF94s parameters"):
        find_conformers("CB(O)O", SEARCH, POTENTIAL, np.random.default_rng(0))
    outcomes = iter([RejectedFrame("no MMFF94s parameters"), ZeroDivisionError("odd")])

    def odd(*arguments):
        raise next(outcomes)

    monkeypatch.setattr(run, "find_conformers", odd)
    (job, *_) = make_conformer_plan(tiny_recipe()).jobs
    outcome = run_conformer_job(job, tiny_recipe())
    assert outcome.frames == []
    assert dict(outcome.rejected) == {"no MMFF94s parameters": 1, "ZeroDivisionError: odd": 1}


def test_what_the_force_field_flattens_is_rejected():
    with pytest.raises(RejectedFrame, match="cumulated double bonds, which MMFF94s flattens"):
        find_conformers("CC=C=CC", SEARCH, POTENTIAL, np.random.default_rng(0))


def test_conformers_of_ions_say_their_charge():
    found = find_conformers("C[NH3+]", SEARCH, POTENTIAL, np.random.default_rng(0))
    assert [atoms.info["charge"] for atoms in found.conformers] == [1]


def test_only_molecules_with_conformers_are_counted_as_such(monkeypatch):
    found = find_conformers("CF", SEARCH, POTENTIAL, np.random.default_rng(0))
    assert (found.sums["tried"], found.sums["molecules"]) == (1, 1)
    monkeypatch.setattr("geomol_training.conformers.search._embedded", lambda *_: None)
    found = find_conformers("CF", SEARCH, POTENTIAL, np.random.default_rng(0))
    assert (found.sums["tried"], found.sums["molecules"]) == (1, 0)
    assert found.rejected == {"no first geometry": 1}


def test_an_open_centre_gets_one_configuration():
    seen = set()
    for seed in range(6):
        found = find_conformers("CC(F)Cl", SEARCH, POTENTIAL, np.random.default_rng(seed))
        assert len({atoms.info["smiles"] for atoms in found.conformers}) == 1
        seen.add(found.conformers[0].info["smiles"])
    assert seen == {"C[C@H](F)Cl", "C[C@@H](F)Cl"}


def test_a_narrow_window_keeps_the_lowest():
    search = SEARCH.model_copy(update={"window": 0.1})
    found = find_conformers("CCCC", search, POTENTIAL, np.random.default_rng(0))
    assert len(found.conformers) == 1
    assert torsion(found.conformers[0]) < 2


def test_a_run_is_resumed_and_its_frames_say_what_they_are(tmp_path):
    recipe = tiny_recipe()
    manifest = make_conformers(recipe, tmp_path)
    shards = sorted(tmp_path.glob("*.extxyz"))
    before = {shard: shard.read_bytes() for shard in shards}
    frames = [atoms for shard in shards for atoms in read(shard, ":")]
    assert len(frames) == manifest["frames"] > 1
    for atoms in frames:
        assert atoms.info["source"] == "druglike"
        assert atoms.info["split"] in ("train", "valid", "test")
        assert np.array_equal(parse(atoms.info["smiles"]).numbers, atoms.numbers)
        assert 0 < atoms.info["boltzmann_weight"] <= 1
    shards[0].unlink()
    shards[0].with_suffix(".json").unlink()
    assert make_conformers(recipe, tmp_path)["frames"] == manifest["frames"]
    assert {shard: shard.read_bytes() for shard in shards} == before


def test_molecules_are_small_and_flexible():
    recipe = tiny_recipe()
    wanted = recipe.molecules
    assert wanted is not None
    plan = make_conformer_plan(recipe)
    assert plan.fingerprint == make_conformer_plan(recipe).fingerprint
    assert all(is_wanted(task.molecules[0].smiles, wanted) for job in plan.jobs for task in job.tasks)
    assert is_wanted("CCCC", wanted)
    assert not is_wanted("c1ccccc1", wanted)
    assert not is_wanted("CCCCCCCCCCCCC", wanted)


def test_a_thorough_search_finds_what_the_force_field_has_no_minimum_of():
    """Peroxides of MMFF94s have few conformers, and ETKDGv3 draws the torsions that are usual."""
    smiles = "COOCC"
    narrow = SEARCH.model_copy(update={"seeds": 20, "seeds_per_bond": 0})
    thorough = narrow.model_copy(update={"thorough": True})
    found = [find_conformers(smiles, search, POTENTIAL, np.random.default_rng(0)) for search in (narrow, thorough)]
    positions = [np.array([atoms.positions for atoms in result.conformers]) for result in found]
    assert found[1].sums["embedded"] == 2 * found[0].sums["embedded"] == 40
    assert len(positions[1]) > len(positions[0])
    missed = rmsd_matrix(symmetry(parse(found[0].conformers[0].info["smiles"])), *positions).min(1)
    assert (missed < SEARCH.apart).all()


def test_molecules_that_have_a_set_get_another_one(tmp_path):
    first = make_conformers(tiny_recipe(), tmp_path / "first")
    fields = tiny_recipe().model_dump(exclude={"molecules"})
    split = next(iter(first["counts"]["split"]))
    known = {"sets": str(tmp_path / "first"), "split": split}
    recipe = ConformerRecipe.model_validate({**fields, "known": known})
    make_conformers(recipe, tmp_path / "second")
    both = [
        [atoms for shard in sorted((tmp_path / name).glob("*.extxyz")) for atoms in read(shard, ":")]
        for name in ("first", "second")
    ]
    told = [
        {(atoms.info["smiles"], atoms.info["molecule"], atoms.info["split"]) for atoms in frames} for frames in both
    ]
    assert told[1] == {names for names in told[0] if names[2] == split}
    missing = ConformerRecipe.model_validate({**fields, "known": {**known, "split": "nowhere"}})
    with pytest.raises(DataError, match="No molecule has the split 'nowhere'"):
        make_conformer_plan(missing)


def test_wrong_recipes(tmp_path):
    (tmp_path / "a.yaml").write_text(SHIPPED.read_text(encoding="utf-8").replace("seeds: 10", "seeds: 0"))
    with pytest.raises(ConfigError, match=r"search.seeds: Input should be greater than or equal to 1"):
        load_conformer_recipe(tmp_path / "a.yaml")
    for changes in (["molecules=null"], ["known.sets=a", "known.split=test"]):
        with pytest.raises(ConfigError, match="give either molecules, which are drawn, or known"):
            load_conformer_recipe(SHIPPED, changes)
