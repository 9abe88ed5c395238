"""The ASE calculator: Atoms → checks → graph → potential → results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from .checkpoint import Checkpoint, choose_device, load_checkpoint
from .checks import check_atoms, check_distances, has_volume
from .errors import ConfigError, GeoMolError, InputError
from .graph import AtomGraph, from_atoms
from .neighbors import NeighborCache
from .potential import Potential, Prediction

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class GeoMolCalculator(Calculator):
    """Energies, forces and stress of an ase_geomol potential, for everything that ASE does with a calculator.

    Results are in ASE's units: ``energy``, ``free_energy`` (eV), ``energies`` (N,) eV, ``forces`` (N, 3) eV/Å and,
    where there is a cell of finite volume, ``stress`` (6,) eV/Å³. A committee adds ``energy_std`` and
    ``forces_std`` (N, 3), sample standard deviations over its members. A single potential whose weights have a rigidity
    (``geomol-train rigidity``) knows ``energy_std`` and ``energies_std`` (N,), in eV: how far the structure, and each
    atom, is from what was learned. Asked for once (``get_property``), they are among all later results.

    Args:
        model: a shipped name (see ``ase-geomol models``), a path, or several of them for a committee.
        device: "cpu", "cuda", …; default: CUDA if there is one.
        dtype: precision of the network, "float32" for MD and screening or "float64" for vibrations, phonons and
            tight relaxations. Geometry and sums are always float64.
        skin: Å, of the Verlet neighbour list.
        direct_forces: take forces from the models' direct heads instead of the gradient of the energy. They are
            not conservative: no energy is conserved, and nothing that integrates forces agrees with energies.
            Default: as the models learned them, which is by the gradient wherever they learned both.

    Raises:
        CheckpointError: the weights cannot be loaded.
        ConfigError: unknown model, dtype, device or skin; no direct head, or none but it has learned forces; a
            committee whose members do not fit together.
        InputError: on calculation, a structure that the potential cannot compute.
        GeoMolError: on calculation, a result that is not finite.
    """

    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 (ASE's class attribute)

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        *,
        device: str | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        skin: float = 0.5,
        direct_forces: bool | None = None,
    ) -> None:
        super().__init__()
        names = _names(model)
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; it can be 'float32' or 'float64'.")
        if not (isinstance(skin, int | float) and 0 <= skin < np.inf):
            raise ConfigError(f"skin is {skin!r}; it is a length in Å, 0 or larger.")
        self.device = choose_device(device)
        self.dtype, self.skin = dtype, skin
        self.checkpoints: list[Checkpoint] = [load_checkpoint(name, self.device) for name in names]
        for member in self.checkpoints:
            member.potential.set_dtype(DTYPES[dtype])
        self.direct_forces = _direct(self.checkpoints, direct_forces)
        self.models = [str(name) for name in names]
        self.elements = set.intersection(*(set(c.potential.elements) for c in self.checkpoints))
        self.charges = set.intersection(*(set(c.metadata.charges) for c in self.checkpoints))
        spins = [set(c.metadata.spins) for c in self.checkpoints if c.metadata.spins]
        self.spins = set.intersection(*spins) if spins else set()
        cutoffs = {member.potential.cutoff for member in self.checkpoints}
        if len(cutoffs) > 1 or not (self.elements and self.charges) or (spins and not self.spins):
            raise ConfigError("The members of a committee must share their cutoff, some elements, charges and spins.")
        self.cutoff: float | None = cutoffs.pop()
        self._neighbors = None if self.cutoff is None else NeighborCache(self.cutoff, skin)
        self.implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
        self._asked_std = False
        if len(names) > 1:
            self.implemented_properties += ["energy_std", "forces_std"]
        elif self._first().rigidity is not None:
            self.implemented_properties += ["energy_std", "energies_std"]

    @property
    def name(self) -> str:  # type: ignore[override]
        """What ASE writes beside results: the potentials' names."""
        return "+".join(member.metadata.name for member in self.checkpoints)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides energies, forces and stress: two calculators with equal identities compute the same. Deviations
        by a rigidity are left out.
        """
        return {
            "models": [member.metadata.name for member in self.checkpoints],
            "weights": [member.fingerprint for member in self.checkpoints],
            "dtype": self.dtype,
            "direct_forces": self.direct_forces,
        }

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes=all_changes
    ) -> None:
        """Fill ``results`` for ``atoms``; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        graph = self._graph(self.atoms)
        volume = has_volume(self.atoms)
        if "stress" in properties and not volume:
            raise PropertyNotImplementedError("Stress needs a cell of finite volume; this structure has none.")
        stress = volume and ("stress" in properties or bool(self.atoms.pbc.any()))
        rigid = "energies_std" in self.implemented_properties
        self._asked_std |= rigid and not {"energy_std", "energies_std"}.isdisjoint(properties)
        predictions = [
            member.potential(graph, forces=not self.direct_forces, stress=stress, std=self._asked_std)
            for member in self.checkpoints
        ]
        if self.direct_forces:
            predictions = [prediction._replace(forces=prediction.direct_forces) for prediction in predictions]
        results = _results(predictions)
        self.results = {name: _finite(name, values) for name, values in results.items()}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Name what changed since the last calculation; charge and spin in ``atoms.info`` count."""
        return super().check_state(atoms, tol) + told_changes(self.atoms, atoms)

    def get_descriptors(self, atoms: Atoms | None = None, *, vectors: bool = False) -> np.ndarray:
        """Features of each atom, of a committee's first member.

        Args:
            atoms: the structure; default: the last one computed.
            vectors: return equivariant features (N, 3, d) instead of invariant ones (N, d); a network without a
                direct head leaves out their last update, which its energy does not read.
        """
        output = self._first().features(self._graph(self._given(atoms)))
        return _finite("descriptors", (output.vectors if vectors else output.scalars).double().cpu().numpy())

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Second derivatives (3N, 3N) of the energy in eV/Å², averaged over a committee.

        Args:
            atoms: the structure; default: the last one computed.
        """
        graph = self._graph(self._given(atoms))
        hessians = [member.potential.hessian(graph).cpu().numpy() for member in self.checkpoints]
        return _finite("Hessian", np.mean(hessians, axis=0))

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """The arguments that make this calculator again."""
        model = self.models[0] if len(self.models) == 1 else self.models
        return {
            "model": model,
            "device": str(self.device),
            "dtype": self.dtype,
            "skin": self.skin,
            "direct_forces": self.direct_forces,
        }

    def _graph(self, atoms: Atoms) -> AtomGraph:
        check_atoms(atoms, self.elements, self.charges, self.spins)
        if self.cutoff is None and atoms.pbc.any():
            raise InputError("This potential knows no periodic structures: use one with a cutoff, or switch pbc off.")
        graph = from_atoms(atoms, self.cutoff, device=self.device, cache=self._neighbors)
        check_distances(graph)
        return graph

    def _given(self, atoms: Atoms | None) -> Atoms:
        chosen = self.atoms if atoms is None else atoms
        if chosen is None:
            raise ConfigError("No structure was computed yet: hand one in.")
        return chosen

    def _first(self) -> Potential:
        return self.checkpoints[0].potential


