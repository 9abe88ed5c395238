"""A long run takes no more memory than a short one, and stays exact while the neighbour list is kept."""

from __future__ import annotations

import gc
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from physics.mixin import set_temperature

from ase_geomol import GeoMolCalculator

STEPS = 5000
TINY = {"channels": 4, "heads": 2, "layers": 1, "ffn_channels": 4, "kernels": 4}


def _resident() -> float:
    """Memory of this process in MB, as the system sees it."""
    gc.collect()
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])) / 1024


def _tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def _grown(checkpoint: Path, atoms: Atoms) -> tuple[int, int, float]:
    """Lists of neighbours, tensors and MB more at the end than after 500 steps."""
    torch.set_num_threads(1)
    calculator = GeoMolCalculator(checkpoint, device="cpu", skin=0.3)
    atoms.calc = calculator
    set_temperature(atoms, 600)
    rng = np.random.RandomState(0)
    with Langevin(atoms, 1.0 * units.fs, temperature_K=600, friction=0.02 / units.fs, fixcm=False, rng=rng) as dynamics:
        dynamics.run(500)
        memory, tensors, builds = _resident(), _tensors(), calculator._neighbors.builds
        dynamics.run(STEPS)
    assert np.isfinite(atoms.get_forces()).all()
    return calculator._neighbors.builds - builds, _tensors() - tensors, _resident() - memory


def test_memory_is_flat_over_5000_steps(make_checkpoint, make_structure) -> None:
    """Neither a process of its own nor the number of living tensors grows, through rebuilds of the neighbour list."""
    path = make_checkpoint(seed=3, cutoff=3.4, **TINY)
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        builds, tensors, memory = alone.submit(_grown, path, make_structure("bulk")).result()
    assert builds >= 10, "the neighbour list must have been rebuilt on the way"
    assert tensors <= 0, "tensors are kept from step to step"
    assert memory < 10.0


def test_a_kept_list_changes_no_trajectory(checkpoint, make_structure) -> None:
    """With a skin the run is the same as with a list made anew at every step."""
    ends, builds = [], []
    for skin in (0.0, 0.6):
        atoms = make_structure("water_dimer")
        set_temperature(atoms, 600)
        atoms.calc = GeoMolCalculator(checkpoint, device="cpu", dtype="float64", skin=skin)
        with VelocityVerlet(atoms, 0.5 * units.fs) as dynamics:
            dynamics.run(60)
        ends.append(atoms.positions)
        builds.append(atoms.calc._neighbors.builds)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-8)
    assert builds[1] < builds[0] / 3
