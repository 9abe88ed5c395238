"""How good a conformer model is: a row for each molecule, kept as soon as it is computed, and means over all rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rdkit
import torch

from ase_geomol.calculator import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.checks import check_atoms
from ase_geomol.errors import ConfigError, DataError, GeoMolError, InputError, OutputError
from ase_geomol.files import make_folder, write_atomically
from ase_geomol.models.ditmc import Sampler
from ase_geomol.providers.conformers import ConformerProvider
from ase_geomol.providers.molecules import Molecule
from ase_geomol.providers.rmsd import MOST_MATCHES, Symmetry, symmetry
from ase_geomol.providers.stereo import count_stereo
from ase_geomol.simulate import relax_together

from ..pool import in_processes
from ..result import processor
from ..splits import places_of
from .data import load_sets
from .ensemble import MOST_SAMPLES, Minima, nearest_minima
from .isomers import is_wrong
from .methods import OVERSAMPLE, WINDOW, Drawn, Methods
from .metrics import distance_matrix, match
from .plausibility import Plausibility
from .sets import ConformerSets
from .summary import DRAWN, RELAXED, Row, differences, failures, remarks, summarise

MOST_ASKED = 60
"""Structures of a molecule, however many references it has."""
ROWS, SETTINGS, RESULT = "rows", "settings.json", "evaluation.json"


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        split: part of the data; None: all.
        molecules: so many, drawn with the seed; None: all.
        thresholds: Å, of coverage.
        relax_steps: steps of relaxation with ``potential`` after which all is measured again; 0: it is not, and
            nothing is chosen by energies.
        potential: a shipped name or a path.
        properties: of so many molecules, the first ones, structures are followed into minima of GFN2-xTB: at most
            `MOST_SAMPLES` of each method, for ensemble properties, and for how many of them the references lack.
        baselines: measure RDKit beside the model.
        seed: of everything.
        time_limit: s, of the comparison of structures of one method with the references.
        geom_splits: the ``split0.npy`` of a folder of GEOM's, as in a recipe.
    """

    split: str | None = "test"
    molecules: int | None = None
    thresholds: tuple[float, ...] = (0.5, 0.75)
    relax_steps: int = 30
    potential: str = "geomformer-organic"
    properties: int = 0
    baselines: bool = True
    seed: int = 0
    time_limit: float = 300.0
    geom_splits: str | None = None


def evaluate_conformers(
    provider: ConformerProvider,
    data: str,
    out: Path,
    options: Options = Options(),
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, molecules: None,
) -> dict[str, Any]:
    """Compare conformers with references: twice as many samples as a molecule has references, at most `MOST_ASKED`.

    Rows are written to ``out/rows`` as they are computed, and not computed again but where they ended with an error;
    ``out/evaluation.json`` has the means. See `geomol_training.conformers.methods` for what is compared.

    Args:
        provider: the model, with its sampler.
        data: what `geomol_training.conformers.data.load_sets` reads.
        out: folder of the results.
        options: what is measured.
        workers: processes with one thread each; 1: this one, with its threads.
        report: told the number of molecules done and of all.

    Raises:
        DataError: the data cannot be used, or have no such split.
        OutputError: ``out`` cannot be written, or has rows of another model, data or options.
    """
    sets, skipped, key = load_sets(data, options.geom_splits)
    chosen = _chosen(sets, options)
    relaxing = load_checkpoint(options.potential).fingerprint if options.relax_steps else None
    versions = {"potential fingerprint": relaxing, "rdkit": rdkit.__version__}
    choice = {"oversample": OVERSAMPLE, "window": WINDOW} if relaxing else {}
    choice |= {"most asked": MOST_ASKED, "most samples": MOST_SAMPLES}
    about = {"model": provider.version, "device": _device(provider), "data": key}
    settings = {**about, **versions, **choice, **asdict(options)}
    _open(out, {name: value for name, value in settings.items() if name != "molecules"})  # more of them are added
    files = [out / ROWS / f"{place:05d}.json" for place in range(len(chosen))]
    todo = [
        Task(file, int(index), place < options.properties, workers)
        for place, (file, index) in enumerate(zip(files, chosen, strict=True))
        if not file.exists() or "error" in _read(file)
    ]
    if workers > 1:
        written = in_processes(partial(_write_row, Model.of(provider), data, key, options), todo, workers)
    else:
        bench = Bench(provider, sets, options) if todo else None
        written = (bench.write(task) for task in todo if bench)  # type: ignore[misc]
    before = len(files) - len(todo)
    report(before, len(files))
    with closing(written):
        for done, _ in enumerate(written, start=before + 1):
            report(done, len(files))
    every = [_read(file) for file in files]
    rows = [row for row in every if "error" not in row]
    if not rows:
        raise DataError(f"No molecule could be measured; the first: {every[0]['smiles']}: {every[0]['error']}")
    about = {"name": provider.metadata.name, "fingerprint": provider.fingerprint, "processor": processor()}
    not_read = {f"not read, of all splits: {reason}": count for reason, count in skipped.items()}
    told = {"rows": len(rows), "remarks": not_read | remarks(every), "failures": failures(rows)}
    told["processes"] = sorted({row["processes"] for row in rows})
    told |= {"methods": summarise(rows, options.thresholds), "differences": differences(rows, options.thresholds)}
    result = _plain({**settings, **about, **told})
    write_atomically(out / RESULT, _json(result))
    return result


