"""Sections that recipes of all kinds of trainings share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all parts: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Section):
    """How frames of the training source are divided when no other source is given for validation.

    Attributes:
        by: "key", the split that the file names; "group", whole groups such as molecules; "trajectory", whole runs,
            each with its ``trajectory`` in the file, or a file each; "frame", single frames.
        train: number of units (1 and more) or fraction (below 1) to train on; None: all that are left.
        valid: likewise for validation.
        test: likewise for the test.
    """

    by: Literal["key", "group", "trajectory", "frame"] = "group"
    train: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    valid: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    test: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Optimiser(Section):
    """Adam, AdamW, or Muon (`geomol_training.optimiser.Muon`); weight decay acts on matrices only.

    Attributes:
        name: which one.
        lr: highest learning rate; the only one of these that a resumed run may have another of.
        weight_decay: decoupled, but for Adam.
        betas: decay of both running means of Adam.
        eps: what Adam adds to the root of the second.
    """

    name: Literal["adam", "adamw", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)


class Schedule(Section):
    """The learning rate: a linear warm-up, then one of four courses.

    Attributes:
        kind: "cosine" to the floor at the end of the steps or of the time budget, whichever comes first; "linear" to
            the same in a line that begins with the warm-up;
            "plateau", multiplied by ``factor`` after ``patience`` validations without a better score; "constant".
        warmup_steps: steps to reach the full rate.
        floor: lowest rate.
        factor: of the plateau.
        patience: of the plateau.
    """

    kind: Literal["cosine", "linear", "plateau", "constant"] = "cosine"
    warmup_steps: int = Field(default=100, ge=0)
    floor: float = Field(default=1e-5, ge=0)
    factor: float = Field(default=0.5, gt=0, lt=1)
    patience: int = Field(default=10, ge=1)


class Training(Section):
    """How long and in which portions.

    Attributes:
        batch_edges: neighbour pairs in a batch; structures are added until the next would exceed it.
        batch_atoms: the same in atoms, instead of pairs.
        batch_frames: the same in structures.
        parts: portions of a batch that are computed one after the other, where a whole one is too large for the
            memory; their gradients are added up, so that the step is the same.
        recompute: forget what a network's blocks compute, and compute it again for the derivatives: slower, with less
            memory (activation checkpointing).
        max_steps: steps in all, over all resumed runs.
        max_epochs: passes over the training data.
        validate_every: steps.
        train_frames: frames that are learned from, drawn with the seed (a few are among the many). None: all.
        valid_frames: frames of the validation data that are looked at each time; always the same.
        patience: regular validations without a better score after which the training ends; None: it goes on.
        ema: decay of the running mean of the weights; 0 for none.
        clip: largest norm of the gradient.
        precision: of the network's weights; "mixed": float32, with feed-forward networks that compute in bfloat16
            while they learn (`geomol_training.mixed`).
        compile: compile the network's blocks first, which takes minutes; only where nothing is differentiated twice,
            that is without forces by gradient and stresses.
        save_minutes: minutes between two resumable checkpoints.
    """

    batch_edges: int | None = Field(default=None, ge=1)
    batch_atoms: int | None = Field(default=None, ge=1)
    batch_frames: int | None = Field(default=None, ge=1)
    parts: int = Field(default=1, ge=1)
    recompute: bool = False
    max_steps: int | None = Field(default=None, ge=1)
    max_epochs: int | None = Field(default=None, ge=1)
    validate_every: int = Field(default=500, ge=1)
    train_frames: int | None = Field(default=None, ge=1)
    valid_frames: int | None = Field(default=1000, ge=1)
    patience: int | None = Field(default=None, ge=1)
    ema: float = Field(default=0.999, ge=0, lt=1)
    clip: float = Field(default=10.0, gt=0)
    precision: Literal["float32", "float64", "mixed"] = "float32"
    compile: bool = False
    save_minutes: float = Field(default=5.0, gt=0)

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @model_validator(mode="after")
    def _one_size(self) -> Training:
        if [self.batch_edges, self.batch_atoms, self.batch_frames].count(None) != 2:
            raise ValueError("give one of batch_edges, batch_atoms and batch_frames")
        if self.compile and self.recompute:
            raise ValueError("compile and recompute exclude each other: leave one of them out")
        return self


class Card(Section):
    """What the weights' card says."""

    theory: str
    training_data: str
    licence: str = "MIT"


class TrainingRecipe(Section):
    """What all recipes of trainings say.

    ``variables`` are texts that stand as ``{name}`` in other texts of the recipe, so that one recipe serves many
    molecules: ``--set variables.molecule=uracil``.
    """

    fixed_sections: ClassVar[tuple[str, ...]] = ("seed",)
    """Parts that must not change when a run is resumed."""
    fixed_fields: ClassVar[dict[str, tuple[str, ...]]] = {
        "optimiser": ("name", "weight_decay", "betas", "eps"),
        "training": ("train_frames", "valid_frames", "batch_edges", "batch_atoms", "batch_frames"),
    }
    """Fields of other parts that must not change either."""

    name: str
    variables: dict[str, str] = {}
    description: str = ""
    seed: int = Field(default=0, ge=0)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    training: Training
    metadata: Card
