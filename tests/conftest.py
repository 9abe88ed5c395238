"""Fixtures that every test file shares: small seeded potentials, checkpoints on disk, structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.spacegroup import crystal

from ase_geomol.checkpoint import Metadata, save_checkpoint, shipped_models
from ase_geomol.models import build_model
from ase_geomol.nn import ExponentialBasis, GaussianBasis
from ase_geomol.potential import Potential

ELEMENTS = (1, 6, 7, 8, 13, 14)
CUTOFF = 4.2
SMALL = {
    "geomformer": {"channels": 16, "heads": 4, "layers": 2, "ffn_channels": 16, "kernels": 8, "kernel_reach": 6.0},
    "est": {
        "channels": 8,
        "heads": 2,
        "layers": 2,
        "expert_channels": 12,
        "kernels": 8,
        "radial_channels": 12,
        "message_heads": 2,
        "zonal_nodes": 16,
    },
}


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``shipped`` runs once for each shipped potential, by name."""
    if "shipped" in metafunc.fixturenames:
        names = [name for name, listed in shipped_models().items() if listed.kind == "potential"]
        metafunc.parametrize("shipped", sorted(names))


@pytest.fixture(scope="session")
def make_potential() -> Callable[..., Potential]:
    """A function that makes small untrained potentials: same seed and options, same weights."""
    return _make_potential


def _make_potential(
    seed: int = 0,
    architecture: str = "geomformer",
    *,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.5,
    repulsion: float = 0.7,
    **options: object,
) -> Potential:
    config = {"elements": ELEMENTS, "cutoff": CUTOFF, **SMALL[architecture], **options}
    references = {z: -0.7 * z for z in config["elements"]}  # type: ignore[attr-defined]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(architecture, config)
        _leave_no_term_zero(model)
    potential = Potential(model, references, scale, repulsion)  # type: ignore[arg-type]
    return potential.set_dtype(dtype).eval()


@torch.no_grad()
def _leave_no_term_zero(model: torch.nn.Module) -> None:
    """Give biases, norms and pair tables values that differ from their neutral start."""
    for module in model.modules():
        if isinstance(module, GaussianBasis):
            module.centre += 0.05 * torch.randn_like(module.centre)
            module.width *= 1 + 0.1 * torch.rand_like(module.width)
        if isinstance(module, GaussianBasis | ExponentialBasis):
            module.scale += 0.1 * torch.randn_like(module.scale)
            module.offset += 0.1 * torch.randn_like(module.offset)
        else:
            for parameter in module.parameters(recurse=False):
                if parameter.dim() == 1:
                    parameter += 0.2 * torch.randn_like(parameter)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves such a potential and returns the file's path."""

    def make(seed: int = 0, *, charges: Sequence[int] = (0,), spins: Sequence[int] = (1,), **options: object) -> Path:
        path = tmp_path_factory.mktemp("weights") / f"small_{seed}.safetensors"
        metadata = Metadata(
            name=f"small-{seed}",
            theory="none: random weights",
            training_data="none",
            charges=tuple(charges),
            spins=tuple(spins),
        )
        save_checkpoint(path, _make_potential(seed, dtype=torch.float32, **options), metadata)  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """A small local potential on disk."""
    return make_checkpoint(seed=0)


@pytest.fixture(scope="session")
def global_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """A small potential of the global form on disk."""
    return make_checkpoint(seed=1, cutoff=None)


@pytest.fixture(scope="session")
def make_structure() -> Callable[[str], Atoms]:
    """A function that builds a structure by name; each call gives a new one."""
    return lambda name: STRUCTURES[name]()


def _rattled(atoms: Atoms, size: float = 0.04, seed: int = 3) -> Atoms:
    atoms.positions += np.random.default_rng(seed).normal(0, size, (len(atoms), 3))
    return atoms


def _water_dimer() -> Atoms:
    first, second = molecule("H2O"), molecule("H2O")
    second.rotate(70, (1, 2, 3))
    second.translate([2.6, 0.9, 0.4])
    return first + second


def _benzene() -> Atoms:
    """Exactly planar, exactly sixfold."""
    angles = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    return Atoms("C6H6", np.concatenate([1.397 * ring, 2.481 * ring]))


def _slab() -> Atoms:
    """Two layers with an adsorbed oxygen, periodic in the plane only."""
    atoms = fcc111("Al", (1, 1, 2), vacuum=5.0)
    atoms += Atoms("O", [atoms.positions[-1] + [0.3, 0.2, 1.7]])
    atoms.pbc = (True, True, False)
    return _rattled(atoms)


def _triclinic() -> Atoms:
    """A skewed cell much smaller than the cutoff: every atom sees many images of itself."""
    cell = [[2.5, 0.1, -0.2], [0.7, 2.7, 0.3], [-0.5, 0.8, 2.9]]
    return Atoms("SiC", scaled_positions=[[0.05, 0.1, -0.1], [0.5, 0.45, 0.6]], cell=cell, pbc=True)


def _chain() -> Atoms:
    """A zigzag polymer along z; the other two cell vectors are zero."""
    positions = [[0.4, 0, 0], [-0.4, 0, 1.25], [1.45, 0.1, 0.1], [-1.45, 0.1, 1.2]]
    return _rattled(Atoms("C2H2", positions, cell=[0, 0, 2.5], pbc=(False, False, True)))


def _dry_ice() -> Atoms:
    """Crystalline CO2 (Pa-3, a = 5.62 Å): four molecules along the body diagonals."""
    atoms = crystal("CO", [(0, 0, 0), (0.119, 0.119, 0.119)], spacegroup=205, cellpar=[5.62] * 3 + [90] * 3)
    assert atoms.get_chemical_formula() == "C4O8"
    return _rattled(atoms)


def _graphene() -> Atoms:
    """One layer, periodic in the plane only, with hydrogen on one atom."""
    atoms = graphene(a=2.46, vacuum=5.0)
    atoms += Atoms("H", [atoms.positions[0] + [0.05, 0.1, 1.15]])
    return _rattled(atoms)


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "atom": lambda: Atoms("C", [[0.3, -0.2, 0.1]]),
    "ethanol": lambda: _rattled(molecule("CH3CH2OH")),
    "water_dimer": _water_dimer,
    "benzene": _benzene,
    "co2": lambda: Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]]),
    "methane": lambda: molecule("CH4"),
    "squeezed": lambda: Atoms("OH2", [[0, 0, 0.1], [0, 0.61, -0.1], [0.1, -0.58, 0.3]]),
    "squeezed_bulk": lambda: _rattled(bulk("Al", "fcc", a=2.35, cubic=True), 0.02),
    "bulk": lambda: _rattled(bulk("Al", "fcc", a=4.05, cubic=True)),
    "fcc": lambda: bulk("Al", "fcc", a=4.05),
    "diamond": lambda: bulk("Si", "diamond", a=5.43),
    "triclinic": _triclinic,
    "slab": _slab,
    "chain": _chain,
    "dry_ice": _dry_ice,
    "carbon": lambda: _rattled(bulk("C", "diamond", a=3.57)),
    "perfect_carbon": lambda: bulk("C", "diamond", a=3.57),
    "graphene": _graphene,
}
