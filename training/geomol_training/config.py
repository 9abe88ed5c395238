"""Files of settings: read as YAML, validated, and refused with the name of the field that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ase_geomol.errors import ConfigError, MissingExtraError

Settings = TypeVar("Settings", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raises :class:`ConfigError`."""
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml", "train", "Reading a recipe") from error
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The recipe {path} is not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"The recipe {path} must be a mapping of fields, not {type(fields).__name__}.")
    return fields


def validated(kind: type[Settings], fields: dict[str, Any], path: Path) -> Settings:
    """Make settings from the fields of a file; raises :class:`ConfigError` naming the faults."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'recipe'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise ConfigError(f"The recipe {path} is not valid: {faults}.") from error
