"""Conformers on a GPU are those of a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from unit.small_ditmc import L_ALANINE, POSITIONS, network

from ase_geomol import ConformerProvider, save_checkpoint
from ase_geomol.checkpoint import Metadata
from ase_geomol.models.ditmc import ConformerFlow, FlowForm

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("positions", POSITIONS)
def test_same_conformers_as_on_the_cpu(positions, tmp_path):
    path = tmp_path / "tiny.safetensors"
    metadata = Metadata(name="tiny", theory="none", training_data="none")
    save_checkpoint(path, ConformerFlow(network(positions, dtype=torch.float32), FlowForm()), metadata)
    drawn = []
    for device in ("cpu", "cuda", "cuda"):
        provider = ConformerProvider(path, device=device, steps=10)
        drawn.append(np.array([atoms.positions for atoms in provider.sample(L_ALANINE, 8, checks=())]))
    assert np.abs(drawn[0] - drawn[1]).max() < 1e-3
    assert np.array_equal(drawn[1], drawn[2])
