"""Labels: correct forces, splits by molecule, resumable shards, and errors that a user can act on."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from concurrent.futures import Future
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as g2
from ase.io import read
from ase.units import kB, kcal
from ase.units import mol as mole
from scipy.spatial.distance import cdist

from ase_geomol.errors import ConfigError, DataError, MissingExtraError, OutputError

pytest.importorskip("rdkit", reason="labels need the extra 'labels'")
pytest.importorskip("tblite", reason="labels need the extra 'labels'")
pytest.importorskip("yaml", reason="recipes need the extra 'train'")

import yaml
from geomol_training import cli, pool
from geomol_training.cli import common
from geomol_training.labelling import complexes, geometry, jobs, plan, pools, sampling
from geomol_training.labelling.druglike import random_druglike
from geomol_training.labelling.engine import GFN2, RejectedFrame, label
from geomol_training.labelling.fragments import SCAFFOLDS, SUBSTITUENTS
from geomol_training.labelling.jobs import Job, Outcome, run_job
from geomol_training.labelling.molecules import (
    Molecule,
    connectivity_key,
    first_geometry,
    force_field,
    small_molecules,
    split_of,
    split_of_all,
)
from geomol_training.labelling.recipe import LabelRecipe, load_recipe
from geomol_training.labelling.run import make_labels
from rdkit import Chem
from rdkit.Chem import AllChem

SHIPPED = Path(__file__).parents[2] / "training" / "recipes" / "shipped" / "geomformer_organic_labels.yaml"
SECOND = SHIPPED.with_name("geomformer_organic_labels_2.yaml")
FORCE_FIELD = yaml.safe_load(SECOND.read_text(encoding="utf-8"))["force_field"]
ETHANOL = Molecule("CCO", connectivity_key("CCO") or "")
BENZENE = Molecule("c1ccccc1", connectivity_key("c1ccccc1") or "")


def tiny_fields(**changes) -> dict:
    """The shipped recipe's fields with hardly any molecules."""
    fields = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    fields["exclude"] = None
    fields["druglike_atoms"] = [15, 22]
    fields["trajectories"] |= {"qm9_molecules": 0, "druglike_molecules": 1, "small_repeats": 0}
    fields["trajectories"] |= {"relax_steps": 3, "relax_frames": 2, "frames": 3, "heat_steps": 2}
    fields["torsions"] |= {"molecules": 0}
    fields["distortions"] |= {"molecules": 1, "stretches": 2, "rattles": 2}
    fields["complexes"] |= {"pairs": 0, "clusters": 0, "distances": 3, "orientations": 1}
    fields["contacts"] |= {"repeats": 0}
    return fields | changes


