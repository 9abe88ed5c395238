"""Peers: programs that run beside ours, each in a virtual environment of its own, and answer with numbers."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.console import Console

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parents[1] / "constraints.txt"
TORCH = f"torch=={version('torch').partition('+')[0]}"
"""Peers get the version of torch that we have."""
TIME_LIMIT = 300.0
"""Seconds that a peer may take for one answer."""


class PeerError(Exception):
    """A peer that cannot answer, with one sentence why."""


class Package(NamedTuple):
    """A peer's name in tables, its script in this folder, and what pip installs; nothing: our own environment."""

    name: str
    script: str
    requirement: str = ""


class Peer:
    """One running program (see `_timing.serve`); it starts when it is first asked, and anew after it was lost."""

    def __init__(self, python: str | Path, script: Path, *arguments: str) -> None:
        self._command = [str(python), str(script), *arguments]
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the peer)
        self.about: dict[str, Any] = {}

    def start(self, limit: float = TIME_LIMIT) -> None:
        """Start it if it is not running; raises `PeerError`."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
            )
            self._lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True).start()
            self.about = self._answer(limit)

    def ask(self, name: str, limit: float = TIME_LIMIT) -> float:
        """The number that it has for ``name``; raises `PeerError`."""
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        answer = self._answer(limit)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["value"]

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answer(self, limit: float) -> dict[str, Any]:
        """The next line that is an answer, not something that a library prints; without one, the peer is ended."""
        line = " "
        try:
            while line and not line.startswith("{"):
                line = self._lines.get(timeout=limit)
        except queue.Empty:
            self.stop()
            raise PeerError(f"no answer within {limit:g} s") from None
        if not line:
            self.stop()
            raise PeerError(self._last_error())
        return json.loads(line)

    def _last_error(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it ended without a word"])[-1]


def _read(lines: IO[str], into: queue.Queue[str]) -> None:
    """Hand on what a peer prints, line by line, and an empty text at its end."""
    with lines:
        for line in lines:
            into.put(line)
    into.put("")


class Peers:
    """Starts peers, ends them all at the end, and notes what they are and which were left out for what reason."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.about: dict[str, dict[str, Any]] = {}
        self.left_out: list[str] = []
        self._running: list[Peer] = []

    def start(self, package: Package, *arguments: str) -> Peer | None:
        """A running peer, or None where it has to be left out."""
        try:
            peer = Peer(self.python(package), HERE / package.script, *arguments)
            self._running.append(peer)
            peer.start()
        except PeerError as error:
            self.leave_out(package.name, error)
            return None
        self.about[package.name] = peer.about
        return peer

    def environment(self, package: Package) -> Path | None:
        """Interpreter of an environment, for who starts the peer himself; None where it has to be left out."""
        try:
            python = Path(self.python(package))
        except PeerError as error:
            self.leave_out(package.name, error)
            return None
        self.about[package.name] = {"version": package.requirement}
        return python

    def leave_out(self, name: str, reason: object) -> None:
        """Note that something was left out."""
        self.left_out.append(f"{name} is left out: {str(reason).strip()}")

    def stop(self) -> None:
        """End all."""
        for peer in self._running:
            peer.stop()

    def python(self, package: Package) -> str | Path:
        """Interpreter of its environment, which is made if it is not there; raises `PeerError`."""
        if not package.requirement:
            return sys.executable
        if self.folder is None:
            raise PeerError("it needs an environment of its own, give a folder with --environments")
        return make_environment(self.folder / package.requirement.partition("=")[0], package.requirement)


def make_environment(folder: Path, requirement: str) -> Path:
    """Python of a virtual environment with torch and ``requirement``, which is made if it is not there.

    Raises:
        PeerError: pip could not install it.
    """
    python, installed = folder.absolute() / "bin" / "python", folder / "installed.txt"
    wanted = f"{TORCH}\n{requirement}\n"
    if not installed.exists() or installed.read_text() != wanted:
        Console(stderr=True).print(f"Installing {requirement} in {folder}: this takes some minutes.")
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", TORCH)
        _run(str(python), "-m", "pip", "install", "-c", str(CONSTRAINTS), requirement)
        installed.write_text(wanted)
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PeerError(f"'{' '.join(command[1:])}' failed ({last})")
