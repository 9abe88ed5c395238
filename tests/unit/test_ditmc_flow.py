"""The parts of flow matching that know no network: geometry, priors, paths, samplers, noise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from unit.small_ditmc import graph

from ase_geomol.models.ditmc import ConformerFlow, FlowForm, MoleculeBatch, collate_molecules, flow_loss
from ase_geomol.models.ditmc.flow import correction_scales, interpolate, loss_weight, spread_times
from ase_geomol.models.ditmc.geometry import align, centre, handedness, random_rotations
from ase_geomol.models.ditmc.graph import UNREACHABLE, harmonic_root
from ase_geomol.models.ditmc.sampling import Sampler, sample_noise

SPREAD = 1.5
DOUBLE = {"dtype": torch.float64}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), **DOUBLE)


# Paths


@pytest.mark.parametrize("time", [0.0, 0.37, 1.0])
def test_without_noise_the_path_is_a_straight_line(time):
    atoms = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    start, end = (centre(cloud(2, 4, 5, 3, seed=seed), atoms) for seed in (1, 2))
    path = interpolate(start, end, torch.full((2, 4), time, **DOUBLE), torch.zeros_like(start), atoms)
    torch.testing.assert_close(path, (1 - time) * start + time * end, atol=1e-12, rtol=0)
    assert path.sum(-2).abs().max() < 1e-12
    assert not path[1, :, 3:].any()


def test_the_centred_noise_of_a_path():
    """Taking away the mean takes away one of N shares of the variance."""
    n_atoms, sigma = 4, 0.5
    atoms = torch.ones(1, n_atoms, dtype=torch.bool)
    zero = torch.zeros(1, 200_000, n_atoms, 3, **DOUBLE)
    path = interpolate(zero, zero, torch.zeros(1, 200_000, **DOUBLE), sigma * cloud(*zero.shape), atoms)
    variance = path.square().mean((0, 1, 3))
    expected = sigma**2 * (1 - 1 / n_atoms)
    error = expected * math.sqrt(2 / (3 * 200_000))
    assert (variance - expected).abs().max() < 4 * error


def test_the_weight_makes_errors_those_of_velocities_and_ends_at_a_hundred():
    torch.testing.assert_close(loss_weight(torch.tensor([0.0, 0.5, 0.9, 1.0])), torch.tensor([1.0, 4.0, 100.0, 100.0]))


@pytest.mark.parametrize("noise", [0.0, 0.25])
@pytest.mark.parametrize("time", [0.0, 0.37, 0.9, 1.0])
def test_corrections_are_what_the_best_linear_guess_leaves_in_units_of_its_size(time, noise):
    end, start = (SPREAD * cloud(100_000, seed=seed) for seed in (1, 2))
    path = time * end + (1 - time) * start + noise * cloud(100_000, seed=3)
    kept, scale = correction_scales(torch.tensor(time, **DOUBLE), SPREAD, noise)
    left = end - kept * path
    assert left.square().mean().sqrt() == pytest.approx(float(scale), rel=0.02)
    assert abs((left * path).mean()) < 0.02 * SPREAD**2, "no multiple of the path is a better guess"


class Listener(nn.Module):
    """In the place of a network: keeps what it is given."""

    def encode(self, molecules: MoleculeBatch) -> MoleculeBatch:
        return molecules

    def denoise(self, conditioning: MoleculeBatch, positions: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        self.positions, self.time = positions[0], time[0]
        return torch.zeros_like(positions)


def paths(count: int, noise: float, *, prior: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions (S, N, 3) that a network learns from, times (S,) and the one conformer (N, 3) to which they lead.

    The same random numbers whatever the noise and whether there is a prior, or zeros in its place.
    """
    molecules = collate_molecules([graph("CCO")])
    if not prior:
        molecules = dataclasses.replace(molecules, root=torch.zeros_like(molecules.root))
    conformer = centre(2 * cloud(1, 1, molecules.numbers.shape[1], 3, seed=5), molecules.atoms)
    listener = Listener()
    flow_loss(
        ConformerFlow(listener, FlowForm(noise=noise)), molecules, conformer.expand(-1, count, -1, -1), generator()
    )
    return listener.positions, listener.time, conformer[0, 0]


