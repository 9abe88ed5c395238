"""How many operations a network needs: counted from its configuration, and by torch as it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from ase_geomol.graph import AtomGraph
from ase_geomol.models import GeoMFormerConfig
from ase_geomol.nn import make_blocks
from ase_geomol.potential import Potential

ENERGY_AND_FORCES = 2
"""Each product y = x W is followed by one for the gradient by x (attention: by both), from which forces follow."""
TRAINING_STEP = 6
"""Both products are differentiated by their two operands in turn: 2 + 2 * 2."""


def operations(config: GeoMFormerConfig, atoms: int, pairs: int) -> int:
    """Multiplications and additions of all products of matrices in one energy of the local form.

    What is done element by element is left out. With the factors above it is an upper bound: a product that the
    energy does not depend on has no derivative.

    Args:
        config: of the network.
        atoms: slots of atoms, the empty ones among them.
        pairs: slots of pairs, the empty ones and those of an atom with itself among them.
    """
    d, r, kernels = config.channels, config.ffn_channels, config.radial_channels or config.kernels
    maps = {  # d x d matrices and the rows of each atom that they act on
        "invariant_self": 4,
        "equivariant_self": 3 * 4,
        "invariant_cross": 2 + 3 * (6 if config.query_products else 4),
        "equivariant_cross": 3 + 3 * 4,
        "quadrupole": 2 + 3 * 2 + 5 * 2,
    }
    attended = {  # rows of d numbers of each pair, of queries with keys and of weights with values
        "invariant_self": 2,
        "equivariant_self": 3 + 3,
        "invariant_cross": 2 + (3 if config.query_products else 0),
        "equivariant_cross": 3 + 3 + 3,
        "quadrupole": 5,
    }
    radial = {"invariant_self": 2, "equivariant_self": 1, "invariant_cross": 1, "equivariant_cross": 3, "quadrupole": 1}
    left_out = {*config.without, *(() if config.quadrupole else ("quadrupole",))}
    if "structural_bias" in left_out:
        radial = {part: count - (part != "quadrupole") for part, count in radial.items()}
    maps |= {"invariant_ffn": 2 * r / d, "equivariant_ffn": 7 * r / d}
    layers = 0.0
    for part in maps.keys() - left_out:
        products = atoms * maps[part] * d**2
        products += pairs * (attended.get(part, 0) * d + radial.get(part, 0) * config.heads * kernels)
        unread = not config.direct_forces and part in ("equivariant_cross", "equivariant_ffn")  # in the last layer
        layers += products * (config.layers - unread)
    if not config.direct_forces and "quadrupole" not in left_out:
        layers -= atoms * 6 * d**2
    start = 3 * pairs * config.kernels + atoms * config.kernels * d * (3 + config.centrality)
    if config.radial_channels is not None:
        start += pairs * config.kernels * config.radial_channels
    readout = atoms * (d**2 + d)
    return round(2 * (start + layers + readout))


def of_potential(potential: Potential, graph: AtomGraph) -> int:
    """`operations` of one energy of a batch."""
    config = potential.model.config  # type: ignore[attr-defined]
    blocks = make_blocks(graph.system, graph.edge_index)
    return operations(config, len(blocks.selves), blocks.count * blocks.receivers * blocks.senders)


def counted_by_torch(call: Callable[[], Any]) -> int:
    """Multiplications and additions of all matrix products in a call, derivatives among them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
