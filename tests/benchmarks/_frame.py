"""The frame of every benchmark: one question, rows of one run, a table, and the result as last measured.

A script calls `answer` with its question and a function that returns rows (dictionaries with equal keys), or an
`Answer` with a summary too. With ``--smoke`` the function is asked for a small version and nothing is written;
otherwise the rows go to ``results/<script>.json`` with versions, hardware and, of a potential that is measured, its
fingerprint; with ``--model`` to ``results/<script>-<name>.json``. What else a reader must know to do the same again
(seed, data, goals) is given as ``settings``.
What Ctrl-C cut off, or what lacks peers that the result has, goes to ``runs/benchmarks/<script>/partial.json`` instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple, TypeVar

import torch
from _peers import Peers
from _work import FOLDER
from geomol_training.beginning import untrained
from geomol_training.recipe import load_recipe
from geomol_training.result import processor
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from ase_geomol.checkpoint import (
    Metadata,
    held_by,
    load_checkpoint,
    load_conformers,
    save_checkpoint,
    shipped_models,
)
from ase_geomol.errors import GeoMolError
from ase_geomol.files import make_folder, write_atomically
from ase_geomol.models.ditmc import ConformerFlow
from ase_geomol.potential import Potential

RESULTS = Path(__file__).parent / "results"
RECIPES = Path(__file__).parents[2] / "training/recipes/shipped"
BUSY = 0.5
"""Mean number of processes at work above which times are not to be trusted."""
INTERRUPTED = 130
"""Exit status after Ctrl-C."""
Row = dict[str, Any]
Item = TypeVar("Item")


class Option(NamedTuple):
    """One more option of a script: its default, whose type it has, and what ``--help`` says of it."""

    default: str | float | int
    help: str


class Answer(NamedTuple):
    """What a benchmark found.

    Attributes:
        rows: of the table.
        summary: sentences with a number each, which stand below the table.
        computed: when and on what the rows were computed, where an earlier run may have left some.
        complete: False where Ctrl-C cut it off.
    """

    rows: list[Row]
    summary: dict[str, float | None]
    computed: Mapping[str, Any] = {}
    complete: bool = True


def answer(
    question: str,
    run: Callable[..., list[Row] | Answer],
    packages: Sequence[str] = (),
    model: str = "",
    settings: Mapping[str, Any] | None = None,
    with_peers: bool = False,
    minutes: float = 0.0,
    on_card: bool = False,
    options: Mapping[str, Option] | None = None,
) -> None:
    """Run a benchmark as a command: parse its options, print a table, keep the result.

    ``run`` is called with ``smoke``, where a default ``model`` is given with the value of ``--model``, and where it
    asks for peers with `_peers.Peers` that start them; where default ``minutes`` are given, with those of
    ``--minutes``; and by name with the values of ``options``. ``on_card`` says that the summary is about the weights,
    and belongs on their card.
    """
    name = Path(sys.argv[0]).stem
    options = options or {}
    arguments = _arguments(question, model, with_peers, minutes, options)
    _use_threads(arguments.threads)
    load = os.getloadavg()[0]
    if load > BUSY and not arguments.smoke:
        Console(stderr=True).print(f"The machine is busy (load {load:.1f}): these times will not be worth keeping.")
    peers = Peers(arguments.environments) if with_peers else None
    if arguments.smoke and model and not _exists(arguments.model):
        arguments.model = _untrained(arguments.model)
    given = [arguments.smoke, *([arguments.model] if model else []), *([peers] if peers else [])]
    given += [arguments.minutes] if minutes else []
    started = time.perf_counter()
    try:
        measured = {"model": _identity(arguments.model)} if model else {}
        found = run(*given, **{option: getattr(arguments, option) for option in options})
        found = found if isinstance(found, Answer) else Answer(found, {})
        if not (found.rows or found.complete):
            raise KeyboardInterrupt
    except GeoMolError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt as interrupt:
        kept = "" if arguments.smoke else str(interrupt)
        print(f"Interrupted: {kept or 'nothing new was kept'}.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        if peers:
            peers.stop()
    seconds = time.perf_counter() - started
    left_out = peers.left_out if peers else []
    about = {**measured.get("model", {}), **(settings or {})}
    about |= {"smoke": "a small part of these settings"} if arguments.smoke else {}
    about |= {"processor": processor(), "threads": arguments.threads}
    _print(question, found.rows, about)
    for line in (*(f"{what}: {_text(value)}" for what, value in found.summary.items()), *left_out):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    if not arguments.smoke:
        record = {
            "question": question,
            "command": f"python tests/benchmarks/{name}.py --threads {arguments.threads}"
            + (f" --model {arguments.model}" if model else "")
            + (f" --minutes {arguments.minutes:g}" if minutes else "")
            + "".join(f" --{option} {getattr(arguments, option)}" for option in options)
            + (" --environments DIR" if peers and peers.folder else ""),
            **measured,
            **({"on the card": True} if on_card else {}),
            "date": datetime.now(UTC).date().isoformat(),
            **({"rows computed": dict(found.computed)} if found.computed else {}),
            **({"settings": dict(settings)} if settings else {}),
            "hardware": {
                "processor": processor(),
                "processors": os.cpu_count(),
                "threads": arguments.threads,
                "load before": round(load, 2),
            },
            "versions": {p: version(p) for p in ("ase_geomol", "torch", "ase", *packages)},
            **({"peers": peers.about, "left out": left_out} if peers else {}),
            "seconds": round(seconds, 1),
            **({"summary": found.summary} if found.summary else {}),
            "rows": found.rows,
        }
        other = bool(model) and arguments.model != model
        keep(f"{name}-{measured['model']['name']}" if other else name, record, found.complete)
    if not found.complete:
        sys.exit(INTERRUPTED)


def _arguments(
    question: str, model: str, with_peers: bool, minutes: float, options: Mapping[str, Option]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--smoke", action="store_true", help="a small version that proves the script runs")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of the peers (default 2)")
    if model:
        parser.add_argument("--model", default=model, help=f"shipped model or .safetensors file (default {model})")
    if minutes:
        parser.add_argument("--minutes", type=float, default=minutes, help=f"of each training (default {minutes:g})")
    for name, option in options.items():
        more = f"{option.help} (default {option.default})"
        parser.add_argument(f"--{name}", type=type(option.default), default=option.default, help=more)
    if with_peers:
        parser.add_argument(
            "--environments",
            type=Path,
            help="folder of the peers' virtual environments, made if missing; without it those peers are left out",
        )
    return parser.parse_args()


def keep(name: str, record: Mapping[str, Any], complete: bool) -> None:
    """Write the result as last measured, or beside it what is less than that."""
    path, partial = RESULTS / f"{name}.json", FOLDER / name / "partial.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    missing = sorted(earlier.get("peers", {}).keys() - record.get("peers", {}).keys())
    if complete and not missing:
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        return
    make_folder(partial.parent)
    text = json.dumps({**record, "complete": False}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(partial, text.encode())
    why = f"Without {', '.join(missing)}" if complete else "Interrupted"
    print(f"{why}: these rows are kept in {partial}, not in {RESULTS.name}/{path.name}.", file=sys.stderr)


def progress(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The items, with a bar that says how many are done."""
    yield from track(list(items), description=what, console=Console(stderr=True))


