"""Layers on coefficients (n, K, C) of spherical harmonics of degrees 0 to ``lmax``, K = (lmax+1)²."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sphere import Sphere


def degrees(lmax: int) -> Tensor:
    """Degree of each of the K coefficients."""
    return torch.repeat_interleave(torch.arange(lmax + 1), 2 * torch.arange(lmax + 1) + 1)


def rows_above_zero(lmax: int) -> Tensor:
    """Of each of the K - 1 coefficients of degree 1 and higher, its row in tables of the degrees 1 to ``lmax``."""
    return degrees(lmax)[1:] - 1


class DegreeLinear(nn.Module):
    """A linear map of channels for each degree; only degree 0 has a bias."""

    def __init__(self, lmax: int, channels: int, out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(lmax + 1, channels, out))
        nn.init.normal_(self.weight, std=channels**-0.5)
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, C) to (n, K, C')."""
        scalars = x[:, :1] @ self.weight[0]
        if self.bias is not None:
            scalars = scalars + self.bias
        rest = [x[:, d * d : (d + 1) ** 2] @ weight for d, weight in enumerate(self.weight) if d > 0]
        return torch.cat([scalars, *rest], dim=1)


class CoefficientNorm(nn.Module):
    """Layer norm of scalars; everything else is divided by one RMS to which all degrees contribute equally.

    ``x_lm / sqrt(mean over l > 0 of sum_m mean_c x_lmc^2 / (2l+1) + floor) * weight_lc`` (EquiformerV2, arXiv
    2306.12059). The division commutes with rotations and raises no degree. With ``floor`` 1 it never amplifies; see
    `EquivariantNorm` for why a potential needs that. Outputs of RMS 1 have values of RMS 1 on the sphere.
    """

    def __init__(self, lmax: int, channels: int, floor: float = 1.0) -> None:
        super().__init__()
        self.lmax, self.floor = lmax, floor
        self.rows: Tensor
        self.register_buffer("rows", rows_above_zero(lmax), persistent=False)
        self.scalars = nn.LayerNorm(channels)
        self.weight = nn.Parameter(torch.ones(lmax, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, K, C)."""
        scale = math.sqrt(4 * math.pi) / (self.lmax + 1)
        scalars, rest = self.scalars(x[:, :1]), x[:, 1:]
        share = (1 / (2 * self.rows + 3) / self.lmax).to(x)
        mean_square = (rest.square().mean(-1) * share).sum(-1)[:, None, None]
        rest = rest * torch.rsqrt(mean_square + self.floor) * self.weight.index_select(0, self.rows)
        return torch.cat([scalars, rest], dim=1) * scale


class Gate(nn.Module):
    """SiLU of scalars, and gates from them for all other degrees."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.rows: Tensor
        self.register_buffer("rows", rows_above_zero(lmax), persistent=False)
        self.linear = nn.Linear(channels, lmax * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, C) to the same shape."""
        gates = torch.sigmoid(self.linear(x[:, 0])).unflatten(-1, (self.lmax, -1))
        return torch.cat([functional.silu(x[:, :1]), x[:, 1:] * gates.index_select(1, self.rows)], 1)


class SphereActivation(nn.Module):
    """SiLU at points of a sphere for all degrees but 0, whose own SiLU is taken aside (EquiformerV2, arXiv 2306.12059).

    It turns with its input as exactly as the points allow.
    """

    def __init__(self, sphere: Sphere) -> None:
        super().__init__()
        self.sphere = sphere

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, C) to the same shape."""
        on_sphere = self.sphere.to_coefficients(functional.silu(self.sphere.to_points(x)))
        return torch.cat([functional.silu(x[:, :1]), on_sphere[:, 1:]], 1)


class InnerProducts(nn.Module):
    """Scalars from all other degrees: ``sum_l sum_m (A_l x)_lm (B_l x)_lm / (2l+1)``, exact under rotations."""

    def __init__(self, lmax: int, channels: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(lmax, channels, 2 * out))
        nn.init.normal_(self.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, C) to (n, C')."""
        total = x.new_zeros(len(x), self.weight.shape[-1] // 2)
        for degree, weight in enumerate(self.weight, start=1):
            left, right = (x[:, degree**2 : (degree + 1) ** 2] @ weight).chunk(2, -1)
            total = total + (left * right).sum(1) / (2 * degree + 1)
        return total


class GatedLinear(nn.Module):
    """Steerable feed-forward network: linear by degree, gates from scalars, linear by degree.

    Gates are of each degree and channel. Several such networks of ``hidden`` channels are computed together, each
    with its own gates and scaled by its weight before the last map. With ``inner_products`` the scalars see the other
    degrees, too, as in GotenNet's feed-forward network (ICLR 2025).
    """

    def __init__(
        self, lmax: int, channels: int, hidden: int, networks: int = 1, *, inner_products: bool = False
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.first = DegreeLinear(lmax, channels, networks * hidden)
        self.inner_products = InnerProducts(lmax, channels, networks * hidden) if inner_products else None
        self.gates = nn.ModuleList(Gate(lmax, hidden) for _ in range(networks))
        self.last = DegreeLinear(lmax, networks * hidden, channels)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map (n, K, C) to (n, K, C), networks weighted by (n, networks)."""
        first = self.first(x)
        if self.inner_products is not None:
            first = torch.cat([first[:, :1] + self.inner_products(x)[:, None], first[:, 1:]], dim=1)
        parts = first.split(self.hidden, dim=-1)
        gated = torch.cat([gate(part) for gate, part in zip(self.gates, parts, strict=True)], dim=-1)
        return self.last(gated * weights.repeat_interleave(self.hidden, dim=1)[:, None])


def wigner(rotations: Tensor, lmax: int) -> Tensor:
    """Matrices (n, K, K) that turn coefficients as rotations (n, 3, 3) turn points.

    Each degree is made from the one below: ``D_l = (2l+1) C (D_(l-1) x D_1) C`` with Wigner's 3j symbols C, a
    polynomial, so that derivatives exist for every rotation.
    """
    result = rotations.new_zeros(len(rotations), (lmax + 1) ** 2, (lmax + 1) ** 2)
    block = torch.ones_like(rotations[:, :1, :1])
    for degree in range(lmax + 1):
        if degree > 0:
            c = _three_j(degree, rotations.dtype, rotations.device)
            block = (2 * degree + 1) * torch.einsum("abm,eac,ebd,cdn->emn", c, block, rotations, c)
        place = slice(degree**2, (degree + 1) ** 2)
        result[:, place, place] = block
    return result


@cache
@torch.inference_mode(False)
def _three_j(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    from e3nn.o3 import wigner_3j

    return wigner_3j(degree - 1, 1, degree, dtype=torch.float64).to(device, dtype)
