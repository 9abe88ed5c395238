"""Errors that a user can act on: every message says what was wrong, where, and what to do."""

from __future__ import annotations


class GeoMolError(Exception):
    """Base of every error that ase_geomol raises on purpose."""


class InputError(GeoMolError, ValueError):
    """The structure handed in cannot be computed: bad positions, cell, element or charge."""


class CheckpointError(GeoMolError):
    """A weight file is missing, truncated, foreign or was changed."""


class DataError(GeoMolError):
    """A data file or a row of it cannot be used."""


class ConfigError(GeoMolError, ValueError):
    """A configuration or recipe is not valid."""


class OutputError(GeoMolError, OSError):
    """A result cannot be written: no permission, no space, no such folder."""


class MissingExtraError(GeoMolError, ImportError):
    """An optional package is needed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: install it with  pip install 'ase_geomol[{extra}]'.")
