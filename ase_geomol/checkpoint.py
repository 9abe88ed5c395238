"""Weights on disk: one safetensors file with a JSON header, and the registry of shipped ones.

Nothing is executed on load. A file is written whole or not at all. Shipped files are compared with the SHA-256
in ``weights/registry.json`` before they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .errors import CheckpointError, GeoMolError, OutputError
from .models import ARCHITECTURES, build_model
from .potential import Potential

FORMAT_VERSION = 1
HEADER = "ase_geomol"
WEIGHTS = Path(__file__).parent / "weights"


class Metadata(BaseModel):
    """What a user should know of a potential before trusting it.

    Attributes:
        name: its name.
        theory: the method whose energies it learned.
        training_data: what it was trained on.
        licence: of the weights.
        charges: total charges (e) that it was trained for.
        spins: multiplicities 2S+1 that it was trained for.
        errors: measured errors, {"what and unit": value}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    theory: str
    training_data: str
    licence: str = "MIT"
    charges: tuple[int, ...] = (0,)
    spins: tuple[int, ...] = (1,)
    errors: dict[str, float] = Field(default_factory=dict)


class Checkpoint(NamedTuple):
    """A potential as it was loaded: evaluation mode, float32 network."""

    potential: Potential
    metadata: Metadata
    path: Path
    sha256: str


class Listed(NamedTuple):
    """A shipped potential, described without loading its weights."""

    metadata: Metadata
    elements: tuple[int, ...]
    cutoff: float | None
    parameters: int
    path: Path


def save_checkpoint(path: str | Path, potential: Potential, metadata: Metadata) -> None:
    """Write a potential to ``path`` (.safetensors), atomically.

    Raises:
        OutputError: the place cannot be written.
    """
    architecture = next(name for name, (_, kind) in ARCHITECTURES.items() if isinstance(potential.model, kind))
    header = {
        "format_version": FORMAT_VERSION,
        "architecture": architecture,
        "config": potential.model.config.model_dump(mode="json"),  # type: ignore[attr-defined]
        "elements": list(potential.elements),
        "cutoff": potential.cutoff,
        "repulsion": potential.repulsion is not None,
        "units": {"energy": "eV", "length": "angstrom"},
        "metadata": metadata.model_dump(mode="json"),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in potential.state_dict().items()}
    write_atomically(Path(path), save(tensors, metadata={HEADER: json.dumps(header)}))


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary neighbour of ``path`` and rename it there.

    Raises:
        OutputError: no such folder, no permission, no space.
    """
    handle, temporary = None, ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error


def load_checkpoint(model: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a shipped potential by name, or a file by path.

    Raises:
        CheckpointError: no such name or file; the file is truncated, not one of ours, of a newer format, or (of
            the shipped ones) not the one that was released.
    """
    path, expected = _locate(model)
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    if expected is not None and digest != expected:
        raise CheckpointError(f"{path} is not the file that was released (SHA-256 differs): reinstall ase_geomol.")
    header, tensors = _parse(path)
    try:
        network = build_model(header["architecture"], header["config"])
        potential = Potential(network, repulsion=header["repulsion"])  # type: ignore[arg-type]
        potential.load_state_dict(tensors)
        metadata = Metadata.model_validate(header["metadata"])
    except (GeoMolError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this version of ase_geomol: {error}") from error
    return Checkpoint(potential.to(device).eval(), metadata, path, digest)


def shipped_models() -> dict[str, Listed]:
    """The potentials that come with the package, by name."""
    models = {}
    for name, entry in _registry().items():
        path = WEIGHTS / entry["file"]
        header, tensors = _parse(path)
        models[name] = Listed(
            metadata=Metadata.model_validate(header["metadata"]),
            elements=tuple(header["elements"]),
            cutoff=header["cutoff"],
            parameters=sum(tensor.numel() for tensor in tensors.values()),
            path=path,
        )
    return models


def register(path: str | Path) -> None:
    """Enter a file of the weights folder in the registry, with its SHA-256 (a step of making a release)."""
    path = Path(path)
    registry = _registry()
    name = _parse(path)[0]["metadata"]["name"]
    registry[name] = {"file": path.name, "sha256": hashlib.sha256(_read(path)).hexdigest()}
    write_atomically(WEIGHTS / "registry.json", (json.dumps(registry, indent=2) + "\n").encode())


def _registry() -> dict[str, dict[str, str]]:
    path = WEIGHTS / "registry.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _locate(model: str | Path) -> tuple[Path, str | None]:
    """Path of the weights, and their expected SHA-256 where they are shipped."""
    entry = _registry().get(str(model))
    if entry is not None:
        return WEIGHTS / entry["file"], entry["sha256"]
    path = Path(model)
    if not path.is_file():
        shipped = ", ".join(_registry()) or "none"
        raise CheckpointError(f"'{model}' is neither a shipped potential ({shipped}) nor a file.")
    return path, None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error


def _parse(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header (upgraded to this version) and tensors of a file."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file, but no ase_geomol checkpoint: it has no header.")
    try:
        header = json.loads(text)
        version = int(header["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}") from error
    if version > FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {version}; this version reads up to {FORMAT_VERSION}: update.")
    return header, tensors
