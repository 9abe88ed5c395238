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


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)


_BAGS = {
    ("torch_geometric.data.data", "Data"),
    ("torch_geometric.data.data", "DataEdgeAttr"),
    ("torch_geometric.data.data", "DataTensorAttr"),
    ("torch_geometric.data.storage", "GlobalStorage"),
    ("torch_geometric.data.storage", "BaseStorage"),
}
_TORCH = {"FloatStorage", "DoubleStorage", "LongStorage", "IntStorage", "ShortStorage", "CharStorage", "BoolStorage"}


class _SafeUnpickler(pickle.Unpickler):
    """Rebuilds tensors, NumPy numbers and `Bag`, and refuses everything else: a pickle may name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _BAGS:
            return Bag
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor_v2
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        if (module, name) == ("_codecs", "encode"):  # how old protocols write bytes
            return lambda text, encoding: text.encode("latin1")
        if module == "torch" and name in _TORCH:
            return getattr(torch, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("scalar", "_reconstruct"):
            return super().find_class(module, name)
        if module == "numpy" and name in ("dtype", "ndarray"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not on the list of what is rebuilt")


def unpickle(content: bytes) -> Any:
    """Tensors and plain values from a pickle; raises `pickle.UnpicklingError` where it names anything else."""
    return _SafeUnpickler(io.BytesIO(content)).load()
