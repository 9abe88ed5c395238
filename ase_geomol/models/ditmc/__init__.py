"""DiTMC: conformers by flow matching with a diffusion transformer (arXiv 2506.15378)."""

from .config import DRUGS, ORGANIC, DiTMCConfig
from .flow import ConformerFlow, FlowForm, flow_loss
from .graph import MolecularGraph, MoleculeBatch, collate_molecules, molecular_graph
from .network import Conditioning, DiTMC
from .sampling import Sampler, sample_noise

__all__ = [
    "DRUGS",
    "ORGANIC",
    "Conditioning",
    "ConformerFlow",
    "DiTMC",
    "DiTMCConfig",
    "FlowForm",
    "MolecularGraph",
    "MoleculeBatch",
    "Sampler",
    "collate_molecules",
    "flow_loss",
    "molecular_graph",
    "sample_noise",
]
