"""What an N-body training consists of: its settings, one step, one validation, and all that going on needs."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from ase_geomol.errors import ConfigError

from ..config import faults
from ..optimiser import make_optimiser
from ..schedule import Extent, Standing, learning_rate
from ..sections import Decay, Optimiser, Schedule, Section
from .network import NBodyConfig, NBodyGeoMFormer


class Settings(Section):
    """What is trained: the paper's choices but for what suits a short training: optimiser, schedule, running mean.

    Attributes:
        network: the architecture.
        seed: of the first weights, the order of batches and dropout.
        optimiser: Muon, or the paper's Adam; ``lr`` is the highest rate.
        warmup_steps: steps to reach it; a cosine to a thousandth of it follows, which ends with steps or time.
        batch: simulations in a step.
        clip: largest norm of the gradient.
        ema: decay of the running mean of the weights, which is what is validated and tested.
        validate_every: epochs.
    """

    network: NBodyConfig = NBodyConfig()
    seed: int = Field(default=0, ge=0)
    optimiser: Optimiser = Optimiser(name="muon", lr=0.01)
    warmup_steps: int = Field(default=100, ge=0)
    batch: int = Field(default=100, ge=1)
    clip: float = Field(default=1.0, gt=0)
    ema: Decay = 0.999
    validate_every: int = Field(default=5, ge=1)

    @property
    def name(self) -> str:
        """Norm, parts that are left out, what else is not the default, and seed."""
        left_out = [f"without-{part}" for part in self.network.without]
        return "-".join([self.network.equivariant_norm, *left_out, *self.changes, f"seed{self.seed}"])

    @property
    def changes(self) -> list[str]:
        """What is not the default, but for norm, parts that are left out, and seed."""
        plain = Settings()
        network = {k: v for k, v in self.network if k not in ("equivariant_norm", "without")}
        changed = [f"{k}{v}" for k, v in network.items() if v != getattr(plain.network, k)]
        others = {"optimiser": self.optimiser.name, "lr": self.optimiser.lr, "batch": self.batch}
        before = {"optimiser": plain.optimiser.name, "lr": plain.optimiser.lr, "batch": plain.batch}
        return changed + [f"{k}{v}" for k, v in others.items() if v != before[k]]


def make_settings(**fields: Any) -> Settings:
    """Validate settings; raises :class:`ConfigError` naming the faults."""
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"This cannot be trained: {faults(error)}.") from error


class Part(NamedTuple):
    """Samples as float32 tensors: charges (N, n), the other three (N, n, 3)."""

    charges: Tensor
    positions: Tensor
    velocities: Tensor
    targets: Tensor

    def take(self, index: Any) -> Part:
        """Some of the samples."""
        return Part(*(column[index] for column in self))


class Training:
    """Network, running mean, optimiser, best weights, and where the training stands."""

    def __init__(self, settings: Settings, train: Part, valid: Part, extent: Extent) -> None:
        self.settings, self.train, self.valid, self.extent = settings, train, valid, extent
        torch.manual_seed(settings.seed)
        self.network = NBodyGeoMFormer(settings.network)
        self.mean = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.best = copy.deepcopy(self.mean)
        self.optimiser = make_optimiser(self.network, settings.optimiser)
        self.standing = Standing()
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return math.ceil(len(self.train.charges) / self.settings.batch)

    @property
    def progress(self) -> float:
        """Share that is done, from 0 to 1."""
        return self.extent.progress(self.standing.step, self.standing.elapsed)

    def step(self) -> None:
        """Learn from one batch; which one follows from the seed and the number of steps."""
        settings, standing = self.settings, self.standing
        epoch, place = divmod(standing.step, self.steps_per_epoch)
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(self.train.charges))
        batch = self.train.take(order[place * settings.batch : (place + 1) * settings.batch])
        rate = learning_rate(
            standing,
            self.extent,
            settings.optimiser,
            Schedule(warmup_steps=settings.warmup_steps, floor=settings.optimiser.lr / 1000),
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss = (self.network(*batch[:3]) - batch.targets).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip, foreach=True)
        if torch.isfinite(norm):
            self.optimiser.step()
        else:
            standing.skipped += 1
        standing.step += 1
        self.losses.append(loss.item())
        decay = min(settings.ema, standing.step / (standing.step + 10))
        for mean, parameter in zip(self.mean.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)

    def validate(self) -> dict[str, float]:
        """Compare the mean weights with the best so far; return the new line of the history."""
        error = mean_square_error(self.mean, self.valid)
        if error < self.standing.best:
            self.standing.best = error
            self.best.load_state_dict(self.mean.state_dict())
        line = {
            "step": self.standing.step,
            "seconds": round(self.standing.elapsed, 1),
            "train_mse": float(np.mean(self.losses)) if self.losses else math.nan,
            "valid_mse": error,
        }
        self.losses = []
        self.history.append(line)
        return line

    def saved(self) -> dict[str, Any]:
        """All that going on needs."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "standing": self.standing.saved(),
            "history": self.history,
            "losses": self.losses,
            "random": torch.get_rng_state(),
            "optimiser": self.optimiser.state_dict(),
            **{name: getattr(self, name).state_dict() for name in ("network", "mean", "best")},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `saved` gave; raises :class:`ConfigError` if the settings were others."""
        now = self.settings.model_dump(mode="json")
        changed = [name for name, value in state["settings"].items() if value != now.get(name)]
        if changed:
            raise ConfigError(f"The run was started with another '{changed[0]}': resume with the options it had.")
        self.standing.restore(state["standing"])
        self.history, self.losses = state["history"], state["losses"]
        self.optimiser.load_state_dict(state["optimiser"])
        for name in ("network", "mean", "best"):
            getattr(self, name).load_state_dict(state[name])
        torch.set_rng_state(state["random"])


@torch.no_grad()
def mean_square_error(network: NBodyGeoMFormer, part: Part, together: int = 200) -> float:
    """Mean of the squared errors of all coordinates."""
    total = 0.0
    for begin in range(0, len(part.charges), together):
        batch = part.take(slice(begin, begin + together))
        total += (network(*batch[:3]) - batch.targets).double().square().sum().item()
    return total / part.targets.numel()
