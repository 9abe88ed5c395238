"""What runs on a CPU runs on a GPU, with the same results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.graph import from_atoms
from ase_geomol.simulate import MDSettings, run_md

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

FORMS = {
    "geomformer": {},
    "geomformer all pairs": {"cutoff": None},
    "est zonal": {"architecture": "est"},
    "est attention": {"architecture": "est", "message": "attention"},
    "est so2": {"architecture": "est", "message": "so2"},
    "est gata": {"architecture": "est", "message": "gata"},
    "est graph_attention": {"architecture": "est", "message": "graph_attention"},
}


def results(atoms: Atoms, **options: object) -> dict[str, np.ndarray]:
    moved = atoms.copy()
    moved.calc = GeoMolCalculator(**options)  # type: ignore[arg-type]
    names = ["energy", "forces"] + (["stress"] if atoms.pbc.any() else [])
    return {name: np.asarray(moved.calc.get_property(name, moved)) for name in names}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 2e-4)])
@pytest.mark.parametrize("name", ["ethanol", "bulk", "atom"])
@pytest.mark.parametrize("form", FORMS)
def test_same_results_as_on_the_cpu(form, name, dtype, tolerance, make_checkpoint, make_structure):
    atoms, options = make_structure(name), FORMS[form]
    if atoms.pbc.any() and "cutoff" in options:
        pytest.skip("the global form is no potential of crystals")
    path = make_checkpoint(seed=0, **options)
    ours, wanted = (results(atoms, model=path, dtype=dtype, device=device) for device in ("cuda", "cpu"))
    for quantity, value in wanted.items():
        scale = max(1.0, float(np.abs(value).max()))
        assert np.abs(ours[quantity] - value).max() <= tolerance * scale, quantity


def test_shipped_weights(shipped, make_structure):
    atoms = make_structure("ethanol")
    elements = load_checkpoint(shipped).potential.elements
    atoms.numbers = [z if z in elements else elements[0] for z in atoms.numbers]
    ours, wanted = (results(atoms, model=shipped, dtype="float64", device=device) for device in ("cuda", "cpu"))
    assert ours["energy"] == pytest.approx(wanted["energy"], abs=1e-8)
    np.testing.assert_allclose(ours["forces"], wanted["forces"], atol=1e-8)


def test_default_device(checkpoint):
    assert GeoMolCalculator(checkpoint).device.type == "cuda"


def test_batch_equals_single(make_potential, make_structure):
    from ase_geomol.graph import collate, split

    potential = make_potential(architecture="est", message="attention").to("cuda")
    graphs = [from_atoms(make_structure(name), potential.cutoff, device="cuda") for name in ("ethanol", "bulk", "co2")]
    batch = collate(graphs)
    together = potential(batch)
    for graph, energy, forces in zip(graphs, together.energy, split(together.forces, batch), strict=True):
        alone = potential(graph)
        assert float(abs(energy - alone.energy[0])) < 1e-9
        assert float((forces - alone.forces).abs().max()) < 1e-9


def test_dynamics_take_the_same_path_and_memory_stays_flat(make_structure):
    """The same path as on the CPU, whose drift other tests measure."""
    used: dict[str, list[int]] = {"cuda": [], "cpu": []}
    logs = []
    for device, seen in used.items():
        atoms = make_structure("ethanol")
        atoms.calc = GeoMolCalculator("geomformer-organic", dtype="float64", device=device)
        result = run_md(
            atoms,
            MDSettings("nve", 300, 0.5, seed=0, interval=20),
            time=100.0,
            on_step=lambda row, seen=seen: seen.append(torch.cuda.memory_allocated()),
        )
        logs.append(result.log["total_eV"])
    np.testing.assert_allclose(*logs, atol=1e-6)
    first, second = np.array_split(used["cuda"], 2)
    assert second.max() <= first.max() + 2**16
