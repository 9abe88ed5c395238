"""Compiled blocks learn what plain ones learn; where they cannot, a sentence says so."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from geomol_training.compiled import compiler_watched
from geomol_training.fit import fit
from geomol_training.keeper import read_state
from geomol_training.recipe import Recipe
from pydantic import ValidationError
from rich.console import Console
from torch._dynamo.exc import BackendCompilerFailed

from ase_geomol.errors import ConfigError

TWICE = r"torch\.compile cannot differentiate twice"
COMPILER = any(shutil.which(name) for name in ("g++", "c++", "clang++"))
ALL_BUT_FEED_FORWARD = [
    "invariant_self",
    "invariant_cross",
    "equivariant_self",
    "equivariant_cross",
    "equivariant_ffn",
    "equivariant_norm",
    "quadrupole",
]


def of_property(recipe: Recipe, **training: object) -> Recipe:
    """A recipe that learns the energy as a property, with as little to compile as there can be."""
    fields = recipe.model_dump()
    fields["model"]["config"] |= {"without": ALL_BUT_FEED_FORWARD}
    fields |= {"target": {"name": "energy", "unit": "eV", "pooling": "sum"}}
    fields["training"] |= {"max_steps": 6, "validate_every": 3, "precision": "float64", **training}
    return Recipe.model_validate(fields)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler on this machine")
def test_compiled_blocks_learn_the_same(make_recipe, tmp_path):
    states = []
    for compiled in (False, True):
        recipe = of_property(make_recipe(), compile=compiled)
        out = tmp_path / str(compiled)
        fit(recipe, out, console=Console(file=io.StringIO()), threads=1)
        states.append(read_state(out / "last.pt", "identity")["predictor"])
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-11)


def test_what_is_differentiated_twice_is_not_compiled(make_recipe):
    with pytest.raises(ValidationError, match=TWICE):
        make_recipe(training={"compile": True})
    with pytest.raises(ValidationError, match=TWICE):
        make_recipe(training={"compile": True}, loss={"forces": 0.0, "stress": 1.0})
    assert make_recipe(training={"compile": True}, loss={"forces": 0.0}).training.compile
    with pytest.raises(ValidationError, match="compile and recompute exclude each other"):
        of_property(make_recipe(), compile=True, recompute=True)


def test_a_compiler_that_fails_is_a_sentence():
    failure = BackendCompilerFailed(compiler_watched, RuntimeError("no g++\nand more"), None)
    told = r"cannot be compiled here \(.* C\+\+ compiler.*\): no g\+\+$"
    with pytest.raises(ConfigError, match=told), compiler_watched():
        raise failure
