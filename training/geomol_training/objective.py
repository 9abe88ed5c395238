"""The Lightning module: loss, optimiser, running mean of the weights, validation."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ase_geomol.errors import ConfigError, DataError
from ase_geomol.graph import AtomGraph
from ase_geomol.potential import Potential, Prediction

from .batches import Batch
from .frames import Frames
from .loss import total_loss
from .metrics import MILLI, Part, as_part, errors, errors_by, gather
from .optimiser import make_optimiser
from .recipe import Loss, Recipe
from .schedule import Extent, Standing, learning_rate

LOG_EVERY = 50
TOO_MANY_SKIPPED = 50


class PotentialFitting(lightning.LightningModule):
    """Fits a potential; validation and the exported weights use the running mean of the weights.

    Where several processes train together, each has this object and sees its shares of the batches. The first one
    decides what depends on the clock, on files or on signals: the learning rate and the end.

    Args:
        recipe: the training.
        potential: what is fitted, in the recipe's precision.
        valid: frames of the validation.
        extent: how long the training lasts.
        standing: where it stands.
    """

    def __init__(self, recipe: Recipe, potential: Potential, valid: Frames, extent: Extent, standing: Standing) -> None:
        super().__init__()
        self.recipe, self.extent, self.standing = recipe, extent, standing
        self.potential = potential
        self.averaged = copy.deepcopy(potential).requires_grad_(False)
        self.valid = valid
        self.errors: dict[str, float] = {}
        self.score = math.inf
        self.recent: dict[str, float] = {}
        self._parts: list[Part] = []
        self._saved_optimiser: dict[str, Any] | None = None
        self._losses: list[Tensor] = []
        self._skipped_in_a_row = 0

    @property
    def named_errors(self) -> dict[str, float]:
        """The last validation errors as the exported weights tell them."""
        return {f"validation_{name}": value for name, value in self.errors.items()}

    # --- steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of this process's share of a batch, times the processes: Lightning takes the mean of their gradients."""
        if batch.graph.n_systems:
            loss = total_loss(predict(self.potential, batch, self.recipe.loss), batch, self.recipe.loss)
        else:  # fewer structures than processes
            loss = 0.0 * next(self.potential.parameters()).sum().double()
        self._losses.append(loss.detach())
        return self.trainer.world_size * loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict one batch with the mean weights."""
        self._parts.append(as_part(batch, predict(self.averaged, batch, self.recipe.loss)))

    def on_validation_epoch_end(self) -> None:
        """Errors of all validation frames, logged by source too, and their score."""
        predicted = gather(self.valid, self._parts_of_all())
        self._parts.clear()
        self.errors = errors(self.valid, predicted)
        self.score = score(self.errors, self.recipe.loss)
        shown = {f"valid/{name}": value for name, value in self.errors.items()} | {"valid/score": self.score}
        for source, found in errors_by(self.valid, predicted, self.valid.source, self.valid.source_names).items():
            shown |= {f"valid/{source}/{name}": value for name, value in found.items() if "MAE" in name}
        self._log(shown)
        if not math.isfinite(self.score):
            raise DataError(
                f"The validation error is not a number after step {self.standing.step}: lower optimiser.lr or "
                "training.clip, or look for wrong labels with data.max_force."
            )

    def _parts_of_all(self) -> list[Part]:
        """Predictions of all processes."""
        if self.trainer.world_size == 1:
            return self._parts
        gathered: list[list[Part]] = [[]] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, self._parts)
        return [part for parts in gathered for part in parts]

    # --- optimiser

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's optimiser, as it was saved where the run goes on."""
        optimiser = make_optimiser(self.potential, self.recipe.optimiser)
        if self._saved_optimiser is not None:
            optimiser.load_state_dict(self._saved_optimiser)
            self._saved_optimiser = None
        return optimiser

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, and the random numbers of dropout by the step and the process alone."""
        entropy = (self.recipe.seed, self.standing.step, self.trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        rate = self.trainer.strategy.broadcast(
            learning_rate(self.standing, self.extent, self.recipe.optimiser, self.recipe.schedule)
        )
        for group in self._optimiser().param_groups:
            group["lr"] = rate
        self.recent["learning_rate"] = rate

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip the norm; drop the gradient of a step where it is not finite.

        Raises:
            DataError: no step had a finite gradient for a long time.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.potential.parameters(), self.recipe.training.clip)
        self.recent["gradient_norm"] = float(norm)
        if torch.isfinite(norm):
            self._skipped_in_a_row = 0
            return
        optimizer.zero_grad(set_to_none=True)
        self.standing.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= TOO_MANY_SKIPPED:
            raise DataError(
                f"{TOO_MANY_SKIPPED} steps in a row had no finite gradient (now step {self.standing.step}): lower "
                "optimiser.lr, or look for wrong labels with data.max_force."
            )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the step, update the mean weights, log now and then; all processes stop where the first one does."""
        self.standing.step += 1
        self._update_average()
        strategy = self.trainer.strategy
        self.trainer.should_stop = strategy.reduce_boolean_decision(self.trainer.should_stop, all=False)
        if self.standing.step % LOG_EVERY == 0:
            self.recent["loss"] = float(strategy.reduce(torch.stack(self._losses).mean(), reduce_op="sum"))
            self._losses.clear()
            self._log({f"train/{name}": value for name, value in self.recent.items()})

    def _update_average(self) -> None:
        # The decay grows with the steps, so that the first weights, which are random, are soon forgotten.
        step = self.standing.step
        decay = min(self.recipe.training.ema, step / (step + 10))
        with torch.no_grad():
            get_ema_multi_avg_fn(decay)(list(self.averaged.parameters()), list(self.potential.parameters()), step)

    # --- state

    def saved(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        return {
            "potential": self.potential.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self._optimiser().state_dict(),
            "standing": self.standing.saved(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `saved` gave; raises :class:`ConfigError` where it is of another network."""
        try:
            self.potential.load_state_dict(saved["potential"])
            self.averaged.load_state_dict(saved["averaged"])
        except RuntimeError as error:
            raise ConfigError(f"The checkpoint to resume is of another network: {error}") from error
        self._saved_optimiser = saved["optimiser"]
        self.standing.restore(saved["standing"])

    # --- Lightning's plumbing

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch."""
        return batch.to(device)

    def _optimiser(self) -> torch.optim.Optimizer:
        optimiser = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimiser, torch.optim.Optimizer)
        return optimiser

    def _log(self, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, self.standing.step)


def predict(potential: Potential, batch: Batch, weights: Loss) -> Prediction:
    """What the loss needs of a potential."""
    graph = with_volume(batch.graph) if weights.stress > 0 else batch.graph
    return potential(graph, forces=weights.forces > 0, stress=weights.stress > 0)


def with_volume(graph: AtomGraph) -> AtomGraph:
    """Give structures without a cell a unit cell: their stress is not read, but must not be infinite."""
    flat = torch.linalg.det(graph.cell).abs() < 1e-6
    identity = torch.eye(3, dtype=graph.cell.dtype, device=graph.cell.device)
    return dataclasses.replace(graph, cell=torch.where(flat[:, None, None], identity, graph.cell))


def score(found: dict[str, float], weights: Loss) -> float:
    """One number (eV) by which weights are compared: the MAEs, weighted as in the loss."""
    parts = (
        (weights.energy, "energy_MAE_meV_per_atom"),
        (weights.forces, "forces_MAE_meV_per_A"),
        (weights.direct_forces, "direct_forces_MAE_meV_per_A"),
        (weights.stress, "stress_MAE_meV_per_A3"),
    )
    return sum(weight * found.get(name, 0.0) / MILLI for weight, name in parts)
