"""What the commands about crystals and paths share: a run that keeps what it computes, and its folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..errors import ConfigError, DataError, GeoMolError, OutputError
from ..files import make_folder, write_atomically
from . import common

if TYPE_CHECKING:
    from ase import Atoms

    from ..simulate import ResumableCalculator

RELAXED_FMAX = 1e-3
"""eV/Å, to which a crystal is relaxed before its properties are measured."""
WRITTEN = (
    *("relaxed.extxyz", "equation_of_state.csv", "elastic_constants.csv", "phonopy.yaml", "bands.csv", "dos.csv"),
    *("thermal.csv", "slab.extxyz", "path.extxyz", "results.json", "summary.png"),
)
"""What the commands leave in their folders."""
CALCULATED = "calculated.jsonl"
"""What was computed so far, until a command has ended."""
OutOption = Annotated[Path | None, typer.Option(help="A folder (default: NAME-COMMAND).", show_default=False)]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]


@dataclass(frozen=True)
class Wanted:
    """What a command was asked for, beside its own settings; ``structures`` are as the user typed them."""

    command: str
    structures: tuple[str, ...]
    model: Sequence[str]
    dtype: str
    device: str | None
    out: Path | None
    overwrite: bool
    resume: bool


@dataclass(frozen=True)
class Run:
    """A run that has begun: its structures with their calculator, the folder of its results, a title for pictures."""

    structures: list[Atoms]
    calculator: ResumableCalculator
    folder: Path
    title: str

    def crystal(self, as_it_is: bool) -> Atoms:
        """The first structure, with its cell relaxed and written unless it is wanted as it is."""
        from .. import simulate

        if as_it_is:
            return self.structures[0]
        with common.console.status("Relaxing the crystal and its cell"):
            relaxed = simulate.relax(self.structures[0], fmax=RELAXED_FMAX, cell=True, optimizer="LBFGS")
        if not relaxed.converged:
            common.errors.print(f"[yellow]The crystal is not relaxed after {relaxed.steps} steps.[/yellow]")
        simulate.write_structure(self.folder / "relaxed.extxyz", relaxed.atoms)
        return relaxed.atoms

    def finish(
        self,
        title: str,
        results: dict[str, Any],
        settings: dict[str, Any],
        picture: Callable[[Path], object] | None = None,
    ) -> None:
        """Print the results as a table and write them, with model and settings, and a picture; then all is done."""
        results = {"model": self.calculator.name, **results}
        shown = [(name, f"{value:.5g}" if isinstance(value, float) else str(value)) for name, value in results.items()]
        common.summary(title, [*shown, ("results", str(self.folder))])
        written = json.dumps(
            {**results, "settings": {**self.calculator.identity, **settings}}, indent=1, ensure_ascii=False
        )
        write_atomically(self.folder / "results.json", f"{written}\n".encode())
        if picture:
            picture(self.folder / "summary.png")
        self.calculator.close()
        (self.folder / CALCULATED).unlink(missing_ok=True)


@contextmanager
def begun(wanted: Wanted, check: Callable[..., object]) -> Iterator[Run]:
    """A run whose structures ``check`` has seen. When something ends it early, say what is kept, and how to go on."""
    run = _begin(wanted, check)
    try:
        yield run
    except (KeyboardInterrupt, GeoMolError) as error:
        run.calculator.close()
        files = [run.folder / name for name in WRITTEN]
        kept = ", ".join(str(file) for file in files if file.exists())
        what = "Interrupted" if isinstance(error, KeyboardInterrupt) else "Not finished"
        said = f"{what}; written so far: {escape(kept or 'no results')}."
        if isinstance(error, KeyboardInterrupt | OutputError):  # others would only come again
            said += " What was computed is kept: go on with the same command and --resume."
        common.errors.print(said, soft_wrap=True)
        raise


def _begin(wanted: Wanted, check: Callable[..., object]) -> Run:
    from .. import simulate

    read = [common.structure(text) for text in wanted.structures]
    structures = [atoms for atoms, _ in read]
    first, folder = structures[0], wanted.out or Path(f"{read[0][1]}-{wanted.command}")
    check(*structures)
    _see_folder(folder, wanted)
    calculator = common.calculator(wanted.model, structures, wanted.dtype, wanted.device, skin=0.5)
    for atoms in reversed(structures):  # what the calculator refuses leaves everything as it is; the first is next
        calculator.get_potential_energy(atoms)
    make_folder(folder)
    if wanted.overwrite:
        for old in (CALCULATED, *WRITTEN):
            (folder / old).unlink(missing_ok=True)  # nothing old stands beside what is new
    about = f"{wanted.command} of {first.get_chemical_formula()} {simulate.structure_key(first)[:8]}"
    kept = simulate.ResumableCalculator(calculator, folder / CALCULATED, about=about)
    if wanted.resume:
        common.console.print(f"[dim]{kept.known} structures were computed before[/dim]")
    for atoms in structures:
        atoms.calc = kept
    return Run(structures, kept, folder, f"{first.get_chemical_formula()}, with {calculator.name}")


def _see_folder(folder: Path, wanted: Wanted) -> None:
    """See that the folder may be filled, or gone on with.

    Raises:
        ConfigError: both flags are set.
        DataError: there is nothing to resume.
        OutputError: a structure's own file would be replaced; or there is an interrupted run, or a file of a name that
            the commands write, and neither flag is set.
    """
    from .. import simulate

    present = [folder / name for name in (CALCULATED, *WRITTEN) if (folder / name).exists()]
    if wanted.resume and wanted.overwrite:
        raise ConfigError("--resume keeps what --overwrite replaces: give one of them.")
    common.see_apart(wanted.structures, present)
    interrupted, ended = (folder / CALCULATED in present, folder / "results.json" in present)
    if wanted.resume and not interrupted:
        why = "it has ended" if ended else f"it has no {CALCULATED}"
        raise DataError(f"{folder} holds no run that could be resumed: {why}.")
    if interrupted and not (wanted.resume or wanted.overwrite):
        raise OutputError(
            f"{folder} holds an interrupted run: continue it with --resume, replace it with --overwrite, or choose "
            "another folder."
        )
    for path in present:
        simulate.see_free(path, overwrite=wanted.overwrite or wanted.resume)


def unrelaxed(count: int, of: int) -> dict[str, str]:
    """What is said of inner relaxations, where some did not end."""
    return {"positions not relaxed": f"at {count} of {of}"} if count else {}


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[float]]) -> None:
    """Write a table of numbers; raises :class:`OutputError`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.10g}" for value in row] for row in rows)
    write_atomically(path, buffer.getvalue().encode())
