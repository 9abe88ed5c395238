"""Equivariant transformer potentials as ASE calculators, with weights that work offline.

>>> from ase.build import molecule
>>> from ase_geomol import GeoMolCalculator
>>> atoms = molecule("CH3CH2OH")
>>> atoms.calc = GeoMolCalculator("geomformer-organic")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GeoMolError,
    InputError,
    MissingExtraError,
    OutputError,
    ProviderError,
    ProviderWarning,
)

if TYPE_CHECKING:
    from .calculator import GeoMolCalculator
    from .checkpoint import load_checkpoint, load_property, save_checkpoint, shipped_models
    from .predictor import PropertyPredictor, RelaxedPredictor
    from .providers.conformers import ConformerProvider
    from .providers.etkdg import RDKitProvider

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ConformerProvider",
    "DataError",
    "GeoMolCalculator",
    "GeoMolError",
    "InputError",
    "MissingExtraError",
    "OutputError",
    "PropertyPredictor",
    "ProviderError",
    "ProviderWarning",
    "RDKitProvider",
    "RelaxedPredictor",
    "load_checkpoint",
    "load_property",
    "save_checkpoint",
    "shipped_models",
]

_HOMES = {
    "ConformerProvider": "providers.conformers",
    "GeoMolCalculator": "calculator",
    "PropertyPredictor": "predictor",
    "RDKitProvider": "providers.etkdg",
    "RelaxedPredictor": "predictor",
    "load_checkpoint": "checkpoint",
    "load_property": "checkpoint",
    "save_checkpoint": "checkpoint",
    "shipped_models": "checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed, so that the command line's help appears at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
