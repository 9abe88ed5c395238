"""Mixed precision: feed-forward networks compute in bfloat16 while a network learns, everything else as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ase_geomol.models.est.attention import PointLinear
from ase_geomol.models.est.update import SphericalExperts
from ase_geomol.models.geomformer.modules import EquivariantFeedForward, InvariantFeedForward


class MixedLinear(nn.Linear):
    """A linear map whose products are of bfloat16 in training; weights, input and output keep their precision."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Linear`."""
        if not self.training:
            return super().forward(input)
        weight = self.weight.to(torch.bfloat16)
        product = functional.linear(input.to(torch.bfloat16), weight).to(input.dtype)
        return product if self.bias is None else product + self.bias


class MixedPointLinear(PointLinear, MixedLinear):
    """The same at all points of a sphere; on coefficients it computes as before."""


def use_mixed_precision(network: nn.Module) -> None:
    """Let linear maps of a network's feed-forward networks be mixed ones, in place.

    These are all maps of GeoMFormer's feed-forward networks, and the first ones of EST's spherical experts, which act
    at every point. All else stays as it is, since rounding would be amplified there or add up: geometry, radial
    functions and filters, embeddings, norms, all maps of attention (whose logits are of them), gates of experts, maps
    by degree and of orders about an edge, transforms of the sphere, sums over neighbours, read-outs and the weights
    themselves. What learned in this way is an ordinary network, which predicts in the precision of its weights.
    """
    for part in network.modules():
        if isinstance(part, InvariantFeedForward | EquivariantFeedForward):
            for linear in part.children():
                linear.__class__ = MixedLinear
        elif isinstance(part, SphericalExperts):
            part.first.__class__ = MixedPointLinear
