"""Recipes of a training: every choice, validated before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ase_geomol.errors import ConfigError
from ase_geomol.models import ENERGY_ARCHITECTURES, ModelConfig
from ase_geomol.property import PropertyForm
from ase_geomol.repulsion import REACH

from .config import faults, read_yaml, validated
from .conformers.flow_recipe import FlowRecipe
from .sections import Section, Split, TrainingRecipe

AtomicNumber = Annotated[int, Field(ge=1, le=118)]
Energy = Annotated[float, Field(allow_inf_nan=False)]


class Data(Section):
    """Where the labelled structures come from; paths are relative to the working directory.

    Attributes:
        train: file, folder or pattern, or a list of them.
        valid: likewise; None divides ``train`` by ``split``.
        test: likewise; None is the test part of ``split``, if any. The best weights are measured on it at the end,
            outside the time budget.
        split: how ``train`` is divided.
        labels: which labels of an rMD17 file.
        energy_key: name of the energy in the files (eV); likewise for the others.
        forces_key: eV/Å.
        stress_key: eV/Å³.
        group_key: name of what must not be divided.
        max_force: eV/Å; a frame with a larger force on an atom is a bad row.
        bad_rows: "raise", or "skip" and count.
    """

    train: str | tuple[str, ...]
    valid: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    split: Split = Split()
    labels: Literal["revised", "original"] = "revised"
    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: str = "stress"
    group_key: str = "molecule"
    max_force: float | None = Field(default=None, gt=0)
    bad_rows: Literal["raise", "skip"] = "raise"


class Model(Section):
    """The network.

    Attributes:
        architecture: its name.
        config: goes to `ase_geomol.models.build_model`; the elements default to those of the data.
        start: a shipped potential's name or a file of weights of this configuration, but for dropout and the cutoff,
            where the training begins, with its reference energies (``finetune`` fits them anew) and scale; ``config``
            names its elements, whether the data has them all or not.
            None: random weights.
    """

    architecture: str = "geomformer"
    config: dict[str, Any]
    start: str | None = None

    @property
    def built(self) -> ModelConfig:
        """The architecture's configuration; elements that are left to the data stand as hydrogen."""
        return ENERGY_ARCHITECTURES[self.architecture][0].model_validate({"elements": (1,), **self.config})

    @model_validator(mode="after")
    def _can_be_built(self) -> Model:
        if self.architecture not in ENERGY_ARCHITECTURES:
            raise ValueError(f"architecture: this version knows {', '.join(ENERGY_ARCHITECTURES)}")
        try:
            _ = self.built
        except ValidationError as error:
            raise ValueError(faults(error, "config")) from error
        return self


class FineTuning(Section):
    """How the weights of ``model.start`` are fitted to labels of another theory, reference energies first.

    Attributes:
        method: "full", all weights; "head", those of the read-out; "low-rank", changes of the linear maps with at most
            ``rank`` singular values, see `geomol_training.low_rank`.
        rank: of "low-rank".
        replay: structures labelled with the theory that the weights know, to learn beside the new ones; their energies
            are shifted as the reference energies are, so that they ask for no more than what is known already.
        replay_share: of the frames in a pass.
    """

    method: Literal["full", "head", "low-rank"] = "full"
    rank: int = Field(default=8, ge=1)
    replay: str | tuple[str, ...] | None = None
    replay_share: float = Field(default=0.25, gt=0, lt=1)


class Physics(Section):
    """The terms around the network.

    Attributes:
        repulsion: where the ZBL repulsion ends, in sums of covalent radii, and below which the network sees distances
            held (`ase_geomol.repulsion.ZBLRepulsion`); 0: without it.
        reference_energies: "fit", or eV of each element {atomic number: energy}.
        scale: "fit" (see `geomol_training.references.force_scale`), or eV.
    """

    repulsion: float = Field(default=REACH, ge=0, allow_inf_nan=False)
    reference_energies: Literal["fit"] | dict[AtomicNumber, Energy] = "fit"
    scale: Literal["fit"] | Annotated[Energy, Field(gt=0)] = "fit"


class Relaxation(Section):
    """What is learned of the ends of relaxations, from where they start.

    Attributes:
        energy: weight of the relaxed energy, whose errors count in units of the deviation of all energies; 0: none.
        displacement: weights of the displacements at the beginning and at the end of the training, changed in a
            straight line; their errors count in units of their root mean square.
        noisy_nodes: start half of the structures somewhere on the way, and off it.
        noise: Å, by how much they are off.
        tagged: read the energy from atoms with tags above 0 only.
        references: fit an energy of each element first, for total energies; adsorption energies need none.
    """

    energy: float = Field(default=1.0, ge=0)
    displacement: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.0)
    noisy_nodes: bool = False
    noise: float = Field(default=0.3, ge=0)
    tagged: bool = True
    references: bool = False

    @model_validator(mode="after")
    def _something(self) -> Relaxation:
        if self.energy == 0 and self.displacement[1] == 0:
            raise ValueError("energy and the last weight of displacement are zero: nothing would be learned in the end")
        return self


