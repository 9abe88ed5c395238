"""RDKit's conformer generator as a provider: the baseline of networks, and the fallback for what they do not know."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import ConfigError
from ._rdkit import rdkit
from .base import TIME, Candidate, Limits, Provider
from .molecules import Molecule
from .worker import Worker

FORCE_FIELDS = ("MMFF94s", "MMFF94")
START = 60.0
"""Seconds that RDKit's process has to start, before a request's time limit begins."""


class RDKitProvider(Provider):
    """Conformers by distance geometry with torsion preferences (ETKDGv3; Wang et al., J. Chem. Inf. Model. 60, 2044).

    Stereochemistry is built in. Molecules that resist are started from random coordinates, then without torsion
    preferences; ``info["method"]`` says what made each structure. With ``sample(…, oversample=10)`` many are made and
    the representative ones kept (Zhou et al., arXiv 2302.07061).

    Embedding runs in a process of its own, since it may take any time or crash; it is started with the first
    request and ended with this object.

    Args:
        force_field: what to relax each structure with: "MMFF94s", "MMFF94", or None. UFF takes its place for
            molecules of which it lacks parameters. Both would flatten allenes: there the planes at the ends of
            cumulated double bonds are held, and ``info["method"]`` says so.

    Raises:
        ConfigError: an unknown force field.
    """

    name = "rdkit"

    def __init__(self, force_field: Literal["MMFF94s", "MMFF94"] | None = "MMFF94s") -> None:
        if force_field is not None and force_field not in FORCE_FIELDS:
            raise ConfigError(f"force_field is {force_field!r}; it can be {', '.join(FORCE_FIELDS)} or None.")
        self.force_field = force_field
        self.limits = Limits(atoms=1000)
        self._worker = Worker(Path(__file__).with_name("_embed.py"))

    @property
    def version(self) -> str:
        """RDKit's version and the force field."""
        return f"RDKit {rdkit.__version__}, {self.force_field or 'no force field'}"

    def prepare(self) -> None:
        """Start RDKit's process; what goes wrong is told by `draw`."""
        if not self._worker.is_ready:
            with suppress(TimeoutError, ChildProcessError):
                self._worker.ask({}, time.monotonic() + START)

    def draw(self, molecule: Molecule, seeds: Sequence[int], deadline: float) -> Iterator[Candidate | str]:
        """Embed the molecule once for each seed; see `Provider.draw`."""
        encoded = base64.b64encode(molecule.mol.ToBinary()).decode()
        held = [(axis.torsion, (90, -90) if axis.perpendicular else (0, 180)) for axis in molecule.axes]
        for seed in seeds:
            seconds = deadline - time.monotonic()
            question = {
                "molecule": encoded,
                "seed": seed % (2**31 - 1),
                "force_field": self.force_field,
                "held": held,
                "seconds": seconds if np.isfinite(seconds) else None,
            }
            yield self._answer(question, deadline)

    def _answer(self, question: dict[str, object], deadline: float) -> Candidate | str:
        try:
            answer = self._worker.ask(question, deadline)
        except TimeoutError:
            return TIME
        except ChildProcessError:
            return "crash of RDKit"
        if "reason" in answer:
            return answer["reason"]
        return Candidate(np.array(answer["positions"]), {"method": answer["method"]})
