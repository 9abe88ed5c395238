"""LMDB files: opening them, and what their values may be."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
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


_BAGS = {
    ("torch_geometric.data.data", "Data"),
    ("torch_geometric.data.data", "DataEdgeAttr"),
    ("torch_geometric.data.data", "DataTensorAttr"),
    ("torch_geometric.data.storage", "GlobalStorage"),
    ("torch_geometric.data.storage", "BaseStorage"),
}
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8"}


class _SafeUnpickler(pickle.Unpickler):
    """Rebuilds tensors, NumPy's plain numbers and `Bag`, and refuses everything else: a pickle may name any function.

    What it hands out are functions and classes made for this one call, which check what they are given, so that a
    pickle can neither reach memory through them nor change them for others.
    """

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in a pickle; raises `pickle.UnpicklingError` where it is not on the list."""
        if (module, name) in _BAGS:
            return type("Bag", (Bag,), {})
        if (module, name) == ("collections", "OrderedDict"):
            return type("OrderedDict", (OrderedDict,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda content: torch.load(io.BytesIO(content), weights_only=True)
        if (module, name) == ("_codecs", "encode"):  # how old protocols write bytes
            return lambda text, encoding: text.encode("latin1")
        if (module, name) == ("numpy", "dtype"):
            return type("Number", (_Number,), {})
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return lambda kind, content: kind.read(content)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not on the list of what is rebuilt")


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *rest: Any) -> torch.Tensor:
    if not isinstance(storage, torch.storage.TypedStorage | torch.UntypedStorage):
        raise pickle.UnpicklingError("a tensor without its storage")
    return _rebuild_tensor_v2(storage, int(offset), tuple(size), tuple(stride), False, OrderedDict())


class _Number:
    """Stands for a dtype of NumPy: plain numbers only."""

    def __init__(self, code: str, *rest: Any) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"it holds NumPy's {code!r}, which is no plain number")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Byte order; files are written where the smallest byte comes first."""

    def read(self, content: bytes) -> Any:
        """One number."""
        return np.frombuffer(content, dtype=np.dtype(self.code).newbyteorder("<"))[0]


def unpickle(content: bytes) -> Any:
    """Tensors and plain values from a pickle; raises `pickle.UnpicklingError` where it names anything else."""
    return _SafeUnpickler(io.BytesIO(content)).load()
