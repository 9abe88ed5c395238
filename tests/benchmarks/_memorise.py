"""Train a small DiTMC on the conformers of a few molecules until it knows them by heart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch

from ase_geomol import RDKitProvider
from ase_geomol.models.ditmc import (
    ORGANIC,
    ConformerFlow,
    DiTMC,
    DiTMCConfig,
    FlowForm,
    Sampler,
    collate_molecules,
    flow_loss,
    sample_noise,
)
from ase_geomol.providers.features import graph_of
from ase_geomol.providers.molecules import parse
from ase_geomol.providers.rmsd import rmsd_matrix, symmetry
from ase_geomol.providers.stereo import stereo_errors

CLOSE = 0.1
"""Å; a conformer is known if a sample comes nearer than that."""


def conformers_of(smiles: str, most: int) -> np.ndarray:
    """Different minima (R, N, 3) of MMFF94s."""
    found = RDKitProvider().sample(smiles, 20, unique=0.25)
    return np.array([atoms.positions for atoms in found[:most]])


def memorise(
    known: Mapping[str, np.ndarray],
    config: DiTMCConfig,
    *,
    steps: int,
    samples: int,
    output: Literal["conformer", "correction"] = "correction",
    rate: float = 5e-3,
    report: Callable[[int], object] = lambda step: None,
) -> ConformerFlow:
    """Train on conformers {SMILES: (R, N, 3)}; each step takes ``samples`` of each molecule, all equally often.

    ``output`` is what the network's is, as `FlowForm` says; that of the shipped weights by default.
    """
    molecules = collate_molecules([graph_of(parse(smiles), ORGANIC) for smiles in known])
    shape = (len(known), samples, molecules.numbers.shape[1], 3)
    targets = torch.zeros(shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = ConformerFlow(DiTMC(config), FlowForm(noise=0.1, output=output))
    optimiser = torch.optim.AdamW(flow.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        for place, conformers in zip(targets, known.values(), strict=True):
            chosen = (torch.arange(samples) + step * samples) % len(conformers)
            place[:, : conformers.shape[1]] = torch.from_numpy(conformers)[chosen]
        optimiser.zero_grad()
        flow_loss(flow, molecules, targets, generator).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        report(step + 1)
    return flow.eval()


def recall(flow: ConformerFlow, smiles: str, conformers: np.ndarray, count: int) -> dict[str, float]:
    """How well samples match the conformers (R, N, 3) of heavy atoms that they were to learn."""
    molecule = parse(smiles)
    graph = collate_molecules([graph_of(molecule, ORGANIC)])
    drawn = flow.sample(graph, sample_noise(range(count), len(molecule))[None], Sampler(steps=20))[0].double().numpy()
    distances = rmsd_matrix(symmetry(molecule), drawn, conformers)
    right = [not stereo_errors(molecule, positions) for positions in drawn]
    return {
        "conformers": len(conformers),
        "known": float((distances.min(0) < CLOSE).mean()),
        "AMR-R Å": float(distances.min(0).mean()),
        "AMR-P Å": float(distances.min(1).mean()),
        "right stereochemistry": float(np.mean(right)),
    }
