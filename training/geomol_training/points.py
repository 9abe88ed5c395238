"""The same weights of an EST on other points of the sphere: fewer are faster, and less exact where weights are strange.

`est-crystal` on 32 points instead of its 72 gives the same forces on the crystals it learned, but turned molecules and
sheets of graphene, which it did not, differ by more than 10⁻⁴ eV/Å: it did not pass the tests of shipped potentials.
"""

from __future__ import annotations

from pathlib import Path

from ase_geomol.checkpoint import form_of, load_checkpoint, save_checkpoint
from ase_geomol.errors import ConfigError, OutputError
from ase_geomol.models import build_model
from ase_geomol.potential import Potential


def use_points(checkpoint: str, points: str, out: Path) -> Path:
    """Write a potential with another point rule; weights stay as they are, measured errors are left out.

    How much its energies change as a structure is turned, and how far its forces are from those on its former points,
    measures ``tests/benchmarks/rotations_trained.py``.

    Args:
        checkpoint: a shipped name or a file of weights.
        points: a rule, as of ``model.config.points``.
        out: the file to write.

    Raises:
        CheckpointError: the weights cannot be loaded, or are no potential.
        ConfigError: it has no points, there is no such rule, or it has a rigidity, which is of its own points.
        OutputError: the file exists, or cannot be written.
    """
    if out.exists():
        raise OutputError(f"{out} exists: choose another place with --out.")
    loaded = load_checkpoint(checkpoint)
    form = form_of(loaded.potential)
    if "points" not in form["config"]:
        raise ConfigError(f"{checkpoint} has no points on a sphere: it is a {form['architecture']}.")
    if loaded.potential.rigidity is not None:
        raise ConfigError(f"{checkpoint} has a rigidity, which is of its own points: change these first.")
    network = build_model(form["architecture"], {**form["config"], "points": points})
    potential = Potential(network, repulsion=form["repulsion"])  # type: ignore[arg-type]
    weights = loaded.potential.state_dict()
    dtype = next(tensor.dtype for name, tensor in weights.items() if name.startswith("model."))
    potential.set_dtype(dtype).load_state_dict(weights)
    save_checkpoint(out, potential, loaded.metadata.model_copy(update={"errors": {}}))
    return out