def _use_threads(threads: int) -> None:
    """Start the script anew if need be: libraries with OpenMP look at the environment when they are loaded."""
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})
    torch.set_num_threads(threads)


def _exists(model: str) -> bool:
    return model in shipped_models() or Path(model).exists()


def _untrained(model: str) -> str:
    """A file of random weights of the recipe of a potential that is not shipped yet: enough for a smoke test."""
    recipe = load_recipe(RECIPES / f"{model.replace('-', '_')}.yaml")
    predictor = untrained(recipe, ())
    assert isinstance(predictor, Potential)
    path = Path(mkdtemp()) / f"{model}.safetensors"
    save_checkpoint(path, predictor, Metadata(name=model, theory="none", training_data="none: random weights"))
    return str(path)


def _identity(model: str) -> dict[str, Any]:
    load = load_conformers if held_by(model) is ConformerFlow else load_checkpoint
    predictor, metadata, _, fingerprint = load(model)
    return {
        "name": metadata.name,
        "fingerprint": fingerprint,
        "parameters": sum(parameter.numel() for parameter in predictor.parameters()),
    }


def _print(question: str, rows: list[Row], about: Mapping[str, Any]) -> None:
    caption = "; ".join(f"{name}: {value}" for name, value in about.items())
    table = Table(title=escape(question.partition("\n\n")[0]), caption=escape(caption))
    for key in rows[0]:
        table.add_column(key, justify="right")
    for row in rows:
        table.add_row(*map(_text, row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
