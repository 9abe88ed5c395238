"""Structures of any kind that is read, with their labels, in one ASE-LMDB database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .checks import Inspector, Limits
from .frames import Row
from .readers import Keys, read_rows, start_and_end
from .readers.aselmdb import write_aselmdb
from .sources import find_files

LABELS = {"energy": "energy", "forces": "forces", "stress": "stress", "relaxed": "relaxed structure"}
"""Fields of a row that are labels, and what they are called."""


class Converted(NamedTuple):
    """How many structures were written, how many of them with each of the labels, and which rows were left out."""

    structures: int
    labels: dict[str, int]
    skipped: Counter[str]


def convert(
    sources: str | Sequence[str],
    out: Path,
    keys: Keys = Keys(),
    *,
    relaxations: bool = False,
    bad_rows: Literal["raise", "skip"] = "raise",
) -> Converted:
    """Write all that ``sources`` mean into a new ``.aselmdb`` file, whether it has labels or not.

    With ``relaxations`` each file is one: its start is written, with energy and positions of its end.

    Raises:
        DataError: a file cannot be used, a row is bad, or there is none.
        OutputError: ``out`` exists, or cannot be written.
    """
    inspector, seen = Inspector(Limits(labelled=False), bad_rows), Counter[str]()

    def rows() -> Iterator[Row]:
        for file in find_files(sources):
            found: Iterable[Row] = [start_and_end(file, keys)] if relaxations else read_rows(file, keys)
            for row in inspector.passed(found, file):
                seen.update(name for name in LABELS if getattr(row, name) is not None)
                yield row

    count = write_aselmdb(out, rows())
    return Converted(count, {words: seen[name] for name, words in LABELS.items()}, inspector.skipped)
