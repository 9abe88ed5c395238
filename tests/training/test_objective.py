"""References, loss, learning rate, errors: each against a computation by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from geomol_training.batches import make_batch, survey
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.frames import pack
from geomol_training.loss import total_loss
from geomol_training.metrics import Part, Predicted, gather
from geomol_training.readers import Keys, row_of_atoms
from geomol_training.recipe import Loss, Physics
from geomol_training.references import fit_references, force_scale
from geomol_training.schedule import Extent, Standing, learning_rate, note_score
from geomol_training.sections import Optimiser, Schedule
from geomol_training.tasks import PotentialTask

from ase_geomol.models import build_model
from ase_geomol.potential import Potential, Prediction

TASK = PotentialTask(Loss())


def with_energies(energies: dict[str, float]):
    rows = []
    for name, energy in energies.items():
        atoms = molecule(name)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.full((len(atoms), 3), 2.0))
        rows.append(row_of_atoms(atoms, Keys()))
    return pack(rows)


def test_references_are_recovered():
    true = {1: -13.6, 6: -1029.0, 8: -2042.1}
    names = ("CH4", "H2O", "CO2", "CH3CH2OH")
    frames = with_energies({name: sum(true[z] for z in molecule(name).numbers) for name in names})
    assert fit_references(frames) == pytest.approx(true, abs=1e-9)
    assert fit_references(frames, np.ones(4)) != pytest.approx(true, abs=1e-3)
    shifted = with_energies({name: sum(true[z] for z in molecule(name).numbers) + 3.0 for name in names})
    assert fit_references(shifted, np.full(4, 3.0)) == pytest.approx(true, abs=1e-9)


def test_references_of_elements_that_always_come_together_are_near_the_mean():
    frames = with_energies({"H2O": -90.0})
    assert fit_references(frames) == pytest.approx({1: -30.0, 8: -30.0})
    frames = with_energies({"H2O": -90.0, "CH4": -50.0, "C2H6": -80.0})
    found = fit_references(frames)
    assert found[6] + 4 * found[1] == pytest.approx(-50.0)
    assert 2 * found[1] + found[8] == pytest.approx(-90.0)


def test_bonds_within_the_reach_of_the_repulsion_are_told():
    frames = with_energies({"H2O": -90.0, "CH4": -50.0})
    network = build_model("geomformer", {"elements": (1, 6, 8), "layers": 1, "channels": 8, "cutoff": 4.0})
    told = []
    for reach in (0.7, 1.5):
        task = PotentialTask(Loss(), Physics(repulsion=reach))
        told.append(task.fit_units(task.make(network), frames, survey(frames, 4.0, reach=reach)))
    assert "repulsion" not in told[0]
    assert "2 of 2 frames have more than 1 eV of the ZBL repulsion" in told[1]
    assert "lower potential.repulsion from 1.5." in told[1]


def test_scale_is_the_rms_force():
    frames = with_energies({"H2O": -90.0, "CH4": -20.0})
    assert force_scale(frames, fit_references(frames)) == pytest.approx(2.0)


def random_batch(seed: int = 0, *, stress: bool = False):
    rng = np.random.default_rng(seed)
    structures = [molecule("H2O"), molecule("CH4"), bulk("C", a=3.6)]
    for atoms in structures:
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3))}
        if stress and atoms.pbc.any():
            labels["stress"] = rng.normal(size=6)
        atoms.calc = SinglePointCalculator(atoms, **labels)
    frames = pack(row_of_atoms(atoms, Keys()) for atoms in structures)
    return frames, make_batch(frames, np.arange(3), 3.0)


@pytest.mark.parametrize("kind", ["l1", "l1 components", "l2", "huber"])
def test_loss_by_hand(kind):
    frames, batch = random_batch()
    rng = np.random.default_rng(1)
    energy, forces = rng.normal(size=3), rng.normal(size=frames.forces.shape)
    prediction = Prediction(torch.tensor(energy), torch.zeros(0), torch.tensor(forces))
    weights = Loss(kind=kind.split()[0], force_norm=kind == "l1", energy=3.0, forces=0.5, huber_delta=0.7)  # type: ignore[arg-type]
    de, df = (energy - frames.energy) / frames.n_atoms, forces - frames.forces
    function = {
        "l1": np.abs,
        "l1 components": np.abs,
        "l2": np.square,
        "huber": lambda x: np.where(abs(x) < 0.7, 0.5 * x**2, 0.7 * (abs(x) - 0.35)),
    }[kind]
    of_forces = np.linalg.norm(df, axis=1).mean() if kind == "l1" else function(df).mean()
    expected = 3 * function(de).mean() + 0.5 * of_forces
    assert total_loss(prediction, batch, weights).item() == pytest.approx(expected, rel=1e-6)
    of_head = prediction._replace(forces=None, direct_forces=prediction.forces)
    assert total_loss(of_head, batch, weights).item() == pytest.approx(3 * function(de).mean(), rel=1e-6)
    both = prediction._replace(forces=torch.zeros_like(batch.forces), direct_forces=prediction.forces)
    trained = weights.model_copy(update={"forces": 0.0, "direct_forces": weights.forces})
    assert total_loss(both, batch, trained).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["l1", "l2", "huber"])
def test_losses_of_shares_add_up(kind):
    """Only one of three structures has a stress, another has no forces: shares do not hold equal parts."""
    frames, _ = random_batch(stress=True)
    frames = dataclasses.replace(frames, has_forces=np.array([True, False, True]))
    rng, whole = np.random.default_rng(2), np.arange(3)
    energy, stress = torch.tensor(rng.normal(size=3)), torch.tensor(rng.normal(size=(3, 3, 3)))
    forces = torch.tensor(rng.normal(size=frames.forces.shape))
    weights = Loss(kind=kind, stress=2.0, direct_forces=0.5)  # type: ignore[arg-type]

    def loss(index):
        of_atoms = forces[frames.atoms_of(index)]
        prediction = Prediction(energy[index], torch.zeros(0), of_atoms, stress[index], 2 * of_atoms)
        return total_loss(prediction, make_batch(frames, index, 3.0, whole), weights)

    torch.testing.assert_close(loss(whole[:2]) + loss(whole[2:]), loss(whole))


def test_loss_of_perfect_prediction_has_a_finite_slope():
    frames, batch = random_batch()
    forces = torch.tensor(frames.forces, requires_grad=True)
    loss = total_loss(Prediction(batch.energy, torch.zeros(0), forces), batch, Loss())
    assert torch.isfinite(torch.autograd.grad(loss, forces)[0]).all()


def test_stress_of_molecules_is_left_out():
    frames, batch = random_batch(stress=True)
    config = {"elements": (1, 6, 8), "cutoff": 3.0, "layers": 1, "channels": 8}
    potential = Potential(build_model("geomformer", config)).set_dtype(torch.float64).train()  # type: ignore[arg-type]
    task = PotentialTask(Loss(stress=2.0, energy=0.0, forces=0.0))
    loss, predicted = task.loss(potential, batch), task.predict(potential, batch)
    assert predicted.stress is not None
    expected = 2 * np.abs(predicted.stress[2] - frames.stress[2]).mean()
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    slopes = [p.grad for p in potential.parameters() if p.grad is not None]
    assert slopes
    assert all(torch.isfinite(slope).all() for slope in slopes)


def test_direct_head_is_trained():
    _, batch = random_batch()
    config = {"elements": (1, 6, 8), "cutoff": 3.0, "layers": 1, "channels": 8, "direct_forces": True}
    potential = Potential(build_model("geomformer", config)).set_dtype(torch.float64).train()  # type: ignore[arg-type]
    task = PotentialTask(Loss(energy=0.0, forces=0.0, direct_forces=1.0))
    predicted = task.predict(potential, batch)
    assert predicted.forces is None
    assert predicted.direct_forces is not None
    task.loss(potential, batch).backward()
    head = potential.model.force_readout  # type: ignore[attr-defined]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.first.parameters())


# --- learning rate

OPTIMISER = Optimiser(lr=1e-2)


def test_cosine_over_steps():
    extent, schedule = Extent(steps=100), Schedule(warmup_steps=10, floor=1e-4)
    rates = [learning_rate(Standing(step=step), extent, OPTIMISER, schedule) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[50] == pytest.approx(1e-4 + 0.5 * (1e-2 - 1e-4))
    assert rates[100] == pytest.approx(1e-4)
    assert np.all(np.diff(rates[10:]) < 0)


def test_a_line_over_steps_and_over_a_time_budget():
    schedule = Schedule(kind="linear", warmup_steps=10, floor=1e-4)
    rates = [learning_rate(Standing(step=step), Extent(steps=100), OPTIMISER, schedule) for step in (0, 25, 50, 100)]
    assert rates == pytest.approx([1e-3, 1e-4 + 0.75 * 9.9e-3, 1e-4 + 0.5 * 9.9e-3, 1e-4])
    late = Standing(step=10, earlier=1e6)
    assert learning_rate(late, Extent(seconds=1e6), OPTIMISER, schedule) == pytest.approx(1e-4)


def test_cosine_ends_with_the_time_budget():
    standing = Standing(step=10, earlier=1e6)
    extent = Extent(steps=1000, seconds=1e6)
    assert learning_rate(standing, extent, OPTIMISER, Schedule(warmup_steps=0, floor=1e-5)) == pytest.approx(1e-5)
    assert Extent(steps=1000, seconds=100).progress(10, 50.0) == pytest.approx(0.5)
    assert Extent(steps=20, seconds=100).progress(15, 50.0) == pytest.approx(0.75)


def test_plateau():
    schedule = Schedule(kind="plateau", patience=2, warmup_steps=0)
    standing = Standing()
    assert note_score(standing, 1.0, schedule, regular=True)
    for found in (1.1, 1.1):
        assert not note_score(standing, found, schedule, regular=True)
    assert learning_rate(standing, Extent(), OPTIMISER, schedule) == pytest.approx(5e-3)
    assert not note_score(standing, 1.1, schedule, regular=False)
    assert standing.waited == 0
    assert note_score(standing, 0.9, schedule, regular=False)


def test_an_interruption_does_not_change_the_plateau():
    schedule = Schedule(kind="plateau", patience=2, warmup_steps=0)

    def course(*, interrupted: bool) -> list[tuple[float, int]]:
        standing, states = Standing(), []
        for found in (1.0, 0.9, 0.95, 0.92, 1.1, 1.2):  # never below the irregular one; in the end it rises
            note_score(standing, found, schedule, regular=True)
            if interrupted:
                note_score(standing, 0.8, schedule, regular=False)
                saved, standing = standing.saved(), Standing()
                standing.restore(saved)
            states.append((standing.rate_factor, standing.waited))
        return states

    assert course(interrupted=True) == course(interrupted=False)
    assert course(interrupted=True)[-1] == (0.25, 0)


def test_standing_of_an_older_checkpoint():
    saved = Standing(best=0.5).saved()
    del saved["best_regular"]
    standing = Standing()
    standing.restore(saved)
    assert standing.best_regular == 0.5


def test_not_a_number_is_never_the_best():
    assert not note_score(Standing(), math.nan, Schedule(), regular=True)


# --- errors


def test_errors_by_hand(xyz):
    frames = load(str(xyz), Keys(), Limits()).frames
    rng = np.random.default_rng(0)
    energy, forces = rng.normal(size=len(frames)), rng.normal(size=frames.forces.shape)
    found = TASK.errors(frames, Predicted(frames.energy + energy, frames.forces + forces))
    assert found == pytest.approx(
        {
            "energy_MAE_meV": 1e3 * np.abs(energy).mean(),
            "energy_RMSE_meV": 1e3 * np.sqrt((energy**2).mean()),
            "energy_MAE_meV_per_atom": 1e3 * np.abs(energy / frames.n_atoms).mean(),
            "energy_RMSE_meV_per_atom": 1e3 * np.sqrt(((energy / frames.n_atoms) ** 2).mean()),
            "forces_MAE_meV_per_A": 1e3 * np.abs(forces).mean(),
            "forces_RMSE_meV_per_A": 1e3 * np.sqrt((forces**2).mean()),
        }
    )
    by_group = TASK.errors_by(
        frames, Predicted(frames.energy + energy, frames.forces + forces), frames.group, frames.group_names
    )
    assert sum(row["frames"] for row in by_group.values()) == len(frames)
    mean = sum(row["frames"] * row["energy_MAE_meV"] for row in by_group.values()) / len(frames)
    assert mean == pytest.approx(found["energy_MAE_meV"])


def test_frames_without_forces_do_not_count():
    atoms = [Atoms("H", positions=[[0.0, 0, 0]]) for _ in range(2)]
    atoms[0].calc = SinglePointCalculator(atoms[0], energy=1.0)
    atoms[1].calc = SinglePointCalculator(atoms[1], energy=1.0, forces=np.ones((1, 3)))
    frames = pack(row_of_atoms(each, Keys()) for each in atoms)
    found = TASK.errors(frames, Predicted(np.ones(2), np.zeros((2, 3))))
    assert found["forces_MAE_meV_per_A"] == pytest.approx(1000.0)
    assert "forces_MAE_meV_per_A" not in TASK.errors(frames, Predicted(np.ones(2), np.zeros((2, 3))), np.array([0]))


def test_forces_that_were_not_predicted_have_no_errors(xyz):
    frames = load(str(xyz), Keys(), Limits()).frames.take(np.arange(2))
    predicted = gather(frames, [Part(np.arange(2), Predicted(frames.energy))])
    assert predicted.forces is None
    assert predicted.direct_forces is None
    assert not any("forces" in name for name in TASK.errors(frames, predicted))


def test_score_weighs_each_kind_of_forces_by_its_own_error():
    found = {"energy_MAE_meV_per_atom": 1.0, "forces_MAE_meV_per_A": 10.0, "direct_forces_MAE_meV_per_A": 100.0}
    assert PotentialTask(Loss(energy=1.0, forces=2.0, direct_forces=3.0)).score(found) == pytest.approx(0.321)


def test_gather_puts_batches_in_the_order_of_frames(xyz):
    frames = load(str(xyz), Keys(), Limits()).frames.take(np.arange(6))
    parts = []
    for index in (np.array([4, 1]), np.array([5, 0, 3, 2])):
        part = frames.take(index)
        parts.append(Part(index, Predicted(part.energy, part.forces, direct_forces=2 * part.forces)))
    predicted = gather(frames, parts)
    assert predicted.forces is not None
    assert predicted.direct_forces is not None
    assert predicted.stress is None
    np.testing.assert_array_equal(predicted.direct_forces, 2 * frames.forces)
    np.testing.assert_array_equal(predicted.energy, frames.energy)
    np.testing.assert_array_equal(predicted.forces, frames.forces)
