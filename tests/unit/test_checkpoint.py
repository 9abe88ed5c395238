"""Weights on disk: what is written is read again, and every damaged or foreign file is refused with a sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ase_geomol import CheckpointError, ConfigError, OutputError, load_checkpoint, save_checkpoint, shipped_models
from ase_geomol import checkpoint as module
from ase_geomol.checkpoint import FORMAT_VERSION, HEADER, Metadata, register
from ase_geomol.files import write_atomically
from ase_geomol.graph import from_atoms

METADATA = Metadata(
    name="small",
    theory="none",
    training_data="none",
    charges=(-1,),
    spins=(2,),
    errors={"energy, meV/atom": 1.5},
)


def _rewritten(source: Path, target: Path, *, header: object = None, drop: str = "", **changes: object) -> Path:
    """Copy a checkpoint with its header replaced or changed, or a tensor dropped."""
    with safe_open(source, framework="pt") as file:
        old = json.loads(file.metadata()[HEADER])
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != drop}  # noqa: SIM118
    text = header if isinstance(header, str) else json.dumps(header if header is not None else {**old, **changes})
    save_file(tensors, target, metadata={HEADER: text})
    return target


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "saved.safetensors"


# Round trip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cutoff": None, "direct_forces": True},
        {"equivariant_norm": "whiten", "attention_norm": "silu", "without": ("invariant_ffn",)},
        {"repulsion": 0.0, "scale": 0.3},
        {"repulsion": 1.2},
    ],
    ids=["default", "global", "ablated", "no repulsion", "far repulsion"],
)
def test_what_is_saved_is_loaded(make_potential, make_structure, path: Path, options: dict) -> None:
    potential = make_potential(dtype=torch.float32, **options)
    save_checkpoint(path, potential, METADATA)
    loaded = load_checkpoint(path)
    assert loaded.metadata == METADATA
    assert loaded.path == path
    assert loaded.potential.model.config == potential.model.config
    assert loaded.potential.dtype == torch.float32
    assert loaded.potential.reference_energies.dtype == torch.float64
    assert not loaded.potential.training
    assert (loaded.potential.repulsion is None) == (potential.repulsion is None)
    if potential.repulsion is not None:
        assert loaded.potential.repulsion.reach == potential.repulsion.reach
    for key, value in potential.state_dict().items():
        assert torch.equal(loaded.potential.state_dict()[key], value), key
    graph = from_atoms(make_structure("ethanol"), potential.cutoff)
    assert torch.equal(loaded.potential(graph).energy, potential(graph).energy)
    assert torch.equal(loaded.potential(graph).forces, potential(graph).forces)


def test_the_header_says_what_a_reader_needs(make_potential, path: Path) -> None:
    save_checkpoint(path, make_potential(), METADATA)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    assert header["format_version"] == FORMAT_VERSION
    assert header["architecture"] == "geomformer"
    assert header["config"]["cutoff"] == 4.2
    assert header["config"]["elements"] == [1, 6, 7, 8, 13, 14]
    assert header["units"] == {"energy": "eV", "length": "angstrom"}
    assert header["metadata"]["errors"] == {"energy, meV/atom": 1.5}


def test_saving_twice_gives_the_same_file(make_potential, tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_checkpoint(tmp_path / name, make_potential(), METADATA)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_fields_of_later_versions_leave_the_fingerprint(make_potential, path: Path, tmp_path: Path) -> None:
    """A file of a version that did not know a field says as much as one that has its default."""
    save_checkpoint(path, make_potential(), METADATA)
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()[HEADER])["config"]
    del config["tag_embedding"]
    old = load_checkpoint(_rewritten(path, tmp_path / "old.safetensors", config=config))
    assert old.fingerprint == load_checkpoint(path).fingerprint
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, old.potential, old.metadata)
    assert load_checkpoint(again).fingerprint == old.fingerprint
    config["norm_floor"] *= 2
    other = load_checkpoint(_rewritten(path, tmp_path / "other.safetensors", config=config))
    assert other.fingerprint != old.fingerprint


def test_saving_leaves_the_potential_alone(make_potential, path: Path) -> None:
    potential = make_potential(dtype=torch.float64).train()
    save_checkpoint(path, potential, METADATA)
    assert potential.training
    assert potential.dtype == torch.float64


def test_weights_in_double_precision_stay_as_they_are(make_potential, path: Path) -> None:
    potential = make_potential(dtype=torch.float64)
    potential.model.embedding.weight.data[0, 0] = 1 + 2**-40
    save_checkpoint(path, potential, METADATA)
    assert load_checkpoint(path).potential.model.embedding.weight[0, 0] == 1 + 2**-40


def test_metadata_that_no_model_can_keep(make_potential, path: Path) -> None:
    """No architecture reads charge or spin: several of them would give one and the same number."""
    with pytest.raises(ConfigError, match="No model reads charge or spin"):
        save_checkpoint(path, make_potential(), METADATA.model_copy(update={"charges": (-1, 0)}))
    assert not path.exists()


# Files that cannot be loaded


def _truncated(source: Path, target: Path) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    return target


def _empty(source: Path, target: Path) -> Path:
    target.touch()
    return target


def _words(source: Path, target: Path) -> Path:
    target.write_text("these are no weights\n" * 50)
    return target


def _foreign(source: Path, target: Path) -> Path:
    save_file({"weight": torch.ones(3)}, target, metadata={"format": "pt"})
    return target


def _nameless(source: Path, target: Path) -> Path:
    save_file({"weight": torch.ones(3)}, target)
    return target


class _Bomb:
    """What would run if a loader unpickled the file."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("exploded",))


