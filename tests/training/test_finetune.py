"""Fine-tuning: reference energies, methods, replay, early stop, resuming, the card, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training import cli, keeper
from geomol_training.batches import Plan
from geomol_training.evaluate import evaluate, predict_frames
from geomol_training.finetune import Options, finetune
from geomol_training.fit import fit
from geomol_training.frames import joined, load_frames
from geomol_training.keeper import read_state
from geomol_training.low_rank import LowRank, freeze, learned_numbers
from geomol_training.readers import Keys
from geomol_training.recipe import FineTuning, Loss, Recipe
from geomol_training.references import change_of_references, shifted
from geomol_training.schedule import Standing, out_of_patience
from geomol_training.tasks import PotentialTask
from pydantic import ValidationError
from rich.console import Console
from torch import nn
from torch.nn import functional

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import CheckpointError, ConfigError, DataError, OutputError
from ase_geomol.nn.degrees import DegreeLinear

SHIFT = {1: -3.0, 6: 5.0, 8: 7.5}
SHORT = Options(max_steps=6, validate_every=3, valid=4, theory="another EMT")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def start(make_recipe, tmp_path_factory) -> Path:
    """Weights of H, C and O."""
    return fit(make_recipe(), tmp_path_factory.mktemp("start") / "run", console=quiet(), threads=1).model


@pytest.fixture(scope="module")
def other_theory(structures, tmp_path_factory) -> Path:
    """Frames without oxygen whose energies are shifted for each element, and whose forces are somewhat larger."""
    frames = []
    for atoms in structures:
        if 8 not in atoms.numbers:
            new = atoms.copy()
            energy = atoms.get_potential_energy() + sum(SHIFT[z] for z in atoms.numbers)
            new.calc = SinglePointCalculator(new, energy=energy, forces=1.1 * atoms.get_forces())
            frames.append(new)
    path = tmp_path_factory.mktemp("other") / "other.extxyz"
    write(path, frames)
    return path


def tuned(start: Path, data: Path, out: Path, resume: bool = False, **changes):
    return finetune(str(start), str(data), out, SHORT._replace(**changes), resume=resume, console=quiet(), threads=1)


def with_training(monkeypatch, **values) -> None:
    """Let fine-tunings have other fields of the section "training"."""
    plain = Recipe.model_validate

    def changed(fields):
        return plain({**fields, "training": {**fields["training"], **values}})

    monkeypatch.setattr(Recipe, "model_validate", changed)


def changed_tensors(before: Path, after: Path) -> set[str]:
    old, new = (load_checkpoint(path).potential.state_dict() for path in (before, after))
    return {name for name, value in old.items() if not torch.equal(value, new[name])}


# --- references


def frames_of(run: Path):
    return load_frames(next(run.glob("data-*.npz")))[0]


def test_references_follow_a_shift_exactly(start):
    frames = frames_of(start.parent)
    potential, task = load_checkpoint(start).potential, PotentialTask(Loss())
    labelled = dataclasses.replace(frames, energy=predict_frames(potential, frames, task).energy)
    labelled = shifted(labelled, SHIFT)
    before = potential.reference_energies.clone()
    change = task.refit_references(potential, labelled)
    assert change == pytest.approx(SHIFT, abs=1e-4)  # the network's own rounding, float32
    assert torch.allclose(
        potential.reference_energies[[1, 6, 8]], before[[1, 6, 8]] + torch.tensor([-3.0, 5.0, 7.5]).double(), atol=1e-4
    )
    assert np.allclose(predict_frames(potential, frames, task).energy, labelled.energy, atol=1e-3)


def test_one_composition_changes_references_by_as_little_as_possible(start):
    frames = frames_of(start.parent)
    methane = frames.take(np.flatnonzero(frames.n_atoms == 5))
    left = np.full(len(methane), 34.0)
    change = change_of_references(methane, left)
    assert change == pytest.approx({1: 8.0, 6: 2.0})  # 4 H and 1 C: along (4, 1), oxygen untouched


def test_elements_that_the_data_lack_keep_their_references(start, other_theory, tmp_path):
    result = tuned(start, other_theory, tmp_path)
    old, new = (load_checkpoint(path) for path in (start, result.model))
    assert new.potential.reference_energies[8] == old.potential.reference_energies[8]
    assert new.potential.scale == old.potential.scale
    assert new.potential.elements == (1, 6, 8)
    assert result.elements == (1, 6)
    assert "elements H C" in new.metadata.training_data
    assert new.metadata.theory == "another EMT"


# --- methods


@pytest.mark.parametrize("method", ["full", "head", "low-rank"])
def test_each_method_learns_and_changes_what_it_says(start, other_theory, tmp_path, method):
    result = tuned(start, other_theory, tmp_path, method=method, lr=0.01, max_steps=12)
    assert result.errors["validation_forces_MAE_meV_per_A"] < result.before["validation_forces_MAE_meV_per_A"]
    changed = changed_tensors(start, result.model) - {"reference_energies"}
    model: nn.Module = load_checkpoint(start).potential.model  # type: ignore[assignment]
    maps = {f"model.{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    if method == "head":
        assert changed
        assert all(name.startswith("model.readout.") for name in changed)
    elif method == "low-rank":
        assert changed <= maps
        assert len(changed) > 5
    else:
        assert not changed <= maps


def test_low_rank_changes_have_that_rank(start, other_theory, tmp_path, monkeypatch):
    with_training(monkeypatch, ema=0.0)
    result = tuned(start, other_theory, tmp_path, method="low-rank", rank=2, lr=0.01)
    old, new = (load_checkpoint(path).potential.state_dict() for path in (start, result.model))
    name = "model.blocks.0.parts.invariant_ffn.hidden.weight"
    values = torch.linalg.svdvals((new[name] - old[name]).double())
    assert values[1] > 0
    assert values[2] < 1e-5 * values[0]
    assert result.learned == learned_numbers(load_checkpoint(start).potential, FineTuning(method="low-rank", rank=2))


class Adapted(nn.Module):
    """A frozen map with adapters beside it, as one writes them down."""

    def __init__(self, first: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        self.first, self.up, self.down = first, nn.Parameter(up), nn.Parameter(down)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.first) + functional.linear(functional.linear(x, self.down), self.up)


def test_low_rank_is_the_same_as_adapters_beside_the_map():
    torch.manual_seed(0)
    x, target = torch.randn(20, 5).double(), torch.randn(20, 7).double()
    plain = nn.Linear(5, 7, bias=False).double()
    optimiser = LowRank([plain.weight], rank=2, lr=0.05)
    (up, down), first = optimiser.factors[0], optimiser.first[0]
    adapted = Adapted(first.clone(), up.detach().clone(), down.detach().clone())
    beside = torch.optim.AdamW(adapted.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(20):
        for module, steps in ((plain, optimiser), (adapted, beside)):
            steps.zero_grad()
            functional.mse_loss(module(x), target).backward()
            steps.step()
    assert torch.allclose(plain(x), adapted(x), atol=1e-12)
    assert not torch.allclose(plain.weight, first, atol=1e-2)


def test_low_rank_goes_on_from_its_state_and_takes_stacks_of_matrices():
    def steps(optimiser, module, count):
        for _ in range(count):
            optimiser.zero_grad()
            module(torch.ones(3, 4, 5)).square().sum().backward()
            optimiser.step()

    torch.manual_seed(0)
    first = DegreeLinear(1, 5, 6)
    second = DegreeLinear(1, 5, 6)
    second.load_state_dict(first.state_dict())
    one = LowRank([first.weight], rank=2, lr=0.01)
    steps(one, first, 3)
    two = LowRank([second.weight], rank=2, lr=0.01)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        second.weight.copy_(first.weight)
    steps(one, first, 3)
    steps(two, second, 3)
    assert torch.equal(first.weight, second.weight)


def test_head_freezes_all_but_the_read_out(start):
    potential = load_checkpoint(start).potential
    freeze(potential, FineTuning(method="head"))
    free = {name for name, parameter in potential.named_parameters() if parameter.requires_grad}
    assert free == {f"model.readout.{layer}.{what}" for layer in ("hidden", "out") for what in ("weight", "bias")}


# --- replay


def test_forces_of_another_name_are_missed(start, other_theory, xyz, structures, tmp_path):
    """Among the new frames, and among those to replay, which have the names of our own labels."""
    with pytest.raises(DataError, match=r"to learn has forces, looked for as 'push', .*data.forces_key"):
        tuned(start, other_theory, tmp_path / "1", keys=Keys(forces="push"))
    frames = [atoms.copy() for atoms in structures]
    for atoms, source in zip(frames, structures, strict=True):
        atoms.calc, atoms.arrays["push"] = SinglePointCalculator(atoms, energy=0.0), source.get_forces()
    write(tmp_path / "old.extxyz", frames)
    with pytest.raises(DataError, match="to replay has forces, looked for as 'forces', and the loss counts them: set"):
        tuned(start, other_theory, tmp_path / "2", replay=str(tmp_path / "old.extxyz"))


def test_replay_makes_up_its_share_of_every_pass():
    plan = Plan(np.ones(100, int), np.ones(100, int), 4, 0, np.zeros(100), replayed=70, replay_share=0.4)
    drawn = set()
    for epoch in range(5):
        frames = np.concatenate(plan.epoch(epoch))
        own, replayed = frames[frames < 30], frames[frames >= 30]
        assert sorted(own) == list(range(30))
        assert len(replayed) == 20 == len(set(replayed))
        drawn |= set(replayed)
    assert len(drawn) > 50
    assert any((batch < 30).any() and (batch >= 30).any() for batch in plan.epoch(0))
    few = Plan(np.ones(32, int), np.ones(32, int), 4, 0, np.zeros(32), replayed=2, replay_share=0.5)
    assert len(np.concatenate(few.epoch(0))) == 60


def test_frames_to_replay_are_those_to_train(start, other_theory, structures, tmp_path):
    """All of them where none has a split; but not those of another one."""
    frames = [atoms.copy() for atoms in structures]
    for atoms, source in zip(frames, structures, strict=True):
        atoms.calc, atoms.info["split"] = source.calc, "test"
    write(tmp_path / "tested.extxyz", frames)
    with pytest.raises(DataError, match="No frame has the split 'train', but some have 'test'"):
        tuned(start, other_theory, tmp_path / "1", replay=str(tmp_path / "tested.extxyz"))
    for atoms in frames:
        del atoms.info["split"]
    write(tmp_path / "unnamed.extxyz", frames)
    found = tuned(start, other_theory, tmp_path / "2", replay=str(tmp_path / "unnamed.extxyz"), max_steps=1)
    assert found.frames["replay"] == len(frames)


def test_elements_that_the_weights_know_may_be_validated_and_tested(start, other_theory, xyz, tmp_path):
    """The new frames have no oxygen."""
    found = tuned(start, other_theory, tmp_path, valid=str(xyz), test=str(xyz), max_steps=1)
    assert found.errors["test_energy_MAE_meV"] > 0


def test_replayed_energies_move_with_the_references(start):
    frames = frames_of(start.parent)
    both = joined(frames, shifted(frames, {1: 2.0, 6: -1.0}))
    assert len(both) == 2 * len(frames)
    second = both.take(np.arange(len(frames), len(both)))
    hydrogens = np.add.reduceat(frames.numbers == 1, frames.offsets[:-1])
    carbons = np.add.reduceat(frames.numbers == 6, frames.offsets[:-1])
    assert np.allclose(second.energy, frames.energy + 2.0 * hydrogens - carbons)
    assert np.array_equal(second.positions, frames.positions)
    assert list(both.group_names[both.group]) == 2 * list(frames.group_names[frames.group])


@pytest.mark.parametrize("method", ["full", "low-rank"])
def test_a_killed_run_with_replay_goes_on(start, other_theory, xyz, tmp_path, monkeypatch, method):
    options = {"method": method, "lr": 0.01, "replay": str(xyz), "replay_share": 0.5}
    with_training(monkeypatch, save_minutes=1e-9)
    whole = tuned(start, other_theory, tmp_path / "whole", **options)
    assert whole.frames["replay"] == 24  # those of the split "train"
    write = keeper.write_state

    def killed(path, state):
        write(path, state)
        if state["standing"]["step"] == 4:
            raise MemoryError  # stands for a kill: nothing is written after it

    with monkeypatch.context() as patched:
        patched.setattr(keeper, "write_state", killed)
        with pytest.raises(MemoryError):
            tuned(start, other_theory, tmp_path / "killed", **options)
    parts = tuned(start, other_theory, tmp_path / "killed", resume=True, **options)
    states = [read_state(tmp_path / name / "last.pt", "identity") for name in ("whole", "killed")]
    assert states[1]["standing"]["step"] == 6
    assert all(
        torch.equal(states[0]["predictor"][name], states[1]["predictor"][name]) for name in states[0]["predictor"]
    )
    assert parts.before == whole.before


# --- early stop


def test_patience():
    assert not out_of_patience(Standing(without_better=2), None)
    assert not out_of_patience(Standing(without_better=2), 3)
    assert out_of_patience(Standing(without_better=3), 3)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_without_better_validations_ends_early(start, other_theory, tmp_path, processes):
    options = SHORT._replace(lr=1e-30, patience=2, max_steps=100)
    arguments = (str(start), str(other_theory), tmp_path, options)
    result = finetune(*arguments, console=quiet(), threads=1, processes=processes)
    assert result.stopped_by == "no better validation"
    assert result.step == 6
    assert result.errors == pytest.approx(result.before)
    card = (tmp_path / "model.md").read_text()
    assert "ended by: no better validation" in card
    assert changed_tensors(tmp_path / "start.safetensors", result.model) == set()
    if processes == 1:
        again = finetune(*arguments, console=quiet(), threads=1, resume=True)
        assert (again.step, again.stopped_by) == (6, "nothing was left to do")
        assert (again.ended_by, again.elapsed) == ("no better validation", result.elapsed)
        assert (tmp_path / "model.md").read_text() == card


# --- frames and the card


def test_fewer_frames_are_among_more_and_validation_stays(start, other_theory, tmp_path):
    parts = []
    for count in (3, 8):
        result = tuned(start, other_theory, tmp_path / str(count), frames=count, max_steps=1)
        assert result.frames == {"training": count, "replay": 0, "validation": 4, "test": 0}
        parts.append(json.loads((tmp_path / f"{count}/splits.json").read_text()))
    assert set(parts[0]["train"]) < set(parts[1]["train"])
    assert parts[0]["valid"] == parts[1]["valid"]


def test_the_card_has_true_numbers(start, other_theory, xyz, tmp_path):
    result = tuned(start, other_theory, tmp_path / "run", test=str(other_theory), frames=5, replay=str(xyz))
    card = (tmp_path / "run/model.md").read_text()
    first, now = load_checkpoint(start), load_checkpoint(result.model)
    for text in (
        first.fingerprint,
        now.fingerprint,
        "another EMT",
        "| frames for training | 5 |",
        "H C were fine-tuned",
    ):
        assert text in card
    assert "O stay known" in card
    measured = evaluate(result.model, str(other_theory), tmp_path / "evaluation").errors
    assert result.errors["test_forces_MAE_meV_per_A"] == pytest.approx(measured["forces_MAE_meV_per_A"])
    before = evaluate(tmp_path / "run/start.safetensors", str(other_theory), tmp_path / "evaluation").errors
    row = next(line for line in card.splitlines() if line.startswith("| test, before"))
    assert row == "| test, before | " + " | ".join(f"{value:.1f}" for value in before.values()) + " |"
    row = next(line for line in card.splitlines() if line.startswith("| test, after"))
    assert row == "| test, after | " + " | ".join(f"{value:.1f}" for value in measured.values()) + " |"
    found = json.loads((tmp_path / "run/result.json").read_text())
    assert found["before"] == result.before
    assert found["start"] == first.fingerprint


def command(monkeypatch, capsys, *words: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["geomol-train", "finetune", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((captured.out + captured.err).split())


def test_the_command(start, other_theory, tmp_path, monkeypatch, capsys):
    words = (start, other_theory, "--out", tmp_path / "run", "--max-steps", 2, "--validate-every", 1, "--threads", 1)
    code, text = command(monkeypatch, capsys, *words)
    assert code == 0
    assert "fitted anew" in text
    assert (tmp_path / "run/model.md").is_file()
    assert load_checkpoint(tmp_path / "run/model.safetensors").metadata.name == "tiny-other"
    code, text = command(monkeypatch, capsys, *words)
    assert code == 1
    assert "go on with --resume" in text


# --- what is refused


def test_refused(start, other_theory, structures, make_checkpoint, tmp_path):
    with pytest.raises(DataError, match="ask for fewer"):
        tuned(start, other_theory, tmp_path / "1", frames=1000)
    with pytest.raises(CheckpointError, match="neither a shipped potential"):
        tuned(tmp_path / "none", other_theory, tmp_path / "2")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        tuned(start, other_theory, tmp_path / "3", resume=True)
    with pytest.raises(ConfigError, match="The method is full, head, low-rank, not 'half'"):
        tuned(start, other_theory, tmp_path / "4", method="half")
    foreign = structures[0].copy()
    foreign.numbers[0] = 7
    foreign.calc = structures[0].calc
    write(tmp_path / "foreign.extxyz", foreign, write_results=False)
    foreign.info["energy"] = 1.0
    write(tmp_path / "foreign.extxyz", foreign, write_results=False)
    with pytest.raises(DataError, match="atomic number 7"):
        tuned(start, tmp_path / "foreign.extxyz", tmp_path / "5")
    (tmp_path / "empty.extxyz").write_text("")
    with pytest.raises(DataError, match="empty"):
        tuned(start, tmp_path / "empty.extxyz", tmp_path / "6")
    with pytest.raises(DataError, match="no file"):
        tuned(start, tmp_path / "nowhere.extxyz", tmp_path / "7")
    with pytest.raises(ConfigError, match="replay_share"):
        tuned(start, other_theory, tmp_path / "8", replay=str(other_theory), replay_share=1.0)
    with pytest.raises(ConfigError, match=r"--forces-weight is 0, but small-1 has a direct force head"):
        tuned(make_checkpoint(seed=1, direct_forces=True), other_theory, tmp_path / "9", forces_weight=0.0)
    (tmp_path / "a file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        tuned(start, other_theory, tmp_path / "a file/run")


def test_a_property_is_no_start(make_recipe, xyz, structures, tmp_path):
    fields = make_recipe().model_dump()
    with pytest.raises(ValidationError, match="finetune needs the weights where it begins"):
        Recipe.model_validate({**fields, "finetune": {}})
    target = {"name": "energy", "unit": "eV", "pooling": "sum"}
    with pytest.raises(ValidationError, match="go on with potentials only"):
        Recipe.model_validate({**fields, "finetune": {}, "target": target})
    property_of = fit(Recipe.model_validate({**fields, "target": target}), tmp_path / "property", console=quiet())
    with pytest.raises(CheckpointError, match="is no potential"):
        tuned(property_of.model, xyz, tmp_path / "run")
