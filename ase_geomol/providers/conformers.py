"""Conformers drawn by a trained network (DiTMC, `ase_geomol.models.ditmc`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from ..checkpoint import choose_device, load_conformers
from ..errors import ConfigError
from ..models.ditmc import Conditioning, MoleculeBatch, Sampler, collate_molecules, sample_noise
from .base import TIME, Candidate, Limits, Provider
from .features import check_bonds, graph_of
from .molecules import Molecule
from .stereo import stereo_errors

DTYPES = {"float32": torch.float32, "float64": torch.float64}
PAIRS = {"cpu": 2**12, "cuda": 2**19}
"""Pairs of atoms that are computed at once: few stay in a processor's cache, many keep a GPU busy."""
LARGEST = 300
"""Atoms; the tensors of pairs take about a gigabyte then."""
MIRROR = np.array([1.0, 1.0, -1.0])


class ConformerProvider(Provider):
    """Conformers from nothing but the molecule's graph, by flow matching with a diffusion transformer.

    They are samples of the distribution that the network was trained on, not minima of an energy: relax them where
    that matters. Stereochemistry is part of the graph. A structure that is the mirror image of what was asked for is
    reflected (``info["mirrored"]``); any other with wrong stereochemistry is drawn again, up to ``attempts``.

    Args:
        model: a shipped name or a path.
        device: "cpu", "cuda", …; default: CUDA if there is one.
        dtype: precision of the network, "float32" or "float64".
        steps: of the sampler: fewer are faster and less accurate. Default, as of the next two: what suits the weights.
        schedule: "uniform", or "logarithmic" with ever shorter steps towards the end.
        solver: "euler", or "heun", which evaluates the network twice in a step.
        fallback: who makes structures of molecules that are too large for the network or have elements or bonds that
            it does not know, and those at which all its attempts fail, such as `RDKitProvider()`;
            ``info["provider"]`` and `Ensemble.others` say who did. None: they are refused, or missing.

    Attributes:
        metadata: about the weights.
        sampler: how they are sampled.

    Raises:
        CheckpointError: the weights cannot be loaded, or draw no conformers.
        ConfigError: unknown device or dtype, or an option of the sampler that makes no sense.
    """

    name = "ditmc"

    def __init__(
        self,
        model: str | Path = "ditmc-small",
        *,
        device: str | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        steps: int | None = None,
        schedule: Literal["uniform", "logarithmic"] | None = None,
        solver: Literal["euler", "heun"] | None = None,
        fallback: Provider | None = None,
    ) -> None:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; it can be 'float32' or 'float64'.")
        self.device, self.dtype = choose_device(device), dtype
        self._flow, self.metadata, self.path, self.fingerprint = load_conformers(model, self.device)
        self._flow.set_dtype(DTYPES[dtype])
        self.sampler = _changed(self._flow.form.sampler, steps=steps, schedule=schedule, solver=solver)
        self.limits = Limits(atoms=LARGEST, elements=self._flow.elements)
        self.fallback = fallback
        self._known: tuple[Molecule, MoleculeBatch, Conditioning] | None = None
        self._ahead: list[tuple[Molecule, dict[int, np.ndarray]]] = []

    @property
    def makers(self) -> Sequence[Provider]:
        """This one, then its fallback."""
        return (self, *(self.fallback.makers if self.fallback else ()))

    def check(self, molecule: Molecule) -> None:
        """Raise InputError for an element or a bond that the network does not know, or too many atoms."""
        self.limits.check(molecule)
        check_bonds(molecule)

    @property
    def version(self) -> str:
        """The weights' name and fingerprint, their precision, and how they are sampled."""
        sampler = f"{self.sampler.steps} {self.sampler.schedule} {self.sampler.solver} steps"
        return f"{self.metadata.name} {self.fingerprint[:12]}, {self.dtype}, {sampler}"

    def at_once(self, molecule: Molecule) -> int:
        """As many as have `PAIRS` pairs of atoms."""
        return max(1, self._pairs // len(molecule) ** 2)

    @property
    def _pairs(self) -> int:
        return PAIRS.get(self.device.type, PAIRS["cpu"])

    def together(self, molecules: Sequence[Molecule], n: int) -> bool:
        """Where all, as large as the largest, have no more than `PAIRS` pairs of atoms."""
        return n * len(molecules) * max(map(len, molecules)) ** 2 <= self._pairs

    def foresee(self, molecules: Sequence[Molecule], seeds: Sequence[int], deadline: float) -> None:
        """One pass for all."""
        self._ahead = []
        graphs = collate_molecules([graph_of(molecule, self._flow.elements) for molecule in molecules])
        noise = torch.zeros(len(molecules), len(seeds), graphs.numbers.shape[1], 3, dtype=torch.float64)
        for place, molecule in zip(noise, molecules, strict=True):
            place[:, : len(molecule)] = sample_noise(seeds, len(molecule))
        drawn = self._sampled(graphs.to(self.device), noise, deadline)
        self._ahead = [
            (molecule, dict(zip(seeds, positions[:, : len(molecule)], strict=True)))
            for molecule, positions in zip(molecules, drawn, strict=True)
        ]

    def draw(self, molecule: Molecule, seeds: Sequence[int], deadline: float) -> Iterator[Candidate | str]:
        """Sample the molecule once for each seed; see `Provider.draw`."""
        ahead = next((drawn for known, drawn in self._ahead if known is molecule), {})
        if all(seed in ahead for seed in seeds):
            yield from (self._candidate(molecule, ahead[seed]) for seed in seeds)
            return
        size = self.at_once(molecule)
        for start in range(0, len(seeds), size):
            try:
                drawn = self._positions(molecule, seeds[start : start + size], deadline)
            except TimeoutError:
                yield from [TIME] * (len(seeds) - start)
                return
            yield from (self._candidate(molecule, positions) for positions in drawn)

    def _positions(self, molecule: Molecule, seeds: Sequence[int], deadline: float) -> np.ndarray:
        """Positions (S, N, 3) in Å; raises TimeoutError when the deadline passes."""
        graph, conditioning = self._encoded(molecule)
        return self._sampled(graph, sample_noise(seeds, len(molecule))[None], deadline, conditioning)[0]

    def _sampled(
        self, graphs: MoleculeBatch, noise: Tensor, deadline: float, conditioning: Conditioning | None = None
    ) -> np.ndarray:
        """Positions (G, S, N, 3) in Å; raises TimeoutError when the deadline passes."""

        def check_time() -> None:
            if time.monotonic() > deadline:
                raise TimeoutError

        drawn = self._flow.sample(graphs, noise.to(self.device), self.sampler, check_time, conditioning)
        return drawn.double().cpu().numpy()

    def _encoded(self, molecule: Molecule) -> tuple[MoleculeBatch, Conditioning]:
        """What the network needs of a molecule; that of the last one is kept for further samples of it."""
        if self._known is None or self._known[0] is not molecule:
            graph = collate_molecules([graph_of(molecule, self._flow.elements)]).to(self.device)
            self._known = (molecule, graph, self._flow.encode(graph))
        return self._known[1:]

    def _candidate(self, molecule: Molecule, positions: np.ndarray) -> Candidate:
        """The structure, or its mirror image where that is what was asked for."""
        mirrored = bool(stereo_errors(molecule, positions)) and not stereo_errors(molecule, positions * MIRROR)
        info = {"evaluations": self.sampler.evaluations, "mirrored": mirrored}
        return Candidate(positions * MIRROR if mirrored else positions, info)


def _changed(sampler: Sampler, **options: object) -> Sampler:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Sampler.model_validate({**sampler.model_dump(), **given})
    except ValidationError as error:
        problems = "; ".join(f"{e['loc'][0]} is {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"The sampler cannot be set so: {problems}.") from error
