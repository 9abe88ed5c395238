"""Exploring: frames of a potential's own dynamics, labelled, and kept where its forces are wrong."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from ase_geomol.checkpoint import Metadata, save_checkpoint
from ase_geomol.errors import CheckpointError, ConfigError, DataError, GeoMolError, OutputError

pytest.importorskip("rdkit", reason="labels need the extra 'labels'")
pytest.importorskip("tblite", reason="labels need the extra 'labels'")
pytest.importorskip("yaml", reason="recipes need the extra 'train'")

import yaml
from geomol_training import cli
from geomol_training.labelling import sampling
from geomol_training.labelling.explore import explore, explore_job
from geomol_training.labelling.jobs import Outcome
from geomol_training.labelling.molecules import ELEMENTS, Molecule, connectivity_key, small_molecules
from geomol_training.labelling.plan import Job, Task, make_explore_plan
from geomol_training.labelling.recipe import ExploreRecipe, load_explore_recipe

SHIPPED = Path(__file__).parents[2] / "training" / "recipes" / "shipped" / "geomformer_organic_explore.yaml"
NOTHING = dict.fromkeys(("qm9", "druglike", "hetero", "small", "torsions", "pairs", "clusters"), 0)
METHANOL = Molecule("CO", connectivity_key("CO") or "")
WATER = Molecule("O", connectivity_key("O") or "")


def tiny_fields(**changes) -> dict:
    """The shipped recipe's fields with hardly any work; ``starts`` must be given."""
    fields = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    fields |= {"exclude": None, "druglike_atoms": [15, 22], "starts": NOTHING, "temperatures": [200, 400]}
    fields |= {"interval": 2, "probe_frames": 1, "more_frames": 2, "limit": 0.01}
    return fields | changes


def tiny(**changes) -> ExploreRecipe:
    return ExploreRecipe.model_validate(tiny_fields(**changes))


def job(kind: str, *molecules: Molecule, seed: int = 5) -> Job:
    return Job(kind, kind, seed, (Task(molecules),))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_potential) -> Path:
    """Random weights that know every element: their forces are wrong everywhere."""
    potential = make_potential(elements=ELEMENTS, channels=8, layers=1, ffn_channels=8, scale=0.5)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, potential, Metadata(name="tiny", theory="none", training_data="none"))
    return path


@pytest.fixture
def exact(monkeypatch):
    """A model that agrees with the labels, up to 0.3 eV/Å in one component where the first atom is ``wrong_for``."""

    class Exact:
        wrong_for = 0

        def __init__(self, *_) -> None:
            self.engine = sampling.GFN2(1.0)

        def get_forces(self, atoms):
            forces = self.engine.evaluate(atoms, 1.0)[1].copy()
            if atoms.numbers[0] == self.wrong_for:
                forces[0, 0] += 0.3
            return forces

    monkeypatch.setattr("geomol_training.labelling.explore.GeoMolCalculator", Exact)
    return Exact


class TestJob:
    @pytest.mark.parametrize("kind", ["small", "torsion", "pair", "cluster"])
    def test_wrong_forces_are_labelled_and_kept(self, kind, checkpoint):
        molecules = {"pair": (METHANOL, WATER), "cluster": (WATER, WATER, METHANOL)}.get(kind, (METHANOL,))
        made = explore_job(job(kind, *molecules), tiny(), checkpoint)
        assert made.frames
        assert made.sums["molecules"] == made.sums["wrong"] == 1
        assert made.sums["labelled"] >= len(made.frames)
        assert made.sums["probe_frames"] <= 2
        for frame in made.frames:
            assert set(frame.info) == {"smiles", "molecule", "source", "split", "charge"}
            assert frame.info["source"] == f"explored_{kind}"
            assert frame.info["split"] == "train"
            assert frame.info["molecule"] == ".".join(molecule.key for molecule in molecules)
            assert np.linalg.norm(frame.get_forces(), axis=1).max() <= 30.0

    def test_a_molecule_with_right_forces_is_only_probed(self, exact):
        made = explore_job(job("small", METHANOL), tiny(), Path("none"))
        assert made.frames == []
        assert made.sums["labelled"] == made.sums["probe_frames"] == 2
        assert made.sums["probe_error"] < 0.01
        assert made.sums["wrong"] == made.sums["broken"] == 0

    def test_more_frames_go_where_the_error_is(self, exact):
        exact.wrong_for = 8
        tasks = (Task((METHANOL,)), Task((WATER,)))
        made = explore_job(Job("small", "small", 5, tasks), tiny(limit=0.05), Path("none"))
        assert Counter(frame.info["smiles"] for frame in made.frames) == {"O": 6}
        assert made.sums["probe_error"] == pytest.approx(2 * 0.3 / np.sqrt(9), abs=0.01)
        assert made.sums["wrong"] == 1

    def test_only_frames_above_the_limit_are_kept(self, checkpoint):
        assert explore_job(job("small", METHANOL), tiny(limit=1e6), checkpoint).frames == []

    def test_the_frame_that_broke_is_labelled_and_ends_the_run(self, exact, monkeypatch):
        monkeypatch.setattr(exact, "get_forces", lambda self, atoms: 3 * (atoms.positions - atoms.positions.mean(0)))
        monkeypatch.setattr("ase_geomol.simulate.watch.STRETCHED", 1.3)
        made = explore_job(job("small", WATER), tiny(interval=50, more_frames=50), Path("none"))
        assert made.sums["broken"] == 2
        assert made.sums["labelled"] == len(made.frames) == 2

    def test_a_model_without_forces_ends_the_run(self, exact, monkeypatch):
        def fail(self, atoms):
            raise GeoMolError("not finite")

        monkeypatch.setattr(exact, "get_forces", fail)
        made = explore_job(job("small", WATER), tiny(), Path("none"))
        assert made.rejected["no forces of the potential"] == made.sums["broken"] == 2
        assert made.frames == []


