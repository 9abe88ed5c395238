"""``ase-geomol models``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common

if TYPE_CHECKING:
    from ..checkpoint import Listed

EPILOG = common.examples(
    ("what is there", "ase-geomol models"),
    ("everything about one of them", "ase-geomol models --card geomformer-organic"),
    ("for a script", "ase-geomol models --json"),
)


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    card: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print the model card of one.", show_default=False)
    ] = None,
) -> None:
    """List the potentials and conformer models that come with the package."""
    from ..checkpoint import shipped_models

    shipped = shipped_models()
    if card is not None:
        _print_card(card, shipped)
    elif as_json:
        print(json.dumps([_described(listed) for listed in shipped.values()], indent=2))
    elif shipped:
        for listed in shipped.values():
            _print_listed(listed)
    else:
        common.console.print("No models come with this version.")


def _described(listed: Listed) -> dict[str, Any]:
    from ase.data import chemical_symbols

    return {
        "kind": listed.kind,
        **listed.metadata.model_dump(mode="json"),
        "elements": [chemical_symbols[number] for number in listed.elements],
        "cutoff": listed.cutoff,
        "parameters": listed.parameters,
        "bytes": listed.path.stat().st_size,
    }


def _print_listed(listed: Listed) -> None:
    about = _described(listed)
    errors = "\n".join(f"{_in_words(name)}: {value:.4g}" for name, value in about["errors"].items())
    of_potentials = [
        ("cutoff", f"{about['cutoff']:g} Å" if about["cutoff"] else "none"),
        ("charge, spin", f"{_listing(about['charges'])}; {_listing(about['spins'])}"),
    ]
    common.summary(
        about["name"],
        [
            ("kind", about["kind"]),
            ("elements", " ".join(about["elements"])),
            ("theory", about["theory"]),
            ("trained on", about["training_data"]),
            ("errors", errors or "not measured"),
            ("size", f"{about['parameters']:,} parameters, {about['bytes'] / 1e6:.1f} MB"),
            *(of_potentials if about["kind"] == "potential" else ()),
            ("licence", about["licence"]),
        ],
    )


def _in_words(error: str) -> str:
    """``test_forces_MAE_meV_per_A`` as "test forces MAE meV/Å"."""
    return error.replace("_per_", "/").replace("_", " ").replace("/A", "/Å")


def _listing(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _print_card(name: str, shipped: dict[str, Listed]) -> None:
    from rich.markdown import Markdown

    from ..errors import CheckpointError

    if name not in shipped:
        raise CheckpointError(f"There is no shipped model '{name}'; there are: {', '.join(shipped) or 'none'}.")
    path = shipped[name].path.with_suffix(".md")
    if not path.is_file():
        raise CheckpointError(f"'{name}' has no model card.")
    text = path.read_text(encoding="utf-8")
    common.console.print(Markdown(text)) if sys.stdout.isatty() else print(text)
