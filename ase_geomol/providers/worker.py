"""A process of its own for code that may hang or crash, and that no time limit inside the same process can stop."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import GeoMolError


class Worker:
    """Answers questions one at a time with a script that reads and writes lines of JSON.

    The process starts with the first question, and again after one that it did not survive. It ends with this object.

    Args:
        script: Python file, which needs nothing of this package.
    """

    def __init__(self, script: Path) -> None:
        self.script = script
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Worker], tuple[Path]]:
        return Worker, (self.script,)

    def __del__(self) -> None:
        self.stop()

    def ask(self, question: dict[str, Any], deadline: float) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            TimeoutError: there was none at ``deadline`` (of ``time.monotonic``); the process was killed.
            ChildProcessError: the process crashed.
            GeoMolError: it cannot be started.
        """
        with self._lock:
            process = self._running()
            seconds = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            killer = threading.Timer(max(seconds, 0), process.kill)
            killer.daemon = True
            killer.start()
            try:
                answer = _exchange(process, json.dumps(question).encode() + b"\n")
            except BaseException:  # an interrupt: the answer that is still to come belongs to nobody
                self.stop()
                raise
            finally:
                killer.cancel()
            if answer is not None:
                return answer
            status = self.stop()
        if time.monotonic() >= deadline:
            raise TimeoutError
        raise ChildProcessError(f"The process ended with status {status}.")

    def stop(self) -> int | None:
        """End the process; give its status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-P", str(self.script)]
            pipe = subprocess.PIPE
            try:  # in a session of its own, or Ctrl-C would reach it too
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
            except OSError as error:
                raise GeoMolError(f"{self.script.name} cannot be started: {error.strerror or error}.") from error
        return self._process


def _exchange(process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any] | None:
    """The answer to a line, or None if the process ended before it was complete."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    answer = process.stdout.readline()
    return json.loads(answer) if answer.endswith(b"\n") else None
