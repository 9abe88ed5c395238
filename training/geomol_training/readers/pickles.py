"""Pickles without their danger: a pickle may name any function, and here it gets nothing but what is on a list."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Name = tuple[str, str]
"""Module and name, as a pickle has them."""
Maker = Callable[[], Any]
"""Makes what stands for a name: a function or class for this one pickle, which checks what it is given, so that a
pickle can neither reach memory through it nor change it for others."""
NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8"}


class Number:
    """Stands for a dtype of NumPy: plain numbers only."""

    def __init__(self, code: str, *rest: Any) -> None:
        if code not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds NumPy's {code!r}, which is no plain number")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Byte order; files are written where the smallest byte comes first."""

    def read(self, content: bytes) -> np.ndarray:
        """Numbers in a row."""
        return np.frombuffer(content, dtype=np.dtype(self.code).newbyteorder("<"))


def _multiarray(name: str, maker: Maker) -> dict[Name, Maker]:
    """The module's name before and since NumPy 2."""
    return {(module, name): maker for module in ("numpy.core.multiarray", "numpy._core.multiarray")}


PLAIN: dict[Name, Maker] = {
    ("collections", "OrderedDict"): lambda: type("OrderedDict", (OrderedDict,), {}),
    ("_codecs", "encode"): lambda: lambda text, encoding: text.encode("latin1"),  # how old protocols write bytes
    ("numpy", "dtype"): lambda: type("Number", (Number,), {}),
    **_multiarray("scalar", lambda: lambda kind, content: kind.read(content)[0]),
}


def unpickle(content: bytes, more: Mapping[Name, Maker] = {}) -> Any:
    """Plain values, NumPy's numbers and what ``more`` names; raises `pickle.UnpicklingError` for anything else."""
    return _Unpickler(content, {**PLAIN, **more}).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, makers: Mapping[Name, Maker]) -> None:
        super().__init__(io.BytesIO(content))
        self._makers = makers

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; raises `pickle.UnpicklingError` where it is not on the list."""
        if (module, name) not in self._makers:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not on the list of what is rebuilt")
        return self._makers[module, name]()


# --- arrays


class _Kind(Number):
    """Stands for a dtype of an array, which may also hold objects of this list."""

    def __init__(self, code: str, *rest: Any) -> None:
        if code not in ("O8", "O"):
            super().__init__(code, *rest)
        self.code = code

    def read(self, content: bytes) -> np.ndarray:
        """Numbers in a row; objects have no bytes."""
        if self.code.startswith("O"):
            raise pickle.UnpicklingError("it holds objects of NumPy as bytes")
        return super().read(content)


class _Array:
    """Stands for an array: its values, as an array of numbers or a list of objects."""

    values: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, _, content = state
        self.values = list(content) if isinstance(content, list) else kind.read(content).reshape(shape)


ARRAYS: dict[Name, Maker] = {
    ("numpy", "dtype"): lambda: type("Kind", (_Kind,), {}),
    ("numpy", "ndarray"): lambda: type("Array", (_Array,), {}),
    **_multiarray("_reconstruct", lambda: lambda kind, *rest: type("Array", (_Array,), {})()),
}
"""What pickled arrays need beside `PLAIN`; see `plain_arrays`."""


def plain_arrays(found: Any) -> Any:
    """The content of what stands for an array, and of those in it."""
    if isinstance(found, _Array):
        return [plain_arrays(value) for value in found.values] if isinstance(found.values, list) else found.values
    return found
