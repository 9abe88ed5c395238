"""Errors that a user can act on: every message says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping


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


class ProviderError(GeoMolError):
    """A provider made no structure at all.

    Attributes:
        failures: how many candidates were lost, by reason.
    """

    def __init__(self, message: str, failures: Mapping[str, int]) -> None:
        super().__init__(message)
        self.failures = dict(failures)

    def __reduce__(self) -> tuple[type[ProviderError], tuple[str, dict[str, int]]]:
        return type(self), (str(self), self.failures)


class ProviderWarning(UserWarning):
    """A provider made fewer structures than it was asked for; the message says why."""


class MissingExtraError(GeoMolError, ImportError):
    """An optional package is needed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: install it with  pip install 'ase_geomol[{extra}]'.")
