"""Flow matching: what the network learns, and how conformers are drawn with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from .geometry import align, centre, random_rotations
from .graph import MoleculeBatch
from .network import Conditioning, DiTMC
from .sampling import Sampler

Prior = Literal["harmonic", "gaussian"]
LATEST_WEIGHT = 0.9
"""Time after which the weight of the loss does not grow."""


class FlowForm(BaseModel):
    """How the network was trained, and how it samples best.

    Attributes:
        prior: distribution of positions at time 0: "harmonic", where springs along bonds hold atoms together, see
            `ase_geomol.models.ditmc.graph.harmonic_root`, or "gaussian", 1 Å in each direction.
        noise: Å, standard deviation of what is added to the path in training.
        output: what the network's output is: the conformer itself ("conformer", as published), or what the positions
            that it is given lack ("correction"), scaled so that it is about 1 at all times: see `correction_scales`.
        spread: Å, for corrections: about how far atoms are from the centre, in each direction.
        sampler: unless another is asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior: Prior = "harmonic"
    noise: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    output: Literal["conformer", "correction"] = "conformer"
    spread: float = Field(default=1.5, gt=0, allow_inf_nan=False)
    sampler: Sampler = Sampler()


class ConformerFlow(nn.Module):
    """A distribution of a molecule's conformers, given its graph.

    Args:
        model: the network.
        form: its flow.
    """

    def __init__(self, model: DiTMC, form: FlowForm) -> None:
        super().__init__()
        self.model, self.form = model, form

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that it knows."""
        return self.model.elements

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.model.embedding.weight.dtype

    def set_dtype(self, dtype: torch.dtype) -> Self:
        """Set the network's precision in place."""
        self.model.to(dtype)
        return self

    def start(self, molecules: MoleculeBatch, noise: Tensor) -> Tensor:
        """Positions (G, S, N, 3) at time 0, centred, of standard normal numbers of this shape."""
        if self.form.prior == "harmonic":
            noise = molecules.root.to(noise.dtype).unsqueeze(1) @ noise
        return centre(noise, molecules.atoms)

    @torch.no_grad()
    def encode(self, molecules: MoleculeBatch) -> Conditioning:
        """What follows from the graphs alone, whatever the noise, and is the same for all of a molecule's samples."""
        return self.model.encode(molecules)

    def denoise(self, conditioning: Conditioning, positions: Tensor, time: Tensor) -> Tensor:
        """The conformer (G, S, N, 3), centred, that positions on a path to it at a time (G or 1, S or 1) tell of."""
        found = self.model.denoise(conditioning, positions, time)
        if self.form.output == "conformer":
            return found
        kept, scale = (x[..., None, None] for x in correction_scales(time, self.form.spread, self.form.noise))
        return kept * centre(positions, conditioning.atoms) + scale * found

    @torch.no_grad()
    def sample(
        self,
        molecules: MoleculeBatch,
        noise: Tensor,
        sampler: Sampler | None = None,
        on_evaluation: Callable[[], object] = lambda: None,
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """Draw conformers.

        Args:
            molecules: G graphs, on the network's device.
            noise: (G, S, N, 3), for S conformers of each; see `ase_geomol.models.ditmc.sampling.sample_noise`.
            sampler: default: the form's.
            on_evaluation: called before each evaluation of the network; what it raises ends the sampling.
            conditioning: what `encode` gives for the molecules, if it is known.

        Returns:
            (G, S, N, 3) Å, centred; zeros where there are no atoms.
        """
        known = self.encode(molecules) if conditioning is None else conditioning

        def denoise(positions: Tensor, time: float) -> Tensor:
            on_evaluation()
            return self.denoise(known, positions, positions.new_full((1, 1), time))

        start = self.start(molecules, noise).to(self.dtype)
        return (sampler or self.form.sampler).integrate(denoise, start)


def interpolate(start: Tensor, end: Tensor, time: Tensor, noise: Tensor, atoms: Tensor) -> Tensor:
    """Positions on the path, ``(1 - t) x0 + t x1 + noise``, centred; all (G, S, N, 3), time (G, S), atoms (G, N)."""
    t = time[..., None, None]
    return centre((1 - t) * start + t * end + noise, atoms)


def loss_weight(time: Tensor) -> Tensor:
    """``1 / (1 - t)²``, which makes errors of positions those of velocities; constant after `LATEST_WEIGHT`."""
    return (1 - time.clamp(max=LATEST_WEIGHT)) ** -2


def correction_scales(time: Tensor, spread: float, noise: float) -> tuple[Tensor, Tensor]:
    """How much of ``t x1 + e`` is kept, and the scale (Å) of what is to be added to make it ``x1`` again.

    Those of the best linear guess, for independent coordinates of conformer and prior of the standard deviation
    ``spread`` each (Karras et al., arXiv 2206.00364): ``e`` is ``(1 - t) x0`` and the path's noise.
    """
    signal, rest = (spread * time) ** 2, (spread * (1 - time)) ** 2 + noise**2
    return spread**2 * time / (signal + rest), spread * (rest / (signal + rest)).sqrt()


def spread_times(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Times that are each uniform in [0, 1), one in each of as many equal parts of it.

    Weights reach from 1 to 100, and the mean of a batch would depend on how many of its times happen to be late.
    """
    count, options = math.prod(shape), {"generator": generator, "device": generator.device}
    parts = torch.randperm(count, **options)
    return ((parts + torch.rand(count, dtype=dtype, **options)) / max(count, 1)).to(dtype).view(shape)


def flow_loss(flow: ConformerFlow, molecules: MoleculeBatch, positions: Tensor, generator: torch.Generator) -> Tensor:
    """Weighted squared error (G, S) in Å² of the positions that the network predicts on random paths to conformers.

    Conformers are turned at random and positions of the prior turned onto them. All atoms of a molecule count alike.
    The loss is the mean of this over all molecules, not the mean of the means of batches, since some batches have fewer
    molecules than others.

    Args:
        flow: what is trained; its network's precision is that of the arithmetic.
        molecules: G graphs.
        positions: (G, S, N, 3) Å, of S conformers of each, anything where there are no atoms.
        generator: of rotations, times and noise, on the molecules' device.
    """
    atoms, shape = molecules.atoms, positions.shape
    options = {"generator": generator, "device": positions.device, "dtype": positions.dtype}
    end = centre(positions, atoms) @ random_rotations(shape[:2], generator, positions.dtype)
    start = align(flow.start(molecules, torch.randn(shape, **options)), end)
    time = spread_times(shape[:2], generator, positions.dtype)
    path = interpolate(start, end, time, flow.form.noise * torch.randn(shape, **options), atoms)
    predicted = flow.denoise(flow.model.encode(molecules), path, time)
    error = (predicted - end).square().sum((-2, -1)) / (3 * atoms.sum(-1, keepdim=True))
    return loss_weight(time) * error
