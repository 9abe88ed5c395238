"""What the benchmarks of speed and memory stand on."""

from __future__ import annotations

import importlib
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from benchmarks import _clock, _operations, _peers, _structures, _timing

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.graph import collate, edge_vectors, from_atoms

BENCHMARKS = Path(_timing.__file__).parent
PEER = f"""
import sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
from _timing import serve
print("libraries are chatty")
serve({{"four": lambda: 4.0, "sleep": lambda: time.sleep(60), "end": lambda: sys.exit(1)}}, {{"threads": 1}})
"""


@pytest.fixture
def peer(tmp_path: Path):
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    started = _peers.Peer(sys.executable, script)
    yield started
    started.stop()


@pytest.mark.parametrize("atoms", [64, 128, 512, 4096])
def test_liquid_has_its_density_and_no_close_contacts(atoms: int) -> None:
    box = _structures.liquid(atoms)
    assert len(box) == atoms
    assert box.get_masses().sum() / 0.602214 / box.get_volume() == pytest.approx(1.049, rel=1e-6)
    first, second, distance = neighbor_list("ijd", box, 3.0)
    assert distance[first // 8 != second // 8].min() > 2.0
    assert np.array_equal(box.positions, _structures.liquid(atoms).positions)


def test_liquid_comes_in_doublings_of_64() -> None:
    with pytest.raises(ValueError, match="100 atoms"):
        _structures.liquid(100)


def test_peptide_grows_by_ten_atoms() -> None:
    assert [len(_structures.peptide(n)) for n in (1, 3)] == [22, 42]


def test_turns_alternate() -> None:
    order: list[str] = []

    def turn(name: str, seconds: float):
        return lambda: order.append(name) or seconds

    assert _timing.time_in_turns({"a": turn("a", 1.0), "b": turn("b", 2.0)}, rounds=3) == {"a": 1.0, "b": 2.0}
    assert order == ["a", "b"] * 3


def test_timed_warms_up_and_measures_at_least_once() -> None:
    calls: list[float] = []
    assert _timing.timed(lambda: calls.append(time.sleep(0.02) or 0.0), seconds=0) >= 0.02  # type: ignore[func-returns-value]
    assert len(calls) == 2


def test_peer_tells_about_itself_and_answers(peer: _peers.Peer) -> None:
    assert peer.ask("four") == 4.0
    assert peer.about == {"threads": 1}


def test_peer_goes_on_after_an_error(peer: _peers.Peer) -> None:
    with pytest.raises(_peers.PeerError, match="KeyError: 'five'"):
        peer.ask("five")
    assert peer.ask("four") == 4.0


def test_peer_starts_anew_when_it_took_too_long_or_ended(peer: _peers.Peer) -> None:
    peer.start()
    with pytest.raises(_peers.PeerError, match=r"no answer within 0\.1 s"):
        peer.ask("sleep", limit=0.1)
    with pytest.raises(_peers.PeerError, match="ended"):
        peer.ask("end")
    assert peer.ask("four") == 4.0


def test_missing_peers_are_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = _peers.Package("SevenNet-0", "_peer_sevennet.py", "sevenn==0.13.0")
    peers = _peers.Peers()
    assert peers.start(package) is None
    assert "--environments" in peers.left_out[0]
    monkeypatch.setattr(_peers.sys, "executable", "false")
    peers = _peers.Peers(tmp_path)
    assert peers.start(package) is None
    assert "'-m venv" in peers.left_out[0]
    assert "failed" in peers.left_out[0]


OPTIONS = {
    "shipped form": {},
    "smaller": {"query_products": False, "quadrupole": False, "centrality": False},
    "paper's bias": {"radial_channels": 7, "attention_norm": "softmax"},
    "without parts": {"without": ["equivariant_self", "invariant_ffn", "structural_bias"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("names", [["ethanol"], ["bulk"], ["ethanol", "water_dimer"]], ids=" and ".join)
def test_operations_are_those_that_torch_counts(
    make_potential, make_structure, options: dict, names: list[str]
) -> None:
    potential = make_potential(seed=0, **options)
    graph = collate([from_atoms(make_structure(name), potential.cutoff) for name in names])
    counted = _operations.of_potential(potential, graph)
    vectors = edge_vectors(graph, graph.positions, graph.cell)
    one_energy = lambda: potential.model(graph.numbers, graph.system, graph.edge_index, vectors)  # noqa: E731
    assert counted.energy == _operations.counted_by_torch(one_energy)

    def training_step() -> None:
        prediction = potential(graph)
        (prediction.energy.sum() + prediction.forces.square().sum()).backward()

    tolerance = 0.002 if options.get("centrality", True) else 0.02
    by_torch = _operations.counted_by_torch(lambda: potential(graph))
    assert by_torch == pytest.approx(counted.energy_and_forces, rel=tolerance)
    potential.train()
    assert _operations.counted_by_torch(training_step) == pytest.approx(counted.training_step, rel=tolerance)


def test_useful_operations_leave_out_empty_slots(make_potential, make_structure) -> None:
    potential = make_potential(seed=0)
    alone = from_atoms(make_structure("ethanol"), potential.cutoff)
    together = collate([alone, from_atoms(make_structure("water_dimer"), potential.cutoff)])
    added = _operations.useful(potential, together).energy - _operations.useful(potential, alone).energy
    other = _operations.useful(potential, from_atoms(make_structure("water_dimer"), potential.cutoff)).energy
    assert added == other
    assert _operations.useful(potential, together).energy < _operations.of_potential(potential, together).energy


def test_clock_gives_time_to_the_innermost_part() -> None:
    program = SimpleNamespace(sleep=lambda: time.sleep(0.05))
    program.loop = lambda: (time.sleep(0.1), program.sleep())
    program.all = lambda: (program.sleep(), program.loop())
    clock = _clock.Clock(loop="loop", outside="outside")
    with ExitStack() as stack:
        for name, part in {"all": "outside", "loop": "loop", "sleep": "sleep"}.items():
            stack.enter_context(clock.around(program, name, part))
        start = time.perf_counter()
        program.all()
        total = time.perf_counter() - start
    assert clock.seconds["outside"] >= 0.05
    assert clock.seconds["loop"] >= 0.1
    assert clock.seconds["sleep"] >= 0.05
    assert sum(clock.seconds.values()) == pytest.approx(total, abs=0.02)
    assert not hasattr(program.sleep, "__wrapped__")


def test_crossing_is_where_all_larger_molecules_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    speed = importlib.import_module("speed")
    ratios = {9: 2.0, 21: 0.9, 40: 1.1, 60: 0.8, 100: 0.5}
    rows = [{"structure": "molecule", "atoms": n, "ours / GFN2-xTB": ratio} for n, ratio in ratios.items()]
    rows += [{"structure": "liquid", "atoms": 512, "ours / GFN2-xTB": None}]
    assert speed._crossing(rows) == 60
    assert speed._crossing(rows[:3]) is None


def test_exponents_need_two_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    exponent = importlib.import_module("scaling").exponent
    rows = [{"atoms": n, "ms": 0.1 * n**1.5, "memory MB": 0.0 if n < 256 else 1.0 * n} for n in (64, 128, 256, 512)]
    assert exponent(rows, "ms") == pytest.approx(1.5)
    assert exponent(rows, "memory MB") == pytest.approx(1.0)  # what is not above zero says nothing
    assert exponent(rows[:3], "memory MB") is None
    assert exponent([], "ms") is None


def test_a_recipe_step_learns_and_averages(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    training = importlib.import_module("_training")
    potential = load_checkpoint(checkpoint).potential
    before = [parameter.detach().clone() for parameter in potential.parameters()]
    training.recipe_step(potential, training.training_batch(str(checkpoint), structures=1))()
    moved = [
        float((after.detach() - old).abs().max()) for after, old in zip(potential.parameters(), before, strict=True)
    ]
    assert 0 < max(moved) < 1e-3


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The frame of all benchmarks, writing below a temporary folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("_frame")
    monkeypatch.setattr(found, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(found, "FOLDER", tmp_path / "runs")
    return found


def test_a_result_is_not_replaced_by_less(frame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, partial = tmp_path / "results/speed.json", tmp_path / "runs/speed/partial.json"

    def kept(path: Path) -> dict:
        return json.loads(path.read_text())

    frame.keep("speed", {"peers": {"GFN2-xTB": {}}, "rows": [1]}, complete=True)
    frame.keep("speed", {"peers": {"GFN2-xTB": {}, "SevenNet-0": {}}, "rows": [2]}, complete=True)
    assert kept(result)["rows"] == [2]
    assert not partial.exists()
    frame.keep("speed", {"peers": {"GFN2-xTB": {}}, "rows": [3]}, complete=True)
    assert "Without SevenNet-0" in capsys.readouterr().err
    assert (kept(result)["rows"], kept(partial)["rows"], kept(partial)["complete"]) == ([2], [3], False)
    frame.keep("speed", {"peers": {"GFN2-xTB": {}, "SevenNet-0": {}}, "rows": [4]}, complete=False)
    assert "Interrupted" in capsys.readouterr().err
    assert (kept(result)["rows"], kept(partial)["rows"]) == ([2], [4])


@pytest.mark.parametrize("rows", [[], [{"atoms": 1}]])
def test_an_interrupt_ends_a_benchmark_with_a_sentence(
    frame, rows: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed.py"])
    monkeypatch.setattr(frame, "_use_threads", lambda threads: None)
    with pytest.raises(SystemExit) as end:
        frame.answer("Why?", lambda smoke: frame.Answer(rows, {}, complete=False))
    assert end.value.code == 130
    assert ("nothing new was kept" in capsys.readouterr().err) == (not rows)
    assert (tmp_path / "runs/speed/partial.json").exists() == bool(rows)
    assert not (tmp_path / "results").exists()


def test_an_update_without_its_savings_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `layers` times as "without" computes what the code computes."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    layers = importlib.import_module("layers")
    torch.manual_seed(0)
    experts = layers._experts(layers.FEW, spherical_experts=4).double()
    x, weights = torch.randn(3, 9, 64).double(), torch.rand(3, 4).double()
    plain = experts(x, weights)
    for at_points in (False, True):
        assert torch.allclose(layers._one_by_one(experts, x, weights, at_points), plain, atol=1e-12)
    assert plain.abs().max() > 0.1
