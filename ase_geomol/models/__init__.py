"""The architectures. Each is a frozen configuration and a module; both are found here by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import nn

from ..errors import ConfigError
from .base import EnergyModel, ModelOutput, OfModel
from .est import EST, ESTConfig
from .geomformer import GeoMFormer, GeoMFormerConfig

__all__ = [
    "ARCHITECTURES",
    "EST",
    "ESTConfig",
    "EnergyModel",
    "GeoMFormer",
    "GeoMFormerConfig",
    "ModelConfig",
    "ModelOutput",
    "OfModel",
    "build_model",
]

ModelConfig = GeoMFormerConfig | ESTConfig

ARCHITECTURES: dict[str, tuple[type[GeoMFormerConfig] | type[ESTConfig], type[nn.Module]]] = {
    "est": (ESTConfig, EST),
    "geomformer": (GeoMFormerConfig, GeoMFormer),
}


def build_model(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    """Make an untrained model.

    Raises:
        ConfigError: unknown architecture, or a configuration with unknown or invalid fields.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"Unknown architecture '{architecture}'; this version knows: {known}.")
    config_class, model_class = ARCHITECTURES[architecture]
    try:
        return model_class(config_class.model_validate(dict(config)))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"The {architecture} configuration is not valid: {problems}.") from error