class Task(NamedTuple):
    """One molecule that is to be measured.

    Attributes:
        file: of its row.
        index: its place in the data.
        with_properties: whether ensemble properties are.
        processes: that measure at the same time, which decides how long each takes.
    """

    file: Path
    index: int
    with_properties: bool
    processes: int


class Model(NamedTuple):
    """What makes a provider again, in another process."""

    path: Path
    device: str
    dtype: Any
    sampler: Sampler

    @classmethod
    def of(cls, provider: ConformerProvider) -> Model:
        """That of a provider."""
        return cls(provider.path, str(provider.device), provider.dtype, provider.sampler)

    def provider(self) -> ConformerProvider:
        """The provider."""
        return ConformerProvider(self.path, device=self.device, dtype=self.dtype, **self.sampler.model_dump())


class Bench:
    """All that measures molecules: their references, the methods, the potential."""

    def __init__(self, provider: ConformerProvider, sets: ConformerSets, options: Options) -> None:
        self.sets, self.options = sets, options
        self.methods = Methods(provider, baselines=options.baselines)
        device = str(provider.device)
        self.potential = GeoMolCalculator(options.potential, device=device) if options.relax_steps else None
        self.methods.warm_up(sets.molecule(0))

    def write(self, task: Task) -> None:
        """Measure one molecule; where that fails, its row has the error alone."""
        row: Row = {"smiles": self.sets.molecule(task.index).smiles, "processes": task.processes}
        try:
            row |= measure_molecule(
                self.sets,
                task.index,
                self.methods,
                self.potential,
                self.options,
                with_properties=task.with_properties,
            )
        except (ConfigError, OutputError):
            raise
        except (GeoMolError, RuntimeError, ValueError, ArithmeticError) as error:
            row["error"] = f"{type(error).__name__}: {error}"
        write_atomically(task.file, _json(row))


def _write_row(model: Model, data: str, key: str, options: Options, task: Task) -> None:
    """What a process of its own does."""
    _bench_of(model, data, key, options).write(task)


@cache
def _bench_of(model: Model, data: str, key: str, options: Options) -> Bench:
    torch.set_num_threads(1)
    loaded = load_sets(data, options.geom_splits)
    if loaded.key != key:
        raise DataError(f"{data} has changed since the evaluation began: start anew in another folder.")
    return Bench(model.provider(), loaded.sets, options)


def _device(provider: ConformerProvider) -> str:
    """The accelerator that the model and the potential run on, or "cpu"."""
    return torch.cuda.get_device_name(provider.device) if provider.device.type == "cuda" else str(provider.device)


def _chosen(sets: ConformerSets, options: Options) -> np.ndarray:
    """Places of the molecules that are measured, in random order."""
    index = np.arange(len(sets)) if options.split is None else places_of(sets, options.split)
    return np.random.default_rng(options.seed).permutation(index)[: options.molecules]


def _open(out: Path, settings: Mapping[str, Any]) -> None:
    make_folder(out / ROWS)
    path, wanted = out / SETTINGS, _json(dict(settings))
    if path.exists() and path.read_bytes() != wanted:
        raise OutputError(f"{out} has rows of another model, other data or options: choose another folder with --out.")
    write_atomically(path, wanted)


def _read(file: Path) -> Row:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{file} is damaged: delete it and run again ({error}).") from error


# --- one molecule