def _pickled(source: Path, target: Path) -> Path:
    target.write_bytes(pickle.dumps(_Bomb()))
    return target


BAD = {
    "truncated": (_truncated, "not a complete safetensors file"),
    "empty": (_empty, "not a complete safetensors file"),
    "text": (_words, "not a complete safetensors file"),
    "pickle": (_pickled, "not a complete safetensors file"),
    "foreign": (_foreign, "no ase_geomol checkpoint"),
    "without any metadata": (_nameless, "no ase_geomol checkpoint"),
    "header is no JSON": (lambda s, t: _rewritten(s, t, header='{"format_version": 2,'), "damaged header"),
    "header is a list": (lambda s, t: _rewritten(s, t, header=[1, 2]), "damaged header"),
    "header without version": (lambda s, t: _rewritten(s, t, header={"config": {}}), "damaged header"),
    "version is a word": (lambda s, t: _rewritten(s, t, format_version="new"), "damaged header"),
    "version is a fraction": (lambda s, t: _rewritten(s, t, format_version=1.9), "damaged header: format_version"),
    "version before the first": (lambda s, t: _rewritten(s, t, format_version=0), "damaged header: format_version"),
    "other units": (lambda s, t: _rewritten(s, t, units={"energy": "Ha", "length": "angstrom"}), "damaged header: uni"),
    "mixed up units": (
        lambda s, t: _rewritten(s, t, units={"energy": "angstrom", "length": "eV"}),
        "units: .* must be",
    ),
    "repulsion is a word": (lambda s, t: _rewritten(s, t, repulsion="no"), "damaged header: repulsion"),
    "newer": (lambda s, t: _rewritten(s, t, format_version=99), r"format 99; .* up to 2: update"),
    "older": (lambda s, t: _rewritten(s, t, format_version=1), "format 1, whose potentials were otherwise"),
    "header lost its fields": (
        lambda s, t: _rewritten(s, t, header={"format_version": 2}),
        "architecture: Field required",
    ),
    "unknown architecture": (lambda s, t: _rewritten(s, t, architecture="oracle"), "Unknown architecture 'oracle'"),
    "architecture is a list": (lambda s, t: _rewritten(s, t, architecture=["geomformer"]), "damaged header: arch"),
    "configuration is a number": (lambda s, t: _rewritten(s, t, config=5), "damaged header: config"),
    "configuration has unknown fields": (lambda s, t: _rewritten(s, t, config={"depth": 3}), "depth"),
    "configuration of another network": (
        lambda s, t: _rewritten(s, t, config={"elements": [1, 6]}),
        "does not fit this version",
    ),
    "metadata without theory": (lambda s, t: _rewritten(s, t, metadata={"name": "x"}), "theory"),
    "a tensor is missing": (lambda s, t: _rewritten(s, t, drop="model.embedding.weight"), "embedding.weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(checkpoint: Path, path: Path, case: str, monkeypatch, tmp_path: Path) -> None:
    damage, sentence = BAD[case]
    monkeypatch.chdir(tmp_path)
    bad = damage(checkpoint, path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_checkpoint(bad)
    assert str(bad) in str(caught.value), "the sentence names the file"
    assert not (tmp_path / "exploded").exists(), "nothing may be executed on load"


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    for name in ("geomformer-of-everything", "x" * 300, str(tmp_path / "absent.safetensors"), tmp_path, ""):
        with pytest.raises(CheckpointError, match="neither a shipped potential"):
            load_checkpoint(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission(checkpoint: Path, path: Path) -> None:
    path.write_bytes(checkpoint.read_bytes())
    path.chmod(0)
    with pytest.raises(CheckpointError, match="Cannot read"):
        load_checkpoint(path)


def test_a_file_that_cannot_be_read(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match=r"Cannot read .*Permission denied"):
        load_checkpoint(checkpoint)


# Registry


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_potential) -> Path:
    """A weights folder of its own, with one registered potential."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(module, "WEIGHTS", folder)
    save_checkpoint(folder / "small.safetensors", make_potential(dtype=torch.float32), METADATA)
    (folder / "small.md").write_text("# small\n")
    register(folder / "small.safetensors")
    return folder


def test_shipped_files_are_found_by_name(weights: Path) -> None:
    assert load_checkpoint("small").path == weights / "small.safetensors"
    listed = shipped_models()
    assert list(listed) == ["small"]
    assert listed["small"].metadata == METADATA
    assert listed["small"].elements == (1, 6, 7, 8, 13, 14)
    assert listed["small"].cutoff == 4.2
    assert listed["small"].parameters > 1000


def test_a_changed_shipped_file_is_refused(weights: Path) -> None:
    path = weights / "small.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"not the file that was released \(SHA-256 differs\): reinstall"):
        load_checkpoint("small")
    load_checkpoint(path)  # by path it is the user's own file


def test_a_missing_shipped_file_is_named(weights: Path) -> None:
    (weights / "small.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"Cannot read .*small\.safetensors.*No such file"):
        load_checkpoint("small")


def test_an_unknown_name_lists_the_shipped(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'smal' is neither a shipped potential \(small\) nor a file"):
        load_checkpoint("smal")


def test_nothing_is_shipped_without_a_card(weights: Path) -> None:
    (weights / "small.md").unlink()
    with pytest.raises(CheckpointError, match=r"no model card: write small\.md"):
        register(weights / "small.safetensors")


def test_a_damaged_registry_is_named(weights: Path) -> None:
    (weights / "registry.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"registry\.json is damaged .*reinstall"):
        load_checkpoint("small")


def test_something_is_shipped() -> None:
    assert "geomformer-organic" in shipped_models()


def test_what_is_shipped_loads(shipped: str) -> None:
    assert load_checkpoint(shipped).metadata.name == shipped


# Writing


def test_a_file_is_replaced_whole(path: Path) -> None:
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_places_that_cannot_be_written(make_potential, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in (tmp_path / "absent" / "x.safetensors", tmp_path / "file" / "x.safetensors"):
        with pytest.raises(OutputError, match=r"Cannot write .*x\.safetensors"):
            save_checkpoint(bad, make_potential(), METADATA)


def test_a_folder_in_the_place_of_the_file(make_potential, path: Path) -> None:
    path.mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*irectory"):
        save_checkpoint(path, make_potential(), METADATA)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary is left"


def test_an_interrupt_leaves_no_temporary(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert not list(path.parent.iterdir())


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_file(
    make_potential, checkpoint: Path, path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = checkpoint.read_bytes()
    path.write_bytes(old)
    monkeypatch.setattr(os, step, _no_space)
    with pytest.raises(OutputError, match=r"Cannot write .*saved\.safetensors: No space left on device"):
        save_checkpoint(path, make_potential(seed=9), METADATA)
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary is left"


def test_a_write_that_stops_half_way_leaves_the_old_file(path: Path) -> None:
    """The operating system itself refuses after the first 1000 bytes."""
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OutputError, match="Cannot write"):
            write_atomically(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
