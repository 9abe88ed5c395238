"""Labels of single atoms' energies, which a potential that teaches another one has."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training.batches import make_batch, survey
from geomol_training.checks import Limits
from geomol_training.data import load
from geomol_training.evaluate import predict_frames
from geomol_training.loss import total_loss
from geomol_training.packed import open_packed, preprocess
from geomol_training.readers import Keys, read_rows
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.recipe import Loss
from geomol_training.references import mean_shares, shifted
from geomol_training.tasks import PotentialTask

from ase_geomol.errors import DataError
from ase_geomol.models import build_model
from ase_geomol.potential import Prediction


def labelled(atoms: Atoms, *, shares: bool = True) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if shares:
        results["energies"] = atoms.get_potential_energies()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    slab = fcc111("Cu", (1, 2, 3), vacuum=6.0)
    slab.numbers[0] = 28
    alloy = bulk("CuNi", "rocksalt", a=4.6)
    return [labelled(slab), labelled(alloy, shares=False), labelled(bulk("Ni"))]


@pytest.fixture(scope="module")
def frames(structures, tmp_path_factory):
    path = tmp_path_factory.mktemp("shares") / "emt.extxyz"
    write(path, structures)
    return load(str(path), Keys(), Limits()).frames


def test_readers_find_them(structures, frames, tmp_path):
    expected = np.concatenate(
        [structures[0].get_potential_energies(), np.zeros(2), structures[2].get_potential_energies()]
    )
    write(tmp_path / "emt.traj", structures)
    write(tmp_path / "emt.extxyz", structures)
    write_aselmdb(tmp_path / "emt.aselmdb", read_rows(tmp_path / "emt.extxyz", Keys()))
    preprocess(str(tmp_path / "emt.extxyz"), tmp_path / "packed")
    read = [load(str(tmp_path / name), Keys(), Limits()).frames for name in ("emt.traj", "emt.aselmdb")]
    for found in (frames, *read, open_packed(tmp_path / "packed")[0]):
        assert found.has_energies.tolist() == [True, False, True]
        np.testing.assert_allclose(found.energies, expected, atol=1e-7)
    np.testing.assert_array_equal(
        frames.take(np.array([2, 0])).energies, np.append(*np.split(frames.energies, [8])[::-1])[:7]
    )


def test_bad_ones_are_named(structures, tmp_path):
    slab = structures[0].copy()
    shares = structures[0].get_potential_energies()
    shares[1] = np.nan
    slab.calc = SinglePointCalculator(slab, energy=1.0, energies=shares)
    write(tmp_path / "bad.traj", slab)
    with pytest.raises(DataError, match=r"row 0: energies not finite \(first at index 1\)"):
        load(str(tmp_path / "bad.traj"), Keys(), Limits())


def test_the_loss_is_their_mean_error(frames):
    batch = make_batch(frames, np.arange(3), 5.0)
    shift = torch.linspace(-0.5, 1.0, len(batch.energies), dtype=torch.float64)
    prediction = Prediction(energy=batch.energy, energies=batch.energies + shift)
    known = np.repeat(frames.has_energies, frames.n_atoms)
    loss = total_loss(prediction, batch, Loss(energy=3.0, energies=2.0, forces=0.0))
    assert float(loss) == pytest.approx(2.0 * shift.abs().numpy()[known].mean())
    halves = [make_batch(frames, np.array(half), 5.0, np.arange(3)) for half in ([0], [1, 2])]
    parts = [
        total_loss(Prediction(energy=half.energy, energies=half.energies + moved), half, Loss(energies=2.0, forces=0.0))
        for half, moved in zip(halves, shift.split([6, 3]), strict=True)
    ]
    assert float(sum(parts)) == pytest.approx(float(loss))


def test_references_are_the_means_of_elements(frames):
    known = np.repeat(frames.has_energies, frames.n_atoms)
    means = mean_shares(frames)
    for number in (28, 29):
        assert means[number] == pytest.approx(frames.energies[known & (frames.numbers == number)].mean())
    moved = shifted(frames, {28: 1.5})
    np.testing.assert_allclose(moved.energies - frames.energies, 1.5 * (frames.numbers == 28))
    config = {"elements": (28, 29), "layers": 1, "channels": 8, "cutoff": 4.0}
    task = PotentialTask(Loss(energies=1.0))
    potential = task.make(build_model("est", config))
    task.fit_units(potential, frames, survey(frames, 4.0))
    assert float(potential.reference_energies[29]) == pytest.approx(means[29], abs=0.2)  # but for repulsion


def test_they_choose_the_best_weights(frames):
    """A training with energies of atoms alone has a score."""
    config = {"elements": (28, 29), "layers": 1, "channels": 8, "cutoff": 4.0}
    task = PotentialTask(Loss(energy=0.0, forces=0.0, energies=2.0))
    predicted = predict_frames(task.make(build_model("est", config)), frames, task)
    assert predicted.energies is not None
    known = np.repeat(frames.has_energies, frames.n_atoms)
    apart = np.abs(predicted.energies - frames.energies)[known].mean()
    found = task.errors(frames, predicted)
    assert found["atom_energies_MAE_meV"] == pytest.approx(1e3 * apart)
    assert task.score(found) == pytest.approx(2.0 * apart)
