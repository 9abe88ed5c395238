"""Splits, batches and their order."""

from __future__ import annotations

import os
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training import batches
from geomol_training.batches import PORTION_BATCHES, FixedBatches, Plan, TrainingStream, make_batch, survey
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.frames import Frames, pack
from geomol_training.packed import preprocess
from geomol_training.readers import Keys, read_rows, row_of_atoms
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.sections import Split
from geomol_training.sources import find_files
from geomol_training.splits import split_frames

from ase_geomol.errors import DataError, OutputError
from ase_geomol.graph import collate, from_atoms
from ase_geomol.models import build_model
from ase_geomol.potential import Potential


@pytest.fixture(scope="module")
def frames(xyz) -> Frames:
    return load(str(xyz), Keys(), Limits()).frames


@pytest.mark.parametrize("by", ["group", "frame"])
def test_split_is_a_partition(frames, by):
    parts = split_frames(frames, Split(by=by, valid=0.25, test=0.2), seed=1)
    assert sorted(np.concatenate(parts)) == list(range(len(frames)))
    assert all(len(part) for part in parts)
    again = split_frames(frames, Split(by=by, valid=0.25, test=0.2), seed=1)
    other = split_frames(frames, Split(by=by, valid=0.25, test=0.2), seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other, strict=True))


