"""LMDB files: opening them, and what their values may be."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2

from ase_geomol.errors import DataError, MissingExtraError

from . import pickles
from .pickles import Maker, Name


@contextmanager
def open_lmdb(path: Path) -> Iterator[Any]:
    """A transaction that reads a file; raises :class:`MissingExtraError` or :class:`DataError`."""
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise MissingExtraError("lmdb", "train", "Reading LMDB files") from error
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f"{path} is no LMDB file: {error}") from error
    try:
        pages = environment.info()["last_pgno"] + 1
        if path.stat().st_size < pages * environment.stat()["psize"]:  # reading beyond the end would kill the process
            raise DataError(f"{path} is truncated: copy or download it again.")
        with environment.begin() as transaction:
            yield transaction
    finally:
        environment.close()


class Bag:
    """Stands for an object of torch-geometric: its attributes, and nothing that it can do."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)

    def fields(self) -> dict[str, Any]:
        """The data, in the layout of either generation of torch-geometric."""
        store = self.__dict__.get("_store")
        return store.__dict__["_mapping"] if isinstance(store, Bag) else self.__dict__


_TORCH: dict[Name, Maker] = {
    ("torch_geometric.data.data", "Data"): lambda: type("Bag", (Bag,), {}),
    ("torch_geometric.data.data", "DataEdgeAttr"): lambda: type("Bag", (Bag,), {}),
    ("torch_geometric.data.data", "DataTensorAttr"): lambda: type("Bag", (Bag,), {}),
    ("torch_geometric.data.storage", "GlobalStorage"): lambda: type("Bag", (Bag,), {}),
    ("torch_geometric.data.storage", "BaseStorage"): lambda: type("Bag", (Bag,), {}),
    ("torch._utils", "_rebuild_tensor_v2"): lambda: lambda *arguments: _tensor(*arguments),
    ("torch.storage", "_load_from_bytes"): lambda: lambda content: torch.load(io.BytesIO(content), weights_only=True),
}


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *rest: Any) -> torch.Tensor:
    if not isinstance(storage, torch.storage.TypedStorage | torch.UntypedStorage):
        raise pickle.UnpicklingError("a tensor without its storage")
    return _rebuild_tensor_v2(storage, int(offset), tuple(size), tuple(stride), False, OrderedDict())


def unpickle(content: bytes) -> Any:
    """Tensors, plain values and `Bag` from a pickle; raises `pickle.UnpicklingError` where it names anything else."""
    return pickles.unpickle(content, _TORCH)
