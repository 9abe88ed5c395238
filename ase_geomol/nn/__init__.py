"""Layers that the architectures share. Tensors in, tensors out; nothing here knows a model."""

from .cutoff import smooth_cutoff
from .norm import EquivariantNorm
from .radial import GaussianBasis
from .readout import ScalarReadout, VectorReadout
from .segment import attention_weights, segment_sum

__all__ = [
    "EquivariantNorm",
    "GaussianBasis",
    "ScalarReadout",
    "VectorReadout",
    "attention_weights",
    "segment_sum",
    "smooth_cutoff",
]
