"""What the quality benchmarks measure, on curves and structures whose answers are known, and how they go on."""

from __future__ import annotations

import importlib
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from benchmarks import _unseen, _work
from benchmarks._measures import (
    bond_stretches,
    bonds_row,
    count_minima,
    drift,
    largest_jump,
    pack,
    profile_errors,
    repulsive_below,
    rmsd,
    suspicious_intervals,
)

from ase_geomol import GeoMolCalculator
from ase_geomol.errors import DataError, GeoMolError, OutputError
from ase_geomol.simulate import load_structure

ROOT = Path(__file__).parents[2]
DISTANCES = np.arange(0.3, 6.0, 0.01)


def morse(distance: np.ndarray) -> np.ndarray:
    """Steep, smooth."""
    return 50 * np.exp(-distance / 0.1) + 4 * ((1 - np.exp(-2 * (distance - 1.1))) ** 2 - 1)


def test_rmsd_sees_shape_not_place() -> None:
    first = molecule("CH3CH2OH")
    second = first.copy()
    second.rotate(40, (1, 2, 3))
    second.translate([3, -1, 2])
    assert rmsd(first, second) < 1e-10
    second.positions[0] += [0.3, 0, 0]
    assert 0.03 < rmsd(first, second) < 0.1  # at most 0.3 Å / sqrt(9 atoms)


def test_bonds_are_followed_through_frames() -> None:
    start = molecule("CH4")
    later = start.copy()
    later.positions[1] = later.positions[0] + 2 * (later.positions[1] - later.positions[0])
    stretches = bond_stretches(start, [start, later, start])
    assert len(stretches) == 4
    assert np.sort(stretches)[-1] == pytest.approx(2 * np.sort(stretches)[0])
    assert bonds_row(start, [start, later]) == {"longest bond / radii": stretches.max(), "broken bonds": 1}
    assert bonds_row(start, [start])["broken bonds"] == 0
    assert bonds_row(Atoms("He"), [Atoms("He")]) == {"longest bond / radii": 0.0, "broken bonds": 0}


def test_drift_is_the_slope_of_the_line() -> None:
    time = np.linspace(0, 10, 201)
    slope, deviation = drift(time, -5000 + 0.25 * time + 0.1 * np.cos(200 * time))
    assert slope == pytest.approx(0.25, abs=0.005)
    assert deviation == pytest.approx(0.1, rel=0.2)


def test_profiles_are_compared_without_their_constant() -> None:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    reference = np.cos(3 * angles)
    assert profile_errors(reference + 7, reference) == pytest.approx({"minimum": 0, "mean": 0, "barrier": 0}, abs=1e-12)
    errors = profile_errors(2 * reference, reference)
    assert errors["barrier"] == pytest.approx(2)
    assert errors["minimum"] == pytest.approx(1)
    assert errors["mean"] == pytest.approx(np.abs(reference).mean())


@pytest.mark.parametrize("place", [0.5, 2.345, 5.0])
@pytest.mark.parametrize("height", [1e-4, 1.0])
def test_a_jump_is_found_wherever_it_is(place: float, height: float) -> None:
    def jumping(distance: np.ndarray) -> np.ndarray:
        return morse(distance) + height * (distance > place)

    values = jumping(DISTANCES)
    assert DISTANCES[suspicious_intervals(values, 1)[0]] == pytest.approx(place, abs=0.0101)
    assert largest_jump(jumping, DISTANCES, values) == pytest.approx(
        height / (1 + abs(morse(np.array(place)))), rel=0.01
    )


def test_a_smooth_curve_has_no_jump() -> None:
    def ending(distance: np.ndarray) -> np.ndarray:
        """Exactly zero beyond 5 Å, as a potential with a cutoff."""
        return morse(distance) * np.where(distance < 5, (1 - np.minimum(distance / 5, 1) ** 2) ** 3, 0)

    assert largest_jump(morse, DISTANCES, morse(DISTANCES)) < 1e-6
    assert largest_jump(ending, DISTANCES, ending(DISTANCES)) < 1e-6


