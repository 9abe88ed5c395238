"""The volume that the bonds of an atom span, whose sign is the handedness of a stereocentre."""

from __future__ import annotations

import numpy as np

FLAT = 0.1
"""Least volume that bonds of unit length span at a stereocentre (`bond_volume`; of a tetrahedron 0.77, of bridgeheads
in the smallest rings 0.37), and least cosine of a double bond's torsion."""


def bond_volume(arms: np.ndarray) -> float:
    """Signed volume that bonds span when each has unit length; ±0.77 in a tetrahedron, for three of them as for four.

    NaN where an arm has no length.

    Of three the triple product; of four (v1 - v4)·[(v2 - v4)×(v3 - v4)] / 4, the mean over the four threes, which
    holds where three of the bonds are in a plane, as at the bridgeheads of small rings.

    Args:
        arms: (3, 3) or (4, 3), from the atom to its neighbours.
    """
    with np.errstate(invalid="ignore"):
        units = arms / np.linalg.norm(arms, axis=1, keepdims=True)
        if len(units) == 3:
            return float(np.linalg.det(units))
        return float(np.linalg.det(units[:3] - units[3]) / 4)
