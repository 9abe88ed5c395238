"""Conformer models are learned by the same command as potentials, and go on with the same bits."""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.io import write

pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")

from geomol_training.batches import Plan, loader
from geomol_training.cli import app
from geomol_training.conformers.data import load_sets
from geomol_training.conformers.fit import untrained_flow
from geomol_training.conformers.flow_recipe import FlowRecipe
from geomol_training.conformers.learning import (
    FixedConformers,
    FlowGoal,
    FlowStream,
    FlowSupply,
    Graphs,
    make_flow_batch,
)
from geomol_training.fit import fit
from geomol_training.keeper import read_state
from geomol_training.objective import LOG_EVERY
from geomol_training.recipe import load_recipe
from rich.console import Console
from typer.testing import CliRunner

from ase_geomol.checkpoint import load_conformers
from ase_geomol.errors import ConfigError, DataError
from ase_geomol.models.ditmc import ORGANIC
from ase_geomol.providers.conformers import ConformerProvider

SMILES = ("CCCO", "C[C@H](F)C=O", "C/C=C/Cl", "CCCC", "COC", "CC#N")


@pytest.fixture(scope="module")
def data(own_conformers, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("conformers") / "a.extxyz"
    frames = [atoms for smiles in SMILES for atoms in own_conformers(smiles, 3, "train")]
    write(path, [*frames, *own_conformers("CCC=O", 2, "valid")])
    return path


@pytest.fixture(scope="module")
def make(data: Path) -> Callable[..., FlowRecipe]:
    def make(**sections) -> FlowRecipe:
        fields = {
            "name": "tiny-conformers",
            "data": {"train": str(data), "split": {"by": "key"}, "draws": 2, **sections.get("data", {})},
            "model": {"config": {"channels": 32, "layers": 1, "graph_layers": 1, **sections.get("model", {})}},
            "flow": {"noise": 0.2, "sampler": {"steps": 5}},
            "optimiser": {"lr": 0.003},
            "schedule": {"warmup_steps": 3, "kind": "constant"},
            "training": {"batch_frames": 3, "max_steps": 12, "validate_every": 6, **sections.get("training", {})},
            "metadata": {"theory": "ETKDG", "training_data": "seven molecules"},
        }
        return FlowRecipe.model_validate(fields)

    return make


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_learns_and_exports_what_the_provider_takes(make, tmp_path):
    untrained = fit(make(training={"max_steps": 1}), tmp_path / "short", console=quiet())
    console = quiet()
    training = {"max_steps": 100, "validate_every": 100, "batch_frames": 6, "ema": 0.9}
    result = fit(make(training=training, data={"draws": 4}), tmp_path / "long", console=console, threads=1)
    assert result.errors["validation_flow_loss_A2"] < 0.5 * untrained.errors["validation_flow_loss_A2"]
    assert result.frames == {"training": 6, "validation": 1}
    assert "flow loss A2" in console.file.getvalue()
    loaded = load_conformers(result.model)
    assert loaded.metadata.errors == result.errors
    assert loaded.flow.form.noise == 0.2
    written = json.loads((tmp_path / "long/result.json").read_text())
    assert (written["steps"], written["frames"]) == (100, result.frames)
    atoms = ConformerProvider(result.model).sample("CCCO", 2, checks=(), seed=1)[1]
    assert atoms.get_chemical_formula() == "C3H8O"


def test_resumed_run_has_the_same_bits(make, tmp_path):
    def run(out, steps, resume=False):
        return fit(make(training={"max_steps": steps}), tmp_path / out, resume=resume, console=quiet())

    run("whole", 12)
    run("parts", 7)
    run("parts", 12, resume=True)
    whole, parts = (read_state(tmp_path / name / "last.pt", "identity") for name in ("whole", "parts"))
    for part in ("predictor", "averaged"):
        assert all(torch.equal(whole[part][name], parts[part][name]) for name in whole[part])
    with pytest.raises(ConfigError, match="another 'model'"):
        fit(make(model={"layers": 2}), tmp_path / "parts", resume=True, console=quiet())


def test_two_processes_learn_what_one_learns_though_one_of_them_has_nothing_to_do(make, tmp_path):
    """Batches of a single molecule, as far as the first mean loss of all processes is logged."""
    recipe = make(training={"batch_frames": 1, "max_steps": LOG_EVERY, "validate_every": LOG_EVERY})
    found = [fit(recipe, tmp_path / str(n), console=quiet(), processes=n, threads=1).errors for n in (1, 2)]
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def supply_of(data: Path, **changes) -> FlowSupply:
    sets = load_sets(str(data)).sets
    valid = np.flatnonzero(sets.split_names[sets.split] == "valid")
    settings = {
        "train": sets.take(np.setdiff1d(np.arange(len(sets)), valid)),
        "valid": sets.take(valid),
        "elements": ORGANIC,
        "draws": 3,
        "weights": "uniform",
        "interval": 4,
        "parts": 1,
    }
    settings |= changes
    train = settings["train"]
    plan = settings.pop("plan", None) or Plan(np.ones(len(train), dtype=int), train.n_atoms, 4, seed=0)
    return FlowSupply(plan=plan, **settings)


def test_batches_hold_conformers_of_their_molecules(data):
    supply = supply_of(data)
    batches = list(FlowStream(supply, lambda: 0, 0, 1))
    assert [sorted(len(batch) for batch in epoch) for epoch in (batches[:2], batches[2:])] == [[2, 4], [2, 4]]
    assert sorted(torch.cat([batches[0].frame, batches[1].frame]).tolist()) == list(range(6))
    for batch in batches:
        assert batch.whole.atoms == int(batch.molecules.atoms.sum())
        for molecule, positions in zip(batch.frame.tolist(), batch.positions.numpy(), strict=True):
            known = supply.train.conformers(molecule)
            for drawn in positions:
                apart = np.abs(known - drawn[: known.shape[1]]).max((1, 2))
                assert apart.min() == 0
                assert not drawn[known.shape[1] :].any()
    again = list(FlowStream(supply, lambda: 2, 0, 1))
    assert [batch.seed for batch in again] == [batch.seed for batch in batches[2:]]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked")
def test_graphs_outlive_the_workers_that_use_them(data):
    """Workers are forked anew after each validation: what they make is lost with them."""
    supply = supply_of(data)
    for batches, count in (
        (supply.training(lambda: 0, 0, 1), len(supply.train)),
        (supply.validation(0, 1), len(supply.valid)),
    ):
        assert isinstance(batches, FlowStream | FixedConformers)
        made = len(list(loader(batches, 2)))
        assert len(batches.graphs._kept) == count
        assert len(list(loader(batches, 0))) == made > 0


def test_batches_of_a_few_large_ones_are_not_of_one_size_each():
    atoms = np.repeat(np.arange(5, 45), 40)
    plan = Plan(atoms**2, atoms, 40_000, seed=0)
    epoch = plan.epoch(0)
    assert 16 <= len(epoch) <= 50
    sizes = [float(atoms[batch].mean()) for batch in epoch]
    assert len([size for size in sizes if size < 18]) >= 4, "one batch of small ones in each portion"
    assert sorted(np.concatenate(epoch).tolist()) == list(range(len(atoms)))


def test_shares_make_up_the_batch(data):
    supply = supply_of(data)
    whole = list(FlowStream(supply, lambda: 0, 0, 1))
    shares = [list(FlowStream(supply, lambda: 0, rank, 3)) for rank in range(3)]
    flow, goal = untrained_flow(recipe_of(data)), FlowGoal()
    for step, batch in enumerate(whole):
        of_step = [share[step] for share in shares]
        assert sorted(torch.cat([share.frame for share in of_step]).tolist()) == sorted(batch.frame.tolist())
        assert {share.whole for share in of_step} == {batch.whole}
        for share in (share for share in of_step if len(share)):
            summed = goal.predict(flow, share).sum()
            assert goal.loss(flow, share).item() == pytest.approx(summed / batch.whole.usual, rel=1e-5)
    assert min(len(share) for of_rank in shares for share in of_rank) == 0


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (1, 2)])
def test_over_a_pass_all_molecules_count_the_same(data, monkeypatch, processes, parts):
    """Batches of three, two and one of them; the loss of each stands for itself, so that it is its own derivative."""
    atoms = supply_of(data).train.n_atoms
    supply = supply_of(data, plan=Plan(atoms**2, atoms, 250, seed=0), interval=3, parts=parts)
    assert sorted(len(batch) for batch in supply.plan.epoch(0)) == [1, 2, 3]
    losses = torch.zeros(20, requires_grad=True)  # by numbers of atoms
    found = lambda flow, molecules, positions, _: losses[molecules.atoms.sum(1)][:, None].expand(positions.shape[:2])  # noqa: E731
    monkeypatch.setattr("geomol_training.conformers.learning.flow_loss", found)
    flow, goal = untrained_flow(recipe_of(data)), FlowGoal()
    for rank in range(processes):
        shares = list(FlowStream(supply, lambda: 0, rank, processes))
        assert len(shares) == 3 * parts
        sum(goal.loss(flow, share) for share in shares if len(share)).backward()
    sizes, counts = np.unique(atoms, return_counts=True)
    np.testing.assert_allclose(losses.grad.numpy()[sizes] / counts / 3, 1 / len(atoms), rtol=1e-6)


