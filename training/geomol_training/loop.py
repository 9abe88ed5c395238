"""The loop of a training, which Lightning runs: in one process, or in several that share the batches."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from ase_geomol.errors import ConfigError, GeoMolError, OutputError

from .batches import FixedBatches, Plan, TrainingStream, fill_batches, loader
from .compiled import compile_blocks, compiler_watched
from .display import Display
from .frames import Frames
from .keeper import Keeper
from .memory import keep_freed_memory
from .objective import Fitting
from .processes import Crew, Together, followers, on_this_machine


def train(fitting: Fitting, learned: Frames, plan: Plan, keeper: Keeper, display: Display, crew: Crew) -> None:
    """Run until the end of steps or time, or until someone stops it; only this process writes and shows anything."""
    out, threads = keeper.run.out, torch.get_num_threads()
    with _logs_are_writable(out), followers(crew.processes, _learn, fitting, learned, plan, crew.workers, threads):
        loggers = [CSVLogger(out, name="logs", flush_logs_every_n_steps=1), TensorBoardLogger(out, name="tensorboard")]
        _learn(0, crew.processes, fitting, learned, plan, crew.workers, threads, loggers, [keeper, display])


def _learn(
    rank: int,
    processes: int,
    fitting: Fitting,
    learned: Frames,
    plan: Plan,
    workers: int,
    threads: int,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """The part of one process in a training."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    cutoff, standing, valid = fitting.predictor.cutoff, fitting.standing, fitting.valid
    interval = fitting.recipe.training.validate_every
    here = on_this_machine(processes)
    parts, disturb = fitting.recipe.training.parts, fitting.task.disturb
    stream = TrainingStream(learned, plan, cutoff, interval, lambda: standing.step, rank, processes, disturb, parts)
    batches = fill_batches(np.arange(len(valid)), valid.n_atoms, 512)[rank::processes]
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=here,
            num_nodes=processes // here,
            strategy="auto" if processes == 1 else Together(rank),
            max_epochs=-1,
            accumulate_grad_batches=parts,
            logger=loggers,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            # A fine-tuning begins with a validation: the weights where it begins are the first to be the best.
            num_sanity_val_steps=-1 if fitting.recipe.finetune is not None and math.isinf(standing.best) else 0,
            inference_mode=False,
        )
        if trainer.world_size != processes:
            raise ConfigError("torchrun must start as many processes on each machine: one --nproc-per-node for all.")
        if fitting.recipe.training.compile:
            compile_blocks(fitting.predictor.model)
        with compiler_watched():
            trainer.fit(fitting, loader(stream, workers), loader(FixedBatches(valid, batches, cutoff), workers))


@contextmanager
def _logs_are_writable(out: Path) -> Iterator[None]:
    """What the loggers inside cannot write becomes a sentence."""
    try:
        yield
    except GeoMolError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write the logs into {out}: {error.strerror or error}.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Advice about workers, devices, loggers and strides is not for the user of a command."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        logger.setLevel(level)
