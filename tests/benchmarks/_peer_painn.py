"""Peer: a training step of SchNetPack's PaiNN. Arguments: an .npz file of a batch, a number of parameters.

The network has three interactions and the width at which its number of parameters comes closest. It answers "step",
the median seconds of energies, forces, loss, its gradient by the weights, optimiser.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import torch
import torch.utils.data.dataloader
from _timing import serve, timed

# SchNetPack 2.0.3 imports a name that newer versions of torch no longer have.
torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]

from schnetpack import properties  # type: ignore  # noqa: E402
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances  # type: ignore  # noqa: E402
from schnetpack.model import NeuralNetworkPotential  # type: ignore  # noqa: E402
from schnetpack.nn import CosineCutoff, GaussianRBF  # type: ignore  # noqa: E402
from schnetpack.representation import PaiNN  # type: ignore  # noqa: E402

INTERACTIONS, KERNELS = 3, 20
WIDTHS = range(16, 513, 4)


def painn(width: int, cutoff: float, elements: int) -> Any:
    """PaiNN with its usual head, energies and forces."""
    return NeuralNetworkPotential(
        representation=PaiNN(
            n_atom_basis=width,
            n_interactions=INTERACTIONS,
            radial_basis=GaussianRBF(KERNELS, cutoff),
            cutoff_fn=CosineCutoff(cutoff),
            max_z=elements,
        ),
        input_modules=[PairwiseDistances()],
        output_modules=[Atomwise(n_in=width, output_key="energy"), Forces()],
    )


def parameters(network: Any) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def of_size(wanted: int, cutoff: float, elements: int) -> Any:
    """The network whose number of parameters is closest to ``wanted``, by steps of four in its width."""

    def size(width: int) -> int:
        return parameters(painn(width, cutoff, elements))

    above = bisect_left(WIDTHS, wanted, key=size)
    width = min(WIDTHS[max(0, above - 1) : above + 1], key=lambda width: abs(size(width) - wanted))
    return painn(width, cutoff, elements)


def training_step(network: Any, arrays: dict[str, np.ndarray]) -> Callable[[], None]:
    """A call that does one step, with the loss of our own training."""
    kinds = {np.dtype("float64"): torch.float32, np.dtype("int64"): torch.int64}
    tensors = {name: torch.tensor(values, dtype=kinds[values.dtype]) for name, values in arrays.items()}
    inputs = {
        properties.Z: tensors["numbers"],
        properties.R: tensors["positions"],
        properties.idx_m: tensors["system"],
        properties.n_atoms: torch.bincount(tensors["system"]),
        properties.idx_i: tensors["receiver"],
        properties.idx_j: tensors["sender"],
        properties.offsets: torch.zeros(len(tensors["receiver"]), 3),
    }
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        output = network(dict(inputs))
        energy = ((output["energy"] - tensors["energy"]) / inputs[properties.n_atoms]).abs().mean()
        forces = torch.sqrt((output["forces"] - tensors["forces"]).square().sum(-1) + 1e-12).mean()
        (5 * energy + forces).backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    arrays = dict(np.load(sys.argv[1]))
    cutoff = float(arrays.pop("cutoff"))
    network = of_size(int(sys.argv[2]), cutoff, elements=int(arrays["numbers"].max()) + 1)
    about = {
        "threads": torch.get_num_threads(),
        "parameters": parameters(network),
        "width": network.representation.n_atom_basis,
        "versions": {package: version(package) for package in ("schnetpack", "torch")},
    }
    serve({"step": partial(timed, training_step(network, arrays))}, about)