@pytest.fixture
def tiny() -> LabelRecipe:
    return LabelRecipe.model_validate(tiny_fields())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A finished run of the tiny recipe."""
    folder = tmp_path_factory.mktemp("labels")
    make_labels(LabelRecipe.model_validate(tiny_fields()), folder, workers=2)
    return folder


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.extxyz"))}


class TestEngine:
    def test_forces_are_the_derivative_of_the_energy(self):
        atoms = first_geometry(ETHANOL, np.random.default_rng(0))
        atoms.rattle(0.05, seed=1)
        forces = label(atoms, max_force=50.0).get_forces()
        step = 1e-3
        for atom, axis in [(0, 0), (2, 1), (5, 2)]:
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                energies.append(label(moved, max_force=50.0).get_potential_energy())
            assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=2e-3)

    def test_restart_gives_the_energy_of_a_fresh_start(self):
        engine = GFN2()
        atoms = first_geometry(ETHANOL, np.random.default_rng(0))
        engine.evaluate(atoms, 100.0)
        atoms.rattle(0.1, seed=2)
        restarted = label(atoms, 50.0, engine)
        fresh = label(atoms, 50.0)
        assert restarted.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-5)
        assert restarted.get_forces() == pytest.approx(fresh.get_forces(), abs=5e-3)

    def test_an_engine_follows_a_change_of_elements(self):
        engine = GFN2()
        for name in ("H2O", "HCl", "CH4"):
            energy = engine.evaluate(g2(name), 1.0)[0]
            assert energy == pytest.approx(GFN2().evaluate(g2(name), 1.0)[0], abs=1e-6)

    def test_a_crushed_bond_is_rejected_by_its_force(self):
        with pytest.raises(RejectedFrame, match="force too large"):
            label(Atoms("H2", [[0, 0, 0], [0, 0, 0.2]]), max_force=50.0)

    def test_missing_tblite_names_the_extra(self, monkeypatch, tiny, tmp_path):
        monkeypatch.setitem(sys.modules, "tblite.interface", None)
        with pytest.raises(MissingExtraError, match=r"ase_geomol\[labels\]"):
            make_labels(tiny, tmp_path)


class TestMolecules:
    def test_split_is_by_connectivity_with_the_right_shares(self):
        counts = Counter(split_of(f"KEY{number}") for number in range(4000))
        assert counts["train"] / 4000 == pytest.approx(0.90, abs=0.02)
        assert counts["valid"] / 4000 == pytest.approx(0.05, abs=0.015)
        assert connectivity_key("C[C@H](O)F") == connectivity_key("C[C@@H](O)F")

    def test_small_molecules_always_train(self):
        assert {molecule.split for molecule in small_molecules()} == {"train"}
        keys = [molecule.key for molecule in small_molecules()]
        assert len(keys) == len(set(keys))

    def test_molecules_of_different_splits_do_not_meet(self):
        other = next(Molecule("C", key) for key in (f"KEY{number}" for number in range(500)) if split_of(key) == "test")
        with pytest.raises(ValueError, match="must not meet"):
            split_of_all([BENZENE, other])

    def test_fragments_are_many_and_readable(self):
        assert len(set(SCAFFOLDS)) >= 60
        assert len(set(SUBSTITUENTS)) >= 60
        assert all(connectivity_key(smiles) for smiles in SCAFFOLDS)
        assert all(connectivity_key(smiles.replace("*", "[H]", 1)) for smiles in SUBSTITUENTS)

    def test_druglike_molecules_are_neutral_closed_shell_and_varied(self):
        rng = np.random.default_rng(0)
        made = [found for _ in range(500) if (found := random_druglike(rng, (15, 50)))]
        assert len(made) > 300
        assert len({molecule.key for molecule in made}) > 0.95 * len(made)
        elements = Counter(number for molecule in made for number in molecule.elements())
        for number in (7, 8, 15, 16, 17, 35, 53):
            assert elements[number] / len(made) >= 0.07, number
        assert all(15 <= molecule.size() <= 50 for molecule in made[:50])

    @pytest.mark.skipif(find_spec("qm9pack") is None, reason="QM9 needs the extra 'labels'")
    def test_qm9_sample_has_the_published_geometry(self):
        from geomol_training.labelling.qm9 import sample_qm9

        sample = sample_qm9(20, np.random.default_rng(3))
        assert len(sample) == 20
        for molecule in sample:
            geometry_given = first_geometry(molecule, np.random.default_rng(0))
            assert sorted(geometry_given.numbers) == sorted(
                first_geometry(Molecule(molecule.smiles, molecule.key), np.random.default_rng(0)).numbers
            )


class TestForceField:
    def test_forces_are_the_derivative_of_the_energy_wherever_the_atoms_were_before(self):
        atoms, forces_of = force_field(ETHANOL, np.random.default_rng(0))
        assert np.abs(forces_of(atoms)).max() < 0.01  # at its minimum; RDKit keeps the distances of this call
        moved = atoms.copy()
        moved.rattle(0.05, seed=1)
        mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
        mol.AddConformer(Chem.Conformer(len(atoms)))
        field = AllChem.MMFFGetMoleculeForceField(mol, AllChem.MMFFGetMoleculeProperties(mol, "MMFF94s"))
        flat, found = moved.positions.ravel(), forces_of(moved).ravel()
        for place in (0, 4, 20):
            step = np.zeros_like(flat)
            step[place] = 1e-4
            slope = (field.CalcEnergy(list(flat + step)) - field.CalcEnergy(list(flat - step))) / 2e-4
            assert found[place] == pytest.approx(-slope * kcal / mole, abs=1e-3)

    def test_frames_are_an_interval_apart(self, monkeypatch):
        settings = load_recipe(SECOND).force_field
        assert settings is not None
        settings = settings.model_copy(update={"frames": 4, "heat_steps": 30, "interval": 20})
        atoms, forces_of = force_field(ETHANOL, np.random.default_rng(0))
        tray, calls, at = sampling.Tray(50.0), [], []
        monkeypatch.setattr(tray, "add", lambda moving, source: at.append((len(calls), source)))

        def counted(moving):
            calls.append(moving.positions.copy())
            return forces_of(moving)

        sampling.run_force_field(atoms, counted, settings, np.random.default_rng(1), tray)
        first = 1 + settings.heat_steps + 1  # forces before the first step, heating, one step
        assert at == [(first + number * settings.interval, "field_md") for number in range(4)]

    def test_a_molecule_without_parameters_is_rejected(self):
        with pytest.raises(RejectedFrame, match="no MMFF94s parameters"):
            force_field(Molecule("CB(C)C", "X"), np.random.default_rng(0))

    def test_other_jobs_have_the_seeds_that_they_have_without_it(self):
        """Or the labels of earlier recipes could not be made again."""
        made = plan.make_plan(LabelRecipe.model_validate(tiny_fields()))
        distort = next(job for job in made.jobs if job.name == "distort_00000")
        kinds = ("qm9", "druglike", "small", "torsion", "distort")
        seed = np.random.SeedSequence((tiny_fields()["seed"], kinds.index("distort"), 0)).generate_state(1)[0]
        assert distort.seed == seed

    def test_its_molecules_come_from_their_own_places_in_the_pools(self):
        fields = tiny_fields()
        fields["trajectories"] |= {"druglike_molecules": 2}
        fields["force_field"] = FORCE_FIELD | {"qm9_molecules": 0, "druglike_molecules": 3, "hetero_molecules": 2}
        made = plan.make_plan(LabelRecipe.model_validate(fields))
        of = {
            kind: [t.molecules[0] for job in made.jobs if job.kind == kind for t in job.tasks]
            for kind in ("field", "druglike")
        }
        assert len(of["field"]) == 5
        assert len(of["druglike"]) == 2
        assert not {m.key for m in of["field"]} & {m.key for m in of["druglike"]}


class TestSampling:
    def test_touch_makes_the_closest_contact(self):
        rng = np.random.default_rng(0)
        first, second = g2("C6H6").positions, g2("CH3CH2OH").positions
        for contact in (0.7, 2.0, 6.0):
            shift = geometry.touch(first, second, geometry.random_direction(rng), contact)
            assert cdist(first, second + shift).min() == pytest.approx(contact)

    def test_a_ring_bond_has_no_side(self):
        bonds = geometry.bonds_of(g2("C6H6"))
        assert geometry.side_of_bond(bonds, 0, 1) is None
        assert bonds.sum() == 2 * 12

    def test_a_torsion_keeps_bond_lengths(self):
        atoms = g2("CH3CH2OH")
        bonds = geometry.bonds_of(atoms)
        side = geometry.side_of_bond(bonds, 0, 1)
        assert side is not None
        axis = atoms.positions[1] - atoms.positions[0]
        turned = geometry.rotated(atoms, side, atoms.positions[0], axis, 77.0)
        before, after = atoms.get_all_distances(), turned.get_all_distances()
        assert after[bonds] == pytest.approx(before[bonds])
        assert not np.allclose(after, before)

    def test_dynamics_reach_the_temperature(self, tiny):
        """The bond of H2 is a stiff spring: its variance is kT / k, whatever the masses are."""
        temperature = 500.0
        tray = sampling.Tray(50.0)
        relaxed = sampling.relax(g2("H2"), 20, tray)
        length = relaxed.get_distance(0, 1)
        pulls = []
        for change in (-0.02, 0.02):
            moved = relaxed.copy()
            moved.set_distance(0, 1, length + change)
            pulls.append(label(moved, 50.0).get_forces()[1] @ (moved.positions[1] - moved.positions[0]) / length)
        stiffness = (pulls[0] - pulls[1]) / 0.04
        runs = tiny.trajectories.model_copy(update={"friction_per_fs": 0.03})
        steps = sampling.langevin(relaxed, temperature, runs, np.random.default_rng(1), tray.drive)
        lengths = [moving.get_distance(0, 1) for _, moving, _ in islice(steps, 3000)]
        assert np.std(lengths[200:]) == pytest.approx(np.sqrt(kB * temperature / stiffness), rel=0.15)

    def test_relaxation_lowers_the_energy_and_keeps_frames(self):
        atoms = first_geometry(ETHANOL, np.random.default_rng(0))
        atoms.rattle(0.1, seed=3)
        tray = sampling.Tray(50.0)
        sampling.relax(atoms, 12, tray, 4)
        energies = [frame.get_potential_energy() for frame in tray.frames]
        assert len(energies) == 4
        assert energies[-1] < energies[0]

    def test_contacts_stop_at_the_wall(self, tiny):
        tray = sampling.Tray(50.0)
        water = complexes.settled(g2("H2O"), np.random.default_rng(0), tray)
        complexes.push_together(water, water, (8, 8), tiny.contacts, np.random.default_rng(0), tray)
        assert tray.rejected["force too large"] <= 1
        nearest = [cdist(frame.positions[:3], frame.positions[3:]).min() for frame in tray.frames]
        largest = [np.linalg.norm(frame.get_forces(), axis=1).max() for frame in tray.frames]
        assert len(nearest) >= 4
        assert largest[-1] > largest[0]
        assert max(largest) <= 50.0


class TestPlan:
    def test_the_same_recipe_gives_the_same_plan(self, tiny):
        assert plan.make_plan(tiny) == plan.make_plan(tiny)

    def test_kinds_are_spread_evenly(self):
        jobs = [Job(f"{kind}{i}", kind, 0, ()) for kind, n in (("a", 300), ("b", 100)) for i in range(n)]
        order = plan.interleaved(jobs, np.random.default_rng(0))
        first = Counter(job.kind for job in order[:100])
        assert first["b"] == pytest.approx(25, abs=2)

    def test_excluded_molecules_are_not_labelled(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("unseen.extxyz").write_text('1\nsmiles=O charge=0\nO 0 0 0\n1\nsmiles="C=O"\nC 0 0 0\n')
        keys, note = pools.excluded_keys(Path("unseen.extxyz"))
        assert keys == {connectivity_key("O"), connectivity_key("C=O")}
        assert "2 molecules" in note
        fields = tiny_fields(exclude="unseen.extxyz")
        fields["contacts"]["repeats"] = 1
        made = plan.make_plan(LabelRecipe.model_validate(fields))
        met = {molecule.key for job in made.jobs for task in job.tasks for molecule in task.molecules}
        assert met
        assert not met & keys

    def test_an_absent_or_foreign_file_is_an_error(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.xz.*is absent: say where"):
            pools.excluded_keys(tmp_path / "none.xz")
        (tmp_path / "foreign.extxyz").write_text("1\nno names here\nH 0 0 0\n")
        with pytest.raises(DataError, match="SMILES"):
            pools.excluded_keys(tmp_path / "foreign.extxyz")

    def test_molecules_that_do_not_exist_end_the_search(self, monkeypatch):
        monkeypatch.setattr(pools, "ATTEMPTS", 50)
        with pytest.raises(DataError, match=r"50 drug-like molecules in a row .*druglike_atoms \[1, 2\]"):
            plan.make_plan(LabelRecipe.model_validate(tiny_fields(druglike_atoms=[1, 2])))

    def test_every_pair_of_elements_makes_contact(self):
        fields = tiny_fields()
        fields["contacts"]["repeats"] = 1
        made = plan.make_plan(LabelRecipe.model_validate(fields))
        pairs = {task.elements for job in made.jobs for task in job.tasks if task.elements}
        assert len(pairs) == 55


class TestJobs:
    def test_each_kind_of_job_names_its_frames(self, tiny):
        tiny = tiny.model_copy(update={"force_field": load_recipe(SECOND).force_field})
        kinds = {
            "small": (ETHANOL,),
            "field": (ETHANOL,),
            "torsion": (ETHANOL,),
            "distort": (ETHANOL,),
            "pair": (ETHANOL, BENZENE),
            "cluster": (ETHANOL, BENZENE, small_molecules()[1]),
            "contact": (ETHANOL, BENZENE),
        }
        expected = {
            "small": {"relax", "small_md"},
            "field": {"field_md"},
            "torsion": {"torsion"},
            "distort": {"stretch", "rattle"},
            "pair": {"dimer"},
            "cluster": {"cluster"},
            "contact": {"contact"},
        }
        for kind, molecules in kinds.items():
            frames = run_job(Job(kind, kind, 5, (plan.Task(molecules),)), tiny).frames
            assert {frame.info["source"] for frame in frames} == expected[kind]
            for frame in frames:
                assert frame.info["molecule"] == ".".join(molecule.key for molecule in molecules)
                assert frame.info["split"] == "train"
                assert not frame.pbc.any()
                assert np.isfinite(frame.get_forces()).all()


class TestRun:
    def test_shards_read_back_with_names_energies_and_forces(self, folder):
        frames = [frame for path in folder.glob("*.extxyz") for frame in read(path, ":")]
        assert {"atom", "drug_md", "relax"} <= {frame.info["source"] for frame in frames}
        splits = defaultdict(set)
        for frame in frames:
            assert isinstance(frame.info["smiles"], str)
            assert frame.info["charge"] == 0
            assert np.isfinite(frame.get_potential_energy())
            assert np.linalg.norm(frame.get_forces(), axis=1).max() <= 50.0
            splits[frame.info["molecule"]].add(frame.info["split"])
        assert all(len(found) == 1 for found in splits.values())
        assert sum(frame.info["source"] == "atom" for frame in frames) == 10

    def test_resume_keeps_finished_shards_and_remakes_identical_ones(self, folder, tiny):
        before = shards(folder)
        times = {name: (folder / name).stat().st_mtime_ns for name in before}
        lost = next(name for name in before if name.startswith("druglike"))
        (folder / lost).unlink()
        manifest = make_labels(tiny, folder, workers=1)
        assert shards(folder) == before
        assert {name for name in before if (folder / name).stat().st_mtime_ns != times[name]} == {lost}
        assert manifest["shards"]["done"] == manifest["shards"]["planned"] == len(before)
        assert manifest["frames"] == sum(manifest["counts"]["source"].values())
        assert not list(folder.glob("*.partial"))

    def test_a_spent_time_budget_leaves_a_valid_folder(self, tiny, tmp_path):
        manifest = make_labels(tiny, tmp_path, time_budget=0.0)
        assert manifest["frames"] == 0
        assert manifest["shards"]["done"] == 0

    def test_an_interrupt_leaves_a_valid_folder(self, tiny, tmp_path):
        def interrupt(progress):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            make_labels(tiny, tmp_path, report=interrupt)
        assert not list(tmp_path.glob("*.partial"))
        assert all(path.with_suffix(".json").exists() for path in tmp_path.glob("*.extxyz"))

    def test_a_job_without_frames_is_done_and_no_file(self, tmp_path):
        job = Job("small_00000", "small", 5, ())
        assert jobs.counts_of(tmp_path, job) is None
        assert jobs.run_and_write(job, lambda job: Outcome([], Counter({"force too large": 2})), tmp_path) == 0
        assert not list(tmp_path.glob("*.extxyz"))
        counts = jobs.counts_of(tmp_path, job)
        assert counts is not None
        assert counts["rejected"] == {"force too large": 2}

    def test_a_full_disk_is_a_sentence(self, tiny, tmp_path, monkeypatch):
        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ase_geomol.files.os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            make_labels(tiny, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_no_job_waits_to_start_after_the_time(self, monkeypatch):
        submitted = []

        class Pool:
            def __init__(self, *_):
                pass

            def submit(self, call, job, *arguments):
                submitted.append(job)
                return Future()

            def shutdown(self, **_):
                pass

        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(pool, "ProcessPoolExecutor", Pool)
        monkeypatch.setattr(pool, "wait", stop)
        with pytest.raises(KeyboardInterrupt):
            next(pool.in_processes(str, range(9), 2))
        assert submitted == [0, 1]

    def test_another_recipe_does_not_mix_into_the_folder(self, folder):
        with pytest.raises(OutputError, match="another recipe"):
            make_labels(LabelRecipe.model_validate(tiny_fields(seed=99)), folder)

    def test_foreign_files_are_left_alone(self, tiny, tmp_path):
        (tmp_path / "mine.extxyz").write_text("")
        with pytest.raises(OutputError, match="choose an empty folder"):
            make_labels(tiny, tmp_path)


class TestRecipe:
    @pytest.mark.parametrize("path", [SHIPPED, SECOND], ids=lambda path: path.stem)
    def test_the_shipped_recipes_are_valid(self, path):
        assert load_recipe(path).method == "GFN2-xTB"

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            (tiny_fields(colour="red"), "colour"),
            (tiny_fields(method="GFN7"), "method"),
            (tiny_fields(exclude="/etc/passwd"), "relative"),
            (tiny_fields(torsions={"molecules": -1, "relax_steps": 3}), r"torsions\.molecules"),
            (tiny_fields(seed=-1), "seed: .*greater than or equal to 0"),
            (tiny_fields(druglike_atoms=[22, 15]), r"druglike_atoms: must be given from the lowest .*\[22, 15\]"),
            (tiny_fields(contacts={"repeats": 0, "distances": 2, "reach": [2.2, 0.5]}), r"contacts\.reach: must be"),
            (
                tiny_fields(
                    force_field=yaml.safe_load(SECOND.read_text())["force_field"] | {"temperature": [800, 200]}
                ),
                r"force_field\.temperature: must be given from the lowest",
            ),
            ([1, 2], "mapping"),
        ],
    )
    def test_a_bad_field_is_named(self, fields, named, tmp_path):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(fields))
        with pytest.raises(ConfigError, match=named):
            load_recipe(path)

    def test_unreadable_recipes_are_config_errors(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_recipe(tmp_path / "none.yaml")
        (tmp_path / "broken.yaml").write_text("a: [1,")
        with pytest.raises(ConfigError, match="not valid YAML"):
            load_recipe(tmp_path / "broken.yaml")


class TestCommand:
    def test_durations(self):
        assert common.parse_duration("90s") == 90
        assert common.parse_duration("1.5 h") == 5400
        with pytest.raises(ConfigError, match="40min"):
            common.parse_duration("soon")
        with pytest.raises(ConfigError, match="'0s' leaves no time"):
            common.parse_duration("0s")

    def test_label_prints_a_table_and_writes_shards(self, tmp_path, monkeypatch, capsys):
        recipe = tmp_path / "tiny.yaml"
        recipe.write_text(yaml.safe_dump(tiny_fields()))
        out = tmp_path / "labels"
        arguments = ["geomol-train", "label", str(recipe), "--workers", "1", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
        assert "drug_md" in capsys.readouterr().out
        assert (out / "manifest.json").exists()

    def test_a_bad_recipe_is_one_sentence(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["geomol-train", "label", str(tmp_path / "none.yaml")])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 1
        assert "cannot be read" in capsys.readouterr().err.replace("\n", " ")


def test_one_run_at_a_time_in_a_folder(occupied, tiny, tmp_path):
    with occupied(tmp_path / "labels"), pytest.raises(ConfigError, match=r"Another process works in .*labels"):
        make_labels(tiny, tmp_path / "labels")
