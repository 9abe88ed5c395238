"""The provider of conformers: weights on disk, seeds, stereochemistry, limits; its networks are untrained."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from unit.small_ditmc import L_ALANINE, POSITIONS, network

from ase_geomol import (
    CheckpointError,
    ConfigError,
    ConformerProvider,
    GeoMolCalculator,
    InputError,
    PropertyPredictor,
    ProviderError,
    RDKitProvider,
    checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ase_geomol.checkpoint import Metadata, load_any, load_conformers, register, shipped_models
from ase_geomol.models.ditmc import ConformerFlow, FlowForm, Sampler
from ase_geomol.providers.molecules import parse

METADATA = Metadata(
    name="tiny",
    theory="none: random weights",
    training_data="none",
    charges=(-1, 0, 1),
    errors={"GEOM-QM9 AMR-R, Å": 9.0},
)
FORM = FlowForm(
    prior="gaussian",
    noise=0.25,
    output="correction",
    spread=1.2,
    sampler=Sampler(steps=4, schedule="logarithmic", solver="heun"),
)


def save(path: Path, positions: str = "absolute", form: FlowForm = FORM) -> Path:
    save_checkpoint(path, ConformerFlow(network(positions, dtype=torch.float32), form), METADATA)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def provider(weights) -> ConformerProvider:
    return ConformerProvider(weights, device="cpu")


def draw(provider: ConformerProvider, smiles: str = L_ALANINE, n: int = 1, **options):
    """Structures of an untrained network, which no check would pass."""
    return provider.sample(smiles, n, checks=(), **options)


# Weights


@pytest.mark.parametrize("positions", POSITIONS)
def test_what_is_saved_is_loaded(tmp_path, positions):
    path = save(tmp_path / "tiny.safetensors", positions)
    loaded = load_conformers(path)
    assert loaded.metadata == METADATA
    assert loaded.flow.form == FORM
    assert loaded.flow.dtype == torch.float32
    assert not loaded.flow.training
    saved = network(positions, dtype=torch.float32)
    assert loaded.flow.model.config == saved.config
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.flow.model.state_dict()[name], tensor), name


def test_what_the_structures_depend_on_is_in_the_fingerprint(tmp_path):
    one = load_conformers(save(tmp_path / "a")).fingerprint
    assert load_conformers(save(tmp_path / "b")).fingerprint == one
    other = FORM.model_copy(update={"prior": "harmonic"})
    assert load_conformers(save(tmp_path / "c", form=other)).fingerprint != one


def test_a_file_of_another_kind_is_named(weights, checkpoint):
    for load in (load_checkpoint, load_any, GeoMolCalculator, PropertyPredictor):
        with pytest.raises(CheckpointError, match=r"draws conformers .* use it with ConformerProvider"):
            load(weights)
    with pytest.raises(CheckpointError, match="holds a potential: use it with GeoMolCalculator"):
        ConformerProvider(checkpoint)


def test_a_name_without_weights():
    with pytest.raises(CheckpointError, match=r"'ditmc-huge' is neither a shipped conformer model \(.*\) nor a file"):
        ConformerProvider("ditmc-huge")


def test_shipped_conformers_stand_beside_potentials(tmp_path, monkeypatch, weights, make_potential):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    (tmp_path / "tiny.safetensors").write_bytes(weights.read_bytes())
    save_checkpoint(tmp_path / "p.safetensors", make_potential(), Metadata(name="p", theory="none", training_data="n"))
    for name in ("tiny", "p"):
        (tmp_path / f"{name}.md").write_text("# card\n")
        register(tmp_path / f"{name}.safetensors")
    listed = shipped_models()
    assert {name: one.kind for name, one in listed.items()} == {"tiny": "conformer model", "p": "potential"}
    assert listed["tiny"].cutoff is None
    assert ConformerProvider("tiny").metadata == METADATA
    with pytest.raises(CheckpointError, match=r"neither a shipped potential \(p\) nor"):
        load_checkpoint("tin")
    with pytest.raises(CheckpointError, match=r"neither a shipped conformer model \(tiny\) nor"):
        ConformerProvider("tin")


# Drawing


def test_what_a_structure_says_of_itself(provider):
    atoms = draw(provider)[0]
    assert atoms.get_chemical_formula() == "C3H7NO2"
    assert atoms.info["provider"] == "ditmc"
    assert atoms.info["model_version"] == provider.version
    assert "4 logarithmic heun steps" in provider.version
    assert atoms.info["evaluations"] == 7
    assert not atoms.info["mirrored"]
    assert np.abs(atoms.positions.mean(0)).max() < 1e-5


def test_structures_do_not_depend_on_how_many_are_asked_for(provider):
    few, many = draw(provider, n=3, seed=5), draw(provider, n=40, seed=5)
    again = draw(provider, n=40, seed=5)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(many, again, strict=True))
    for a, b in zip(few, many[:3], strict=True):
        assert np.abs(a.positions - b.positions).max() < 1e-4
    assert np.abs(many[0].positions - many[1].positions).max() > 0.01
    assert np.abs(many[0].positions - draw(provider, seed=6)[0].positions).max() > 0.01


def test_graphs_are_encoded_once_for_a_molecule(weights, monkeypatch):
    provider, encoded = ConformerProvider(weights, device="cpu"), []
    encode = provider._flow.model.encode
    monkeypatch.setattr(provider._flow.model, "encode", lambda graphs: encoded.append(graphs) or encode(graphs))
    monkeypatch.setattr("ase_geomol.providers.conformers.PAIRS", {"cpu": 500})
    molecule = parse(L_ALANINE)
    assert provider.at_once(molecule) == 500 // 13**2
    with pytest.raises(ProviderError):
        provider.sample(molecule.mol, 10, attempts=2)  # several shares, and each drawn again
    assert len(encoded) == 1
    draw(provider, "CCO", n=20)
    assert [graphs.numbers.shape[1] for graphs in encoded] == [13, 9]


def test_precisions_agree(weights):
    options = {"device": "cpu", "steps": 10}
    single, double = (draw(ConformerProvider(weights, dtype=d, **options))[0] for d in ("float32", "float64"))
    assert np.abs(single.positions - double.positions).max() < 1e-3
    assert not np.array_equal(single.positions, double.positions)


def test_options_of_the_sampler(weights):
    fast = ConformerProvider(weights, steps=2, solver="euler")
    assert fast.sampler == Sampler(steps=2, schedule="logarithmic", solver="euler")
    assert draw(fast)[0].info["evaluations"] == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps is 0: .* greater than or equal to 1"),
        ({"schedule": "late"}, "schedule is 'late'"),
        ({"solver": 4}, "solver is 4"),
        ({"dtype": "half"}, "dtype is 'half'"),
        ({"device": "abacus"}, "device is 'abacus'"),
    ],
)
def test_options_that_make_no_sense(weights, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ConformerProvider(weights, **options)


@pytest.mark.parametrize(
    "smiles", ["[Cl-]", "[H][H]", "C[N+](C)(C)CC([O-])=O", "C[CH2]", "[2H]C([2H])([2H])[2H]", "C#C", "C" * 60]
)
def test_unusual_molecules(provider, smiles):
    molecule = parse(smiles)
    atoms = draw(provider, smiles)[0]
    assert np.array_equal(atoms.numbers, molecule.numbers)
    assert np.isfinite(atoms.positions).all()
    assert atoms.info["charge"] == molecule.charge


@pytest.mark.parametrize(
    ("smiles", "sentence"),
    [
        ("*C", "place holder"),
        ("[Na+].[Cl-]", "2 separate molecules"),
        ("C[Se]C", "Atom 1 is Se, which this provider does not know: H B C"),
        ("C" * 120, "has 362 atoms; this provider makes up to 300"),
        ("N->B", "dative"),
    ],
)
def test_what_is_refused(provider, smiles, sentence):
    with pytest.raises(InputError, match=sentence):
        draw(provider, smiles)


def test_a_fallback_makes_what_the_network_does_not_know(weights):
    both = ConformerProvider(weights, device="cpu", fallback=RDKitProvider())
    (selenide,) = both.sample("C[Se]C")
    assert selenide.info["provider"] == "rdkit"
    assert selenide.info["model_version"] == both.fallback.version
    (dative,) = both.sample("N->B")
    assert dative.info["provider"] == "rdkit"
    with pytest.raises(InputError, match="dative"):
        ConformerProvider(weights, device="cpu").sample("N->B")
    assert draw(both)[0].info["provider"] == "ditmc"
    with pytest.raises(InputError, match="up to 1000"):
        both.sample("C" * 400)


def test_a_fallback_makes_what_the_network_fails_at(weights):
    """An untrained network, whose structures pass no check."""
    both = ConformerProvider(weights, device="cpu", fallback=RDKitProvider())
    ensemble = both.sample("CCCO", 12, attempts=2)
    assert {atoms.info["provider"] for atoms in ensemble} == {"rdkit"}
    assert sum(ensemble.failures.values()) == 24
    assert ensemble.remarks == "12 of 12 structures were made by rdkit."
    assert all(
        (a.positions == b.positions).all()
        for a, b in zip(both.sample("CCCO", 2, attempts=2), ensemble[:2], strict=True)
    )
    with pytest.raises(ProviderError):
        ConformerProvider(weights, device="cpu").sample("CCCO", 2)


def test_the_time_limit_ends_between_evaluations(provider, monkeypatch):
    """It passes while the network is at work: the share under way is lost, what was drawn before is not."""
    clock = iter([0.0] * (2 + 7) + [99.0] * 99)
    monkeypatch.setattr("ase_geomol.providers.conformers.PAIRS", {"cpu": 1})
    monkeypatch.setattr("ase_geomol.providers.conformers.time.monotonic", lambda: next(clock))
    candidates = list(provider.draw(parse("C"), [1, 2, 3], deadline=50.0))
    assert [isinstance(candidate, str) for candidate in candidates] == [False, True, True]
    assert candidates[1:] == ["time limit"] * 2


def test_large_molecules_keep_their_time(weights):
    """212 atoms."""
    few = ConformerProvider(weights, device="cpu", steps=2)
    (atoms,) = draw(few, "C" * 70, time_limit=100)
    assert len(atoms) == 212
    assert np.isfinite(atoms.positions).all()
    many = ConformerProvider(weights, device="cpu", steps=1000)
    begin = time.monotonic()
    with pytest.raises(ProviderError, match="time limit: 50"):
        draw(many, "C" * 70, n=50, time_limit=1)
    assert time.monotonic() - begin < 10


def test_structures_that_fail_their_checks_are_counted(provider):
    with pytest.raises(ProviderError, match="There is no structure"):
        provider.sample("CCO", 2, attempts=2)


# Many molecules


LINES = ("CCO", L_ALANINE, "no molecule", "CC(C)CC(=O)OC", "[Pt]", "O", "C" * 20)


@pytest.fixture
def passes(weights, monkeypatch) -> tuple[ConformerProvider, list[tuple[int, int]]]:
    """A provider, and how many molecules and structures each pass of its network had."""
    provider, seen = ConformerProvider(weights, device="cpu"), []
    sampled = provider._sampled

    def counted(graphs, noise, *arguments):
        seen.append(tuple(noise.shape[:2]))
        return sampled(graphs, noise, *arguments)

    monkeypatch.setattr(provider, "_sampled", counted)
    return provider, seen


def test_small_molecules_are_drawn_together_and_are_the_same(passes, provider):
    many, seen = passes
    found = list(many.sample_many(LINES, 2, seed=5, checks=()))
    assert seen == [(2, 2), (1, 2), (1, 2), (1, 1), (1, 1)]  # errors and large molecules stand between
    refused = [smiles in ("no molecule", "[Pt]") for smiles in LINES]
    assert [isinstance(result, InputError) for result in found] == refused
    for smiles, result in zip(LINES, found, strict=True):
        if isinstance(result, Exception):
            with pytest.raises(type(result), match=re.escape(str(result))):
                draw(provider, smiles, 2, seed=5)
            continue
        assert [atoms.info["index"] for atoms in result] == [0, 1]
        for one, two in zip(draw(provider, smiles, 2, seed=5), result, strict=True):
            np.testing.assert_allclose(one.positions, two.positions, rtol=0, atol=1e-4)
            assert one.info["smiles"] == two.info["smiles"]


@pytest.mark.parametrize("failure", [TimeoutError(), ZeroDivisionError("oh"), RuntimeError("out of memory")])
def test_what_fails_together_is_drawn_alone_in_the_time_that_is_left(passes, monkeypatch, failure):
    many, seen = passes
    sampled, deadlines = many._sampled, []

    def fails(graphs, noise, deadline, *rest):
        deadlines.append(deadline - begin)
        found = sampled(graphs, noise, deadline, *rest)
        if noise.shape[0] > 1:
            raise failure
        return found

    monkeypatch.setattr(many, "_sampled", fails)
    begin = time.monotonic()
    found = list(many.sample_many(["CCO", "CCC"], checks=(), time_limit=1000.0))
    assert [type(result).__name__ for result in found] == ["Ensemble", "Ensemble"]
    assert [size for size, _ in seen] == [2, 1, 1]
    assert deadlines[0] == pytest.approx(500, abs=1)
    assert all(500 <= deadline <= 1000 + time.monotonic() - begin for deadline in deadlines[1:])


def test_an_unexpected_error_of_one_molecule_is_not_the_end_of_all(passes, monkeypatch):
    many, _ = passes
    check = many.check

    def fails(molecule):
        if 9 in molecule.numbers:
            raise ZeroDivisionError("oh")
        check(molecule)

    monkeypatch.setattr(many, "check", fails)
    found = list(many.sample_many(["CCO", "CF", "CCC"], checks=()))
    assert [type(result).__name__ for result in found] == ["Ensemble", "ZeroDivisionError", "Ensemble"]


def test_many_molecules_of_a_provider_that_draws_them_alone():
    found = list(RDKitProvider().sample_many(["CCO", "C.C", "O"], 2, rank=False))
    assert [len(result) if isinstance(result, list) else type(result) for result in found] == [2, InputError, 2]
    with pytest.raises(ConfigError, match="n is 0"):
        next(RDKitProvider().sample_many(["CCO"], 0))
    with pytest.raises(ConfigError, match="Ranking and an energy window need energies"):
        list(RDKitProvider().sample_many(["CCO"], rank=True))


# Stereochemistry: what the network draws is put in by hand

THREONINE = "C[C@@H](O)[C@H](N)C(=O)O"
ALLOTHREONINE = "C[C@H](O)[C@H](N)C(=O)O"


def coordinates(smiles: str) -> np.ndarray:
    mol = parse(smiles).mol
    conformer = Chem.Mol(mol)
    assert rdDistGeom.EmbedMolecule(conformer, randomSeed=2) == 0
    return conformer.GetConformer().GetPositions()


def drawing(provider: ConformerProvider, monkeypatch: pytest.MonkeyPatch, *structures: np.ndarray) -> None:
    """Let the network draw these structures in turn."""
    stream = iter(structures)
    monkeypatch.setattr(
        provider, "_positions", lambda molecule, seeds, deadline: np.array([next(stream) for _ in seeds])
    )


def test_a_mirror_image_is_reflected(provider, monkeypatch):
    right = coordinates(THREONINE)
    drawing(provider, monkeypatch, right * [1, -1, 1], right)
    inverted, plain = provider.sample(THREONINE, 2, attempts=1)
    assert [a.info["mirrored"] for a in (inverted, plain)] == [True, False]
    np.testing.assert_allclose(plain.positions, right)
    np.testing.assert_allclose(
        np.linalg.norm(inverted.positions[:, None] - inverted.positions, axis=-1),
        np.linalg.norm(right[:, None] - right, axis=-1),
    )


def test_a_molecule_without_centres_is_never_reflected(provider, monkeypatch):
    anti = coordinates("CC(O)CC")
    drawing(provider, monkeypatch, anti * [1, -1, 1])
    (atoms,) = provider.sample("CC(O)CC", 1)
    assert not atoms.info["mirrored"]
    np.testing.assert_allclose(atoms.positions, anti * [1, -1, 1])


def test_a_diastereomer_is_drawn_again(provider, monkeypatch):
    wrong, right = coordinates(ALLOTHREONINE), coordinates(THREONINE)
    drawing(provider, monkeypatch, wrong, wrong, right)
    ensemble = provider.sample(THREONINE, 1)
    np.testing.assert_allclose(ensemble[0].positions, right)
    assert ensemble.failures == {"wrong stereochemistry": 2}


def test_a_wrong_double_bond_is_no_reason_to_reflect(provider, monkeypatch):
    """E and Z are each their own mirror image."""
    smiles = "C/C=C/[C@H](F)Cl"
    drawing(provider, monkeypatch, *[coordinates(r"C/C=C\[C@@H](F)Cl")] * 4)
    with pytest.raises(ProviderError) as caught:
        provider.sample(smiles, 1)
    assert caught.value.failures == {"wrong stereochemistry": 4}


def test_rdkit_structures_are_never_taken_for_wrong(provider, monkeypatch):
    """No false alarm in structures that RDKit itself made, with all kinds of stereochemistry."""
    smiles = [L_ALANINE, THREONINE, "C[C@H]1CC[C@@H](C)CC1", "C[S@](=O)c1ccccc1", r"C/C=C\C", "O[C@H](C)[C@@H](C)O"]
    for one in smiles:
        for atoms in RDKitProvider(force_field=None).sample(one, 5, checks=()):
            drawing(provider, monkeypatch, atoms.positions)
            (same,) = provider.sample(one, 1, attempts=1)
            assert not same.info["mirrored"]