def test_repulsion_is_asked_for_at_short_distance_only() -> None:
    forces = np.where(DISTANCES < 1.0, 1.0, -1.0)
    assert repulsive_below(DISTANCES, forces, 0.9)
    assert not repulsive_below(DISTANCES, forces, 1.2)


def test_minima_are_counted_without_noise() -> None:
    assert count_minima(np.gradient(-morse(DISTANCES), DISTANCES)) == 1
    assert count_minima(np.array([9.0, -1.0, 1.0, -1.0, 0.001, -0.001, 0.001, -0.001])) == 2


def test_packed_molecules_are_whole_and_apart() -> None:
    ethanol = molecule("CH3CH2OH")
    cube = pack(ethanol, 2, 5.5, seed=0)
    assert len(cube) == 8 * len(ethanol)
    assert cube.get_volume() == pytest.approx(11.0**3)
    distances = cube.get_all_distances(mic=True)
    for copy in range(8):
        own = slice(9 * copy, 9 * copy + 9)
        assert rmsd(cube[own], ethanol) < 1e-10
        distances[own, own] = np.inf
    assert distances.min() > 1.2
    assert np.array_equal(pack(ethanol, 2, 5.5, seed=0).positions, cube.positions)


def test_no_recipe_labels_the_molecules_of_the_benchmark() -> None:
    recipes = [yaml.safe_load(path.read_text()) for path in (ROOT / "training/recipes/shipped").glob("*.yaml")]
    makers = [recipe for recipe in recipes if "druglike_atoms" in recipe]
    assert makers
    assert {recipe["exclude"] for recipe in makers} == {str(_unseen.BENCHMARK)}


def test_molecules_are_read_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = "2\nProperties=species:S:1:pos:R:3 smiles=F molecule={} charge={} gfn2_kcal_mol=1.5\nH 0 0 0\nF 0 0 {}\n"
    frames = [("a", 0, 0.91), ("a", 0, 0.92), ("b", 0, 0.93), ("ion", 1, 0.94)]
    path = tmp_path / "molecules.extxyz.xz"
    with lzma.open(path, "wt") as file:
        file.write("".join(frame.format(*content) for content in frames))
    monkeypatch.setattr(_unseen, "BENCHMARK", path)
    found = {atoms.info["name"]: atoms for atoms in _unseen.unseen()}
    assert sorted(found) == ["a", "b"]
    assert found["a"].positions[1, 2] == 0.91
    assert [info["charge"] for info, _ in _unseen.benchmark_frames()] == [0, 0, 0, 1]
    monkeypatch.setattr(_unseen, "BENCHMARK", tmp_path / "missing")
    with pytest.raises(DataError, match="--smoke"):
        next(_unseen.unseen())
    assert [atoms.info["name"] for atoms in _unseen.unseen(("CCO",))] == ["C2H6O"]


def test_finished_pieces_are_not_done_again(tmp_path: Path) -> None:
    done: list[int] = []

    def work(number: int) -> dict[str, float]:
        done.append(number)
        if number == 2 and len(done) < 3:
            raise ValueError("not yet")
        return {"double": 2.0 * number}

    items = {"one": 1, "two": 2}
    first = _work.each(items, work, tmp_path)
    assert [row["error"] for row in first] == ["", "ValueError: not yet"]
    table = _work.table(first, {"double": max})
    assert [row["double"] for row in table] == [2.0, None, 2.0]
    assert (table[-1]["name"], table[-1]["error"]) == ("all 2", 1)
    again = _work.each(items, work, tmp_path)
    assert done == [1, 2, 2]
    assert [row["double"] for row in again] == [2.0, 4.0]
    assert again[0] == first[0]


def test_rows_tell_when_they_were_made(tmp_path: Path) -> None:
    def twice(number: int) -> dict[str, int]:
        return {"double": 2 * number}

    (row,) = _work.each({"one": 1}, twice, tmp_path)
    old = {**row, "date": "2001-02-03", "processor": "another"}
    (tmp_path / "one.json").write_text(json.dumps(old))
    rows = _work.each({"one": 1, "two": 2}, twice, tmp_path)
    assert rows[0] == old
    assert _work.computed(rows) == {
        "from": "2001-02-03",
        "to": row["date"],
        "processors": sorted({"another", row["processor"]}),
    }