def test_groups_are_not_divided(frames):
    train, valid, test = split_frames(frames, Split(by="group", valid=0.2, test=0.2), seed=0)
    groups = [set(frames.group[part]) for part in (train, valid, test)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_trajectories_are_not_divided(structures, tmp_path):
    """Each file is one, unless its frames tell; a database that was converted, or packed data, still know."""
    for file in range(6):
        write(tmp_path / f"run{file}.traj", structures[4 * file : 4 * file + 4])
    named = [atoms.copy() for atoms in structures[24:30]]
    for index, atoms in enumerate(named):
        atoms.calc = structures[24 + index].calc
        atoms.info["trajectory"] = "ab"[index // 3]
    write(tmp_path / "two.extxyz", named)
    write_aselmdb(
        tmp_path / "all.aselmdb", (row for file in find_files(str(tmp_path)) for row in read_rows(file, Keys()))
    )
    packed, _ = preprocess(str(tmp_path / "all.aselmdb"), tmp_path / "packed")
    files = [str(tmp_path / pattern) for pattern in ("*.traj", "*.extxyz")]
    for frames in (load(files, Keys(), Limits()).frames, packed):
        runs = frames.trajectory_names[frames.trajectory].tolist()
        assert [Path(name).name for name in dict.fromkeys(runs)] == [*(f"run{n}.traj" for n in range(6)), "a", "b"]
        parts = split_frames(frames, Split(by="trajectory", valid=2, test=0.25), seed=0)
        assert [len({runs[index] for index in part}) for part in parts] == [4, 2, 2]
        assert sorted(np.concatenate(parts)) == list(range(30))
    with pytest.raises(DataError, match=r"8 trajectories cannot be divided into -2 .* with split: \{by: frame\}"):
        split_frames(packed, Split(by="trajectory", valid=10), seed=0)


def test_sizes_of_a_split(frames):
    train, valid, test = split_frames(frames, Split(by="frame", train=30, valid=5), seed=0)
    assert (len(train), len(valid), len(test)) == (30, 5, 0)
    with pytest.raises(DataError, match="40 frames cannot be divided into 39 for training, 5"):
        split_frames(frames, Split(by="frame", train=39, valid=5), seed=0)
    one_molecule = frames.take(np.flatnonzero(frames.group == 0))
    with pytest.raises(DataError, match=r"1 groups cannot be divided .* with split: \{by: frame\}"):
        split_frames(one_molecule, Split(by="group"), seed=0)


def test_split_by_key(frames):
    train, valid, test = split_frames(frames, Split(by="key"), seed=0)
    assert (len(train), len(valid), len(test)) == (24, 16, 0)
    with pytest.raises(DataError, match="No frame has the split 'valid'"):
        split_frames(frames.take(train), Split(by="key"), seed=0)


@pytest.mark.parametrize("target", [1, 100, 500, 10**6])
def test_every_frame_once_per_epoch(frames, target):
    sizes = survey(frames, 4.0).edges
    plan = Plan(sizes, frames.n_atoms, target, seed=0)
    for epoch in range(2):
        batches = plan.epoch(epoch)
        assert sorted(np.concatenate(batches)) == list(range(len(frames)))
        assert all(sizes[batch].sum() <= target or len(batch) == 1 for batch in batches)
    assert plan.steps(2) == len(plan.epoch(0)) + len(plan.epoch(1))


def test_order_follows_from_seed_and_epoch(frames):
    plan = Plan(survey(frames, 4.0).edges, frames.n_atoms, 300, seed=5)
    whole = list(islice(plan.from_step(0), 40))
    for step in (1, 7, 23):
        rest = islice(plan.from_step(step), 40 - step)
        assert all(np.array_equal(a, b) for a, b in zip(whole[step:], rest, strict=True))
    assert not np.array_equal(np.concatenate(plan.epoch(0)), np.concatenate(plan.epoch(1)))
    other = Plan(plan.sizes, plan.atoms, 300, seed=6)
    assert not np.array_equal(np.concatenate(plan.epoch(0)), np.concatenate(other.epoch(0)))


def test_a_batch_does_not_look_at_all_frames(frames, monkeypatch):
    """There may be a hundred million of them, and so many batches."""
    index, count = np.array([3, 0, 7]), len(frames)
    plan = Plan(frames.n_atoms, frames.n_atoms, 100, seed=0)
    expected, share = make_batch(frames, index, 4.0), plan.share(index, 1, 2)
    sizes = Frames.n_atoms.fget

    def of_few(self):
        assert len(self) < count
        return sizes(self)

    monkeypatch.setattr(Frames, "n_atoms", property(of_few))
    found = make_batch(frames, index, 4.0)
    assert torch.equal(found.graph.positions, expected.graph.positions)
    assert found.whole == expected.whole
    assert np.array_equal(plan.share(index, 1, 2), share)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system keeps no room")
def test_a_full_disk_ends_the_packing_with_a_sentence(xyz, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(OutputError, match=r"Cannot write .*packed: No space left"):
            preprocess(str(xyz), tmp_path / "packed")
    assert len(preprocess(str(xyz), tmp_path / "packed")[0])


def test_a_batch_holds_frames_of_similar_size(frames, monkeypatch):
    """All frames are one portion here: sorted by atoms, the batches are runs; their order is not sorted."""
    monkeypatch.setattr(batches, "LEAST_PORTIONS", 1)
    plan = Plan(survey(frames, 4.0).edges, frames.n_atoms, 100, seed=2)
    found = plan.epoch(0)
    assert len(found) > 5
    ranges = [(frames.n_atoms[batch].min(), frames.n_atoms[batch].max()) for batch in found]
    ordered = sorted(ranges)
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))
    assert ordered not in (ranges, ranges[::-1])


def test_batches_stay_random_and_full_over_many_portions():
    """Hardly any empty places, hardly any pair of frames that meets twice, no order of sizes."""
    atoms = np.random.default_rng(0).integers(3, 40, 4000)
    plan = Plan(30 * atoms, atoms, 6000, seed=0)
    assert plan.sizes.sum() > 5 * plan.target * PORTION_BATCHES
    batches, later = plan.epoch(0), plan.epoch(1)
    places = sum(len(batch) * atoms[batch].max() for batch in batches)
    assert places < 1.15 * atoms.sum()
    assert np.mean([plan.sizes[batch].sum() for batch in batches]) > 0.9 * plan.target
    largest = np.array([atoms[batch].max() for batch in batches])
    assert abs(np.corrcoef(largest, np.arange(len(batches)))[0, 1]) < 0.2
    where = np.zeros(len(atoms), dtype=int)
    for number, batch in enumerate(later):
        where[batch] = number
    meetings = [np.bincount(where[batch]).max() for batch in batches]
    assert np.mean(meetings) < 0.3 * np.mean([len(batch) for batch in batches])


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_frames_than_portions(monkeypatch, count):
    monkeypatch.setattr("geomol_training.batches.PORTION_BATCHES", 0.01)
    batches = Plan(np.full(count, 50), np.full(count, 5), 10, seed=0).epoch(0)
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert len(batches) == count


def test_epochs_before_a_step_are_made_once(frames, monkeypatch):
    plan, made, arranged = Plan(survey(frames, 4.0).edges, frames.n_atoms, 300, seed=5), [], Plan._arranged
    monkeypatch.setattr(Plan, "_arranged", lambda self, number: made.append(number) or arranged(self, number))
    first = next(plan.from_step(50))
    assert made == list(range(plan.epoch_of(50) + 1))
    assert np.array_equal(next(plan.from_step(50)), first)
    assert plan.steps(3) == sum(len(arranged(plan, epoch)) for epoch in range(3))
    assert made == list(range(plan.epoch_of(50) + 1))


def test_stream_ends_at_the_next_validation(frames):
    plan = Plan(survey(frames, 4.0).edges, frames.n_atoms, 100, seed=0)
    step = 13
    stream = TrainingStream(frames, plan, 4.0, 8, lambda: step)
    batches = list(stream)
    assert len(batches) == 3
    wanted = islice(plan.from_step(13), 3)
    assert all(np.array_equal(a.frame.numpy(), b) for a, b in zip(batches, wanted, strict=True))


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_of_a_batch(frames, processes):
    plan = Plan(survey(frames, 4.0).edges, frames.n_atoms, 300, seed=0)
    for batch in plan.epoch(0):
        shares = [plan.share(batch, rank, processes) for rank in range(processes)]
        assert sorted(np.concatenate(shares)) == sorted(batch)
        work = [plan.sizes[share].sum() for share in shares]
        assert max(work) - min(work) <= plan.sizes[batch].max()
        if processes == 1:
            assert np.array_equal(shares[0], batch)


def test_streams_of_shares(frames):
    plan = Plan(np.ones(len(frames), dtype=int), frames.n_atoms, 3, seed=0)
    streams = [TrainingStream(frames, plan, 4.0, 5, lambda: 0, rank, 2) for rank in range(2)]
    for index, first, second in zip(islice(plan.from_step(0), 5), *streams, strict=True):
        assert sorted([*first.frame.tolist(), *second.frame.tolist()]) == sorted(index)
        assert first.whole == second.whole == make_batch(frames, index, 4.0).whole
        assert first.whole.atoms == frames.n_atoms[index].sum()
    assert make_batch(frames, np.arange(0), 4.0).graph.n_systems == 0


@pytest.mark.parametrize("cutoff", [4.0, None])
def test_batch_equals_collated_graphs(frames, structures, cutoff):
    index = np.array([3, 11, 0])
    batch = make_batch(frames, index, cutoff)
    expected = collate([from_atoms(structures[i], cutoff) for i in index])
    for name in ("numbers", "cell", "pbc", "system", "edge_index", "shift", "charge", "spin"):
        assert torch.equal(getattr(batch.graph, name), getattr(expected, name)), name
    assert torch.allclose(batch.graph.positions, expected.positions, atol=1e-8)
    assert batch.graph.positions.dtype == torch.float64
    assert batch.energy.tolist() == [frames.energy[i] for i in index]
    np.testing.assert_array_equal(batch.forces[:5], frames.forces[frames.atoms_of(index[:1])][:5])


def test_survey_sees_images_and_repulsion():
    crystal, close = bulk("Cu", a=3.6), molecule("CH4")
    close.positions *= 0.6
    for atoms in (crystal, close):
        atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    frames = pack(row_of_atoms(atoms, Keys()) for atoms in (crystal, close))
    seen = survey(frames, 3.0)
    assert seen.edges.tolist() == [12, 20]
    config = {"elements": (1, 6, 29), "cutoff": 3.0, "layers": 1, "channels": 8}
    with_zbl = Potential(build_model("geomformer", config), scale=0.0).eval()  # type: ignore[arg-type]
    energy = with_zbl(make_batch(frames, np.arange(2), 3.0).graph).energy
    assert energy[1] > 1.0
    np.testing.assert_allclose(seen.repulsion, energy, atol=1e-10)


def test_fixed_batches_cover_all(frames):
    batches = FixedBatches(frames, [np.arange(10), np.arange(10, 40)], 4.0)
    assert [len(batch.energy) for batch in batches] == [10, 30]
