"""EST, the Equivariant Spherical Transformer (arXiv 2505.23086)."""

from .config import ESTConfig
from .network import EST

__all__ = ["EST", "ESTConfig"]
