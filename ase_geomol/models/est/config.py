"""What an EST is made of: its sizes and options, and what the two modes mean."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...errors import ConfigError
from ...nn.sphere import point_rule

FeatureNorm = Literal["coefficient", "point"]
SO2Activation = Literal["gate", "sphere"]
Message = Literal["zonal", "graph_attention", "so2", "gata", "attention"]
EXACT_RULES = {1: "icosahedral-32", 2: "icosahedral-132", 3: "lebedev-194", 4: "lebedev-194"}
LARGEST_RULE = "lebedev-302"


class ESTConfig(BaseModel):
    """Architecture of an EST; what is not given follows from ``mode`` and ``lmax``, and checkpoints keep it, too.

    Attributes:
        elements: atomic numbers that the model knows.
        mode: "exact" (ours: as equivariant as its points allow) or "paper" (arXiv 2505.23086); it sets the defaults
            of the nine options marked with *, each of which may be given by itself. Ours in paper mode, too: the floor
            of norms, a layer norm before the experts' gate, equal widths of all degrees, tensor products of even parity
            in "graph_attention", logits of "so2" from its first convolution, and an envelope on every message.
        cutoff: Å.
        layers: number of blocks, each a message and an update.
        lmax: largest degree L of the features.
        channels: width C.
        heads: * of spherical attention; divides ``channels``. Paper: 1.
        points: * rule of the points on the sphere, see `ase_geomol.nn.sphere.point_rule`. Paper: a Fibonacci lattice
            of (2L+1)(2L+2) points.
        norm: * "coefficient" divides coefficients by one RMS, "point" (paper) is a layer norm at each point.
        bounded_attention: * queries and keys have RMS 1, and a temperature of at most ``temperature``.
        temperature: largest factor of bounded logits: the smaller, the smaller the error of the points.
        attention_projection: * a linear map after spherical attention.
        scalar_bypass: * invariants of the spherical branch do not pass through the points. The energy, which reads
            invariants, then has no use for points in the last block, which is without.
        inner_products: * scalars see what is steerable by inner products, in each steerable expert.
        message: "zonal" (spherical attention between an atom and an edge), or that of Equiformer ("graph_attention"),
            EquiformerV2 ("so2") or GotenNet ("gata"), or ours, as GotenNet's but faster ("attention").
        steerable_experts: how many; each is a gated network on coefficients.
        spherical_experts: how many; each is a network at the points.
        expert_channels: hidden width of one expert; default: 4C.
        kernels: radial kernels.
        radial_length: Å, of the exponential basis.
        radial_channels: hidden width of the radial networks.
        envelope_power: 3 or higher; see `ase_geomol.nn.smooth_cutoff`.
        average_neighbors: what sums over neighbours are divided by the root of.
        norm_floor: under the mean square of coefficients, see `ase_geomol.nn.degrees.CoefficientNorm`. 1 in paper mode,
            too: with the 1e-5 of the paper's sources vectors that symmetry forbids grow from rounding, and a perfect
            crystal or methane has forces that are no gradient.
        zonal_nodes: Gauss-Legendre nodes of the message "zonal".
        message_heads: heads of the attention among neighbours (all but zonal).
        mmax: largest order about the edge that the message "so2" keeps.
        so2_activation: * of "so2": "gate", which is exact, or "sphere" (paper), at the points of a frame that is turned
            with the edge: the energy then jumps a little where that frame does, which dynamics must not see.
        mirror_symmetric: * leave out of "so2" what tells mirror images apart; all other messages cannot.
        attention_dropout: probability, in training, that a neighbour's share is dropped (all messages but zonal).
        path_dropout: probability, in training, that a structure skips a message or an update.
        direct_forces: add a head that predicts forces without a gradient (not conservative), a gated read-out of the
            features of degree 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    elements: tuple[int, ...] = Field(min_length=1)
    mode: Literal["exact", "paper"] = "exact"
    cutoff: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    layers: int = Field(default=2, ge=1)
    lmax: int = Field(default=2, ge=1, le=12)
    channels: int = Field(default=32, ge=1)
    heads: int = Field(default=4, ge=1)
    points: str = ""
    norm: FeatureNorm = "coefficient"
    bounded_attention: bool = True
    temperature: float = Field(default=1.0, gt=0)
    attention_projection: bool = True
    scalar_bypass: bool = True
    inner_products: bool = True
    message: Message = "zonal"
    steerable_experts: int = Field(default=1, ge=0)
    spherical_experts: int = Field(default=1, ge=0)
    expert_channels: int = Field(default=128, ge=1)
    kernels: int = Field(default=16, ge=2)
    radial_length: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    radial_channels: int = Field(default=32, ge=1)
    envelope_power: int = Field(default=5, ge=3)
    average_neighbors: float = Field(default=20.0, gt=0)
    norm_floor: float = Field(default=1.0, gt=0)
    zonal_nodes: int = Field(default=24, ge=2)
    message_heads: int = Field(default=4, ge=1)
    mmax: int = Field(default=2, ge=0)
    so2_activation: SO2Activation = "gate"
    mirror_symmetric: bool = True
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    path_dropout: float = Field(default=0.0, ge=0, lt=1)
    direct_forces: bool = False

    @model_validator(mode="before")
    @classmethod
    def _dependent_defaults(cls, given: Any) -> Any:
        """Put in what mode, degree and width imply; everything that is given stays."""
        if not isinstance(given, dict):
            return given
        try:  # 2.0 and "2" are numbers, too
            lmax, channels = int(given.get("lmax", 2)), int(given.get("channels", 32))
        except (TypeError, ValueError, OverflowError):
            return given  # what is wrong with them is said by their own checks
        implied: dict[str, Any] = {
            "points": EXACT_RULES.get(lmax, LARGEST_RULE),
            "expert_channels": 4 * channels,
        }
        if given.get("mode") == "paper":
            implied |= {
                "points": f"fibonacci-{(2 * lmax + 1) * (2 * lmax + 2)}",
                "norm": "point",
                "heads": 1,
                "bounded_attention": False,
                "attention_projection": False,
                "scalar_bypass": False,
                "inner_products": False,
                "so2_activation": "sphere",
                "mirror_symmetric": False,
            }
        return implied | given

    @model_validator(mode="after")
    def _consistent(self) -> ESTConfig:
        for name in ("heads", "message_heads"):
            if self.channels % getattr(self, name):
                raise ValueError(f"channels ({self.channels}) must be a multiple of {name} ({getattr(self, name)})")
        if len(set(self.elements)) != len(self.elements) or not all(1 <= z <= 118 for z in self.elements):
            raise ValueError("elements must be different atomic numbers from 1 to 118")
        if not self.steerable_experts + self.spherical_experts:
            raise ValueError("there must be an expert")
        try:
            count = len(point_rule(self.points).points)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if count < (self.lmax + 1) ** 2:
            raise ValueError(f"{count} points are too few for degrees up to {self.lmax}")
        return self
