"""How many operations a network needs: counted from its configuration, and by torch as it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.flop_counter import FlopCounterMode

from ase_geomol.graph import AtomGraph
from ase_geomol.models import GeoMFormerConfig
from ase_geomol.nn import make_blocks
from ase_geomol.potential import Potential


class Operations(NamedTuple):
    """Multiplications and additions of all products of matrices in one energy; what is done element by element is not.

    Attributes:
        maps: of linear maps, y = x W. Forces need one more product, for the gradient by x. In training both are
            differentiated by their two operands: 2 + 2 * 2.
        attention: of queries with keys, weights with values, and directions with kernels. Both operands follow from
            the positions: forces need two more products, training 3 + 3 * 2.
    """

    maps: float
    attention: float

    @property
    def energy(self) -> int:
        """Of one energy."""
        return round(self.maps + self.attention)

    @property
    def energy_and_forces(self) -> int:
        """Of one energy and its forces."""
        return round(2 * self.maps + 3 * self.attention)

    @property
    def training_step(self) -> int:
        """Of energies, forces, and the gradient of a loss of both by the weights."""
        return round(6 * self.maps + 9 * self.attention)


def operations(config: GeoMFormerConfig, atoms: int, slots: int, pairs: int) -> Operations:
    """Those of one energy of the local form.

    Of forces and training this is all but exact with ``centrality``; without it the first scalars do not depend on the
    positions, and two in a hundred are not needed.

    Args:
        config: of the network.
        atoms: number of atoms.
        slots: of atoms; there may be empty ones.
        pairs: slots of pairs.
    """
    d, r, kernels = config.channels, config.ffn_channels, config.radial_channels or config.kernels
    maps = {  # d x d matrices and the rows of each atom that they act on
        "invariant_self": 4,
        "equivariant_self": 3 * 4,
        "invariant_cross": 2 + 3 * (6 if config.query_products else 4),
        "equivariant_cross": 3 + 3 * 4,
        "quadrupole": 2 + 3 * 2 + 5 * 2,
        "invariant_ffn": 2 * r / d,
        "equivariant_ffn": 7 * r / d,
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
    linear = attention = 0.0
    for part in maps.keys() - left_out:
        unread = not config.direct_forces and part in ("equivariant_cross", "equivariant_ffn")  # in the last layer
        layers = config.layers - unread
        linear += layers * (slots * maps[part] * d**2 + pairs * radial.get(part, 0) * config.heads * kernels)
        attention += layers * pairs * attended.get(part, 0) * d
    if not config.direct_forces and "quadrupole" not in left_out:
        linear -= slots * 6 * d**2
    linear += slots * config.kernels * d * (3 + config.centrality)  # the first scalars and vectors
    attention += 3 * pairs * config.kernels
    if config.radial_channels is not None:
        linear += pairs * config.kernels * config.radial_channels
    linear += atoms * (d**2 + d)  # the readout
    return Operations(2 * linear, 2 * attention)


def of_potential(potential: Potential, graph: AtomGraph) -> Operations:
    """`operations` of one energy of a batch as they are computed, empty slots among them."""
    blocks = make_blocks(graph.system, graph.edge_index)
    pairs = blocks.count * blocks.receivers * blocks.senders
    return operations(_config(potential), graph.n_atoms, len(blocks.selves), pairs)


def useful(potential: Potential, graph: AtomGraph) -> Operations:
    """`operations` of the atoms and their neighbour pairs alone (under softmax also of an atom with itself)."""
    config = _config(potential)
    selves = graph.n_atoms if config.attention_norm == "softmax" else 0
    return operations(config, graph.n_atoms, graph.n_atoms, graph.n_edges + selves)


def _config(potential: Potential) -> GeoMFormerConfig:
    return potential.model.config  # type: ignore[attr-defined]


def counted_by_torch(call: Callable[[], Any]) -> int:
    """Multiplications and additions of all matrix products in a call, derivatives among them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
