"""Conformers of many molecules: each line of a file ends as structures or as a sentence, and none is done twice."""

from __future__ import annotations

import csv
import io
import json
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import DataError, GeoMolError, InputError, OutputError, ProviderError, ProviderWarning
from ..files import write_atomically
from ..simulate.files import GrowingFile
from .drawing import KEPT, TIME, Ensemble
from .smiles_files import Line, any_length
from .stores import Store, open_store


@dataclass(frozen=True)
class Outcome:
    """What became of one line; a row of the table.

    Attributes:
        line: its number in the file.
        smiles: what it asks for.
        name: what it calls it.
        structures: how many were made.
        lowest_energy_eV: of these, or nothing where they have none.
        seconds: of wall time; where several lines are drawn at once, the first one has that of all.
        message: what `Ensemble.remarks` and `Ensemble.selection` say: why there are fewer than asked for, how many were
            not relaxed to the end or compared, and who else made them; or the error; or nothing.
        again: whether there are none because of the time limit, or of an error that need not come back: a resumed run
            tries it again.
        mark: state of the structures' file after this line.
        earlier: whether an earlier run did it; no column of the table.
    """

    line: int
    smiles: str
    name: str
    structures: int
    lowest_energy_eV: float | str
    seconds: float
    message: str
    again: bool
    mark: int
    earlier: bool = False

    @property
    def is_remarkable(self) -> bool:
        """Whether the message says more than how many duplicates and high structures were left out."""
        return bool(self.message) and not self.message.startswith(f"{KEPT} ")


COLUMNS = tuple(field.name for field in fields(Outcome))[:-1]


def run_lines(
    lines: Sequence[Line],
    sample_many: Callable[[Iterable[str]], Iterator[Ensemble | Exception]],
    out: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Make conformers line by line, and give what became of each, also of those that an earlier run did.

    The structures go to ``out``, a row for each line to a table beside it (``.csv``), the settings to ``.json``. The
    files are consistent whenever this stops: on Ctrl-C, on a full disk, or when it is killed.

    Args:
        lines: the molecules.
        sample_many: makes structures of SMILES strings as `Provider.sample_many` does.
        out: as of `open_store`.
        settings: what decides the result; a run with others cannot be resumed.
        resume: go on with an earlier run.

    Raises:
        OutputError: a file cannot be written, there is an earlier run with other settings, or none to resume.
        ConfigError: of ``sample_many``: no line would go better.
        DataError: the earlier run's table is damaged, or of other molecules, or its structures are gone.
    """
    table, about = out.with_suffix(".csv"), out.with_suffix(".json")
    wanted = json.dumps(dict(settings), indent=1)
    done = _earlier(table, about, wanted, lines) if resume else []
    store = open_store(out, done[-1].mark if done else 0)
    if not resume:
        write_atomically(about, wanted.encode())
    header = "".join(map(_row, [COLUMNS, *(astuple(outcome)[:-1] for outcome in done)])).encode()
    write_atomically(table, header)  # without rows that were cut off, or whose lines are tried again
    with closing(store), closing(GrowingFile(table, len(header))) as rows:
        yield from done
        finished = {outcome.line for outcome in done}
        left = [line for line in lines if line.number not in finished]
        made = sample_many(line.smiles for line in left)
        for line in left:
            begin = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ProviderWarning)  # the row says it
                result = next(made)
            outcome = _outcome(line, result, store, begin)
            rows.write(_row(astuple(outcome)[:-1]))
            yield outcome


def _outcome(line: Line, result: Ensemble | Exception, store: Store, begin: float) -> Outcome:
    """What became of a line, whatever it is: one is not the end of all. Its structures are stored."""
    structures: Sequence[Any] = ()
    late = isinstance(result, ProviderError) and TIME in result.failures
    again = late or (isinstance(result, Exception) and not isinstance(result, InputError | ProviderError))
    if isinstance(result, Ensemble):
        structures, message = result, " ".join(filter(None, [result.remarks, result.selection]))
    else:
        message = str(result) if isinstance(result, GeoMolError) else f"{type(result).__name__}: {result}"
    for atoms in structures:
        atoms.info.update(line=line.number, **({"name": line.name} if line.name else {}))
    energies = [atoms.get_potential_energy() for atoms in structures if atoms.calc is not None]
    store.append(structures)
    seconds = round(time.perf_counter() - begin, 3)
    lowest = float(min(energies)) if energies else ""
    return Outcome(line.number, line.smiles, line.name, len(structures), lowest, seconds, message, again, store.mark)


def _earlier(table: Path, about: Path, wanted: str, lines: Sequence[Line]) -> list[Outcome]:
    """The outcomes of a run that is to be resumed, but for lines that are tried again."""
    if not (table.is_file() and about.is_file()):
        raise OutputError(f"There is no run to resume at {table}.")
    if about.read_text(encoding="utf-8") != wanted:
        raise OutputError(f"The run at {table} has other settings (see {about}): repeat them, or use --overwrite.")
    smiles = {line.number: line.smiles for line in lines}
    try:
        text = table.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # what was cut off is done again
        outcomes = [
            Outcome(
                line=int(row["line"]),
                smiles=row["smiles"],
                name=row["name"],
                structures=int(row["structures"]),
                lowest_energy_eV=float(row["lowest_energy_eV"]) if row["lowest_energy_eV"] else "",
                seconds=float(row["seconds"]),
                message=row["message"],
                again=row["again"] == "True",
                mark=int(row["mark"]),
                earlier=True,
            )
            for row in _rows_of(whole)
        ]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{table} is damaged ({type(error).__name__}: {error}): use --overwrite.") from error
    for outcome in outcomes:
        if smiles.get(outcome.line) != outcome.smiles:
            raise DataError(f"Line {outcome.line} was '{outcome.smiles}' in the run at {table}: use --overwrite.")
    return [outcome for outcome in outcomes if not outcome.again]


def _rows_of(text: str) -> list[dict[str, str]]:
    with any_length():
        return list(csv.DictReader(io.StringIO(text)))


def _row(values: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([re.sub("[\r\n]+", " ", str(value)) for value in values])
    return text.getvalue()