def test_the_noise_that_a_network_learns_from_is_the_same_at_all_times():
    count, sigma = 20_000, 0.3
    noisy, time, conformer = paths(count, sigma)
    plain, same_time, _ = paths(count, 0.0)
    assert torch.equal(time, same_time)
    expected = sigma**2 * (1 - 1 / len(conformer))
    for begin in (0.0, 0.25, 0.5, 0.75):
        chosen = (time >= begin) & (time < begin + 0.25)
        assert chosen.sum() == count / 4
        variance = (noisy - plain)[chosen].square().mean(0)
        assert (variance - expected).abs().max() < 4 * expected * math.sqrt(2 / (count / 4))


def test_a_network_learns_from_all_orientations_and_from_priors_turned_onto_them():
    count = 20_000
    to_ends, time, conformer = paths(count, 0.0, prior=False)
    ends = to_ends / time[:, None, None]
    rotations = torch.linalg.lstsq(conformer.expand_as(ends), ends).solution
    torch.testing.assert_close(conformer @ rotations, ends)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, **DOUBLE).expand_as(rotations))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(count, **DOUBLE))
    assert rotations.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / count)
    plain, _, _ = paths(count, 0.0)
    starts = (plain - to_ends) / (1 - time)[:, None, None]
    torch.testing.assert_close(align(starts, ends), starts)
    lengths = 3 * collate_molecules([graph("CCO")]).root.double().square().sum()
    assert starts.square().sum((1, 2)).mean() == pytest.approx(float(lengths), rel=0.02)


# Turning


def test_times_of_a_batch_are_uniform_and_spread():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([spread_times((5, 8), generator, torch.float64) for _ in range(500)])
    parts = (drawn * 40).long().view(500, 40)
    assert (parts.sort(1).values == torch.arange(40)).all(), "one in each fortieth"
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    every = drawn.view(500, 40)
    assert (every.mean(0) - 0.5).abs().max() < 4 * (1 / 12 / 500) ** 0.5, "each place has all times"
    assert ((every**2).mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / 500) ** 0.5