def recipe_of(data: Path) -> FlowRecipe:
    fields = {"name": "a", "data": {"train": str(data)}, "model": {"config": {"channels": 32, "layers": 1}}}
    fields |= {"flow": {}, "training": {"batch_frames": 1}, "metadata": {"theory": "a", "training_data": "b"}}
    return FlowRecipe.model_validate(fields)


def test_conformers_are_drawn_evenly_or_by_weight(data):
    sets = load_sets(str(data)).sets
    graphs, random = Graphs(sets, ORGANIC), np.random.default_rng(0)
    for weights, shares in (("uniform", np.full(3, 1 / 3)), ("boltzmann", sets.weights[:3])):
        batch = make_flow_batch(sets, graphs, np.array([0]), 3000, weights, random)
        drawn = batch.positions[0].numpy()
        counts = [int((np.abs(drawn - conformer).max((1, 2)) == 0).sum()) for conformer in sets.conformers(0)]
        assert sum(counts) == 3000
        np.testing.assert_allclose(np.array(counts) / 3000, shares, atol=4 * np.sqrt(0.25 / 3000))


def test_validation_is_always_the_same(data):
    supply = supply_of(data, valid=load_sets(str(data)).sets)
    first, second = (list(FixedConformers(supply, 0, 1)) for _ in range(2))
    goal, flow = FlowGoal(), untrained_flow(recipe_of(data))
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.positions, two.positions)
        assert np.array_equal(goal.predict(flow, one), goal.predict(flow, two))
    assert sorted(torch.cat([batch.frame for batch in first]).tolist()) == list(range(7))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"split": {"by": "frame"}}}, "conformers are divided by key or by group"),
        ({"data": {"geom_splits": "a.npy", "split": {"by": "group"}}}, "give split: {by: key}"),
        ({"data": {"draws": 0}}, "data.draws"),
        ({"model": {"channels": 33}}, "must be a multiple of 32"),
        ({"training": {"recompute": True}}, "training.recompute"),
        ({"training": {"compile": True}}, "training.compile and mixed precision are for networks of energies"),
        ({"training": {"precision": "mixed"}}, "training.compile and mixed precision are for networks of energies"),
    ],
)
def test_wrong_recipes(make, tmp_path, changes, sentence):
    fields = yaml.safe_load(json.dumps(make().model_dump(mode="json")))
    for section, values in changes.items():
        (fields["model"]["config"] if section == "model" else fields[section]).update(values)
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(ConfigError, match=r"wrong\.yaml") as caught:
        load_recipe(tmp_path / "wrong.yaml")
    assert sentence in str(caught.value)


