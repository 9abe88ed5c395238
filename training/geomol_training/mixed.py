"""Mixed precision: linear maps of channels compute in bfloat16 while a network learns, everything else as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class MixedLinear(nn.Linear):
    """A linear map whose products are of bfloat16 in training; weights, input and output keep their precision."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Linear`."""
        if not self.training:
            return super().forward(input)
        weight = self.weight.to(torch.bfloat16)
        product = functional.linear(input.to(torch.bfloat16), weight).to(input.dtype)
        return product if self.bias is None else product + self.bias


def use_mixed_precision(network: nn.Module) -> None:
    """Let all linear maps of a network be `MixedLinear`, in place.

    Geometry, radial functions, norms, weights of attention, sums over neighbours, maps by degree, transforms of the
    sphere and the weights themselves stay as they are: there rounding would be amplified, or add up. What learned in
    this way is an ordinary network, which predicts in the precision of its weights.
    """
    for part in network.modules():
        if type(part) is nn.Linear:
            part.__class__ = MixedLinear
