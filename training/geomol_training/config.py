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
        raise ConfigError(f"{path} is not valid: {faults(error)}.") from error


def faults(error: ValidationError, parent: str = "") -> str:
    """Every fault as ``field.path: what is wrong``, the paths below ``parent``."""
    found = [
        (".".join(map(str, (*parent.split("."), *fault["loc"]))).strip("."), fault["msg"]) for fault in error.errors()
    ]
    texts = [(f"{place}: " if place else "", text.removeprefix("Value error, ")) for place, text in found]
    return "; ".join(place + text for place, text in texts)
