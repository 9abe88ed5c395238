"""GeoMFormer: a transformer with an invariant and an equivariant stream (Chen et al., arXiv 2406.16853)."""

from .config import GeoMFormerConfig
from .network import GeoMFormer

__all__ = ["GeoMFormer", "GeoMFormerConfig"]
