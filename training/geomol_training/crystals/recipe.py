"""What is made of crystals, how much of it, and who labels it: the validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from ase.data import atomic_numbers
from pydantic import AfterValidator, Field

from ..config import read_yaml, validated
from ..labelling.recipe import Count, Labelling, Length, Positive, Range, Section


def _elements(symbols: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [symbol for symbol in symbols if not atomic_numbers.get(symbol)]
    if unknown or len(set(symbols)) != len(symbols):
        raise ValueError(f"must be different symbols of elements; wrong: {unknown or 'some stand twice'}")
    return symbols


class TeacherSettings(Section):
    """The calculator that labels."""

    calculator: Annotated[str, Field(pattern=r"^[\w.]+:\w+$", description="what its Python imports, module:name")]
    arguments: dict[str, Any] = Field(default={}, description="keywords that make it")


class Starts(Section):
    """Structures from which everything else is made."""

    files: tuple[Path, ...] = Field(default=(), description="known crystals, files that ASE reads, .xz allowed")
    known: Count = Field(description="how many of the files' frames, drawn at random")
    known_atoms: Positive = Field(description="largest number of atoms of those")
    prototypes: Count = Field(description="AFLOW prototypes with random elements")
    prototype_atoms: Positive
    element_repeats: Count = Field(description="how often each element in five simple lattices")
    binaries: Count = Field(description="rock salt, cesium chloride, zinc blende, wurtzite, fluorite of random pairs")
    dimers: Count = Field(description="random pairs of atoms in vacuum")
    originals: Count = Field(default=0, description="how often each AFLOW prototype with the elements that it has")
    ground_states: Count = Field(default=0, description="how often each element as in ASE's collection dcdft")
    salts: Count = Field(default=0, description="like binaries, of a random metal and a random nonmetal")


class Variants(Section):
    """What is made of a start, after a few steps of relaxation of positions and cell with the teacher."""

    relax_steps: Count
    relax_frames: Count
    strained: Count = Field(description="frames with a random strain")
    rattled: Count = Field(description="frames with random displacements, too")
    hot: Count = Field(description="frames of Langevin dynamics")
    vacancy_share: float = Field(ge=0, le=1, description="share of starts that lose an atom of a supercell")
    surface_share: float = Field(ge=0, le=1, description="share of starts that become a slab")
    strain: Length = Field(
        description="largest relative change of all lengths; half of it for each axis, and as the deviation of shears"
    )
    rattle: Range = Field(description="Å: range of the standard deviation of a coordinate")
    temperature: Range = Field(description="K")
    interval: Positive = Field(description="steps of dynamics between frames")
    step_fs: Length = Field(description="fs; all atoms move with 12 u")
    friction_per_fs: Length
    largest: Positive = Field(description="atoms of a supercell or slab")


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