def test_unknown_elements_and_changed_data(make, data, own_conformers, tmp_path):
    with pytest.raises(DataError, match=r"atomic numbers \[9, 17\]"):
        fit(make(model={"elements": [1, 6, 7, 8]}), tmp_path / "a", console=quiet())
    fit(make(), tmp_path / "b", console=quiet())
    other = tmp_path / "other.extxyz"
    write(other, [*own_conformers("CCO", 2, "train"), *own_conformers("CCC", 2, "valid")])
    state = make(data={"train": str(data)}, training={"max_steps": 20})
    before = data.read_bytes()
    try:
        data.write_bytes(other.read_bytes())
        longer = fit(state, tmp_path / "b", resume=True, console=quiet())
        assert longer.frames == {"training": 6, "validation": 1}
        for copy in (tmp_path / "b").glob("conformers-*.npz"):
            copy.unlink()
        with pytest.raises(DataError, match="has changed since the run began, and its own copy is gone"):
            fit(state, tmp_path / "b", resume=True, console=quiet())
    finally:
        data.write_bytes(before)


def test_dry_run(make, tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(make().model_dump(mode="json")))
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    done = runner.invoke(app, ["fit", str(tmp_path / "a.yaml"), "--dry-run"])
    assert done.exit_code == 0, done.output
    for words in ("1 files", "conformers", "ditmc", "3 structures", "12 steps"):
        assert words in done.output
    done = runner.invoke(app, ["fit", str(tmp_path / "a.yaml"), "--dry-run", "--set", "data.train=nothing"])
    assert done.exit_code == 1
    assert "missing: 'nothing' is no file" in done.output