def measure_molecule(
    sets: ConformerSets,
    index: int,
    methods: Methods,
    potential: GeoMolCalculator | None,
    options: Options,
    *,
    with_properties: bool,
) -> Row:
    """The row of one molecule."""
    molecule, references = sets.molecule(index), sets.conformers(index).astype(float)
    symmetric, plausibility = symmetry(molecule, most=MOST_MATCHES), Plausibility(molecule)
    asked = min(2 * len(references), MOST_ASKED)
    row: Row = {
        "atoms": len(molecule),
        "references": len(references),
        "asked": asked,
        "stereo elements": count_stereo(molecule),
        "all relabellings": symmetric.complete,
        "methods": {},
    }
    if potential is not None and (refused := _refusal(molecule, references[0], potential)):
        row["not relaxed"], potential = refused, None
    known = nearest_minima(molecule, references) if with_properties else None
    row |= {} if known is None else {"properties": known.properties, "lost": known.lost}
    for name, drawn, stages in _all_drawn(molecule, asked, methods, potential, options):
        found: Row = {name: value for name, value in drawn._asdict().items() if name != "positions"}
        for stage, positions in stages.items():
            found[stage] = _measure(molecule, symmetric, plausibility, references, positions, drawn.asked, options)
        if known is not None:
            ends = nearest_minima(molecule, _some(list(stages.values())[-1], options.seed))
            found |= {"properties": ends.properties, "lost": ends.lost}
            found |= _unknown(symmetric, known, ends, options.thresholds[0])
        row["methods"][name] = found
    return row


def _all_drawn(
    molecule: Molecule, asked: int, methods: Methods, potential: GeoMolCalculator | None, options: Options
) -> Iterator[tuple[str, Drawn, dict[str, np.ndarray]]]:
    """Each method's name, what it drew, and the structures (P, N, 3) at each stage that it has."""
    for name, drawn in methods.draw_all(molecule, asked, options.seed).items():
        stages = {DRAWN: drawn.positions}
        if potential is not None:
            stages[RELAXED] = _relaxed(molecule, drawn.positions, potential, options.relax_steps)
        yield name, drawn, stages
    if potential is not None:
        chosen = methods.draw_chosen(molecule, asked, options.seed, potential, options.relax_steps)
        yield from ((name, drawn, {RELAXED: drawn.positions}) for name, drawn in chosen.items())


def _measure(
    molecule: Molecule,
    symmetric: Symmetry,
    plausibility: Plausibility,
    references: np.ndarray,
    positions: np.ndarray,
    asked: int,
    options: Options,
) -> Row:
    deadline = time.monotonic() + options.time_limit
    distances = distance_matrix(symmetric, references, positions, deadline)
    faults = [plausibility.faults(structure) for structure in positions]
    return {
        **match(distances, asked, options.thresholds)._asdict(),
        "made": len(positions),
        "unknown distances": int(np.isinf(distances).sum()),
        "wrong stereo": sum(is_wrong(molecule, structure) for structure in positions),
        "implausible": sum(bool(found) for found in faults),
        "faults": {name: sum(name in found for found in faults) for name in sorted({n for f in faults for n in f})},
    }


def _some(positions: np.ndarray, seed: int) -> np.ndarray:
    """At most `MOST_SAMPLES` of the structures, whatever their order is by."""
    return np.random.default_rng(seed).permutation(positions)[:MOST_SAMPLES]


def _unknown(symmetric: Symmetry, known: Minima, ends: Minima, threshold: float) -> Row:
    """How many of the minima are as low as references are, and of these, how many no reference is near."""
    if not len(known.energies):
        return {}
    low = ends.positions[ends.energies <= known.energies.min() + WINDOW]
    nearest = distance_matrix(symmetric, known.positions, low).min(0)
    return {"low minima": len(low), "unknown minima": int((nearest >= threshold).sum())}


def _refusal(molecule: Molecule, positions: np.ndarray, potential: GeoMolCalculator) -> str | None:
    """Why the potential does not know this molecule, whatever its structure; None if it does."""
    try:
        check_atoms(molecule.atoms(positions, {}), potential.elements, potential.charges, potential.spins)
    except InputError as error:
        return str(error)
    return None


def _relaxed(molecule: Molecule, positions: np.ndarray, potential: GeoMolCalculator, steps: int) -> np.ndarray:
    """Structures after so many steps; those that the potential refuses on their way are left out."""
    starts = [molecule.atoms(start, {}) for start in positions]
    ends = relax_together(starts, potential, steps=steps)
    return np.array([end.positions for end in ends if end is not None]).reshape(-1, len(molecule), 3)


def _json(content: Row) -> bytes:
    return (json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(content: Any) -> Any:
    """The content with nothing where a number is not finite, as JSON wants it."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content
