"""What is labelled, how much of it and under which conditions: the validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..config import read_yaml, validated

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _ascending(values: tuple) -> tuple:
    if list(values) != sorted(values):
        raise ValueError(f"must be given from the lowest to the highest, not {list(values)}")
    return values


Range = Annotated[tuple[Length, Length], AfterValidator(_ascending)]


class Section(BaseModel):
    """Fields that may not be changed, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Trajectories(Section):
    """A short relaxation and Langevin MD for each molecule."""

    qm9_molecules: Count
    druglike_molecules: Count
    small_repeats: Count = Field(description="how often each small molecule is run")
    relax_steps: Count = Field(description="steps of the relaxation before the MD")
    relax_frames: Count = Field(description="frames kept along the relaxation")
    frames: Count = Field(description="frames kept along the MD")
    heat_steps: Count = Field(description="MD steps; the first frame is an interval later")
    interval: Positive = Field(description="MD steps between frames")
    full_length_atoms: Positive = Field(description="above this size, heating and intervals shrink with 1/atoms")
    step_fs: Length = Field(description="fs; all atoms move with 12 u")
    friction_per_fs: Length
    temperature: Annotated[tuple[Length, Length, Length], AfterValidator(_ascending)] = Field(
        description="K: lowest, end of the common range, highest"
    )
    hot_share: float = Field(ge=0, le=1, description="share of molecules above the common range")


class ForceField(Section):
    """Langevin MD on MMFF94s: it costs next to nothing, so that frames can be far apart."""

    qm9_molecules: Count
    druglike_molecules: Count
    hetero_molecules: Count = Field(description="drug-like with at least two elements of F P S Cl Br I")
    frames: Positive = Field(description="frames of each molecule")
    heat_steps: Count = Field(description="MD steps before the first frame")
    interval: Positive = Field(description="MD steps between frames")
    step_fs: Length = Field(description="fs; all atoms move with 12 u")
    friction_per_fs: Length
    temperature: Range = Field(description="K: drawn uniformly for each molecule")

    @property
    def molecules(self) -> dict[str, int]:
        """How many of each pool."""
        return {"qm9": self.qm9_molecules, "druglike": self.druglike_molecules, "hetero": self.hetero_molecules}


class Torsions(Section):
    """Rotatable bonds turned through a full circle."""

    molecules: Count
    relax_steps: Count = Field(description="GFN2 steps after each turn; the raw frame is kept as well")


class Distortions(Section):
    """One bond stretched or compressed, and all atoms rattled."""

    molecules: Count
    stretches: Count = Field(description="frames a molecule")
    rattles: Count = Field(description="frames a molecule")
    scale: Range = Field(description="range of the bond's length, relative")
    rattle: Range = Field(description="Å: range of the standard deviation of a coordinate")


class Complexes(Section):
    """Pairs and small clusters of molecules."""

    pairs: Count
    orientations: Positive
    distances: Positive = Field(description="distances for each orientation")
    contact: Range = Field(description="Å: range of the closest contact")
    clusters: Count
    max_atoms: Positive


class Contacts(Section):
    """Atoms of every pair of elements pushed together, down to the repulsive wall."""

    repeats: Count = Field(description="approaches for each pair of elements")
    distances: Positive = Field(description="distances for each approach")
    reach: Range = Field(description="range of the distance / sum of covalent radii")


class Labelling(Section):
    """What all recipes of labels say; ``packages`` are those whose versions belong to the result."""

    packages: ClassVar[tuple[str, ...]] = ()

    name: str
    description: str = ""
    method: str = Field(description="the theory of the labels, in the field's words")
    seed: Count = 0
    max_force: Length = Field(default=50.0, description="eV/Å: frames above it are rejected")


class Chemistry(Labelling):
    """What recipes of molecules say: the method, and which molecules may be met.

    ``exclude`` names a file that ASE's extended XYZ format describes (``.xz`` allowed), relative to the
    working directory, whose molecules (``smiles`` in each comment line) must not be labelled.
    """

    packages = ("tblite", "rdkit", "ase", "qm9pack", "numpy")

    method: Literal["GFN2-xTB"] = "GFN2-xTB"  # pyright: ignore[reportIncompatibleVariableOverride]
    exclude: Path | None = None
    druglike_atoms: Annotated[tuple[Positive, Positive], AfterValidator(_ascending)] = (15, 50)
    common_druglike_atoms: Positive = Field(default=30, description="every second larger one is left out")

    @model_validator(mode="after")
    def _paths_are_relative(self) -> Self:
        if self.exclude is not None and self.exclude.is_absolute():
            raise ValueError("exclude must be a relative path, so that the recipe works elsewhere")
        return self


class LabelRecipe(Chemistry):
    """All that decides which frames are made; the same recipe gives the same frames."""

    trajectories: Trajectories
    force_field: ForceField | None = None
    torsions: Torsions
    distortions: Distortions
    complexes: Complexes
    contacts: Contacts


class Starts(Section):
    """How many of each kind are run with the potential's own dynamics."""

    qm9: Count = 0
    druglike: Count = 0
    hetero: Count = Field(default=0, description="drug-like molecules with at least two elements of F P S Cl Br I")
    small: Count = Field(default=0, description="how often each small molecule is run")
    torsions: Count = Field(default=0, description="molecules that start with a bond turned")
    pairs: Count = 0
    clusters: Count = 0


class ExploreRecipe(Chemistry):
    """All that decides, with a checkpoint, which frames are looked for where that checkpoint errs."""

    starts: Starts
    contact: Range = Field(description="Å: range of the closest contact where molecules meet")
    max_atoms: Positive = Field(description="of pairs and clusters")
    temperatures: Annotated[tuple[Length, ...], AfterValidator(_ascending), Field(min_length=1)] = Field(
        description="K: a run goes through them in turn"
    )
    interval: Positive = Field(description="MD steps between frames")
    step_fs: Length = Field(description="fs; all atoms move with 12 u")
    friction_per_fs: Length
    limit: Length = Field(description="eV/Å: frames whose force RMSE is above it are kept")
    probe_frames: Positive = Field(description="frames of every molecule at each temperature")
    more_frames: Count = Field(description="more of molecules whose probe is above the limit")


def load_recipe(path: Path, changes: Sequence[str] = ()) -> LabelRecipe:
    """Read and validate a YAML recipe with ``changes`` (``key.path=value``); raises :class:`ConfigError`."""
    return validated(LabelRecipe, read_yaml(path, changes), path)


def load_explore_recipe(path: Path, changes: Sequence[str] = ()) -> ExploreRecipe:
    """Read and validate a YAML recipe with ``changes`` (``key.path=value``); raises :class:`ConfigError`."""
    return validated(ExploreRecipe, read_yaml(path, changes), path)
