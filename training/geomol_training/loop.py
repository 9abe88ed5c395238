"""The loop of a training, which Lightning runs: in one process, or in several that share the batches."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import lightning
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import IterableDataset

from ase_geomol.errors import ConfigError

from .batches import loader
from .compiled import compile_blocks, compiler_watched
from .display import Display
from .keeper import Keeper
from .logs import Logs
from .memory import keep_freed_memory
from .objective import Fitting
from .processes import Crew, Running, Together, followers, on_this_machine


class Supply(Protocol):
    """Makes the batches of a training; it is sent to each process that takes part, by pickle."""

    def training(self, step: Callable[[], int], rank: int, processes: int) -> IterableDataset:
        """Shares of one process, from the current ``step`` to the next validation."""
        ...

    def validation(self, rank: int, processes: int) -> IterableDataset:
        """Shares of one process."""
        ...


def train(fitting: Fitting, supply: Supply, keeper: Keeper, display: Display, crew: Crew) -> None:
    """Run until the end of steps or time, or until someone stops it; only this process writes and shows anything."""
    threads = torch.get_num_threads()
    with followers(crew.processes, _learn, fitting, supply, crew.workers, threads):
        logs = Logs(keeper.run.out)
        _learn(0, crew.processes, fitting, supply, crew.workers, threads, [logs], [keeper, display])


def _learn(
    rank: int,
    processes: int,
    fitting: Fitting,
    supply: Supply,
    workers: int,
    threads: int,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """The part of one process in a training."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    standing, here = fitting.standing, on_this_machine(processes)
    stream, fixed = supply.training(lambda: standing.step, rank, processes), supply.validation(rank, processes)
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=here,
            num_nodes=processes // here,
            strategy="auto" if processes == 1 else Together(rank),
            plugins=[Running(rank)] if processes == 1 else None,  # or Lightning asks SLURM how many there are
            max_epochs=-1,
            accumulate_grad_batches=fitting.recipe.training.parts,
            logger=loggers,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=-1 if fitting.validate_first and math.isinf(standing.best) else 0,
            inference_mode=False,
        )
        if trainer.world_size != processes:
            raise ConfigError("torchrun must start as many processes on each machine: one --nproc-per-node for all.")
        if fitting.recipe.training.compile:
            compile_blocks(fitting.predictor.model)
        with compiler_watched():
            trainer.fit(fitting, loader(stream, workers), loader(fixed, workers))


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