class Loss(Section):
    """Weights of the errors in eV/atom, eV/Å and eV/Å³; see `geomol_training.loss`.

    Attributes:
        kind: "l1", "l2" (square) or "huber".
        force_norm: with l1, the length of each atom's error vector instead of its components.
        huber_delta: where huber turns from square to linear, in the unit of each error.
        energy: weight of the energy per atom.
        energies: weight of the atoms' own shares of the energy (eV), where labels have them: those of a potential that
            is the teacher.
        forces: weight of the conservative forces.
        stress: weight of the stress.
        direct_forces: weight of the direct force head.
        free_atoms_only: leave fixed atoms out of forces, in loss and errors, as OC20 does.
    """

    kind: Literal["l1", "l2", "huber"] = "l1"
    force_norm: bool = True
    huber_delta: float = Field(default=0.01, gt=0)
    energy: float = Field(default=1.0, ge=0)
    energies: float = Field(default=0.0, ge=0)
    forces: float = Field(default=1.0, ge=0)
    stress: float = Field(default=0.0, ge=0)
    direct_forces: float = Field(default=0.0, ge=0)
    free_atoms_only: bool = False

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if self.energy == self.energies == self.forces == self.stress == self.direct_forces == 0:
            raise ValueError("every weight is zero: nothing would be learned")
        return self


class Recipe(TrainingRecipe):
    """A training with labelled structures.

    It learns a potential; or with ``target`` that property, whose values stand in the data under its name; or with
    ``relaxation`` the ends of relaxations. Then ``loss`` gives no more than its kind, and ``potential`` nothing.
    """

    fixed_sections = ("seed", "data", "model", "finetune", "potential", "target", "relaxation", "loss")

    data: Data
    model: Model
    finetune: FineTuning | None = None
    potential: Physics = Physics()
    target: PropertyForm | None = None
    relaxation: Relaxation | None = None
    loss: Loss = Loss()

    @property
    def elements(self) -> tuple[int, ...] | None:
        """Atomic numbers that the network will know, if its configuration names them."""
        return self.model.built.elements if "elements" in self.model.config else None

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        if self.target is not None or self.relaxation is not None:
            return self._no_potential()
        if self.training.compile and (self.loss.forces > 0 or self.loss.stress > 0):
            raise ValueError(
                "training.compile does not go with forces by gradient and stresses, since torch.compile cannot "
                "differentiate twice; leave it out, or learn a direct force head alone (loss.direct_forces)"
            )
        if (self.loss.direct_forces > 0) != self.model.built.direct_forces:
            raise ValueError("loss.direct_forces trains a head that the network has with model.config.direct_forces")
        given = self.potential.reference_energies
        missing = [] if given == "fit" else sorted(set(self.elements or ()) - set(given))
        if missing:
            raise ValueError(f"potential.reference_energies lacks the atomic numbers {missing}")
        if self.model.start is not None and not self.potential.reference_energies == self.potential.scale == "fit":
            raise ValueError("model.start brings its own reference energies and scale: leave those of potential out")
        if self.finetune is not None and self.model.start is None:
            raise ValueError("finetune needs the weights where it begins, in model.start")
        if self.model.start is not None and self.elements is None:
            raise ValueError("model.start goes on with a network whose elements must be named in model.config.elements")
        return self

    def _no_potential(self) -> Recipe:
        if self.target is not None and self.relaxation is not None:
            raise ValueError("target and relaxation are two things to learn: give one of them")
        if self.potential != Physics():
            raise ValueError("potential belongs to energies with forces: leave it out")
        if self.loss.model_copy(update={"kind": "l1", "huber_delta": Loss().huber_delta}) != Loss():
            raise ValueError("loss gives its kind only (and huber_delta) where no potential is learned")
        vectors = self.relaxation is not None or (self.target is not None and self.target.pooling == "dipole")
        if vectors != self.model.built.direct_forces:
            raise ValueError(
                "model.config.direct_forces is for target.pooling dipole and for relaxation, which need it"
            )
        if self.model.start is not None or self.finetune is not None:
            raise ValueError("model.start and finetune go on with potentials only")
        return self


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe | FlowRecipe:
    """Read and validate a YAML recipe; one with ``flow`` is about conformers.

    Args:
        path: the file.
        changes: ``key.path=value`` each, the value in YAML, applied before validation.

    Raises:
        ConfigError: the file cannot be read, or names the field that is wrong.
    """
    fields = read_yaml(path, changes)
    variables = fields.get("variables")
    if isinstance(variables, dict):
        text = str({name: value for name, value in fields.items() if name != "variables"})
        for name in variables:
            if f"{{{name}}}" not in text:
                raise ConfigError(f"{path} has no {{{name}}} that the variable '{name}' could replace.")
        fields = {name: _filled(value, variables) for name, value in fields.items()}
    return validated(FlowRecipe if "flow" in fields else Recipe, fields, path)


def _filled(value: Any, variables: dict[str, Any]) -> Any:
    """Replace ``{name}`` by the variable in every text below ``value``."""
    if isinstance(value, str):
        for name, text in variables.items():
            value = value.replace(f"{{{name}}}", str(text))
        return value
    if isinstance(value, dict):
        return {key: _filled(part, variables) for key, part in value.items()}
    return [_filled(part, variables) for part in value] if isinstance(value, list) else value
