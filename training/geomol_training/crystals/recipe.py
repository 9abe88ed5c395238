"""What is made of crystals, how much of it, and who labels it: the validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from ase.data import atomic_numbers
from pydantic import AfterValidator, Field, model_validator

from ..config import read_yaml, validated
from ..labelling.recipe import Count, Labelling, Length, Positive, Range, Section

Kind = Literal["known", "prototype", "element", "binary", "pair", "salt", "original", "ground_state", "dimer", "atom"]
"""What a start is, in the singular of the names in `Starts`."""


def _elements(symbols: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [symbol for symbol in symbols if not atomic_numbers.get(symbol)]
    if unknown or len(set(symbols)) != len(symbols):
        raise ValueError(f"must be different symbols of elements; wrong: {unknown or 'some stand twice'}")
    return symbols


class TeacherSettings(Section):
    """The calculator that labels."""

    calculator: Annotated[str, Field(pattern=r"^[\w.]+:\w+$", description="what its Python imports, module:name")]
    arguments: dict[str, Any] = Field(default={}, description="keywords that make it")
    seconds: Length = Field(default=60.0, description="wall time for a structure; slower ones are rejected")
    job_seconds: Length = Field(default=900.0, description="wall time for a job; what is left of it is rejected")


class Starts(Section):
    """Structures from which everything else is made."""

    files: tuple[Path, ...] = Field(default=(), description="known crystals, files that ASE reads, .xz allowed")
    known: Count = Field(description="how many of the files' frames, drawn at random")
    known_atoms: Positive = Field(description="largest number of atoms of those")
    prototypes: Count = Field(description="AFLOW prototypes with random elements: two in one half, more in the other")
    prototype_atoms: Positive
    element_repeats: Count = Field(description="how often each element in five simple lattices")
    binaries: Count = Field(description="rock salt, cesium chloride, zinc blende, wurtzite, fluorite of random pairs")
    pairs: Count = Field(default=0, description="how often each pair of elements, as binary or in an AFLOW prototype")
    dimers: Count = Field(description="pairs of atoms in vacuum; each pair once before one stands twice")
    atoms: bool = Field(default=False, description="each element as an atom in vacuum")
    originals: Count = Field(default=0, description="how often each AFLOW prototype with the elements that it has")
    original_atoms: Positive = Field(default=24, description="largest number of atoms of those, and of ground states")
    ground_states: Count = Field(default=0, description="how often each element as in ASE's collection dcdft")
    salts: Count = Field(default=0, description="like binaries, of a random metal and a random nonmetal")


class Variants(Section):
    """What is made of a start, after a few steps of relaxation of positions and cell with the teacher."""

    relax_steps: Count
    relax_frames: Count
    strained: Count = Field(description="frames with a random volume and strain")
    rattled: Count = Field(description="frames with random displacements, too")
    gentle: Count = Field(default=0, description="frames with small strains and displacements: elasticity, phonons")
    hot: Count = Field(description="frames of Langevin dynamics")
    vacancy_share: float = Field(ge=0, le=1, description="share of starts that lose an atom of a supercell")
    surface_share: float = Field(ge=0, le=1, description="share of starts that become a slab")
    volume: Range = Field(default=(0.73, 1.33), description="range of factors of the start's volume")
    strain: Length = Field(description="half of it is the largest change of an axis more, and the deviation of shears")
    rattle: Range = Field(description="Å: range of the standard deviation of a coordinate")
    gentle_strain: Length = Field(default=0.02, description="of gentle frames, for all lengths, too")
    gentle_rattle: Range = Field(default=(0.01, 0.05), description="Å: the same of gentle frames")
    temperature: Range = Field(description="K")
    interval: Positive = Field(description="steps of dynamics between frames")
    step_fs: Length = Field(description="fs; all atoms move with 12 u")
    friction_per_fs: Length
    largest: Positive = Field(description="atoms of a supercell or slab")
    kinds: dict[Kind, dict[str, Any]] = Field(default={}, description="what is different for starts of a kind")

    @model_validator(mode="after")
    def _kinds_are_valid(self) -> Self:
        for kind in self.kinds:
            self.of(kind)
        return self

    def of(self, kind: Kind) -> Variants:
        """The settings for starts of this kind."""
        common = self.model_dump(exclude={"kinds"})
        return Variants.model_validate({**common, **self.kinds.get(kind, {})})

    @property
    def frames(self) -> int:
        """How many a start gives at most, but for vacancies and surfaces."""
        relaxed = self.relax_frames if self.relax_steps else 0
        return relaxed + self.strained + self.rattled + self.gentle + self.hot


class CrystalRecipe(Labelling):
    """All that decides which frames are made; the same recipe and teacher give the same frames."""

    packages = ("ase", "numpy", "pymatgen")

    teacher: TeacherSettings
    elements: Annotated[tuple[str, ...], AfterValidator(_elements), Field(min_length=2)]
    max_stress: Length = Field(default=0.6, description="eV/Å³: frames above it are rejected")
    starts: Starts
    variants: Variants


def load_crystal_recipe(path: Path, changes: Sequence[str] = ()) -> CrystalRecipe:
    """Read and validate a YAML recipe with ``changes`` (``key.path=value``); raises :class:`ConfigError`."""
    return validated(CrystalRecipe, read_yaml(path, changes), path)
