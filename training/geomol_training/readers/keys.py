"""Where labels stand in a file."""

from __future__ import annotations

from dataclasses import dataclass

from ase_geomol.errors import ConfigError


@dataclass(frozen=True)
class Keys:
    """Where the labels stand in a file, and which of two sets of labels is meant.

    Attributes:
        energy: key of the energy in eV, in a calculator's results or in ``info``.
        forces: key of the forces in eV/Å, in results or arrays.
        stress: key of the stress in eV/Å³ (Voigt or 3 x 3), in results or ``info``.
        group: ``info`` key of what must stay together, such as the molecule; the formula where it is missing.
        split: ``info`` key of the part that a frame belongs to.
        source: ``info`` key of where a frame comes from.
        name: ``info`` key of the name of the structure itself.
        labels: rMD17 files hold "revised" (PBE) and "original" (PBE+TS) labels.
        energies: key of the atoms' shares of the energy in eV, in results or arrays.

    Raises:
        ConfigError: other labels than these.
    """

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"
    group: str = "molecule"
    split: str = "split"
    source: str = "source"
    name: str = "name"
    labels: str = "revised"
    energies: str = "energies"

    def __post_init__(self) -> None:
        if self.labels not in ("revised", "original"):
            raise ConfigError(f"--labels is revised or original, not {self.labels!r}.")
