"""What a reader hands over in the place of a row that it cannot read, so that it can go on with the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from ase_geomol.errors import GeoMolError, MissingExtraError

from ..frames import Row, damaged_row

Arguments = ParamSpec("Arguments")


def row_or_damage(make: Callable[Arguments, Row], *arguments: Arguments.args, **more: Arguments.kwargs) -> Row:
    """The row that ``make`` gives, or one that says why it gives none."""
    try:
        return make(*arguments, **more)
    except (MissingExtraError, MemoryError):
        raise
    except Exception as error:  # damaged content trips over whatever comes next
        return damaged_row(sentence(error).rstrip("."))


def sentence(error: Exception) -> str:
    """What an error of another library says, with its kind, in one line."""
    words = str(error) if isinstance(error, GeoMolError) else f"{type(error).__name__} {error}"
    return words.strip().splitlines()[0].rstrip(".") + "."
