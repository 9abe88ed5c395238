"""What the commands share: options, durations, missing packages, orderly ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from ase_geomol.errors import ConfigError, MissingExtraError

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a field of the recipe: key.path=value.")]
EnergyKey = Annotated[str, typer.Option(help="Name of the energy (eV) in the data.")]
ForcesKey = Annotated[str, typer.Option(help="Name of the forces (eV/Å).")]
StressKey = Annotated[str, typer.Option(help="Name of the stress (eV/Å³).")]
GroupKey = Annotated[str, typer.Option(help="Name of what must not be divided, such as the molecule.")]
Labels = Annotated[str, typer.Option(help="Labels of an rMD17 file: revised or original.")]
SkipBad = Annotated[bool, typer.Option(help="Leave bad rows out instead of stopping.")]


def parse_duration(text: str) -> float:
    """Seconds in ``90s``, ``40min`` or ``2h``; raises :class:`ConfigError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a duration: write it like 90s, 40min or 2h.")
    if float(match[1]) == 0:
        raise ConfigError(f"{text!r} leaves no time: give a longer one.")
    return float(match[1]) * _UNITS[match[2]]


@contextmanager
def packages(extra: str, purpose: str) -> Iterator[None]:
    """Imports inside may fail: the user reads which extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "a package", extra, purpose) from error


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """Ctrl-C and a request to terminate end the work inside once its processes have finished what they had begun, which
    is told at once; a second one does not wait for that. The user reads how to go on.
    """
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            Console().show_cursor()
            os._exit(130)  # processes end with this one, and write files whole or not at all
        asked = True
        Console(stderr=True).print("Stopping once what has begun is finished; once more ends it at once.")
        signal.default_int_handler(number, frame)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        Console().print(f"Stopped. {out} holds every finished job: run the same command to resume.", markup=False)
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
