"""Compiled blocks: `torch.compile` for trainings that differentiate once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._dynamo.exc import BackendCompilerFailed

from ase_geomol.errors import ConfigError


def compile_blocks(network: Any) -> None:
    """Compile the blocks of a network, in place, for structures of any size; the first step does it."""
    for block in network.blocks:
        block.compile(dynamic=True)


@contextmanager
def compiler_watched() -> Iterator[None]:
    """A compiler that is missing or fails becomes a sentence."""
    try:
        yield
    except BackendCompilerFailed as error:
        raise ConfigError(
            "training.compile: the network cannot be compiled here (on a CPU this needs a C++ compiler, on CUDA "
            f"Triton): {str(error.inner_exception).strip().splitlines()[0]}"
        ) from error
