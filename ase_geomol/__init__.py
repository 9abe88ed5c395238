"""Equivariant transformer potentials as ASE calculators, with weights that work offline.

>>> from ase.build import molecule
>>> from ase_geomol import GeoMolCalculator
>>> atoms = molecule("CH3CH2OH")
>>> atoms.calc = GeoMolCalculator("geomformer-organic")
"""

from .calculator import GeoMolCalculator
from .checkpoint import load_checkpoint, save_checkpoint, shipped_models
from .errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GeoMolError,
    InputError,
    MissingExtraError,
    OutputError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GeoMolCalculator",
    "GeoMolError",
    "InputError",
    "MissingExtraError",
    "OutputError",
    "load_checkpoint",
    "save_checkpoint",
    "shipped_models",
]
