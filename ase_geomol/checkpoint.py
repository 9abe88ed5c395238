"""Weights on disk: one safetensors file with a JSON header, and the registry of shipped ones.

Nothing is executed on load. A file is written whole or not at all. Shipped files are compared with the SHA-256
in ``weights/registry.json`` before they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from .errors import CheckpointError, ConfigError, GeoMolError
from .files import write_atomically
from .header import Header, Metadata
from .models import ARCHITECTURES, DiTMC, build_model
from .models.ditmc import ConformerFlow
from .potential import Potential
from .property import ScalarProperty
from .relaxed import RelaxedState
from .rigidity import Rigidity, RigidityForm

FORMAT_VERSION = 2
HEADER = "ase_geomol"
WHITENING = "rigidity.whitening"
"""Name of the tensor of a `Rigidity`, which a file may have beside its weights."""
WEIGHTS = Path(__file__).parent / "weights"


def choose_device(device: str | None) -> torch.device:
    """The device of this name, or a CUDA device if there is one, else the CPU; raises :class:`ConfigError`."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device is {device!r}, which torch does not know.") from error
    try:
        torch.zeros(1, dtype=torch.float64, device=chosen).item()
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ConfigError(f"device is {device!r}, but torch cannot use it here with float64.") from error
    return chosen


class Checkpoint(NamedTuple):
    """A potential as it was loaded: evaluation mode, the network in the precision that it was saved in.

    Attributes:
        potential: energies, forces and stresses.
        metadata: about it.
        path: of its file.
        fingerprint: SHA-256 of all that energies and forces follow from: architecture, repulsion, weights; neither the
            metadata nor the rigidity.
    """

    potential: Potential
    metadata: Metadata
    path: Path
    fingerprint: str


class PropertyCheckpoint(NamedTuple):
    """A property as it was loaded; as `Checkpoint` otherwise."""

    property: ScalarProperty
    metadata: Metadata
    path: Path
    fingerprint: str


class RelaxedCheckpoint(NamedTuple):
    """A predictor of relaxed states as it was loaded; as `Checkpoint` otherwise."""

    state: RelaxedState
    metadata: Metadata
    path: Path
    fingerprint: str


class ConformerCheckpoint(NamedTuple):
    """A distribution of conformers as it was loaded; as `Checkpoint` otherwise."""

    flow: ConformerFlow
    metadata: Metadata
    path: Path
    fingerprint: str


Predictor = Potential | ScalarProperty | RelaxedState
"""What is made of an energy model."""
AnyPredictor = Predictor | ConformerFlow
AnyCheckpoint = Checkpoint | PropertyCheckpoint | RelaxedCheckpoint
Loaded = TypeVar("Loaded", Checkpoint, PropertyCheckpoint, RelaxedCheckpoint, ConformerCheckpoint)


class Kind(NamedTuple):
    """What a file can hold.

    Attributes:
        name: in a sentence.
        checkpoint: what it is loaded as.
        use: what a file of this kind does instead of what was asked of it.
    """

    name: str
    checkpoint: type[AnyCheckpoint | ConformerCheckpoint]
    use: str


KINDS: dict[type[AnyPredictor], Kind] = {
    Potential: Kind("potential", Checkpoint, "holds a potential: use it with GeoMolCalculator"),
    ScalarProperty: Kind(
        "property", PropertyCheckpoint, "predicts {} and is no potential: use it with PropertyPredictor"
    ),
    RelaxedState: Kind(
        "predictor of relaxed states",
        RelaxedCheckpoint,
        "predicts the end of relaxations and is no potential: use it with RelaxedPredictor",
    ),
    ConformerFlow: Kind(
        "conformer model",
        ConformerCheckpoint,
        "draws conformers and is no potential: use it with ConformerProvider",
    ),
}


class Listed(NamedTuple):
    """A shipped potential or other predictor, described without loading its weights.

    Attributes:
        kind: name of a `Kind`.
        metadata: about it.
        elements: atomic numbers that it knows.
        cutoff: Å, or None if every atom sees every other.
        parameters: number of its weights.
        path: of its file.
    """

    kind: str
    metadata: Metadata
    elements: tuple[int, ...]
    cutoff: float | None
    parameters: int
    path: Path


def form_of(predictor: AnyPredictor) -> dict[str, Any]:
    """Fields of the header that say what is predicted, besides the tensors."""
    repulsion = predictor.repulsion if isinstance(predictor, Potential) else None
    return {
        "architecture": next(name for name, (_, kind) in ARCHITECTURES.items() if isinstance(predictor.model, kind)),
        "config": predictor.model.config.model_dump(mode="json"),  # type: ignore[attr-defined]
        "repulsion": 0.0 if repulsion is None else repulsion.reach,
        "property": predictor.form.model_dump() if isinstance(predictor, ScalarProperty) else None,
        "relaxed": predictor.form.model_dump() if isinstance(predictor, RelaxedState) else None,
        "flow": predictor.form.model_dump() if isinstance(predictor, ConformerFlow) else None,
    }


