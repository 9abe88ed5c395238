"""Files of settings: read as YAML, validated, and refused with the name of the field that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ase_geomol.errors import ConfigError, MissingExtraError

Settings = TypeVar("Settings", bound=BaseModel)


def read_yaml(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raises :class:`ConfigError`.

    ``changes`` are ``key.path=value`` each, the value in YAML.
    """
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
    for change in changes:
        _apply(fields, change)
    return fields


def _apply(fields: dict[str, Any], change: str) -> None:
    """Set one ``key.path=value`` in nested mappings."""
    import yaml

    name, equals, text = change.partition("=")
    *parents, last = name.strip().split(".")
    if not equals or not last:
        raise ConfigError(f"'{change}' is no change of a recipe: write it like data.train=my/folder.")
    for parent in parents:
        fields = fields.setdefault(parent, {})
        if not isinstance(fields, dict):
            raise ConfigError(f"'{change}': '{parent}' has no fields to set.")
    try:
        fields[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"'{change}': the value is not valid YAML.") from error


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