class TestPlan:
    def test_all_molecules_are_of_the_training_split(self):
        starts = NOTHING | {"druglike": 12, "hetero": 12, "torsions": 5, "pairs": 5, "clusters": 5, "small": 1}
        recipe = tiny(starts=starts)
        plan = make_explore_plan(recipe, "")
        tasks = [task for job in plan.jobs for task in job.tasks]
        assert {molecule.split for task in tasks for molecule in task.molecules} == {"train"}
        kinds = Counter(job.kind for job in plan.jobs for _ in job.tasks)
        assert kinds["druglike"] == kinds["hetero"] == 12
        assert kinds["small"] == len(small_molecules())
        hetero = [task for job in plan.jobs if job.kind == "hetero" for task in job.tasks]
        assert all(len(task.molecules[0].elements() & {9, 15, 16, 17, 35, 53}) > 1 for task in hetero)
        assert plan == make_explore_plan(recipe, "")
        assert plan.fingerprint != make_explore_plan(recipe, "other weights").fingerprint


class TestRun:
    def test_shards_are_resumed_and_counted(self, checkpoint, tmp_path):
        recipe = tiny(starts=NOTHING | {"small": 1})
        done = explore(checkpoint, recipe, tmp_path, first=2)
        assert done["shards"] == {"done": 2, "planned": 2}
        before = {path.name: path.read_bytes() for path in tmp_path.glob("*.extxyz")}
        assert sum(len(read(path, ":")) for path in tmp_path.glob("*.extxyz")) == done["frames"] > 0
        assert done["kinds"]["small"]["molecules"] == 12
        assert done["kinds"]["small"]["frames"] == done["frames"]
        assert set(done["counts"]["split"]) == {"train"}
        (tmp_path / next(iter(before))).unlink()
        assert (tmp_path / "model.safetensors").read_bytes() == checkpoint.read_bytes()
        assert explore(tmp_path / "model.safetensors", recipe, tmp_path, first=2)["frames"] == done["frames"]
        assert {path.name: path.read_bytes() for path in tmp_path.glob("*.extxyz")} == before

    def test_other_weights_do_not_mix_into_the_folder(self, checkpoint, tmp_path):
        recipe = tiny(starts=NOTHING | {"small": 1})
        explore("geomformer-organic", recipe, tmp_path, time_budget=0.0)
        with pytest.raises(OutputError, match="another recipe or checkpoint"):
            explore(checkpoint, recipe, tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() != checkpoint.read_bytes()

    def test_weights_that_are_replaced_meanwhile(self, checkpoint, make_checkpoint, tmp_path, monkeypatch):
        path = tmp_path / "model.safetensors"
        path.write_bytes(checkpoint.read_bytes())
        replaced = make_checkpoint(seed=3, elements=ELEMENTS).read_bytes()

        def open_folder(folder, plan):
            path.write_bytes(replaced)
            folder.mkdir()

        monkeypatch.setattr("geomol_training.labelling.explore.open_folder", open_folder)
        with pytest.raises(DataError, match="was replaced while it was copied"):
            explore(path, tiny(), tmp_path / "out")

    def test_a_potential_that_lacks_elements_is_refused(self, make_potential, tmp_path):
        path = tmp_path / "few.safetensors"
        save_checkpoint(
            path, make_potential(elements=(1, 6, 8)), Metadata(name="few", theory="none", training_data="none")
        )
        with pytest.raises(ConfigError, match="few does not know N F P S Cl Br I: "):
            explore(path, tiny(), tmp_path / "out")
        with pytest.raises(CheckpointError):
            explore(tmp_path / "none.safetensors", tiny(), tmp_path / "out")


class TestRecipe:
    def test_the_shipped_recipe_is_valid(self):
        assert load_explore_recipe(SHIPPED).limit > 0
        assert load_explore_recipe(SHIPPED, ["limit=0.05"]).limit == 0.05

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"temperatures": []}, "temperatures"),
            ({"temperatures": [600, 300]}, "lowest to the highest"),
            ({"limit": -1}, "limit"),
            ({"starts": {"bees": 3}}, r"starts\.bees"),
        ],
    )
    def test_a_bad_field_is_named(self, changes, named, tmp_path):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tiny_fields(**changes)))
        with pytest.raises(ConfigError, match=named):
            load_explore_recipe(path)


def in_this_process(work, jobs, *_):
    yield from map(work, jobs)


def test_the_command_prints_a_table_by_kind(checkpoint, tmp_path, monkeypatch, capsys):
    probe = {"molecules": 1, "wrong": 0, "broken": 0, "labelled": 2, "probe_frames": 2, "probe_error": 0.246}
    monkeypatch.setattr("geomol_training.labelling.explore.explore_job", lambda job, **_: Outcome([], Counter(), probe))
    monkeypatch.setattr("geomol_training.labelling.run.in_processes", in_this_process)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_fields(starts=NOTHING | {"small": 1})))
    arguments = ["explore", str(checkpoint), str(recipe), "--workers", "1", "--first", "1", "--set", "seed=3"]
    monkeypatch.setattr(sys, "argv", ["geomol-train", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "small" in printed
    assert "123" in printed
