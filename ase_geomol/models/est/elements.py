"""What the network knows of an element before it has learned anything: its place in the periodic system."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)
PERIODS, GROUPS = 7, 18


class ElementTable(nn.Module):
    """A vector for each element: free numbers, and a linear map of what the periodic system says.

    The second lets elements with few examples be like their neighbours.
    """

    def __init__(self, elements: Sequence[int], out: int) -> None:
        super().__init__()
        self.free = nn.Embedding(len(elements), out)
        self.periodic: Tensor
        self.register_buffer("periodic", torch.stack([periodic_place(number) for number in elements]), persistent=False)
        self.shared = nn.Linear(self.periodic.shape[1], out, bias=False)
        nn.init.normal_(self.free.weight, std=0.3)
        nn.init.normal_(self.shared.weight, std=0.4)

    def forward(self, types: Tensor) -> Tensor:
        """Types (n,), places in ``elements``, to (n, C)."""
        return (self.free.weight + self.shared(self.periodic)).index_select(0, types)


def periodic_place(number: int) -> Tensor:
    """Period and group as ones among zeros, how far its f shell is filled (0 to 1), and its covalent radius in Å.

    Lanthanides and actinides are of group 3.
    """
    period = next(place for place, last in enumerate(NOBLE_GASES) if number <= last)
    first, last = NOBLE_GASES[period - 1 : period + 1]
    column, length = number - first, last - first
    shell = min(max(column - 3, 0), 14) if length == 32 else 0
    if column <= 2 and number != 2:
        group = column
    elif length > GROUPS and column <= 17:
        group = 3
    else:
        group = column + GROUPS - length
    place = torch.zeros(PERIODS + GROUPS + 2)
    place[period - 1] = place[PERIODS + group - 1] = 1.0
    place[-2:] = torch.tensor([shell / 14, covalent_radii[number]])
    return place
