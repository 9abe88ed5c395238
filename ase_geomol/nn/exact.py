"""Constants that are kept in double precision and cast to that of the module."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, get_default_dtype, nn


class ExactConstants(nn.Module):
    """A module with constants in `exact`, cast anew from double precision when its precision or device changes.

    A change of precision and back loses nothing. Constants are buffers that are not saved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exact: dict[str, Tensor] = {}

    def keep(self, **constants: Tensor) -> None:
        """Make these float64 tensors attributes."""
        self.exact |= constants
        for name, values in constants.items():
            self.register_buffer(name, values.to(get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactConstants:
        super()._apply(fn, recurse)
        for name, values in self.exact.items():
            setattr(self, name, values.to(getattr(self, name)))
        return self
