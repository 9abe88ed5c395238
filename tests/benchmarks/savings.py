"""What does each shortcut of the code save, and which test says that it changes nothing?

Each row times the same work with a shortcut and without it, in turns. It takes one to two minutes: Ctrl-C
leaves nothing.

- *Molecules as blocks*: attention among the atoms of a whole molecule, instead of each atom's list of neighbours.
- *Nothing that nobody reads*: the last layer without the parts whose vectors only a head for vectors would read.
- *Verlet skin*: neighbour pairs are kept until an atom has moved by half the skin.
- *Memory is kept*: freed memory is not given back to the system (glibc), in processes of their own.
- *Matrices together*: Muon makes all matrices of one shape orthogonal at once, in float32; torch's takes one after the
  other, in bfloat16.
- *No denormal kernels*: radial kernels that are nowhere smaller than exp(-50), computed at full speed.
- *Newton-Schulz by hand*: the slopes of the norm "whiten" of the N-body network, atoms last, not recorded step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

import torch
from _frame import Row, answer, progress
from _peers import Package, Peers
from _structures import ASPIRIN, liquid
from _timing import mover, time_in_turns, timed
from _training import training_batch, training_step
from geomol_training.nbody.whitening import FastEquivariantNorm
from geomol_training.optimiser import Muon, matrices_of

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.graph import from_atoms
from ase_geomol.models.geomformer import GeoMFormer
from ase_geomol.nn import EquivariantNorm, blocks, radial
from ase_geomol.potential import Potential
from ase_geomol.simulate.structures import load_structure

MODEL = "geomformer-organic"
ROUNDS = 9
STRUCTURES = 16
"""In a batch of training."""
CHILD = Package("kept memory", "_peer_step.py")
Call = Callable[[], object]


class Saving(NamedTuple):
    """One shortcut: what is timed with it and without it, and the test that both compute the same."""

    shortcut: str
    work: str
    turns: Mapping[str, Callable[[], float]]
    test: str


def run(smoke: bool, model: str) -> list[Row]:
    """One row for each shortcut and each work that it serves."""
    structures, rounds = (2, 1) if smoke else (STRUCTURES, ROUNDS)
    peers = Peers()
    try:
        makers = (_blocks, _unread, _skin, partial(_memory, peers), _muon, _kernels, _whitening)
        savings = [saving for make in progress(makers, "shortcuts") for saving in make(model, structures)]
        return [_row(saving, rounds) for saving in progress(savings, "works")]
    finally:
        peers.stop()


def _row(saving: Saving, rounds: int) -> Row:
    seconds = time_in_turns(saving.turns, rounds)
    return {
        "shortcut": saving.shortcut,
        "work": saving.work,
        "with (ms)": 1e3 * seconds["with"],
        "without (ms)": 1e3 * seconds["without"],
        "without / with": seconds["without"] / seconds["with"],
        "the same, says": saving.test,
    }


def _both(with_it: Call, without: Call) -> dict[str, Callable[[], float]]:
    return {"with": partial(timed, with_it), "without": partial(timed, without)}


def _blocks(model: str, structures: int) -> Iterator[Saving]:
    for name, call in _works(model, structures).items():
        in_lists = partial(_changed, call, blocks, "LARGEST_BLOCK", 0)
        yield Saving("molecules as blocks", name, _both(call, in_lists), "unit/test_blocks.py")


def _works(model: str, structures: int) -> dict[str, Call]:
    potential, batch = load_checkpoint(model).potential, training_batch(model, structures)
    graph = from_atoms(load_structure(ASPIRIN), potential.cutoff)
    return {
        "energy and forces, aspirin": lambda: potential(graph),
        f"training step, {structures} molecules": training_step(load_checkpoint(model).potential, batch),
    }


def _changed(call: Call, module: ModuleType, name: str, value: float) -> None:
    with patch.object(module, name, value):
        call()


def _unread(model: str, structures: int) -> Iterator[Saving]:
    lean, batch = load_checkpoint(model).potential, training_batch(model, structures)
    graph = from_atoms(load_structure(ASPIRIN), lean.cutoff)
    full = [_with_a_head(load_checkpoint(model).potential) for _ in range(2)]
    test = "unit/test_geomformer.py::test_parts_that_only_a_head_for_vectors_needs_do_not_touch_the_energy"
    shortcut = "no vectors, and no head for them, that nobody reads"
    yield Saving(shortcut, "energy and forces, aspirin", _both(lambda: lean(graph), lambda: full[0](graph)), test)
    steps = (training_step(potential, batch) for potential in (load_checkpoint(model).potential, full[1]))
    yield Saving(shortcut, f"training step, {structures} molecules", _both(*steps), test)


def _with_a_head(potential: Potential) -> Potential:
    """The same potential with a head for forces, whose answers nobody reads."""
    assert isinstance(potential.model, GeoMFormer)
    model = GeoMFormer(potential.model.config.model_copy(update={"direct_forces": True}))
    model.load_state_dict(potential.model.state_dict(), strict=False)
    potential.model = model
    return potential.eval()


def _skin(model: str, structures: int) -> Iterator[Saving]:
    test = "unit/test_neighbors.py::test_cache_is_exact_and_rebuilt_only_when_an_atom_left_half_the_skin"
    for name, atoms in {"aspirin": load_structure(ASPIRIN), "liquid, 512 atoms": liquid(512)}.items():
        calls = [mover(atoms, GeoMolCalculator(model, skin=skin)) for skin in (0.5, 0.0)]
        yield Saving("Verlet skin", f"a step of MD, {name}", _both(*calls), test)


def _memory(peers: Peers, model: str, structures: int) -> Iterator[Saving]:
    turns = {}
    for name, options in (("with", ()), ("without", ("given back",))):
        child = peers.start(CHILD, model, str(structures), *options)
        assert child is not None, peers.left_out
        turns[name] = partial(child.ask, "step")
    yield Saving("memory is kept", f"training step, {structures} molecules", turns, "it computes nothing")


def _muon(model: str, structures: int) -> Iterator[Saving]:
    ours, theirs = (matrices_of(load_checkpoint(model).potential) for _ in range(2))
    for matrix in (*ours, *theirs):
        matrix.grad = torch.randn_like(matrix)
    together = Muon(ours, [{"params": [torch.nn.Parameter(torch.zeros(1))]}], lr=1e-6)
    alone = torch.optim.Muon(theirs, lr=1e-6, adjust_lr_fn="match_rms_adamw")
    test = "training/test_optimiser.py::test_matrices_move_as_with_torchs_muon"
    yield Saving("matrices together", f"a step of Muon, {len(ours)} matrices", _both(together.step, alone.step), test)


def _kernels(model: str, structures: int) -> Iterator[Saving]:
    test = "unit/test_nn.py::test_kernels_are_never_denormal_and_the_printed_formula"
    for name, call in _works(model, structures).items():
        as_they_are = partial(_changed, call, radial, "LEAST_EXPONENT", -math.inf)
        yield Saving("no denormal kernels", name, _both(call, as_they_are), test)


def _whitening(model: str, structures: int) -> Iterator[Saving]:
    vectors = torch.randn(2, 100, 5, 3, 80, requires_grad=True)
    norms = [kind(80, "whiten", 0.05) for kind in (FastEquivariantNorm, EquivariantNorm)]
    calls = [lambda norm=norm: norm(vectors).sum().backward() for norm in norms]
    test = "training/test_nbody_network.py::test_the_fast_norm_has_the_values_and_slopes_of_the_plain_one"
    yield Saving("Newton-Schulz by hand", "norm of 1000 particles and its slopes", _both(*calls), test)


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL)
