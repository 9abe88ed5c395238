"""What is wrong with data is said before anything is learned from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.units import Hartree
from geomol_training.cli import app
from geomol_training.frames import Frames, pack
from geomol_training.inspection import RATIOS, inspect
from geomol_training.readers import Keys, row_of_atoms
from typer.testing import CliRunner


def trajectory(energy: float = 1.0, forces: float = 1.0, count: int = 12, name: str = "CH3CH2OH") -> Frames:
    """Frames of EMT with energies and forces in other units."""
    return pack(row_of_atoms(atoms, Keys()) for atoms in structures(energy, forces, count, name))


def structures(energy: float = 1.0, forces: float = 1.0, count: int = 12, name: str = "CH3CH2OH") -> list:
    random, atoms, frames = np.random.default_rng(0), molecule(name), []
    for _ in range(count):
        atoms.positions += random.normal(0, 0.01, atoms.positions.shape)
        frame = atoms.copy()
        frame.calc = EMT()
        results = {"energy": energy * frame.get_potential_energy(), "forces": forces * frame.get_forces()}
        frame.calc = SinglePointCalculator(frame, **results)
        frames.append(frame)
    return frames


def test_good_data_do_not_smell():
    found = inspect(trajectory())
    assert found.warnings == []
    assert found.counts["frames"] == found.counts["with forces"] == 12
    assert found.elements == {"H": 72, "C": 24, "O": 12}
    assert found.ranges["atoms in a frame"] == (9, 9, 9)


@pytest.mark.parametrize("words", RATIOS)
def test_units_that_do_not_fit_are_guessed(words: str):
    ratio = RATIOS[words]
    found = inspect(trajectory(energy=ratio) if ratio > 0 else trajectory(forces=-1.0))
    assert len(found.warnings) == 1
    assert words in found.warnings[0]


@pytest.mark.parametrize(("unit", "hartree"), [("Hartree", 1.0), ("kcal/mol", 627.509), ("kJ/mol", 2625.5)])
def test_units_of_total_energies_are_seen(unit: str, hartree: float):
    """Of B3LYP with all electrons: ethanol and water."""
    rows = [row_of_atoms(molecule(name), Keys()) for name in ("CH3CH2OH", "H2O")]
    rows = [row._replace(energy=e * hartree) for row, e in zip(rows, (-155.03, -76.40), strict=True)]
    (sentence,) = inspect(pack(rows)).warnings
    assert sentence.startswith(f"Energies look like total ones in {unit}")
    for factor in (Hartree / hartree, 0.3 * Hartree / hartree):  # in eV; and as if inner electrons were left out
        assert not inspect(pack(row._replace(energy=factor * row.energy) for row in rows)).warnings


def test_forces_and_stresses_far_too_large():
    copper = bulk("Cu", cubic=True)
    copper.calc = SinglePointCalculator(copper, energy=1.0, forces=np.full((4, 3), 20.0), stress=np.full(6, -5.0))
    forces, stress = inspect(pack([row_of_atoms(copper, Keys())])).warnings
    assert forces.startswith("The median force is 34.6 eV/Å")
    assert stress.startswith("The median pressure is 801 GPa")


def test_what_could_not_be_seen_is_said():
    rows = [row_of_atoms(atoms, Keys()) for atoms in structures()]
    assert inspect(pack(rows)).unseen == []
    (sentence,) = inspect(pack(rows[:4])).unseen
    assert "could not be seen: 3 pairs of frames follow each other closely" in sentence
    (sentence,) = inspect(pack(row._replace(trajectory=str(number)) for number, row in enumerate(rows))).unseen
    assert "0 pairs of frames" in sentence
    (sentence,) = inspect(pack(row._replace(forces=None) for row in rows)).unseen
    assert sentence == "There are no forces, with which energies could be compared."


def test_a_ratio_of_no_known_units():
    (sentence,) = inspect(trajectory(energy=7.0)).warnings
    assert sentence.startswith("Energies change 6.996 times as much as forces say")
    assert "?" not in sentence


def test_energies_of_other_frames():
    rows = [row_of_atoms(atoms, Keys()) for atoms in structures()]
    energies = np.random.default_rng(1).permutation([row.energy for row in rows])
    (sentence,) = inspect(pack(row._replace(energy=e) for row, e in zip(rows, energies, strict=True))).warnings
    assert "do not change as their forces say" in sentence


def test_frames_that_repeat_others():
    frames = structures(count=6)
    turned = frames[0][[3, 1, 2, 0, 4, 5, 6, 7, 8]]
    turned.calc = SinglePointCalculator(turned, energy=0.0)
    below, above = structures(count=2)
    for atoms, x in ((below, -1e-5), (above, 1e-5)):
        atoms.positions = frames[1].positions
        atoms.positions[0, 0] = x
    found = inspect(pack(row_of_atoms(atoms, Keys()) for atoms in [*frames, turned, frames[3], below, above]))
    assert any(sentence.startswith("3 frames repeat others") for sentence in found.warnings)


def test_outliers_are_named():
    rows = [row_of_atoms(atoms, Keys()) for atoms in structures(count=30)]
    rows[17] = rows[17]._replace(forces=1e3 * rows[17].forces, group="other")
    rows = [row._replace(trajectory="ab"[number > 10], name=f"n{number}") for number, row in enumerate(rows)]
    found = inspect(pack(rows))
    assert any("unusual largest force, such as frame 6 of b (called n17) " in sentence for sentence in found.warnings)


def test_outliers_are_found_in_their_file(tmp_path: Path):
    frames = structures(count=30)
    frames[17].calc.results["forces"] *= 1e3
    for name, part in (("a", frames[:12]), ("b", frames[12:])):
        write(tmp_path / f"{name}.extxyz", part)
    told = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["inspect", str(tmp_path)]).output
    assert f"unusual largest force, such as frame 5 of {tmp_path / 'b.extxyz'} (counted" in told


def test_charges_and_cells():
    copper = bulk("Cu", cubic=True)
    copper.calc = SinglePointCalculator(copper, energy=1.0, stress=np.arange(6) / 100)
    ion = molecule("OH")
    ion.info["charge"] = -1
    ion.calc = SinglePointCalculator(ion, energy=2.0)
    found = inspect(pack([row_of_atoms(copper, Keys()), row_of_atoms(ion, Keys())]))
    assert any("charges -1, 0" in sentence for sentence in found.warnings)
    assert (found.counts["periodic"], found.counts["with a stress"]) == (1, 1)


def test_command(tmp_path: Path):
    write(tmp_path / "good.extxyz", structures())
    write(tmp_path / "bad.extxyz", structures(energy=23.06))
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    assert "Nothing smells wrong" in runner.invoke(app, ["inspect", str(tmp_path / "good.extxyz")]).output
    write(tmp_path / "few.extxyz", structures(count=3))
    few = runner.invoke(app, ["inspect", str(tmp_path / "few.extxyz")]).output
    assert "could not be seen: 2 pairs" in few
    assert "Nothing smells wrong, as far as could be seen." in few
    assert "kcal/mol" in runner.invoke(app, ["inspect", str(tmp_path / "bad.extxyz")]).output
