"""A process of its own for code that may hang or crash, and that no time limit inside the same process can stop."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import GeoMolError

POLL = 0.1
"""Seconds after which an interrupt is noticed at the latest: a signal does not always end the wait for an answer."""


class Worker:
    """Answers questions one at a time with a script that reads and writes lines of JSON.

    The process starts with the first question, and again after one that it did not survive. It ends with this object.
    After a fork each side has a process of its own.

    Args:
        script: Python file, which needs nothing of this package.
    """

    def __init__(self, script: Path) -> None:
        self.script = script
        self._process: subprocess.Popen[bytes] | None = None
        self._answered_by: subprocess.Popen[bytes] | None = None
        self._owner, self._lock = os.getpid(), threading.Lock()

    def __reduce__(self) -> tuple[type[Worker], tuple[Path]]:
        return Worker, (self.script,)

    def __del__(self) -> None:
        self.stop()

    def ask(self, question: dict[str, Any], deadline: float) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            TimeoutError: there was none at ``deadline`` (of ``time.monotonic``); the process was killed, unless another
                thread's question kept it busy.
            ChildProcessError: the process crashed.
            GeoMolError: it cannot be started.
        """
        self._leave_to_parent()
        lock = self._lock
        if not lock.acquire(timeout=min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)):
            raise TimeoutError
        try:
            return self._asked(question, deadline)
        finally:
            lock.release()

    @property
    def is_ready(self) -> bool:
        """Whether there is a process that has answered before."""
        self._leave_to_parent()
        process = self._process
        return process is not None and process is self._answered_by and process.poll() is None

    def _asked(self, question: dict[str, Any], deadline: float) -> dict[str, Any]:
        process = self._running()
        answers: list[dict[str, Any]] = []
        reader = threading.Thread(target=_exchange, args=(process, question, answers), daemon=True)
        reader.start()
        try:
            while reader.is_alive() and time.monotonic() < deadline:
                reader.join(min(POLL, max(deadline - time.monotonic(), 0)))
        except BaseException:  # an interrupt: the answer that is still to come belongs to nobody
            self.stop()
            raise
        if answers:
            self._answered_by = process
            return answers[0]
        late = reader.is_alive()
        status = self.stop()
        if late:
            raise TimeoutError
        raise ChildProcessError(f"The process ended with status {status}.")

    def stop(self) -> int | None:
        """End the process; give its status."""
        self._leave_to_parent()
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return status

    def _leave_to_parent(self) -> None:
        """In a forked process: what was started belongs to the other one, and the lock may never be opened."""
        if self._owner != os.getpid():
            self._owner, self._lock, self._process = os.getpid(), threading.Lock(), None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:  # it ended while nobody asked
            self.stop()
        if self._process is None:
            command = [sys.executable, "-P", str(self.script)]
            pipe = subprocess.PIPE
            try:  # in a session of its own, or Ctrl-C would reach it too
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
            except OSError as error:
                raise GeoMolError(f"{self.script.name} cannot be started: {error.strerror or error}.") from error
        return self._process


def _exchange(process: subprocess.Popen[bytes], question: dict[str, Any], answers: list[dict[str, Any]]) -> None:
    """Add the answer to a question to ``answers``, unless the process ends before it is complete."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except (OSError, ValueError):  # ended, or closed by `Worker.stop`
        return
    if line.endswith(b"\n"):
        answers.append(json.loads(line))
