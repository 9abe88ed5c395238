"""Layers that the architectures share. Tensors in, tensors out; nothing here knows a model."""

from .attention import attention_weights, log_envelope
from .blocks import Blocks, make_blocks
from .cutoff import smooth_cutoff
from .norm import EquivariantNorm
from .radial import ExponentialBasis, GaussianBasis, RadialBasis
from .readout import ScalarReadout, VectorReadout
from .recompute import evaluate, forgetting, part_size
from .segment import segment_sum

__all__ = [
    "Blocks",
    "EquivariantNorm",
    "ExponentialBasis",
    "GaussianBasis",
    "RadialBasis",
    "ScalarReadout",
    "VectorReadout",
    "attention_weights",
    "evaluate",
    "forgetting",
    "log_envelope",
    "make_blocks",
    "part_size",
    "segment_sum",
    "smooth_cutoff",
]
