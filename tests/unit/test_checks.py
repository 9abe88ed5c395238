"""Every bad input is refused with a sentence: what is wrong, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

from ase_geomol import ConfigError, GeoMolCalculator, GeoMolError, InputError


@pytest.fixture(scope="module")
def calculator(checkpoint) -> GeoMolCalculator:
    return GeoMolCalculator(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def global_calculator(global_checkpoint) -> GeoMolCalculator:
    return GeoMolCalculator(global_checkpoint, device="cpu")


def _water(**changes: object) -> Atoms:
    atoms = molecule("H2O")
    for name, value in changes.items():
        if name == "position":
            atoms.positions[1, 2] = value
        elif name in ("charge", "spin"):
            atoms.info[name] = value
        else:
            setattr(atoms, name, value)
    return atoms


def _cell(*rows: object, pbc: object = True) -> Atoms:
    return Atoms("C", [[0.1, 0.2, 0.3]], cell=rows, pbc=pbc)


def _row(*symbols: str, distance: float, cell: object = None) -> Atoms:
    places = [[distance * i, 0, 0] for i in range(len(symbols))]
    return Atoms(symbols, places, cell=cell, pbc=cell is not None)


BAD: dict[str, tuple[Callable[[], Atoms], str]] = {
    "unknown element": (
        lambda: Atoms("OHXe", [[0, 0, 0], [0, 0, 1], [3, 0, 0]]),
        r"Atom 2 is Xe, which this potential does not know; it knows: H C N O Al Si",
    ),
    "dummy atom": (lambda: Atoms("HX", [[0, 0, 0], [0, 0, 1]]), r"Atom 1 is X\b"),
    "no such element": (lambda: Atoms(numbers=[1, 150], positions=[[0, 0, 0], [0, 0, 1]]), r"Atom 1 .*150"),
    "NaN position": (lambda: _water(position=np.nan), r"Atom 1 \(H\) has a position that is NaN or infinite"),
    "infinite position": (lambda: _water(position=-np.inf), r"Atom 1 \(H\) has a position that is NaN or infinite"),
    "coincident atoms": (
        lambda: _row("C", "O", distance=0.0),
        r"Atoms 0 \(C\) and 1 \(O\) coincide.*0 Å apart.*[Rr]emove one",
    ),
    "almost coincident atoms": (lambda: _row("C", "O", distance=0.03), r"Atoms 0 \(C\) and 1 \(O\) coincide.*0.03 Å"),
    "coincident across the boundary": (
        lambda: Atoms("HSi", [[0.01, 2, 2], [3.99, 2, 2]], cell=[4, 4, 4], pbc=True),
        r"Atoms 0 \(H\) and 1 \(Si\) coincide.*0.02 Å",
    ),
    "an atom on its own image": (
        lambda: _cell([0.01, 0, 0], [0, 5, 0], [0, 0, 5]),
        r"cell is too thin: lattice planes are 0.01 Å apart",
    ),
    "a cell without end of images": (lambda: _cell([1e-8, 0, 0], [0, 5, 0], [0, 0, 5]), r"cell is too thin"),
    "a radical": (lambda: molecule("CH3"), r"CH3 with charge 0 has 9 electrons, .* multiplicity of 1"),
    "periodic without a cell": (lambda: _water(pbc=True), r"pbc is set along a, but that cell vector is zero: set"),
    "periodic along a zero vector": (
        lambda: _cell([3, 0, 0], [0, 3, 0], [0, 0, 0]),
        r"pbc is set along c, but that cell vector is zero",
    ),
    "singular cell": (lambda: _cell([3, 0, 0], [0, 3, 0], [3, 3, 0]), r"cell is singular.*linearly dependent"),
    "parallel vectors": (lambda: _cell([3, 0, 0], [6, 0, 0], [0, 0, 3]), r"cell is singular"),
    "NaN cell": (lambda: _cell([3, 0, 0], [0, np.nan, 0], [0, 0, 3]), r"cell has entries that are NaN or infinite"),
    "infinite cell": (lambda: _cell([3, 0, 0], [0, np.inf, 0], [0, 0, 3]), r"cell has entries that are NaN"),
    "NaN cell of a molecule": (
        lambda: _cell([np.nan, 0, 0], [0, 3, 0], [0, 0, 3], pbc=False),
        r"cell has entries that are NaN",
    ),
    "no atoms": (Atoms, r"no atoms"),
    "wrong charge": (lambda: _water(charge=1), r"info\['charge'\] is 1; .* trained for charge 0 only"),
    "fractional charge": (lambda: _water(charge=0.5), r"info\['charge'\] is 0.5"),
    "NaN charge": (lambda: _water(charge=np.nan), r"info\['charge'\] is nan"),
    "non-numeric charge": (lambda: _water(charge="minus one"), r"info\['charge'\] is 'minus one'"),
    "no charge": (lambda: _water(charge=None), r"info\['charge'\] is None"),
    "a list of charges": (lambda: _water(charge=[0, 0, 0]), r"info\['charge'\] is \[0, 0, 0\]"),
    "an array of charges": (lambda: _water(charge=np.zeros(3)), r"info\['charge'\] is array"),
    "wrong spin": (lambda: _water(spin=3), r"The multiplicity, atoms.info\['spin'\], is 3; .* trained for spin 1 only"),
    "non-numeric spin": (lambda: _water(spin="triplet"), r"info\['spin'\], is 'triplet'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_structures_are_refused(calculator: GeoMolCalculator, case: str) -> None:
    make, sentence = BAD[case]
    for ask in ("get_potential_energy", "get_forces"):
        atoms = make()
        atoms.calc = calculator
        with pytest.raises(InputError, match=sentence):
            getattr(atoms, ask)()
    for ask in (calculator.get_descriptors, calculator.get_hessian):
        with pytest.raises(InputError, match=sentence):
            ask(make())


@pytest.mark.parametrize("case", ["coincident atoms", "unknown element", "NaN position", "no atoms", "wrong charge"])
def test_the_global_form_refuses_them_too(global_calculator: GeoMolCalculator, case: str) -> None:
    make, sentence = BAD[case]
    atoms = make()
    atoms.calc = global_calculator
    with pytest.raises(InputError, match=sentence):
        atoms.get_potential_energy()


def test_the_global_form_refuses_crystals(global_calculator: GeoMolCalculator) -> None:
    """It has no images; an energy of the bare cell would be silently wrong."""
    atoms = bulk("Si")
    atoms.calc = global_calculator
    with pytest.raises(InputError, match=r"periodic.*pbc"):
        atoms.get_potential_energy()


def test_a_refusal_leaves_no_old_results(calculator: GeoMolCalculator) -> None:
    atoms = _water()
    atoms.calc = calculator
    atoms.get_potential_energy()
    atoms.positions[0, 0] = np.nan
    for _ in range(2):
        with pytest.raises(InputError):
            atoms.get_potential_energy()
    assert "energy" not in calculator.results
    atoms.positions[0, 0] = 0.0
    assert np.isfinite(atoms.get_potential_energy())


GOOD = {
    "neutral by word": lambda: _water(charge=0, spin=1),
    "numpy integers": lambda: _water(charge=np.int64(0), spin=np.float64(1.0)),
    "close but not coincident": lambda: _row("H", "H", distance=0.06),
    "a meaningless cell without pbc": lambda: _water(cell=[[1, 0, 0], [2, 0, 0], [0, 0, 0]]),
    "a left-handed cell": lambda: _cell([0, 3, 0], [3, 0, 0], [0, 0, 3]),
    "a wire": lambda: _cell([0, 0, 0], [0, 0, 0], [0, 0, 2.0], pbc=(False, False, True)),
    "a slab with any third vector": lambda: _cell([3, 0, 0], [0, 3, 0], [3, 3, 0], pbc=(True, True, False)),
    "a free atom": lambda: Atoms("N", [[0, 0, 0]]),
    "a flat but regular cell": lambda: _cell([3, 0, 0], [0, 3, 0], [2.9, 0, 0.9]),
    "unrelated info": lambda: _water(info={"name": "water", "charges": "none"}),
}


@pytest.mark.parametrize("case", GOOD)
def test_good_structures_are_not_refused(calculator: GeoMolCalculator, case: str) -> None:
    atoms = GOOD[case]()
    atoms.calc = calculator
    assert np.isfinite(atoms.get_potential_energy())
    assert np.isfinite(atoms.get_forces()).all()


def test_the_charges_of_the_potential_decide(make_checkpoint) -> None:
    atoms = _water(charge=-1, spin=2)
    atoms.calc = GeoMolCalculator(make_checkpoint(charges=(-1,), spins=(2,)), device="cpu")
    assert np.isfinite(atoms.get_potential_energy())
    atoms.info["charge"] = 0
    with pytest.raises(InputError, match="charge -1 only"):
        atoms.get_potential_energy()


def test_data_that_told_no_multiplicity_restrict_none(make_checkpoint) -> None:
    calculator = GeoMolCalculator(make_checkpoint(spins=()), device="cpu")
    for atoms in (_water(), molecule("CH3"), _water(spin=3)):
        atoms.calc = calculator
        assert np.isfinite(atoms.get_potential_energy())


def test_no_stress_without_a_cell(calculator: GeoMolCalculator) -> None:
    """ASE's own error, never a number; and the rest goes on working."""
    for cell in (None, [3, 3, 0], [[1, 0, 0], [2, 0, 0], [0, 0, 1]]):
        atoms = _water(cell=cell) if cell else _water()
        atoms.calc = calculator
        with pytest.raises(PropertyNotImplementedError, match="cell of finite volume"):
            atoms.get_stress()
        assert np.isfinite(atoms.get_potential_energy())
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
        assert "stress" not in calculator.results


