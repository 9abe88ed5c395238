"""What a training writes down while it runs: as CSV and for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from ase_geomol.errors import OutputError


class Logs(Logger):
    """``logs`` and ``tensorboard`` in the folder of a run.

    What cannot be written there raises :class:`OutputError`.
    """

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out
        with self._writable():
            self.loggers: tuple[Logger, ...] = (
                CSVLogger(out, name="logs", flush_logs_every_n_steps=1),
                TensorBoardLogger(out, name="tensorboard"),
            )

    @property
    def name(self) -> str:
        """Of the run."""
        return self.out.name

    @property
    def version(self) -> None:
        """Each of the two counts the runs in the folder itself."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write numbers of a step."""
        with self._writable():
            for logger in self.loggers:
                logger.log_metrics(dict(metrics), step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe is in the run's folder."""

    def save(self) -> None:
        """Write what is not written yet."""
        with self._writable():
            for logger in self.loggers:
                logger.save()

    def finalize(self, status: str) -> None:
        """Close the files."""
        with self._writable():
            for logger in self.loggers:
                logger.finalize(status)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"Cannot write the logs into {self.out}: {error.strerror or error}.") from error