INTERRUPTED = """
import signal, sys, time
from pathlib import Path
import torch
import _work

def piece(number):
    if number:
        Path(sys.argv[1], f"started {number}").touch()
        time.sleep(1000)
    return {}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    torch.set_num_threads(int(sys.argv[2]))
    try:
        _work.each({str(number): number for number in range(9)}, piece, Path(sys.argv[1]))
    except KeyboardInterrupt as interrupt:
        sys.exit(str(interrupt))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_ends_all_pieces_at_once(tmp_path: Path, processes: int) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "rows"
    folder.mkdir()
    script.write_text(INTERRUPTED)
    path = os.pathsep.join([str(ROOT / "tests/benchmarks"), *sys.path])
    running = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(processes)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(list(folder.glob("started*"))) < processes and running.poll() is None:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, errors = running.communicate(timeout=300)  # until the last process has closed it
    assert errors.strip() == f"finished rows are kept in {folder}, the same command goes on from there"
    assert (folder / "0.json").exists()
    assert len(list(folder.glob("started*"))) == processes


def test_work_is_kept_for_its_settings_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_work, "FOLDER", tmp_path)
    with _work.work_folder("script", {"seed": 1}, smoke=False) as folder:
        frames = [molecule("CH4"), molecule("H2O")]
        assert len(_work.frames_of(folder / "frames.extxyz", lambda: frames)) == 2
    with _work.work_folder("script", {"seed": 1}, smoke=False) as folder:
        assert len(_work.frames_of(folder / "frames.extxyz", list)) == 2
    with pytest.raises(OutputError, match="other settings"), _work.work_folder("script", {"seed": 2}, smoke=False):
        pass
    with _work.work_folder("script", {"seed": 2}, smoke=True) as folder:
        assert tmp_path not in folder.parents
    assert not folder.exists()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A function that imports one of the benchmarks as its own command does."""
    monkeypatch.syspath_prepend(ROOT / "tests/benchmarks")
    return importlib.import_module


def test_conformers_are_ranked_within_molecules(script) -> None:
    conformers = script("conformers")
    falling = {"ours": [3.0, 2.0, 1.0, 0.0], "mmff": [0.0, 1.0, 2.0, 3.0], "gfn2": [6.0, 4.0, 2.0, 0.0]}
    falling["dlpno"] = [3.0, 2.0, float("nan"), 0.0]
    scores = conformers.compare([falling], "gfn2", ("ours", "mmff"))
    assert scores["ours"]["mean Spearman"] == pytest.approx(1)
    assert scores["mmff"]["mean Spearman"] == pytest.approx(-1)
    assert scores["ours"]["error kcal/mol"] == pytest.approx(1.0)
    few = {**falling, "dlpno": [float("nan")] * 3 + [0.0]}
    scores = conformers.compare([falling, few], "dlpno", ("ours",))
    assert (scores["ours"]["conformers"], scores["ours"]["molecules"]) == (3, 1)
    assert scores["ours"]["left out: too few conformers"] == 1
    assert conformers.compare([few], "dlpno", ("ours",)) == {}


def test_conformers_that_cannot_be_computed_are_counted(script) -> None:
    frames = [
        ({"molecule": name, "charge": charge, "mmff_kcal_mol": mmff}, f"1\n\n{element} 0 0 0\n")
        for name, charge, element, mmff in (
            ("a", 0, "C", 0.0),
            ("a", 0, "C", 29.0),
            ("ion", -1, "C", 0.0),
            ("foreign", 0, "Si", 0.0),
            ("spread", 0, "C", 0.0),
            ("spread", 0, "C", 31.0),
        )
    ]
    molecules, left_out = script("conformers").choose(frames, {1, 6})
    assert {name: len(found) for name, found in molecules.items()} == {"a": 2}
    assert list(left_out.values()) == [1, 1, 1]


