"""The Lightning module: loss, optimiser, running mean of the weights, validation."""

from __future__ import annotations

import copy
import math
import signal
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ase_geomol.checkpoint import AnyPredictor
from ase_geomol.errors import ConfigError, DataError

from .batches import AnyBatch
from .metrics import Part
from .mixed import use_mixed_precision
from .optimiser import make_optimiser
from .schedule import Extent, Standing, learning_rate
from .sections import TrainingRecipe
from .tasks import Goal

LOG_EVERY = 50
TOO_MANY_SKIPPED = 50


class Fitting(lightning.LightningModule):
    """Fits a predictor; validation and the exported weights use the running mean of the weights.

    Where several processes train together, each has this object and sees its shares of the batches. The first one
    decides what depends on the clock, on files or on signals: the learning rate and the end.

    Args:
        recipe: the training.
        predictor: what is fitted, in the recipe's precision.
        goal: what it learns.
        valid: data of the validation.
        extent: how long the training lasts.
        standing: where it stands.
        rank: of changes of linear maps, where only such are learned.
        validate_first: begin with a validation, so that the weights at hand are the first to be the best.

    Attributes:
        unmeasured: where the run stops, leave out the last validation.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        predictor: AnyPredictor,
        goal: Goal,
        valid: Any,
        extent: Extent,
        standing: Standing,
        *,
        rank: int | None = None,
        validate_first: bool = False,
    ) -> None:
        super().__init__()
        self.recipe, self.extent, self.standing = recipe, extent, standing
        self.predictor, self.goal, self.rank, self.validate_first = predictor, goal, rank, validate_first
        self.averaged = copy.deepcopy(predictor).requires_grad_(False)
        if recipe.training.precision == "mixed":
            use_mixed_precision(predictor.model)  # type: ignore[arg-type]
        self.valid = valid
        self.errors: dict[str, float] = {}
        self.score = math.inf
        self.unmeasured = False
        self.recent: dict[str, float] = {}
        self._parts: list[Part] = []
        self._saved_optimiser: dict[str, Any] | None = None
        self._losses: list[Tensor] = []
        self._skipped_in_a_row = 0
        self._progress = 0.0

    @property
    def named_errors(self) -> dict[str, float]:
        """The last validation errors as the exported weights tell them."""
        return {f"validation_{name}": value for name, value in self.errors.items()}

    def on_train_start(self) -> None:
        """The first process alone decides what a request to terminate means; Lightning would let all follow it."""
        if self.trainer.global_rank > 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    # --- steps

    def training_step(self, batch: AnyBatch, batch_idx: int) -> Tensor:
        """Loss of a part of a batch, times the parts: Lightning takes the mean of their gradients, ours add up."""
        if len(batch):
            loss = self.goal.loss(self.predictor, batch, self._progress)
        else:  # fewer examples than processes
            loss = 0.0 * next(p for p in self.predictor.parameters() if p.requires_grad).sum().double()
        self._losses.append(loss.detach().double())  # that of an empty share is; processes add up one precision only
        return self.trainer.world_size * self.recipe.training.parts * loss

    def validation_step(self, batch: AnyBatch, batch_idx: int) -> None:
        """Predict one batch with the mean weights."""
        self._parts.append(Part(batch.frame.cpu().numpy(), self.goal.predict(self.averaged, batch)))

    def on_validation_epoch_end(self) -> None:
        """Errors of all validation data, logged by source too, and their score."""
        self.errors, by_source = self.goal.measure(self.valid, self._parts_of_all())
        self._parts.clear()
        self.score = self.goal.score(self.errors)
        shown = {f"valid/{name}": value for name, value in self.errors.items()} | {"valid/score": self.score}
        shown["valid/minutes"] = self.standing.elapsed / 60
        for source, found in by_source.items():
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

    def on_validation_end(self) -> None:
        """All processes stop where the first one does."""
        strategy = self.trainer.strategy
        self.trainer.should_stop = strategy.reduce_boolean_decision(self.trainer.should_stop, all=False)

    # --- optimiser

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's optimiser, as it was saved where the run goes on."""
        optimiser = make_optimiser(self.predictor, self.recipe.optimiser, self.rank)
        if self._saved_optimiser is not None:
            optimiser.load_state_dict(self._saved_optimiser)
            self._saved_optimiser = None
        return optimiser

    def on_train_batch_start(self, batch: AnyBatch, batch_idx: int) -> None:
        """Set the learning rate, and the random numbers of dropout by the step, the process and the part alone."""
        share = self.trainer.global_rank * self.recipe.training.parts + batch.part
        entropy = (self.recipe.seed, self.standing.step, share)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        if batch.part > 0:
            return
        rate = self.trainer.strategy.broadcast(
            learning_rate(self.standing, self.extent, self.recipe.optimiser, self.recipe.schedule)
        )
        progress = self.extent.progress(self.standing.step, self.standing.elapsed)
        self._progress = self.trainer.strategy.broadcast(progress)
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
        norm = torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), self.recipe.training.clip)
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

    def on_train_batch_end(self, outputs: Any, batch: AnyBatch, batch_idx: int) -> None:
        """Count the step, update the mean weights, log now and then; all processes stop where the first one does."""
        if not batch.last:
            return
        self.standing.step += 1
        self._update_average()
        strategy = self.trainer.strategy
        self.trainer.should_stop = strategy.reduce_boolean_decision(self.trainer.should_stop, all=False)
        if self.trainer.should_stop and strategy.reduce_boolean_decision(self.unmeasured, all=False):
            self.trainer.limit_val_batches = 0
        if self.standing.step % LOG_EVERY == 0:
            steps = len(self._losses) / self.recipe.training.parts
            self.recent["loss"] = float(strategy.reduce(torch.stack(self._losses).sum() / steps, reduce_op="sum"))
            self._losses.clear()
            self._log({f"train/{name}": value for name, value in self.recent.items()})

    def _update_average(self) -> None:
        # The decay grows with the steps, so that the first weights, which are random, are soon forgotten.
        step = self.standing.step
        decay = min(self.recipe.training.ema, step / (step + 10))
        with torch.no_grad():
            get_ema_multi_avg_fn(decay)(list(self.averaged.parameters()), list(self.predictor.parameters()), step)

    # --- state

    def saved(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        return {
            "predictor": self.predictor.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self._optimiser().state_dict(),
            "standing": self.standing.saved(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `saved` gave; raises :class:`ConfigError` where it is of another network."""
        try:
            self.predictor.load_state_dict(saved["predictor"])
            self.averaged.load_state_dict(saved["averaged"])
        except RuntimeError as error:
            raise ConfigError(f"The checkpoint to resume is of another network: {error}") from error
        self._saved_optimiser = saved["optimiser"]
        self.standing.restore(saved["standing"])

    # --- Lightning's plumbing

    def transfer_batch_to_device(self, batch: AnyBatch, device: torch.device, dataloader_idx: int) -> AnyBatch:
        """Move a batch."""
        return batch.to(device)

    def _optimiser(self) -> torch.optim.Optimizer:
        optimiser = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimiser, torch.optim.Optimizer)
        return optimiser

    def _log(self, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, self.standing.step)
