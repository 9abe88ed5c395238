"""What a GeoMFormer is made of: its sizes and options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...nn.attention import AttentionNorm
from ...nn.norm import EquivariantNormMode
from ...nn.radial import RadialBasis

Part = Literal[
    "invariant_self",
    "invariant_cross",
    "equivariant_self",
    "equivariant_cross",
    "invariant_ffn",
    "equivariant_ffn",
    "invariant_norm",
    "equivariant_norm",
    "structural_bias",
    "quadrupole",
]


class GeoMFormerConfig(BaseModel):
    """Architecture of a GeoMFormer; what is not given has a value of its own, too, which checkpoints keep.

    Attributes:
        elements: atomic numbers that the model knows.
        cutoff: Å, local form; None, global form.
        layers: number of blocks.
        channels: width d of both streams.
        heads: attention heads H; divides ``channels``.
        ffn_channels: hidden width of the feed-forward networks.
        radial_basis: "gaussian" (paper), or "exponential", smoother at a distance. Default: gaussian in the
            global form, exponential in the local one (measured on rMD17 ethanol in training/README.md).
        radial_length: Å, of the exponential basis: the longer, the more it resolves far away. 1 learns best from a
            thousand frames of one molecule, 2 from many frames of many molecules (measured there, too).
        kernels: number K of radial kernels; default: 32 of Gaussians, 24 of the exponential basis.
        kernel_reach: Å, reach of the kernels of the global form (the local form uses its cutoff).
        envelope_power: 3 or higher; see `ase_geomol.nn.smooth_cutoff`.
        attention_norm: softmax (paper), silu (TorchMD-Net) or sum (PaiNN); only under softmax does an atom attend
            to itself. Default: softmax in the global form, silu in the local one.
        equivariant_norm: "rms" for potentials, "whiten" for the paper's EquLN, which amplifies rounding: prefer
            double precision with it.
        norm_floor: absolute floor under the variance in `ase_geomol.nn.EquivariantNorm`; default 1 for "rms",
            which amplifies nothing, and 0.05 for "whiten", which then whitens.
        radial_channels: hidden width of the network that makes biases and filters from the kernels (paper), or None:
            they are linear in the kernels. Default: ``kernels`` in the global form, None in the local one.
        query_products: let invariant cross-attention see products of the receiver's and sender's vectors.
        quadrupole: add a sum over neighbours of degree 2, the module "quadrupole" (local form).
        centrality: start scalars with a sum over radial kernels.
        tag_embedding: start scalars with the atoms' tags (OC20's), too.
        direct_forces: add a head that predicts forces without a gradient (not conservative).
        attention_dropout: probability that an attention weight is dropped in training.
        hidden_dropout: probability that a channel of a residual update is dropped in training; of vectors
            all three rows go together.
        readout_dropout: probability that a scalar which the head of the energy reads is dropped in training.
        without: parts to leave out, for ablations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    elements: tuple[int, ...] = Field(min_length=1)
    cutoff: float | None = Field(default=5.0, gt=0, allow_inf_nan=False)
    layers: int = Field(default=3, ge=1)
    channels: int = Field(default=96, ge=1)
    heads: int = Field(default=8, ge=1)
    ffn_channels: int = Field(default=96, ge=1)
    radial_basis: RadialBasis = "exponential"
    radial_length: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    kernels: int = Field(default=24, ge=2)
    radial_channels: Annotated[int, Field(ge=1)] | None = None
    kernel_reach: float = Field(default=10.0, gt=0)
    envelope_power: int = Field(default=3, ge=3)
    attention_norm: AttentionNorm = "silu"
    equivariant_norm: EquivariantNormMode = "rms"
    norm_floor: float = Field(default=1.0, gt=0)
    query_products: bool = True
    quadrupole: bool = True
    centrality: bool = True
    tag_embedding: bool = False
    direct_forces: bool = False
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    readout_dropout: float = Field(default=0.0, ge=0, lt=1)
    without: tuple[Part, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _dependent_defaults(cls, given: Any) -> Any:
        """Put in what the form, the basis and the norm imply; everything that is given stays."""
        if not isinstance(given, dict):
            return given
        implied: dict[str, Any] = {"norm_floor": 0.05} if given.get("equivariant_norm") == "whiten" else {}
        if given.get("cutoff", 5.0) is None:
            implied |= {"radial_basis": "gaussian", "attention_norm": "softmax"}
        if (implied | given).get("radial_basis") == "gaussian":
            implied["kernels"] = 32
        if given.get("cutoff", 5.0) is None:
            implied["radial_channels"] = (implied | given).get("kernels", 24)
        return implied | given

    @model_validator(mode="after")
    def _consistent(self) -> GeoMFormerConfig:
        if self.channels % self.heads:
            raise ValueError(f"channels ({self.channels}) must be a multiple of heads ({self.heads})")
        if len(set(self.elements)) != len(self.elements) or not all(1 <= z <= 118 for z in self.elements):
            raise ValueError("elements must be different atomic numbers from 1 to 118")
        return self
