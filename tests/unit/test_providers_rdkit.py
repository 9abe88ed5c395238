"""RDKit's conformers, and the process that makes them: it can be stopped, it can crash, it never hangs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

import ase_geomol
from ase_geomol import RDKitProvider
from ase_geomol.errors import ConfigError, InputError, ProviderError
from ase_geomol.providers import _embed
from ase_geomol.providers._embed import GRACE
from ase_geomol.providers.worker import Worker

MADE = {
    "charged": "C[N+](C)(C)CC(=O)[O-]",
    "radical": "C[CH]C",
    "isotopes": "[13CH3]C([2H])O",
    "one atom": "[Na+]",
    "proton": "[H+]",
    "hydrogen": "[H][H]",
    "cubane": "C12C3C4C1C5C2C3C45",
    "propellane": "C123C(C1)(C2)C3",
    "cyclopropyne": "C1#CC1",
    "hypervalent": "FS(F)(F)(F)(F)F",
    "metal": "[CH3][Zn][CH3]",
    "ring of 14": "C1CCCCCCCCCCCCC1",
    "resists most starts": "CC1CN2C3CC12C=C3",
}
REFUSED = {
    "salt": ("CC(=O)[O-].[Na+]", "2 separate molecules"),
    "dummy": ("*CC", "place holder"),
    "unknown element": ("[Xx]", "cannot be understood"),
    "garbage": ("garbage", "cannot be understood"),
    "1202 atoms": ("C" * 400, "has 1202 atoms; this provider makes up to 1000"),
    "strained cage": ("C1CC23CC4(COC24)N13", "There is no structure of .* .(no embedding found|time limit): "),
}


@pytest.fixture(scope="module")
def rdkit() -> RDKitProvider:
    return RDKitProvider()


@pytest.mark.parametrize("name", MADE)
def test_nasty_molecules_that_are_made(name, rdkit):
    (atoms,) = rdkit.sample(MADE[name], checks=("stereo",), time_limit=20)
    assert np.isfinite(atoms.positions).all()
    assert atoms.info["smiles"] == MADE[name]


@pytest.mark.parametrize("name", REFUSED)
def test_nasty_molecules_that_end_as_a_sentence(name, rdkit):
    smiles, message = REFUSED[name]
    begin = time.monotonic()
    with pytest.raises((InputError, ProviderError), match=message) as caught:
        rdkit.sample(smiles, time_limit=2)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 4


def test_force_field_is_named():
    assert RDKitProvider().sample("CCO")[0].info["method"] == "ETKDGv3, MMFF94s"
    assert RDKitProvider(None).sample("CCO")[0].info["method"] == "ETKDGv3, no force field"
    boron = RDKitProvider("MMFF94").sample("CB(O)O")[0].info
    assert boron["method"] == "ETKDGv3, UFF (MMFF94 lacks parameters)"
    assert boron["model_version"].endswith("MMFF94")
    with pytest.raises(ConfigError, match="MMFF95"):
        RDKitProvider("MMFF95")  # type: ignore[arg-type]


def test_the_time_limit_holds_inside_rdkit(rdkit):
    rdkit.sample("C")  # the process runs
    begin = time.monotonic()
    with pytest.raises(ProviderError, match="time limit: 3") as caught:
        rdkit.sample("C" * 300, 3, time_limit=0.5)  # takes minutes
    assert time.monotonic() - begin < 1.5
    assert caught.value.failures == {"time limit": 3}
    assert len(rdkit.sample("CC", 2)) == 2


def test_the_start_of_the_process_does_not_count(tmp_path):
    """Nor where it takes longer than the limit."""
    slow = tmp_path / "_embed.py"
    slow.write_text(f"import runpy, time; time.sleep(2); runpy.run_path({_embed.__file__!r}, run_name='__main__')\n")
    rdkit = RDKitProvider()
    rdkit._worker = Worker(slow)
    assert len(rdkit.sample("C", time_limit=1.0)) == 1


def test_nor_does_it_count_for_another_thread(tmp_path):
    slow = tmp_path / "_embed.py"
    slow.write_text(f"import runpy, time; time.sleep(2); runpy.run_path({_embed.__file__!r}, run_name='__main__')\n")
    rdkit = RDKitProvider()
    rdkit._worker = Worker(slow)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda smiles: rdkit.sample(smiles, time_limit=1.5), ["C", "CC"])
    assert len(first) == len(second) == 1


def test_the_time_limit_is_over_with_the_request():
    rdkit = RDKitProvider()
    rdkit.sample("C")  # the process runs
    before = rdkit.sample("CCCO", time_limit=0.5)
    process = rdkit._worker._process
    assert process is not None
    with pytest.raises(subprocess.TimeoutExpired):  # the alarm would ring within this
        process.wait(0.5 + GRACE + 0.3)
    after = rdkit.sample("CCCO", time_limit=0.5)
    assert not after.failures
    np.testing.assert_array_equal(after[0].positions, before[0].positions)


def test_two_providers_make_the_same(rdkit):
    copied = pickle.loads(pickle.dumps(RDKitProvider()))
    for first, second in zip(rdkit.sample("CCCO", 3, seed=4), copied.sample("CCCO", 3, seed=4), strict=True):
        np.testing.assert_array_equal(first.positions, second.positions)


def test_an_rdkit_molecule_is_not_changed(rdkit):
    mol = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    before = mol.ToBinary()
    rdkit.sample(mol)
    assert mol.ToBinary() == before


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    time.sleep(asked.get('sleep', 0))\n"
        "    if asked.get('crash'):\n"
        "        os.abort()\n"
        "    print(json.dumps({'answer': asked.get('value'), 'pid': os.getpid()}), flush=True)\n"
    )
    return Worker(script)


def test_a_worker_is_killed_at_the_deadline(worker):
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        worker.ask({"sleep": 60}, begin + 0.3)
    assert time.monotonic() - begin < 1.5
    assert worker.ask({"value": 7}, np.inf)["answer"] == 7


def test_a_worker_that_is_busy_for_another_thread_is_not_waited_for_beyond_the_deadline(worker):
    own, answers = worker.ask({}, np.inf)["pid"], []
    busy = threading.Thread(target=lambda: answers.append(worker.ask({"value": 1, "sleep": 1.5}, np.inf)))
    busy.start()
    time.sleep(0.2)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        worker.ask({}, begin + 0.3)
    assert time.monotonic() - begin < 0.8
    busy.join()
    assert answers == [{"answer": 1, "pid": own}]
    assert worker.ask({}, np.inf)["pid"] == own


def test_a_worker_survives_a_crash_of_its_process(worker):
    first = worker.ask({}, np.inf)["pid"]
    assert worker.ask({}, np.inf)["pid"] == first
    with pytest.raises(ChildProcessError, match="status -6"):
        worker.ask({"crash": True}, np.inf)
    assert worker.ask({}, np.inf)["pid"] != first


def test_a_process_that_ended_between_questions_is_replaced(worker):
    first = worker.ask({}, np.inf)["pid"]
    os.kill(first, signal.SIGKILL)
    assert _ends(first, seconds=5)
    assert worker.ask({"value": 3}, np.inf)["answer"] == 3


def test_forked_processes_have_processes_of_their_own(worker):
    """As in multiprocessing.Pool with a provider that is global: no answer goes to another's question."""
    context = multiprocessing.get_context("fork")
    own, told, answers = worker.ask({}, np.inf)["pid"], context.Queue(), []

    def ask(value: int) -> None:
        answer = worker.ask({"value": value, "sleep": 0.1}, time.monotonic() + 10)
        worker.stop()
        told.put((value, answer["answer"], answer["pid"]))

    busy = threading.Thread(target=lambda: answers.append(worker.ask({"value": "mine", "sleep": 1}, np.inf)))
    busy.start()
    time.sleep(0.2)
    children = [context.Process(target=ask, args=(value,), daemon=True) for value in range(3)]
    for child in children:
        child.start()
    found = [told.get(timeout=15) for _ in children]
    busy.join()
    assert answers == [{"answer": "mine", "pid": own}]
    assert all(heard == value for value, heard, _ in found)
    assert len({own}.union(process for _, _, process in found)) == 4
    assert worker.ask({}, np.inf)["pid"] == own


