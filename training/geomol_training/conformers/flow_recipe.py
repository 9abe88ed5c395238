"""Recipes of conformer models: every choice, validated before anything starts."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ase_geomol.models.ditmc import DiTMCConfig, FlowForm

from ..config import faults
from ..sections import Section, Split, TrainingRecipe


class FlowData(Section):
    """Where the conformers come from; paths are relative to the working directory.

    Attributes:
        train: folder or files that ``geomol-train conformers`` wrote, a folder of GEOM's pickles, or a list of them.
        valid: likewise; None divides ``train`` by ``split``.
        split: how ``train`` is divided; a group is a molecule's skeleton, whatever its stereochemistry.
        geom_splits: the ``split0.npy`` of a folder of GEOM's, which then belongs to "key".
        weights: how a conformer of a molecule is drawn: each as often as any other ("uniform"), so that all shapes
            are learned, or by their Boltzmann weights at 298.15 K ("boltzmann"), as they occur.
        draws: conformers of each molecule in a batch, each with its own time and noise; what the network computes of
            the graph alone is shared by them.
    """

    train: str | tuple[str, ...]
    valid: str | tuple[str, ...] | None = None
    split: Split = Split()
    geom_splits: str | None = None
    weights: Literal["uniform", "boltzmann"] = "uniform"
    draws: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _divided_as_given(self) -> Self:
        if self.geom_splits is not None and (self.split.by != "key" or self.valid is not None):
            raise ValueError("geom_splits divide the data: give split: {by: key}, and no valid")
        if self.split.by in ("frame", "trajectory"):
            raise ValueError("split.by: conformers are divided by key or by group, since those of a molecule are alike")
        return self


class FlowModel(Section):
    """The network; ``config`` are fields of `ase_geomol.models.DiTMCConfig`."""

    architecture: Literal["ditmc"] = "ditmc"
    config: dict[str, Any] = Field(default_factory=dict)

    @property
    def built(self) -> DiTMCConfig:
        """The architecture's configuration."""
        return DiTMCConfig.model_validate(self.config)

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        try:
            _ = self.built
        except ValidationError as error:
            raise ValueError(faults(error, "config")) from error
        return self


class FlowRecipe(TrainingRecipe):
    """A training of a distribution of conformers.

    In ``training``, ``batch_edges`` are pairs of atoms (``draws`` times the square of a molecule's atoms), and frames
    are molecules.
    """

    fixed_sections = ("seed", "data", "model", "flow")

    data: FlowData
    model: FlowModel = FlowModel()
    flow: FlowForm

    @model_validator(mode="after")
    def _plainly_computed(self) -> Self:
        if self.training.recompute:
            raise ValueError("training.recompute: this network keeps what it computes")
        if self.training.compile or self.training.precision == "mixed":
            raise ValueError("training.compile and mixed precision are for networks of energies and properties")
        return self
