"""How many operations a network needs: counted from the shapes of its modules, and by torch as it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ase_geomol.graph import AtomGraph
from ase_geomol.potential import Potential

ENERGY_AND_FORCES = 2
"""Each product of a linear map y = x W is followed by one for the gradient by x, from which forces follow."""
TRAINING_STEP = 6
"""Both products are differentiated by their two operands in turn: 2 + 2 * 2."""


def operations(potential: Potential, graph: AtomGraph) -> int:
    """Multiplications and additions of all linear maps in one energy: the sum of 2 * rows * inputs * outputs.

    Rows are atoms, their three vector components, or neighbour pairs, whatever a map is applied to. Products that are
    not linear maps, such as those of attention, are left out, and so is all that is done element by element. With the
    factors above it is an upper bound: a map whose result the energy does not depend on has no derivative.
    """
    counted = [0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted[0] += 2 * output.numel() * module.in_features  # type: ignore[operator]

    linear = [module for module in potential.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(count) for module in linear]
    with torch.no_grad():
        potential(graph, forces=False)
    for handle in handles:
        handle.remove()
    return counted[0]


def counted_by_torch(call: Callable[[], Any]) -> int:
    """Multiplications and additions of all matrix products in a call, derivatives among them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
