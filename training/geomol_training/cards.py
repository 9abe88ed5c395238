"""Parts of model cards, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from ase.data import chemical_symbols

from ase_geomol.checkpoint import Metadata, form_of
from ase_geomol.potential import Potential

ARCHITECTURES = {"geomformer": "GeoMFormer", "est": "EST"}


def facts(potential: Potential, metadata: Metadata) -> str:
    """What a potential is, as a table."""
    form = form_of(potential)
    config, reach = form["config"], form["repulsion"]
    locality = "local" if potential.cutoff is not None else "global"
    name: str = ARCHITECTURES[form["architecture"]]
    name += f" ({locality} form)" if form["architecture"] == "geomformer" else ""
    sizes = [f"{config[size]} {size}" for size in ("layers", "channels", "heads") if size in config]
    sizes.append("no cutoff" if potential.cutoff is None else f"cutoff {potential.cutoff} Å")
    forces = "exact gradients of the energy" + ("; a head of its own, too" if potential.has_direct_forces else "")
    if metadata.forces == "direct":
        forces = "learned by a direct head alone, which is not conservative"
    short_range = f"ZBL repulsion within {reach:g} sums of covalent radii, where the network sees distances held"
    rows = {
        "theory": metadata.theory,
        "elements": symbols(potential.elements),
        "charges, multiplicities": f"{_listed(metadata.charges)}; {_listed(metadata.spins)}",
        "architecture": f"{name}: {', '.join(sizes)}",
        "parameters": f"{sum(p.numel() for p in potential.parameters()):,}",
        "short range": short_range if reach else "nothing but the network",
        "forces": forces,
        "licence": metadata.licence,
    }
    return pairs(rows)


def pairs(rows: Mapping[str, str]) -> str:
    """A table of two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def table(errors: Mapping[str, Mapping[str, float]]) -> str:
    """Errors {group: {name: value}} as a table, a row a group; the first group has all names."""
    names = list(next(iter(errors.values())))
    lines = [
        "| group | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for group, row in errors.items():
        cells = [f"{row[n]:.{0 if n == 'frames' else 1}f}" if n in row else "" for n in names]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def symbols(numbers: tuple[int, ...]) -> str:
    """``H C O`` of 1, 6, 8."""
    return " ".join(chemical_symbols[number] for number in numbers)


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
