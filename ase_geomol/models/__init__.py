"""The architectures. Each is a frozen configuration and a module; both are found here by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import nn

from ..errors import ConfigError
from .base import EnergyModel, ModelOutput, OfModel
from .ditmc import DiTMC, DiTMCConfig
from .est import EST, ESTConfig
from .geomformer import GeoMFormer, GeoMFormerConfig

__all__ = [
    "ARCHITECTURES",
    "ENERGY_ARCHITECTURES",
    "EST",
    "DiTMC",
    "DiTMCConfig",
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

ENERGY_ARCHITECTURES: dict[str, tuple[type[ModelConfig], type[nn.Module]]] = {
    "est": (ESTConfig, EST),
    "geomformer": (GeoMFormerConfig, GeoMFormer),
}
"""Those that see positions and say what depends on them."""
ARCHITECTURES: dict[str, tuple[type[ModelConfig | DiTMCConfig], type[nn.Module]]] = {
    **ENERGY_ARCHITECTURES,
    "ditmc": (DiTMCConfig, DiTMC),
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
