"""Small networks and molecular graphs for the tests of DiTMC."""

from __future__ import annotations

import itertools

import torch

from ase_geomol.models.ditmc import ORGANIC, DiTMC, DiTMCConfig, MolecularGraph
from ase_geomol.providers.features import graph_of
from ase_geomol.providers.molecules import parse

POSITIONS = ("absolute", "relative", "equivariant")
CONDITIONING = ("all-pair", "bond-pair")
FORMS = list(itertools.product(POSITIONS, CONDITIONING))
L_ALANINE = "C[C@H](N)C(=O)O"


def graph(smiles: str) -> MolecularGraph:
    """The graph of a molecule."""
    return graph_of(parse(smiles), ORGANIC)


def network(
    positions: str = "absolute",
    conditioning: str = "all-pair",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    fresh: bool = False,
    **options: int,
) -> DiTMC:
    """A small network: the same arguments, the same weights; unless ``fresh``, none of them is zero."""
    sizes = {"layers": 2, "channels": 64, "longest_path": 12, **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DiTMC(DiTMCConfig(positions=positions, conditioning=conditioning, **sizes))  # type: ignore[arg-type]
        if not fresh:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
    return model.to(dtype).eval()
