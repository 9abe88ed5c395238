"""Work on several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest
from geomol_training.pool import in_processes

from ase_geomol.errors import DataError

PROGRAM = """
import sys
from pathlib import Path
from geomol_training.cli.common import stoppable
from geomol_training.pool import in_processes
from program_work import tell_and_sleep
if __name__ == "__main__":
    with stoppable(Path("out")):
        list(in_processes(tell_and_sleep, [sys.argv[1]], 1))
"""
WORK = """
import os, time
from pathlib import Path

def tell_and_sleep(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(300)
"""


def double(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return 2 * number


def die(number: int) -> None:
    os._exit(number)


def threads_of(number: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def test_all_pieces_are_done_and_items_are_taken_when_there_is_a_process_for_them():
    taken = []

    def items():
        for number in range(6):
            taken.append(number)
            yield number

    with closing(in_processes(double, items(), 2)) as results:
        found = [next(results)]
        assert len(taken) <= 3
        found += results
    assert sorted(found) == [0, 2, 4, 6, 8, 10]


def test_none_begins_after_the_time():
    assert not list(in_processes(double, range(3), 2, stop=time.monotonic()))


def test_what_fails_is_told():
    with pytest.raises(ValueError, match="negative"):
        list(in_processes(double, [1, -1], 1))
    with pytest.raises(DataError, match="A process died"):
        list(in_processes(die, [3], 1))


def test_each_has_one_thread_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert list(in_processes(threads_of, [0], 1)) == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"


@contextmanager
def started_program(tmp_path):
    """A process whose worker sleeps for minutes, and the worker's number."""
    (tmp_path / "program_work.py").write_text(WORK)
    told, program = tmp_path / "pid", tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    with subprocess.Popen(
        [sys.executable, program, told], env=environment, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            _until(lambda: told.exists() and told.read_text())
            worker = int(told.read_text())
            assert _lives(worker)
            yield started, worker
        finally:
            started.kill()
    _until(lambda: not _lives(worker))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_processes_end_with_the_one_that_started_them(tmp_path):
    with started_program(tmp_path) as (started, _):
        started.kill()
        started.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_request_to_stop_does_not_wait(tmp_path, number):
    with started_program(tmp_path) as (started, worker):
        started.send_signal(number)
        assert started.stderr.readline() == "Stopping once what has begun is finished; once more ends it at once.\n"
        assert _lives(worker)
        started.send_signal(number)
        assert started.wait(30) == 130


def _until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    if sys.platform.startswith("linux"):  # one that nobody waited for is dead as well
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    return True
