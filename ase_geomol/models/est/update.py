"""What an atom makes of its own features: spherical attention and a mixture of steerable and spherical experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...nn.degrees import CoefficientNorm, GatedLinear, InnerProducts
from ...nn.sphere import Sphere
from .attention import Lift, PointLinear, SphericalAttention, unit
from .config import ESTConfig


class SphericalExperts(nn.Module):
    """Networks at the points, after one spherical attention that they share; they are one wide network.

    ``f1 = f + SA(norm f)``, then ``SA(norm f) + sum_i s_i W2_i SiLU(W1_i norm f1)``, analysed as an increment. The last
    map is linear, so it comes after analysis, on K rows and not on N.
    """

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__()
        channels, hidden = config.channels, config.spherical_experts * config.expert_channels
        self.sphere, self.expert_channels = sphere, config.expert_channels
        self.lift = Lift(config, sphere, 3 * channels)
        self.attention = SphericalAttention(config, sphere)
        self.point_norm = nn.LayerNorm(channels) if config.norm == "point" else None
        self.floor = config.norm_floor
        self.first = PointLinear(channels, hidden)
        self.last = PointLinear(hidden, channels, bias=not config.scalar_bypass)
        self.bypass = None
        if config.scalar_bypass:
            self.bypass = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels), nn.SiLU())

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map (n, K, C) to its increment (n, K, C); experts weighted by (n, experts)."""
        attended = self.attention(*self.lift(x).chunk(3, -1))
        f = self.normed(self.sphere.to_points(x) + attended)
        hidden = functional.silu(self.first(f)) * weights.repeat_interleave(self.expert_channels, dim=1)[:, None]
        both = self.sphere.to_coefficients(torch.cat([attended, hidden], -1))
        increment = both[..., : x.shape[-1]] + self.last.on_coefficients(both[..., x.shape[-1] :])
        if self.bypass is None:
            return increment
        return torch.cat([self.bypass(x[:, :1]), increment[:, 1:]], dim=1)

    def normed(self, f: Tensor) -> Tensor:
        """Values (n, N, C) over their RMS on the sphere, or, in paper mode, a layer norm at each point."""
        return unit(f, self.sphere.weights, self.floor) if self.point_norm is None else self.point_norm(f)


class Update(nn.Module):
    """The mixture: all experts take part, with weights from the invariants (dense, so that energies are smooth)."""

    def __init__(self, config: ESTConfig, sphere: Sphere) -> None:
        super().__init__()
        self.n_steerable = config.steerable_experts
        experts = config.steerable_experts + config.spherical_experts
        self.gate = nn.Sequential(nn.LayerNorm(config.channels), nn.Linear(config.channels, experts))
        self.norm = CoefficientNorm(config.lmax, config.channels, config.norm_floor)
        self.steerable = self.spherical = None
        if config.steerable_experts:
            self.steerable = GatedLinear(
                config.lmax,
                config.channels,
                config.expert_channels,
                config.steerable_experts,
                inner_products=config.inner_products,
            )
        if config.spherical_experts:
            self.spherical = SphericalExperts(config, sphere)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, C) to its increment."""
        weights = torch.softmax(self.gate(x[:, 0]), -1)
        increment = torch.zeros_like(x)
        if self.steerable is not None:
            increment = increment + self.steerable(self.norm(x), weights[:, : self.n_steerable])
        if self.spherical is not None:
            increment = increment + self.spherical(x, weights[:, self.n_steerable :])
        return increment


class ScalarUpdate(nn.Module):
    """An update of the invariants alone: a network that sees the rest by inner products."""

    def __init__(self, config: ESTConfig) -> None:
        super().__init__()
        channels = config.channels
        hidden = (config.steerable_experts + config.spherical_experts) * config.expert_channels
        self.norm = CoefficientNorm(config.lmax, channels, config.norm_floor)
        self.first = nn.Linear(channels, hidden)
        self.inner_products = InnerProducts(config.lmax, channels, hidden) if config.inner_products else None
        self.last = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, C) to its increment."""
        x = self.norm(x)
        hidden = self.first(x[:, 0])
        if self.inner_products is not None:
            hidden = hidden + self.inner_products(x)
        return functional.pad(self.last(functional.silu(hidden))[:, None], (0, 0, 0, x.shape[1] - 1))