def test_random_rotations_are_rotations_without_a_preference():
    rotations = random_rotations((20_000,), generator(), torch.float64)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, **DOUBLE).expand_as(rotations))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(20_000, **DOUBLE))
    assert rotations.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / 20_000)
    angle = torch.arccos(((rotations.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    assert abs(angle.mean() - (math.pi / 2 + 2 / math.pi)) < 0.02  # of the uniform law (1 - cos angle) / pi


def test_alignment_finds_a_rotation():
    fixed = cloud(50, 7, 3)
    rotation = random_rotations((50,), generator(1), torch.float64)
    torch.testing.assert_close(align(fixed @ rotation, fixed), fixed, atol=1e-10, rtol=0)
    single = align((fixed @ rotation).float(), fixed.float())
    torch.testing.assert_close(single, fixed.float(), atol=1e-5, rtol=0)


def test_alignment_never_reflects():
    fixed = cloud(200, 5, 3)
    mirrored = fixed * torch.tensor([1.0, 1.0, -1.0], **DOUBLE)
    turned = align(mirrored, fixed)
    handed = torch.linalg.det(turned[:, :3]) * torch.linalg.det(mirrored[:, :3])
    assert (handed > 0).all()
    assert ((turned - fixed).square().sum((-2, -1)) <= (mirrored - fixed).square().sum((-2, -1)) + 1e-9).all()


@pytest.mark.parametrize(
    "positions",
    [
        [[0.0, 0.0, 0.0]],
        [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        [[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        [[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]],
    ],
    ids=["one atom", "two atoms", "a line", "a square"],
)
def test_alignment_of_degenerate_positions(positions):
    fixed = torch.tensor(positions, **DOUBLE)
    rotation = random_rotations((30,), generator(), torch.float64)
    torch.testing.assert_close(align(fixed @ rotation, fixed), fixed.expand(30, -1, -1), atol=1e-9, rtol=0)


# Stereocentres


def test_the_way_to_the_right_hand():
    """The gradient of the volumes, squeezed; a centre that is not there adds nothing."""
    positions = cloud(1, 4, 6, 3).requires_grad_()
    centres = torch.tensor([[[0, 1, 2, 3], [4, 2, 5, 1], [-1, -1, -1, -1]]])
    ends = positions[:, :, centres[0, :2]]
    volume = torch.linalg.det(ends[..., :3, :] - ends[..., 3:, :])
    (gradient,) = torch.autograd.grad(volume.sum(), positions)
    expected = gradient / (1 + gradient.square().sum(-1, keepdim=True)).sqrt()
    torch.testing.assert_close(handedness(positions, centres), expected)
    assert not handedness(positions, centres[:, :0]).any()


def test_the_way_to_the_right_hand_leads_there():
    """From any four positions, all steps along it make the volume grow, until it is positive."""
    positions = cloud(1, 100, 4, 3)
    centres = torch.tensor([[[0, 1, 2, 3]]])

    def volume() -> torch.Tensor:
        return torch.linalg.det(positions[..., :3, :] - positions[..., 3:, :])

    assert (volume() < 0).sum() > 30
    for _ in range(300):
        before = volume()
        positions = positions + 0.02 * handedness(positions, centres)
        assert (volume() > before).all()
    assert (volume() > 0).all()


# Priors

GRAPHS = {
    "chain": (4, [(0, 1), (1, 2), (2, 3)]),
    "ring with a tail": (6, [(0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 5)]),
    "two fragments": (5, [(0, 1), (1, 2), (3, 4)]),
    "one atom": (1, []),
}


def adjacency(name: str) -> np.ndarray:
    n_atoms, bonds = GRAPHS[name]
    matrix = np.zeros((n_atoms, n_atoms))
    for i, j in bonds:
        matrix[i, j] = matrix[j, i] = 1
    return matrix


@pytest.mark.parametrize("name", GRAPHS)
def test_the_covariance_of_the_harmonic_prior(name):
    matrix = adjacency(name)
    inverse = np.linalg.pinv(np.diag(matrix.sum(1)) - matrix)
    root = harmonic_root(matrix)
    np.testing.assert_allclose(root @ root.T, inverse, atol=1e-12)
    samples = root @ np.random.default_rng(0).standard_normal((len(matrix), 200_000))
    measured = samples @ samples.T / samples.shape[1]
    error = np.sqrt((inverse**2 + np.outer(np.diag(inverse), np.diag(inverse))) / samples.shape[1])
    assert (np.abs(measured - inverse) <= 4 * error + 1e-12).all()


def test_the_length_of_bonds_in_the_harmonic_prior():
    """The mean square is three times the effective resistance: 1 in a tree, 3/4 in a ring of four."""
    matrix = adjacency("ring with a tail")
    root = harmonic_root(matrix)
    squares = 3 * ((root[:, None] - root[None]) ** 2).sum(-1)
    for (i, j), resistance in {(0, 1): 0.75, (2, 3): 0.75, (3, 4): 1.0, (4, 5): 1.0}.items():
        assert squares[i, j] == pytest.approx(3 * resistance, abs=1e-12)


def test_the_harmonic_prior_does_not_know_the_order_of_atoms():
    matrix = adjacency("ring with a tail")
    order = np.random.default_rng(1).permutation(len(matrix))
    np.testing.assert_allclose(
        harmonic_root(matrix[order][:, order]), harmonic_root(matrix)[order][:, order], atol=1e-12
    )


# Samplers

MEANS = torch.tensor([-2.0, 2.0], **DOUBLE)
SHARES = torch.tensor([0.3, 0.7], **DOUBLE)
WIDTH = 0.4


def mixture(positions: torch.Tensor, time: float) -> torch.Tensor:
    """E[x1 | x_t] for x1 from a mixture of two Gaussians and standard normal x0, independent of each other."""
    variance = (1 - time) ** 2 + time**2 * WIDTH**2
    residual = positions[..., None] - time * MEANS
    chance = torch.softmax(SHARES.log() - residual.square() / (2 * variance), -1)
    return (chance * (MEANS + time * WIDTH**2 / variance * residual)).sum(-1)


@pytest.mark.parametrize(("solver", "steps", "bias"), [("euler", 100, 0.02), ("heun", 30, 0.01)])
@pytest.mark.parametrize("schedule", ["uniform", "logarithmic"])
def test_samples_of_a_known_mixture(solver, steps, bias, schedule):
    n = 20_000
    samples = Sampler(steps=steps, schedule=schedule, solver=solver).integrate(mixture, cloud(n))
    right = samples > 0
    assert abs(right.double().mean() - 0.7) < bias + 4 * math.sqrt(0.21 / n)
    for part, mean in ((samples[~right], -2.0), (samples[right], 2.0)):
        assert abs(part.mean() - mean) < bias + 4 * WIDTH / math.sqrt(len(part))
        assert abs(part.std() - WIDTH) < 2 * bias + 4 * WIDTH / math.sqrt(2 * len(part))


def test_euler_steps_of_a_gaussian_in_closed_form():
    """One Gaussian of width s: x̂1 = t s² x / ((1-t)² + t² s²), so each step is a known factor."""
    seen = []

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        seen.append(float(x[0]))
        return t * WIDTH**2 / ((1 - t) ** 2 + t**2 * WIDTH**2) * x

    sampler = Sampler(steps=10)
    end, moments = sampler.integrate(denoise, torch.ones(1, **DOUBLE)), sampler.times
    x = 1.0
    for t, after, found in zip(moments[:-1], moments[1:], seen, strict=True):
        assert found == pytest.approx(x, abs=1e-12)
        shrink = t * WIDTH**2 / ((1 - t) ** 2 + t**2 * WIDTH**2)
        x += (after - t) * (shrink - 1) / (1 - t) * x
    assert float(end) == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_last_step_ends_at_the_prediction_before_time_one(solver):
    asked = []

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        asked.append((t, x.sin()))
        return asked[-1][1]

    sampler = Sampler(steps=4, solver=solver)
    end = sampler.integrate(denoise, cloud(5))
    assert torch.equal(end, asked[-1][1])
    assert max(t for t, _ in asked) == 0.75
    assert len(asked) == sampler.evaluations == (4 if solver == "euler" else 7)


def test_schedules():
    np.testing.assert_allclose(Sampler(steps=4).times, [0, 0.25, 0.5, 0.75, 1])
    logarithmic = np.array(Sampler(steps=10, schedule="logarithmic").times)
    assert logarithmic[0] == 0
    assert logarithmic[-1] == 1
    steps = np.diff(logarithmic)
    np.testing.assert_allclose(steps[1:] / steps[:-1], 10**-0.1)


# Noise


def test_noise_of_a_sample_depends_on_its_seed_alone():
    seeds = [0, 1, 2, 2**63 - 1]
    together = sample_noise(seeds, 5)
    torch.testing.assert_close(sample_noise([seeds[3], seeds[1]], 5), together[[3, 1]], atol=0, rtol=0)
    assert len(together.unique()) == together.numel()


def test_noise_is_standard_normal():
    noise = sample_noise(range(500), 40).flatten()
    assert abs(noise.mean()) < 4 / math.sqrt(len(noise))
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / len(noise))


def test_no_path_is_as_long_as_the_mark_of_other_fragments():
    from ase_geomol.models.ditmc.config import LONGEST_PATH

    assert LONGEST_PATH < UNREACHABLE