def save_checkpoint(path: str | Path, predictor: AnyPredictor, metadata: Metadata) -> None:
    """Write a potential, or another predictor, to ``path`` (.safetensors), atomically.

    Raises:
        ConfigError: the metadata claim what no architecture can do yet.
        OutputError: the place cannot be written.
    """
    if not isinstance(predictor, ConformerFlow) and (len(metadata.charges) > 1 or len(metadata.spins) > 1):
        raise ConfigError(
            f"No model reads charge or spin, so it can know one of each only, not charges {metadata.charges} and "
            f"spins {metadata.spins}: train on structures of one charge and one spin."
        )
    rigidity = predictor.rigidity if isinstance(predictor, Potential) else None
    header = Header(**form_of(predictor), rigidity=None if rigidity is None else rigidity.form, metadata=metadata)
    tensors = {key: value.detach().cpu().contiguous() for key, value in predictor.state_dict().items()}
    if rigidity is not None:
        tensors[WHITENING] = rigidity.whitening.cpu().contiguous()
    write_atomically(Path(path), save(tensors, metadata={HEADER: header.model_dump_json()}))


def load_checkpoint(model: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a shipped potential by name, or a file by path.

    Raises:
        CheckpointError: no such name or file; the file is truncated, not one of ours, of a newer format, or (of
            the shipped ones) not the one that was released; it holds no potential.
    """
    return _load(Checkpoint, model, device)


def load_property(model: str | Path, device: torch.device | str = "cpu") -> PropertyCheckpoint:
    """Load a property; raises :class:`CheckpointError` as `load_checkpoint`, or where the file holds a potential."""
    return _load(PropertyCheckpoint, model, device)


def load_relaxed(model: str | Path, device: torch.device | str = "cpu") -> RelaxedCheckpoint:
    """Load a predictor of relaxed states; raises :class:`CheckpointError` as `load_property`."""
    return _load(RelaxedCheckpoint, model, device)


def load_conformers(model: str | Path, device: torch.device | str = "cpu") -> ConformerCheckpoint:
    """Load a distribution of conformers; raises :class:`CheckpointError` as `load_property`."""
    return _load(ConformerCheckpoint, model, device)


def load_any(model: str | Path, device: torch.device | str = "cpu") -> AnyCheckpoint:
    """Load whatever of an energy model the file holds; raises :class:`CheckpointError`, also for conformers."""
    loaded = _load_file(model, device, KINDS[Potential])
    if isinstance(loaded, ConformerCheckpoint):
        raise CheckpointError(f"{loaded.path} {_use(loaded)}.")
    return loaded


def _load(wanted: type[Loaded], model: str | Path, device: torch.device | str) -> Loaded:
    loaded = _load_file(model, device, next(kind for kind in KINDS.values() if kind.checkpoint is wanted))
    if not isinstance(loaded, wanted):
        raise CheckpointError(f"{loaded.path} {_use(loaded)}.")
    return loaded


def _use(loaded: AnyCheckpoint | ConformerCheckpoint) -> str:
    """What a file holds, and who takes it."""
    use = KINDS[type(loaded[0])].use
    if isinstance(loaded, PropertyCheckpoint):
        return use.format(f"{loaded.property.form.name} ({loaded.property.form.unit})")
    return use


def _load_file(model: str | Path, device: torch.device | str, kind: Kind) -> AnyCheckpoint | ConformerCheckpoint:
    """Load what a file holds, whatever it is; ``kind`` is what is looked for among the shipped."""
    path, expected = _locate(model, kind.name)
    content = _read(path)
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path} is not the file that was released (SHA-256 differs): reinstall ase_geomol.")
    header, tensors = _parse(path, content)
    whitening = tensors.pop(WHITENING, None)
    try:
        network = build_model(header.architecture, header.config)
        predictor = _predictor(network, header)
        predictor.set_dtype(next(tensor.dtype for name, tensor in tensors.items() if name.startswith("model.")))
        predictor.load_state_dict(tensors)
        if header.rigidity is not None:
            _add_rigidity(predictor, whitening, header.rigidity)
    except (GeoMolError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this version of ase_geomol: {error}") from error
    make: Any = KINDS[type(predictor)].checkpoint
    return make(predictor.to(device).eval(), header.metadata, path, _fingerprint(header, network, tensors))


def _predictor(network: Any, header: Header) -> AnyPredictor:
    if isinstance(network, DiTMC) != (header.flow is not None):
        raise CheckpointError(f"its header does not tell what {header.architecture} can do.")
    if header.flow is not None:
        return ConformerFlow(network, header.flow)
    dipole = header.property is not None and header.property.pooling == "dipole"
    if (dipole or header.relaxed is not None) and not network.has_direct_forces:
        raise CheckpointError("what it predicts needs the network's head for vectors.")
    if header.relaxed is not None:
        return RelaxedState(network, header.relaxed)
    if header.property is not None:
        return ScalarProperty(network, header.property)
    return Potential(network, repulsion=header.repulsion)


def _add_rigidity(predictor: AnyPredictor, whitening: torch.Tensor | None, form: RigidityForm) -> None:
    if whitening is None or not isinstance(predictor, Potential):
        raise CheckpointError("its header tells of a rigidity that it does not have.")
    size = predictor.model.readout.out.in_features + 1
    if whitening.shape != (size, size) or not whitening.isfinite().all():
        raise CheckpointError(f"its rigidity is no matrix of {size} × {size} finite numbers.")
    predictor.rigidity = Rigidity(whitening, form)


def held_by(model: str | Path) -> type[AnyPredictor]:
    """What kind of predictor a file holds, without making it; raises :class:`CheckpointError` as `load_checkpoint`."""
    path, _ = _locate(model, KINDS[Potential].name)
    return _predicted(_parse(path, _read(path))[0])


def shipped_models() -> dict[str, Listed]:
    """The potentials and other predictors that come with the package, by name."""
    models = {}
    for name, entry in _registry().items():
        path = WEIGHTS / entry["file"]
        header, tensors = _parse(path, _read(path))
        models[name] = Listed(
            kind=KINDS[_predicted(header)].name,
            metadata=header.metadata,
            elements=tuple(header.config["elements"]),
            cutoff=header.config.get("cutoff"),
            parameters=sum(tensor.numel() for name, tensor in tensors.items() if name != WHITENING),
            path=path,
        )
    return models


def register(path: str | Path) -> None:
    """Enter a file of the weights folder in the registry, with its SHA-256 (a step of making a release).

    Raises:
        CheckpointError: the file is not one of ours, or has no model card beside it.
    """
    path = Path(path)
    if not path.with_suffix(".md").is_file():
        raise CheckpointError(f"{path.name} has no model card: write {path.with_suffix('.md').name} beside it first.")
    registry, content = _registry(), _read(path)
    name = _parse(path, content)[0].metadata.name
    registry[name] = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(WEIGHTS / "registry.json", (json.dumps(registry, indent=2) + "\n").encode())


def _registry() -> dict[str, dict[str, str]]:
    path = WEIGHTS / "registry.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): reinstall ase_geomol.") from error


def _predicted(header: Header) -> type[AnyPredictor]:
    """What the file of this header holds."""
    if header.flow is not None:
        return ConformerFlow
    if header.relaxed is not None:
        return RelaxedState
    return Potential if header.property is None else ScalarProperty


def _locate(model: str | Path, kind: str) -> tuple[Path, str | None]:
    """Path of the weights, and their expected SHA-256 where they are shipped."""
    entry = _registry().get(str(model))
    if entry is not None:
        return WEIGHTS / entry["file"], entry["sha256"]
    path = Path(model)
    if not os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
        shipped = ", ".join(name for name, listed in shipped_models().items() if listed.kind == kind)
        raise CheckpointError(f"'{model}' is neither a shipped {kind} ({shipped or 'none'}) nor a file.")
    return path, None


def _fingerprint(header: Header, network: Any, tensors: dict[str, torch.Tensor]) -> str:
    """See `Checkpoint`. Fields with their defaults do not count: those of later versions change nothing."""
    parts = (network.config, header.property, header.relaxed, header.flow)
    form: list[Any] = [header.architecture, header.repulsion]
    form += [None if part is None else part.model_dump(mode="json", exclude_defaults=True) for part in parts]
    digest = hashlib.sha256(json.dumps(form, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error


def _parse(path: Path, content: bytes) -> tuple[Header, dict[str, torch.Tensor]]:
    """Header and tensors of a file."""
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        text = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(HEADER)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file, but no ase_geomol checkpoint: it has no header.")
    try:
        fields = json.loads(text)
        version = fields["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CheckpointError(f"{path} has format {version}; this version reads up to {FORMAT_VERSION}: update.")
        if version == 1:
            raise CheckpointError(
                f"{path} has format 1, whose potentials were otherwise at short distance: train it again, or go on "
                "from it with the version that wrote it."
            )
        header = Header.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"{path} has a damaged header: {problems}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}") from error
    return header, tensors