@pytest.fixture
def ctrl_c():
    """SIGINT raises KeyboardInterrupt, even where the tests run in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_worker_gives_no_stale_answer(worker, ctrl_c):
    worker.ask({}, np.inf)
    threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,)).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        worker.ask({"sleep": 60, "value": "late"}, np.inf)
    assert time.monotonic() - begin < 2
    assert worker.ask({"value": "new"}, np.inf)["answer"] == "new"


def test_the_process_ends_with_its_owner():
    """Also when the owner is killed while the process works."""
    program = (
        "import sys, threading, time; from ase_geomol import RDKitProvider; p = RDKitProvider(); p.sample('C');"
        "print(p._worker._process.pid, flush=True);"
        "{}"
    )
    hang = "p.sample('C' * 300, time_limit=1)"
    for last, kill in (("pass", False), (hang, True)):
        owner = subprocess.Popen(
            [sys.executable, "-c", program.format(last)],
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        if kill:
            time.sleep(0.3)
            owner.kill()
        owner.wait()
        owner.stdout.close()
        assert _ends(child, seconds=6)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(ase_geomol.__file__).parents[1])}


def _ends(process: int, seconds: float) -> bool:
    for _ in range(int(10 * seconds)):
        status = Path(f"/proc/{process}/stat")
        if not status.exists() or status.read_text().split(") ")[1][0] == "Z":
            return True
        time.sleep(0.1)
    return False
