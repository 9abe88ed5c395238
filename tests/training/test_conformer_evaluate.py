"""What is said of a conformer model is what its structures are, beside RDKit's, and no molecule is measured twice."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.io import write
from ase.optimize import BFGS

pytest.importorskip("rdkit", reason="conformers need the extra 'providers'")
pytest.importorskip("tblite", reason="ensemble properties need the extra 'labels'")

from geomol_training.cli import app
from geomol_training.conformers import evaluate as evaluation
from geomol_training.conformers.ensemble import Minima, nearest_minima
from geomol_training.conformers.evaluate import Options, evaluate_conformers
from geomol_training.conformers.methods import (
    CHECKED,
    CHOSEN,
    CLUSTERED_TIME,
    ETKDG,
    ETKDG_TIME,
    MMFF,
    MMFF_CHOSEN,
    MODEL,
    WINDOW,
    Methods,
)
from geomol_training.conformers.plausibility import FAULTS, Plausibility
from geomol_training.conformers.summary import DRAWN, RELAXED, UNITS, differences, summarise
from geomol_training.labelling.engine import GFN2
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from tblite.interface import Calculator as TBLite
from typer.testing import CliRunner

from ase_geomol.calculator import GeoMolCalculator
from ase_geomol.checkpoint import Metadata, save_checkpoint
from ase_geomol.errors import DataError, OutputError
from ase_geomol.models.ditmc import ConformerFlow, DiTMC, DiTMCConfig, FlowForm, Sampler
from ase_geomol.providers.base import Candidate, Limits, Provider
from ase_geomol.providers.conformers import ConformerProvider
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.rmsd import symmetry

KCAL = units.kcal / units.mol
SMILES = ("CCCO", "C[C@H](F)C=O", "C[NH3+]")


@pytest.fixture(scope="module")
def data(own_conformers, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("references") / "a.extxyz"
    frames = [atoms for smiles in SMILES for atoms in own_conformers(smiles, 2, "test")]
    write(path, [*frames, *own_conformers("CC", 1, "train")])
    return path


@pytest.fixture(scope="module")
def provider(tmp_path_factory) -> ConformerProvider:
    """A model that has learned nothing."""
    torch.manual_seed(0)
    flow = ConformerFlow(DiTMC(DiTMCConfig(channels=32, layers=1)), FlowForm(sampler=Sampler(steps=2)))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(path, flow, Metadata(name="untrained", theory="none", training_data="none"))
    return ConformerProvider(path)


@pytest.fixture(scope="module")
def result(data, provider, tmp_path_factory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate_conformers(provider, str(data), out, Options(relax_steps=2, properties=1)), out


def test_a_row_for_each_molecule_and_means_over_them(result):
    found, out = result
    rows = [json.loads(path.read_text()) for path in sorted((out / "rows").glob("*.json"))]
    assert sorted(row["smiles"] for row in rows) == sorted(parse(smiles).smiles for smiles in SMILES)
    assert [row["asked"] for row in rows] == [4, 4, 4]
    assert found["rows"] == 3
    for name in (MODEL, CHECKED, ETKDG, MMFF):
        for stage in (DRAWN, RELAXED):
            recall = [row["methods"][name][stage]["recall"][0] for row in rows if stage in row["methods"][name]]
            assert found["methods"][name][stage]["COV-R 0.5 Å mean %"] == pytest.approx(100 * np.mean(recall))
    assert found["methods"][MODEL][DRAWN]["plausible %"] == 0
    assert found["methods"][MODEL][DRAWN]["made %"] == 100
    assert found["methods"][ETKDG][DRAWN]["plausible %"] == 100
    assert found["methods"][ETKDG][DRAWN]["right stereo %"] == 100
    assert found["methods"][ETKDG][DRAWN]["COV-R 0.5 Å mean %"] >= 50
    assert found["methods"][ETKDG][DRAWN]["s per conformer"] > 0
    assert found["methods"][MMFF][RELAXED]["lowest energy error kcal/mol"] < 1
    written = json.loads((out / "evaluation.json").read_text())
    assert written["methods"][ETKDG] == found["methods"][ETKDG]
    assert written["fingerprint"] == found["fingerprint"]
    (with_properties,) = [row for row in rows if "properties" in row]
    for method in with_properties["methods"].values():
        assert 0 <= method["unknown minima"] <= method["low minima"] <= method.get(RELAXED, method.get(DRAWN))["made"]
    assert found["methods"][MMFF][RELAXED]["in low minima that no reference is near %"] == 0


def test_methods_that_choose_by_energy_are_relaxed_only(result):
    """Of two molecules that the potential knows; what has no structure counts as not covered."""
    found, out = result
    assert found["window"] == WINDOW
    rows = [json.loads(path.read_text()) for path in sorted((out / "rows").glob("*.json"))]
    for name in (CHOSEN, MMFF_CHOSEN):
        assert [name in row["methods"] for row in rows] == ["not relaxed" not in row for row in rows]
        (values,) = found["methods"][name].values()
        assert list(found["methods"][name]) == [RELAXED]
        assert values["molecules"] == 2
    assert found["methods"][CHOSEN][RELAXED]["made %"] == 0
    assert found["methods"][CHOSEN][RELAXED]["COV-P 0.75 Å mean %"] == 0
    chosen = found["methods"][MMFF_CHOSEN][RELAXED]
    assert chosen["made %"] == 100
    assert chosen["s per conformer"] > found["methods"][MMFF][DRAWN]["s per conformer"]
    assert chosen["COV-R 0.5 Å mean %"] >= found["methods"][MMFF][RELAXED]["COV-R 0.5 Å mean %"]
    assert chosen["molecules in AMR"] == found["methods"][MMFF][RELAXED]["molecules in AMR"] == 2


def test_the_low_ones_of_many_are_chosen(provider):
    potential, molecule = GeoMolCalculator("geomformer-organic"), parse("OCCF")
    found = Methods(provider).draw_chosen(molecule, 3, 0, potential, 5)[MMFF_CHOSEN]
    assert len(found.positions) == found.asked == 3
    energies = [energy_of(molecule, positions, potential) for positions in found.positions]
    assert energies == pytest.approx(sorted(energies), abs=1e-5)  # two are mirror images, equal but for rounding
    assert max(energies) - min(energies) <= WINDOW
    assert set(Methods(provider, baselines=False).draw_chosen(molecule, 1, 0, potential, 0)) == {CHOSEN}


def energy_of(molecule, positions, potential) -> float:
    atoms = molecule.atoms(positions, {})
    atoms.calc = potential
    return atoms.get_potential_energy()


def test_a_molecule_that_the_potential_does_not_know_is_told_and_not_relaxed(result):
    found, out = result
    rows = [json.loads(path.read_text()) for path in sorted((out / "rows").glob("*.json"))]
    (told,) = [row for row in rows if "not relaxed" in row]
    assert told["smiles"] == "C[NH3+]"
    assert "charge" in told["not relaxed"]
    assert found["remarks"]["molecules that the potential does not know, not relaxed"] == 1
    for name in (MODEL, MMFF):
        assert [found["methods"][name][stage]["molecules"] for stage in (DRAWN, RELAXED)] == [3, 2]


def test_what_a_method_cannot_make_is_its_failure_and_not_the_end(own_conformers, provider, tmp_path, monkeypatch):
    refused = {"C[Se]C": "Atom 1 is Se"}
    frames = [atoms for smiles in ("CCO", "CF", *refused, "N->B") for atoms in own_conformers(smiles, 1, "test")]
    write(tmp_path / "a.extxyz", frames)
    positions = provider._positions

    def fails(molecule, *arguments):
        if 9 in molecule.numbers:
            raise np.linalg.LinAlgError("eigenvalues did not converge")
        return positions(molecule, *arguments)

    monkeypatch.setattr(provider, "_positions", fails)
    found = evaluate_conformers(provider, str(tmp_path / "a.extxyz"), tmp_path / "out", Options(relax_steps=0))
    model = found["methods"][MODEL][DRAWN]
    assert model["molecules"] == found["rows"] == 3
    assert model["made %"] == pytest.approx(100 / 3)
    assert model["COV-P 0.75 Å mean %"] <= 100 / 3
    assert found["methods"][ETKDG][DRAWN]["made %"] == 100
    assert found["remarks"]["not read, of all splits: molecules with a dative bond"] == 1
    reasons = " ".join(found["failures"][MODEL])
    for words in (*refused.values(), "LinAlgError: eigenvalues did not converge"):
        assert words in reasons
    assert set(found["failures"][MODEL].values()) == {2}
    assert ETKDG not in found["failures"]


class Slow(Provider):
    """Hydrogen molecules, each of which takes so long."""

    name, version = "slow", "1"

    def __init__(self, seconds: float) -> None:
        self.limits, self.seconds = Limits(atoms=2), seconds

    def draw(self, molecule, seeds, deadline):
        for seed in seeds:
            time.sleep(self.seconds)
            yield Candidate(np.array([[0, 0, 0], [0, 0, 0.74 + seed % 100 * 1e-4]]))


def test_in_the_models_time_there_is_no_more_and_no_less(provider, monkeypatch):
    methods = Methods(provider)
    for name, seconds in (("_model", 0.03), ("_bare", 0.01), ("_relaxed", 0.05)):
        monkeypatch.setattr(methods, name, Slow(seconds))
    found = methods.draw_all(parse("[H][H]"), 5, 0)
    model, bare, clustered = found[MODEL], found[ETKDG_TIME], found[CLUSTERED_TIME]
    assert 5 < len(bare.positions) == bare.asked < 25
    assert 0 < len(clustered.positions) <= model.seconds / 0.05
    assert clustered.asked == 5
    assert clustered.failures == {"not made in the model's time": 5 - len(clustered.positions)}
    assert not bare.failures
    for drawn in (bare, clustered):
        assert drawn.seconds < model.seconds + 0.2
    monkeypatch.setattr(methods, "_relaxed", Slow(0.001))
    many = methods.draw_all(parse("[H][H]"), 3, 0)[CLUSTERED_TIME]
    assert len(many.positions) == many.asked == 3
    assert not many.failures


def test_the_device_and_what_is_not_known_are_told(result, own_conformers, provider, tmp_path, monkeypatch):
    assert result[0]["device"] == "cpu"
    write(tmp_path / "a.extxyz", own_conformers("CC(C)O", 2, "test"))
    monkeypatch.setattr(evaluation, "MOST_MATCHES", 1)
    options = Options(relax_steps=0, baselines=False, time_limit=1e-9)
    found = evaluate_conformers(provider, str(tmp_path / "a.extxyz"), tmp_path / "out", options)
    assert found["remarks"] == {
        "molecules with more relabellings than are tried, whose distances are upper bounds": 1,
        "distances that came too late or failed, not covered": 2
        * 4,  # of the unchecked structures; there are no others
        "ensembles without a distance, whose molecules are left out of AMR": 2,
    }


def test_nothing_is_measured_twice(result, data, provider, monkeypatch):
    found, out = result
    measured, measure = [], evaluation.measure_molecule

    def counted(sets, index, *arguments, **options):
        measured.append(sets.molecule(index).smiles)
        return measure(sets, index, *arguments, **options)

    monkeypatch.setattr(evaluation, "measure_molecule", counted)
    missing = sorted((out / "rows").glob("*.json"))[1]
    row = json.loads(missing.read_text())
    missing.unlink()
    again = evaluate_conformers(provider, str(data), out, Options(relax_steps=2, properties=1))
    assert measured == [row["smiles"]]
    for stage, values in found["methods"][ETKDG].items():
        assert without_times(again["methods"][ETKDG][stage]) == pytest.approx(without_times(values))
    fewer = evaluate_conformers(provider, str(data), out, Options(relax_steps=2, properties=1, molecules=1))
    assert (fewer["rows"], fewer["molecules"], len(measured)) == (1, 1, 1)
    with pytest.raises(OutputError, match="another model, other data or options"):
        evaluate_conformers(provider, str(data), out, Options(relax_steps=3, properties=1))


def without_times(measured):
    return {name: value for name, value in measured.items() if not name.startswith("s ")}


def test_a_molecule_that_cannot_be_measured_is_told_and_not_the_end(data, provider, tmp_path, monkeypatch):
    measure = evaluation.measure_molecule

    def broken(sets, index, *arguments, **options):
        if 9 in sets.molecule(index).numbers:
            raise RuntimeError("no convergence")
        return measure(sets, index, *arguments, **options)

    monkeypatch.setattr(evaluation, "measure_molecule", broken)
    options = Options(relax_steps=0, baselines=False)
    found = evaluate_conformers(provider, str(data), tmp_path, options)
    assert found["rows"] == found["methods"][MODEL][DRAWN]["molecules"] == 2
    assert found["remarks"]["molecules whose measurement ended with an error, left out"] == 1
    rows = [json.loads(path.read_text()) for path in (tmp_path / "rows").glob("*.json")]
    assert [row["error"] for row in rows if "error" in row] == ["RuntimeError: no convergence"]
    with monkeypatch.context() as mended:
        mended.setattr(evaluation, "measure_molecule", measure)
        assert evaluate_conformers(provider, str(data), tmp_path, options)["rows"] == 3
    monkeypatch.setattr(evaluation, "measure_molecule", lambda *_, **__: 1 / 0)
    with pytest.raises(DataError, match=r"No molecule could be measured; the first: .*: ZeroDivisionError"):
        evaluate_conformers(provider, str(data), tmp_path / "none", options)


def test_matching_distances_are_of_the_same_molecules():
    def row(smiles, **distances):
        at = {"recall": [1.0], "precision": [1.0], "made": 1, "wrong stereo": 0, "implausible": 0}
        methods = {
            name: {
                DRAWN: {**at, "recall_distance": distance, "precision_distance": distance},
                **{"asked": 1, "seconds": 1.0, "mirrored": 0},
            }
            for name, distance in distances.items()
        }
        return {"smiles": smiles, "stereo elements": 0, "methods": methods}

    rows = [row("A", ours=1.0, theirs=2.0, none=None), row("B", ours=9.0, theirs=None, none=None)]
    found = summarise(rows, (0.5,))
    told = {name: [found[name][DRAWN][what] for what in ("molecules in AMR", "AMR-R mean Å")] for name in found}
    assert told["ours"] == [1, 1.0]
    assert told["theirs"] == [1, 2.0]
    assert told["none"] == [0, pytest.approx(np.nan, nan_ok=True)]
    assert found["ours"][DRAWN]["molecules"] == 2


def test_differences_are_of_the_molecules_that_both_methods_have():
    def row(smiles, **found):
        values = {
            name: {DRAWN: {"recall": [share], "precision": [0.0], "recall_distance": far, "precision_distance": None}}
            for name, (share, far) in found.items()
        }
        return {
            "smiles": smiles,
            "methods": {{"ours": MODEL, "theirs": ETKDG}[name]: of for name, of in values.items()},
        }

    rows = [
        row("A", ours=(0.5, 0.1), theirs=(0.25, 0.4)),
        row("B", ours=(1.0, 0.3), theirs=(0.25, 0.4)),
        row("C", ours=(1.0, None), theirs=(0.5, 0.1)),
        row("D", ours=(0.0, 9.0)),
    ]
    (found,) = differences(rows, (0.5,))
    assert (found["stage"], found["of"], found["beside"]) == (DRAWN, MODEL, ETKDG)
    values = np.array([25, 75, 50])
    assert found["COV-R 0.5 Å %"] == pytest.approx(
        {"mean": 50, "standard error": values.std(ddof=1) / np.sqrt(3), "molecules": 3}
    )
    assert found["AMR-R Å"] == pytest.approx({"mean": -0.2, "standard error": 0.1, "molecules": 2})
    assert found["COV-P 0.5 Å %"] == pytest.approx({"mean": 0, "standard error": 0, "molecules": 3})
    assert found["AMR-P Å"]["molecules"] == 0
    assert np.isnan(found["AMR-P Å"]["mean"])


def test_errors_of_properties_are_of_the_same_molecules():
    def row(smiles, **energies):
        methods = {
            name: {
                DRAWN: {**NO_DISTANCE, "made": 1, "wrong stereo": 0, "implausible": 0},
                **{"asked": 1, "seconds": 1.0, "mirrored": 0},
                "properties": energy and dict.fromkeys(UNITS, energy),
            }
            for name, energy in energies.items()
        }
        properties = dict.fromkeys(UNITS, 1.0)
        return {"smiles": smiles, "stereo elements": 0, "properties": properties, "methods": methods}

    rows = [row("A", ours=2.0, theirs=1.5, none=None), row("B", ours=9.0, theirs=None, none=None)]
    found = summarise(rows, (0.5,))
    told = {name: [found[name][DRAWN].get(what) for what in ("ensembles", "dipole error D")] for name in found}
    assert told == {"ours": [1, 1.0], "theirs": [1, 0.5], "none": [None, None]}


NO_DISTANCE = {"recall": [0.0], "precision": [0.0], "recall_distance": None, "precision_distance": None}


def test_several_processes_measure_the_same(result, data, provider, tmp_path):
    found = evaluate_conformers(provider, str(data), tmp_path, Options(relax_steps=2, properties=1), workers=2)
    for name in (MODEL, ETKDG):
        for stage in (DRAWN, RELAXED):
            one, two = result[0]["methods"][name][stage], found["methods"][name][stage]
            assert without_times(two) == pytest.approx(without_times(one))


def test_of_many_references_there_are_not_twice_as_many_structures(data, provider, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_ASKED", 3)
    options = Options(relax_steps=0, baselines=False, molecules=1)
    evaluate_conformers(provider, str(data), tmp_path, options)
    (row,) = (json.loads(path.read_text()) for path in (tmp_path / "rows").glob("*.json"))
    assert (row["references"], row["asked"]) == (2, 3)
    assert row["methods"][MODEL]["asked"] == row["methods"][MODEL][DRAWN]["made"] == 3


def test_a_split_that_is_not_there(data, provider, tmp_path):
    with pytest.raises(DataError, match="No molecule has the split 'valid'; there are: test, train"):
        evaluate_conformers(provider, str(data), tmp_path, Options(split="valid"))


def test_command(data, provider, tmp_path):
    arguments = ["evaluate-conformers", str(provider.path), str(data), "--out", str(tmp_path), "--relax-steps", "0"]
    arguments += ["--device", "cpu"]
    done = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(app, [*arguments, "--molecules", "1"])
    assert done.exit_code == 0, done.output
    for words in ("1 molecules, cpu", "ETKDGv3", "plausible %", "evaluation.json", "100 (100)"):
        assert words in done.output


# Plausibility


def embedded(smiles: str, count: int) -> tuple[Plausibility, list[np.ndarray]]:
    molecule = parse(smiles)
    mol = Chem.Mol(molecule.mol)
    rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=2)
    return Plausibility(molecule), [conformer.GetPositions() for conformer in mol.GetConformers()]


@pytest.mark.parametrize(
    "smiles", ["c1ccccc1C=C", "CC(C)(C)C(=O)NC1CC1", "CC/C=C/CC(N)C", "C1CC1C#C", "CS(=O)(=O)c1cscn1"]
)
def test_structures_of_rdkit_are_plausible(smiles):
    expected, structures = embedded(smiles, 10)
    assert len(structures) == 10
    assert not any(expected.faults(positions) for positions in structures)


def test_every_fault_is_seen():
    expected, (styrene, *_) = embedded("c1ccccc1C=C", 1)
    longer = styrene.copy()
    longer[7] += 0.7 * (styrene[7] - styrene[6])  # the end of the double bond, without its hydrogens
    assert "bond lengths" in expected.faults(longer)
    bent = styrene.copy()
    bent[8] = bent[0] + 0.6 * (bent[1] - bent[0])  # a hydrogen on the way to the next carbon
    assert "bond angles" in expected.faults(bent)
    normal = np.cross(styrene[1] - styrene[0], styrene[2] - styrene[0])
    buckled = styrene.copy()
    buckled[3] += 0.6 * normal / np.linalg.norm(normal)
    assert expected.faults(buckled) == ["aromatic rings"]
    expected, (ethene, *_) = embedded("C=C", 1)
    axis = ethene[1] - ethene[0]
    axis /= np.linalg.norm(axis)
    twisted = ethene.copy()
    for hydrogen in (4, 5):
        arm = ethene[hydrogen] - ethene[1]
        twisted[hydrogen] = ethene[1] + arm @ np.outer(axis, axis) + np.cross(axis, arm)  # by 90 degrees
    assert expected.faults(twisted) == ["double bonds"]
    expected, (pentane, *_) = embedded("CCCCC", 1)
    folded = pentane.copy()
    folded[4] = folded[0] + 0.5
    assert "clashes" in expected.faults(folded)
    assert set(FAULTS) >= set(expected.faults(folded))


# Ensembles


def test_properties_of_an_ensemble_are_boltzmann_means():
    molecule = parse("OCCF")
    mol = Chem.Mol(molecule.mol)
    rdDistGeom.EmbedMultipleConfs(mol, 4, randomSeed=1)
    starts = [conformer.GetPositions() for conformer in mol.GetConformers()]
    singles = [found for start in starts if (found := nearest_minima(molecule, [start]).properties) is not None]
    energies = np.array([single["energy"] for single in singles])
    assert np.ptp(energies) > 0.5  # kcal/mol
    weights = np.exp((energies.min() - energies) / 0.592484)
    weights /= weights.sum()
    whole = nearest_minima(molecule, starts).properties
    assert whole is not None
    assert whole["lowest_energy"] == pytest.approx(energies.min(), abs=0.01)
    for name, within in (("energy", 0.01), ("dipole", 0.02), ("gap", 0.1)):
        assert whole[name] == pytest.approx(weights @ [single[name] for single in singles], abs=within)
    assert nearest_minima(molecule, []).properties is None


def test_minima_that_are_none_or_of_another_molecule_count_for_nothing(monkeypatch):
    molecule = parse("C[C@H](F)Cl")
    mol = Chem.Mol(molecule.mol)
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    start = mol.GetConformer().GetPositions()
    hydrogen = next(atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 1)
    torn = start.copy()
    torn[hydrogen] += 8 * (start[hydrogen] - start.mean(0))
    found = nearest_minima(molecule, [start, start * (1, 1, -1), torn])
    alone = nearest_minima(molecule, [start])
    assert found.properties == pytest.approx(alone.properties)
    assert sum(found.lost.values()) == 2
    assert alone.lost == {}
    monkeypatch.setattr("geomol_training.conformers.ensemble.STEPS", 1)
    stopped = nearest_minima(molecule, [start])
    assert stopped.properties is None
    assert stopped.lost == {"no minimum reached": 1}


def test_low_minima_that_no_reference_is_near_are_counted():
    molecule = parse("CCCC")
    mol = Chem.Mol(molecule.mol)
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    anti, gauche = Chem.Mol(mol).GetConformer(), Chem.Mol(mol).GetConformer()
    for conformer, degrees in ((anti, 180.0), (gauche, 65.0)):
        rdMolTransforms.SetDihedralDeg(conformer, 0, 1, 2, 3, degrees)
    shapes = np.array([anti.GetPositions(), gauche.GetPositions(), gauche.GetPositions()])
    ends = Minima(shapes, np.array([[0.03, 0, 0], [0.1, 0, 0], [0.5, 0, 0]]), {})
    symmetric = symmetry(molecule)
    known = Minima(shapes[:1], np.array([[0.0, 0, 0]]), {})
    assert evaluation._unknown(symmetric, known, ends, 0.1) == {"low minima": 2, "unknown minima": 1}
    assert evaluation._unknown(symmetric, known, ends, 2.0) == {"low minima": 2, "unknown minima": 0}
    assert evaluation._unknown(symmetric, Minima(shapes[:0], np.zeros((0, 3)), {}), ends, 0.1) == {}


def test_no_method_is_measured_on_its_lowest_structures_alone():
    structures = np.arange(100.0)[:, None, None] * np.ones((1, 2, 3))
    chosen = evaluation._some(structures, 0)[:, 0, 0]
    assert len(set(chosen)) == len(chosen) == 32
    assert 30 < chosen.mean() < 70
    assert np.array_equal(chosen, evaluation._some(structures, 0)[:, 0, 0])


@pytest.mark.parametrize(("smiles", "charge", "unpaired"), [("C[NH3+]", 1, 0), ("[O-]C=O", -1, 0), ("C[CH2]", 0, 1)])
def test_ensembles_of_ions_and_radicals(smiles, charge, unpaired):
    molecule = parse(smiles)
    mol = Chem.Mol(molecule.mol)
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    start = mol.GetConformer().GetPositions()
    found = nearest_minima(molecule, [start]).properties
    shifted = nearest_minima(molecule, [start + 7.0]).properties
    assert found is not None
    assert shifted is not None
    atoms = Atoms(molecule.numbers, start, calculator=GFN2(charge=charge, multiplicity=unpaired + 1))
    BFGS(atoms, logfile=None).run(fmax=0.03)
    engine = TBLite("GFN2-xTB", atoms.numbers, atoms.positions / units.Bohr, charge, unpaired)
    engine.set("verbosity", 0)
    expected = engine.singlepoint()
    assert found["energy"] * KCAL == pytest.approx(float(expected.get("energy")) * units.Hartree, abs=1e-3)
    assert found["dipole"] == pytest.approx(shifted["dipole"], abs=0.02)
    levels, occupations = expected.get("orbital-energies"), expected.get("orbital-occupations")
    gap = levels[occupations < 0.5].min() - levels[occupations > 0.5].max()
    assert found["gap"] * KCAL == pytest.approx(gap * units.Hartree, abs=0.02)