def test_conformers_of_a_molecule_that_fails_are_a_row(
    script, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    conformers = script("conformers")
    frames = [({"molecule": name, "gfn2_kcal_mol": i}, "1\n\nC 0 0 0\n") for name in "ab" for i in range(3)]
    monkeypatch.setattr(conformers, "_smoke_conformers", lambda: frames)
    energies = {name: [0.0, 1.0, 2.0] for name in ("ours", "gfn2", "dlpno", "mmff")}
    rows = [
        {"name": "a", "energies": energies, "error": "", "date": "2001-02-03", "processor": ""},
        {"name": "b", "error": "ValueError: no", "date": "2001-02-03", "processor": ""},
    ]
    monkeypatch.setattr(conformers, "each", lambda *arguments: rows)
    found = conformers.run(True, str(checkpoint))
    assert [row["mean Spearman"] for row in found.rows[:5]] == [1.0] * 5
    assert (found.rows[5]["method"], found.rows[5]["error"]) == ("b, left out", "ValueError: no")
    assert found.summary["molecules that ended with an error (goal: 0)"] == 1


def test_a_liquid_that_explodes_is_a_row(script, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    liquid = script("liquid")

    def explode(*arguments: object) -> None:
        raise GeoMolError("The simulation exploded.")

    monkeypatch.setattr(liquid, "dynamics", explode)
    monkeypatch.setattr(liquid, "relax", lambda atoms, **options: SimpleNamespace(atoms=atoms))
    found = liquid.run(True, str(checkpoint))
    assert found.rows[0]["error"] == "GeoMolError: The simulation exploded."
    assert found.summary["runs that ended with an error (goal: 0)"] == 1


def test_drifts_are_judged_by_their_size(script) -> None:
    conservation = script("conservation")
    rows = [{conservation.DRIFT: drift} for drift in (0.05, -0.4)]
    assert conservation.largest_drift([*rows, {"error": "exploded"}]) == 0.4
    assert conservation.largest_drift([{"error": "exploded"}]) is None


def test_torsions_turn_one_side_of_a_single_bond(script) -> None:
    torsions = script("torsions")
    assert torsions.rotatable_bonds("CCCC") == [(1, 2)]
    assert torsions.rotatable_bonds("c1ccccc1") == []
    atoms, side = torsions.torsion_of("CCCC", seed=0)
    assert atoms == [0, 1, 2, 3]  # carbon, not hydrogen, at both ends
    assert {2, 3} <= set(side)
    assert not {0, 1} & set(side)
    assert len(side) == 7


def test_dimers_in_one_box_are_those_alone(script, checkpoint: Path) -> None:
    calculator = GeoMolCalculator(checkpoint, dtype="float64")
    distances = np.array([0.8, 1.3, 2.2, 4.5])
    energies, forces = script("dimers").curve(distances, calculator, (6, 8))
    for distance, energy, force in zip(distances, energies, forces, strict=True):
        alone = Atoms("CO", [(0, 0, 0), (0, 0, distance)], calculator=calculator)
        assert energy == pytest.approx(alone.get_potential_energy(), abs=1e-9)
        assert force == pytest.approx(alone.get_forces()[1, 2], abs=1e-9)


def test_dimers_are_judged_by_their_curve(script) -> None:
    dimers, radii = script("dimers"), 1.0

    def with_hole(where: np.ndarray, place: float) -> tuple[np.ndarray, np.ndarray]:
        """A wall with a well of 5 eV at ``place``."""
        well = -5 * np.exp(-(((where - place) / 0.05) ** 2) / 2)
        wall = 10 * np.exp(-where / 0.4)
        return wall + well, wall / 0.4 + well * (where - place) / 0.05**2

    bond = dimers.judged(lambda where: with_hole(where, 1.0), DISTANCES, radii)
    assert (bond["smooth"], bond["repulsive"], bond["minima"]) == ("yes", "yes", 1)
    assert bond["minimum Å"] == pytest.approx(1.0, abs=0.02)
    hole = dimers.judged(lambda where: with_hole(where, 0.68), DISTANCES, radii)
    assert (hole["smooth"], hole["repulsive"]) == ("yes", "NO")
    with pytest.raises(GeoMolError, match=r"2\.00 Å"):
        dimers.judged(lambda where: (np.where(where < 1.999, where, np.nan), where), DISTANCES, radii)


def test_errors_of_crystals_do_not_vanish_in_a_fit(script) -> None:
    """Energies at random are far from DFT, and the teacher's mean difference is taken out of one element's set only."""
    crystals = script("crystals")
    random = np.random.default_rng(0)
    frames = []
    for symbol in ("Cu", "Al", "Ni", "Au"):
        atoms = bulk(symbol)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((1, 3)), stress=np.zeros(6))
        frames.append(atoms)
    answers = [{"energy": e, "forces": [[0.0, 0.0, 0.1]]} for e in random.normal(5, 1, 4)]
    answers[3] = {"refused": "too dense"}
    ours = {"name": "MPtrj, random", "error": "", "answers": answers}
    rows = crystals._compared(ours, {}, frames)
    assert [(row["compared"], row["frames"], row["refused"], row["with stress"]) for row in rows] == [
        ("ours, DFT", 3, 1, 0)
    ]
    assert rows[0]["energy meV/atom MAE"] == pytest.approx(1e3 * np.mean([a["energy"] for a in answers[:3]]))
    assert rows[0]["forces meV/Å MAE"] == pytest.approx(100 / 3)
    (shifted,) = crystals._compared({**ours, "name": "Cu of Zuo et al."}, {}, frames)
    assert 100 < shifted["energy meV/atom MAE"] < 3000
    failed = crystals._compared({**ours, "error": "it broke"}, {}, frames)
    assert failed[0].keys() == rows[0].keys()
    assert failed[0]["error"] == "it broke"
    (none,) = crystals._compared({**ours, "answers": [{"refused": ""}] * 4}, {}, frames)
    assert (none["refused"], none["energy meV/atom MAE"]) == (4, None)
    counted = [{"x": 1.0, "atoms": 1}, {"x": 4.0, "atoms": 2}, {"x": None, "atoms": 7}]
    assert crystals._mean(counted, "x", "atoms") == pytest.approx(3.0)
    assert crystals._mean(counted[2:], "x", "atoms") is None


def test_a_crystal_that_became_another_one_is_seen(script) -> None:
    materials = script("materials")
    start, rest = bulk("Li", "bcc", a=3.4), bulk("Li", "bcc", a=3.5)
    assert materials._same_shape(rest, start)
    rest.cell[0, 2] += 0.1
    assert not materials._same_shape(rest, start)
    rows = [{"imaginary modes": value} for value in ("none", None, "only ours")]
    assert materials._count(rows, "imaginary modes", "only ours") == 1
    assert materials._count(rows[1:2], "imaginary modes", "only ours") is None, "without a teacher no goal is met"


def test_turned_structures_are_those_that_a_network_has_learned(script) -> None:
    turned = script("rotations_trained")
    assert {atoms.get_chemical_formula() for _, atoms in turned._structures((1, 6, 8))} == {"C2H6O"}
    kinds = [kind for kind, _ in turned._structures(tuple(range(1, 93)))]
    assert kinds.count("cubic") == 30
    assert set(kinds) == {"cubic", "hot", "sheared", "vacancy", "slab", "layer", "pair", "molecule"}
    without_sulfur = [atoms for _, atoms in turned._structures(tuple(z for z in range(1, 93) if z != 16))]
    assert not any(16 in atoms.numbers for atoms in without_sulfur)


def test_molecules_with_unusual_bonds_are_read(script) -> None:
    pytest.importorskip("rdkit", reason="structures from SMILES need the extra 'providers'")
    pytest.importorskip("tblite", reason="the benchmark needs the extra 'labels'")
    for smiles in script("rigidity").UNUSUAL:
        assert len(load_structure(f"smiles:{smiles}")) > 3
