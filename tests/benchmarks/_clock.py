"""A clock for the parts of a program that one cannot change."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


class Clock:
    """Seconds spent in parts of a program; of functions that call each other, only the innermost one counts.

    Args:
        loop: the part inside which all others are told apart.
        outside: the part that all time outside the loop goes to.
    """

    def __init__(self, loop: str, outside: str) -> None:
        self.loop, self.outside = loop, outside
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = 0.0

    @contextmanager
    def around(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Clock a function of a module or a class, by putting another in its place for a while."""
        original, own = getattr(owner, name), name in vars(owner)

        @wraps(original)
        def clocked(*arguments: Any, **options: Any) -> Any:
            self._switch()
            self._inside.append(part)
            try:
                return original(*arguments, **options)
            finally:
                self._switch()
                self._inside.pop()

        setattr(owner, name, clocked)
        try:
            yield
        finally:
            setattr(owner, name, original) if own else delattr(owner, name)

    def _switch(self) -> None:
        """Give the time since the last switch to the part that ran."""
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1] if self.loop in self._inside else self.outside] += now - self._since
        self._since = now