def told_changes(before: Atoms | None, now: Atoms) -> list[str]:
    """What changed of a structure beside what ASE looks at: "info", where charge or spin in it did."""
    for key in ("charge", "spin"):
        old, new = (np.asarray(known.info.get(key, "default")) for known in (before or now, now))
        if not np.array_equal(old, new):
            return ["info"]
    return []


def _names(model: str | Path | Sequence[str | Path]) -> list[str | Path]:
    names = [model] if isinstance(model, str | Path) else list(model) if isinstance(model, list | tuple) else []
    if not names or not all(isinstance(name, str | Path) for name in names):
        raise ConfigError(f"model is {model!r}; it is a shipped name, a path, or a list of them.")
    return names


def _direct(members: list[Checkpoint], asked: bool | None) -> bool:
    """Whether forces are those of direct heads: as asked for or, if None, as the members learned them."""
    direct = any(member.metadata.forces == "direct" for member in members) if asked is None else asked
    for member in members:
        if direct and not member.potential.has_direct_forces:
            raise ConfigError(f"{member.metadata.name} has no direct head: its forces are gradients of the energy.")
        if not direct and member.metadata.forces == "direct":
            raise ConfigError(
                f"{member.metadata.name} learned forces by its direct head alone: leave direct_forces out."
            )
    return direct


def _finite(name: str, values: Any) -> Any:
    """The values, unless one is NaN or infinite."""
    if not np.isfinite(values).all():
        raise GeoMolError(f"The potential's {name} is not finite: the structure is far from anything known.")
    return values


def _results(predictions: list[Prediction]) -> dict[str, Any]:
    """ASE's results from the predictions of one or more potentials for one structure."""
    energy = np.array([p.energy.item() for p in predictions])
    forces = np.array([p.forces.cpu().numpy() for p in predictions if p.forces is not None])
    results: dict[str, Any] = {
        "energy": float(energy.mean()),
        "free_energy": float(energy.mean()),
        "energies": np.mean([p.energies.cpu().numpy() for p in predictions], axis=0),
        "forces": forces.mean(0),
    }
    stress = [p.stress[0].cpu().numpy() for p in predictions if p.stress is not None]
    if stress:
        results["stress"] = full_3x3_to_voigt_6_stress(np.mean(stress, axis=0))
    if len(predictions) > 1:
        results["energy_std"] = float(energy.std(ddof=1))
        results["forces_std"] = forces.std(0, ddof=1)
    elif predictions[0].energy_std is not None and predictions[0].energies_std is not None:
        results["energy_std"] = predictions[0].energy_std.item()
        results["energies_std"] = predictions[0].energies_std.cpu().numpy()
    return results
