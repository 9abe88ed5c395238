"""What stands beside the tensors in a file of weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from .models.ditmc import FlowForm
from .property import PropertyForm
from .relaxed import RelaxedForm
from .rigidity import RigidityForm

UNITS: dict[Any, Any] = {"energy": "eV", "length": "angstrom"}


class Metadata(BaseModel):
    """What a user should know of a potential, or another predictor, before trusting it.

    Attributes:
        name: its name.
        theory: the method whose energies (structures, …) it learned.
        training_data: what it was trained on.
        licence: of the weights.
        charges: total charges (e) that it was trained for; conformers have their charges in the request.
        spins: multiplicities 2S+1 that it was trained for; empty if its data did not tell them.
        forces: of a potential, how it learned them: "gradient" of its energy, or "direct", by its direct head alone.
        errors: measured errors, {"what and unit": value}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    theory: str
    training_data: str
    licence: str = "MIT"
    charges: tuple[int, ...] = (0,)
    spins: tuple[int, ...] = (1,)
    forces: Literal["gradient", "direct"] = "gradient"
    errors: dict[str, FiniteFloat] = Field(default_factory=dict)


class Header(BaseModel):
    """What stands beside the tensors in a file.

    Attributes:
        format_version: of this layout.
        architecture: a name in `ase_geomol.models.ARCHITECTURES`.
        config: fields of its configuration.
        repulsion: reach of its `ase_geomol.repulsion.ZBLRepulsion` in sums of covalent radii; 0: it has none.
        property: which one, where it predicts a property and is no potential.
        relaxed: how, where it predicts the end of relaxations and is no potential.
        flow: how, where it draws conformers and is no potential.
        rigidity: what the potential's was made from, if it has one.
        units: always these.
        metadata: about the potential.
    """

    model_config = ConfigDict(frozen=True)

    format_version: Literal[2] = 2
    architecture: str
    config: dict[str, Any]
    repulsion: FiniteFloat = Field(ge=0)
    property: PropertyForm | None = None
    relaxed: RelaxedForm | None = None
    flow: FlowForm | None = None
    rigidity: RigidityForm | None = None
    units: dict[Literal["energy", "length"], Literal["eV", "angstrom"]] = UNITS
    metadata: Metadata

    @field_validator("units")
    @classmethod
    def _are_ours(cls, units: dict[str, str]) -> dict[str, str]:
        if units != UNITS:
            raise ValueError(f"must be {UNITS}")
        return units
