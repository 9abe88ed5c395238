"""The envelope that takes every edge term to zero at the cutoff."""

from __future__ import annotations

from math import comb

from torch import Tensor


def smooth_cutoff(distance: Tensor, cutoff: float, power: int = 3) -> Tensor:
    """Polynomial envelope u: 1 at 0, 0 at ``cutoff`` and beyond, with two continuous derivatives there.

    ``u(x) = (1-x)^3 * sum_{k<p} (k+1)(k+2)/2 x^k`` with ``x = distance / cutoff``. Multiplied out this is
    ``1 - 10x^3 + 15x^4 - 6x^5`` for p = 3 and ``1 - 28x^6 + 48x^7 - 21x^8`` for p = 6 (Gasteiger et al.,
    arXiv 2003.03123, eq. 8); the factored form never turns negative by rounding.
    """
    x = (distance / cutoff).clamp(max=1.0)
    series = sum(comb(k + 2, 2) * x**k for k in range(1, power)) + 1.0
    return (1.0 - x) ** 3 * series