def test_bad_options(checkpoint) -> None:
    for dtype in ("float16", "double", 64, None, ["float32"]):
        with pytest.raises(ConfigError, match="'float32' or 'float64'"):
            GeoMolCalculator(checkpoint, dtype=dtype)
    with pytest.raises(ConfigError, match=r"device is 'gpux', which torch does not know"):
        GeoMolCalculator(checkpoint, device="gpux")
    for model in ([], None, 3, [None]):
        with pytest.raises(ConfigError, match=r"model is .*a shipped name, a path, or a list"):
            GeoMolCalculator(model)
    with pytest.raises(ConfigError, match="has no direct head"):
        GeoMolCalculator(checkpoint, direct_forces=True)


@pytest.mark.parametrize("device", ["cuda:99", "xpu:99", "mps", "meta", ["cpu"]])
def test_a_device_that_is_not_here(checkpoint, device: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"device is {device!r}")):
        GeoMolCalculator(checkpoint, device=device)


@pytest.mark.parametrize("skin", [-0.1, float("nan"), "wide"])
def test_a_bad_skin(checkpoint, skin: object) -> None:
    with pytest.raises(ConfigError, match="skin"):
        GeoMolCalculator(checkpoint, device="cpu", skin=skin)


def test_committees_that_do_not_fit(make_checkpoint, checkpoint) -> None:
    with pytest.raises(ConfigError, match="share their cutoff"):
        GeoMolCalculator([checkpoint, make_checkpoint(seed=1, cutoff=4.0)], device="cpu")
    with pytest.raises(ConfigError, match="some elements"):
        GeoMolCalculator([checkpoint, make_checkpoint(seed=1, elements=(9, 17))], device="cpu")
    with pytest.raises(ConfigError, match="charges and spins"):
        GeoMolCalculator([checkpoint, make_checkpoint(seed=1, charges=(1,))], device="cpu")


@pytest.mark.parametrize("part", ["out.bias", "radial.scale"])
def test_results_that_are_not_finite_are_refused_and_forgotten(checkpoint, part: str) -> None:
    calculator = GeoMolCalculator(checkpoint, device="cpu")
    weights = dict(calculator.checkpoints[0].potential.model.named_parameters())
    next(value for name, value in weights.items() if name.endswith(part)).data.fill_(np.nan)
    atoms = _water()
    atoms.calc = calculator
    for _ in range(2):
        with pytest.raises(GeoMolError, match="not finite"):
            atoms.get_potential_energy()
    assert not calculator.results


def test_no_structure_yet(checkpoint) -> None:
    calculator = GeoMolCalculator(checkpoint, device="cpu")
    for ask in (calculator.get_descriptors, calculator.get_hessian):
        with pytest.raises(ConfigError, match="No structure was computed yet"):
            ask()


def test_every_error_is_a_geomol_error() -> None:
    from ase_geomol import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, GeoMolError | Warning) for kind in kinds)
