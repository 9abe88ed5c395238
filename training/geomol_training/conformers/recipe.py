"""Which molecules get a set of conformers, and how those are looked for: the validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ..config import read_yaml, validated
from ..labelling.recipe import Chemistry, Count, Length, Positive, Section


class Molecules(Section):
    """Molecules that are drawn at random; each gets one random stereoisomer."""

    qm9: Count = Field(description="of QM9")
    druglike: Count = Field(description="joined from scaffolds and substituents")
    heavy_atoms: Positive = Field(description="at most so many in a molecule")
    rotatable_bonds: Count = Field(description="at least so many")


class Known(Section):
    """Molecules of sets of conformers that there are, in random order; each gets a new set."""

    sets: str = Field(description="folder or file of them")
    split: str = Field(description="only this part")


class Search(Section):
    """How the conformers of a molecule are looked for: ETKDGv3, then MMFF94s, then a potential, then GFN2-xTB."""

    seeds: Positive = Field(description="of a molecule without a rotatable bond")
    seeds_per_bond: Count = Field(description="more for each rotatable bond")
    most_seeds: Positive
    force_field_window: Length = Field(description="kcal/mol above the lowest minimum of MMFF94s")
    potential: str = Field(description="a shipped name or a path, for the molecules that it knows")
    potential_fmax: Length = Field(description="eV/Å: largest force where its relaxation ends")
    potential_window: Length = Field(description="kcal/mol above the lowest structure relaxed with it")
    window: Length = Field(description="kcal/mol above the lowest minimum of GFN2-xTB")
    apart: Length = Field(description="Å: RMSD of heavy atoms above which conformers are two")
    most: Positive = Field(description="of the lowest are kept")
    thorough: Literal[True] | None = Field(
        default=None,
        description="embed as often without knowledge of torsions, and relax embeddings without MMFF94s, too",
    )
    fmax: Length = Field(description="eV/Å: largest force in a minimum of GFN2-xTB")
    steps: Positive = Field(description="of a minimisation, at most")


class ConformerRecipe(Chemistry):
    """All that decides which conformers are found.

    The same recipe gives the same ones, but for molecules that RDKit hardly embeds, which is given up after seconds.
    """

    molecules: Molecules | None = None
    known: Known | None = None
    search: Search

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.molecules is None) == (self.known is None):
            raise ValueError("give either molecules, which are drawn, or known, those of sets of conformers")
        return self


def load_conformer_recipe(path: Path, changes: Sequence[str] = ()) -> ConformerRecipe:
    """Read and validate a YAML recipe with ``changes`` (``key.path=value``); raises :class:`ConfigError`."""
    return validated(ConformerRecipe, read_yaml(path, changes), path)
