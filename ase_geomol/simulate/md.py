"""Molecular dynamics that writes as it goes, can be interrupted and resumed, and notices when it goes wrong."""

from __future__ import annotations

import time as clock
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.verlet import VelocityVerlet

from ..errors import ConfigError, GeoMolError, InputError
from .record import (
    Recorder,
    Row,
    Snapshot,
    claim_folder,
    clear_folder,
    columns,
    load_first_frame,
    load_snapshot,
    read_log,
)
from .watch import BondWatch, BrokenBond, Departure, check_alive, check_limit, find_departure


@dataclass(frozen=True)
class MDSettings:
    """How a run is made; all of it stays the same when the run is resumed.

    Attributes:
        ensemble: "nve" (velocity Verlet), "nvt" (Langevin, BAOAB splitting: Leimkuhler and Matthews, J. Chem.
            Phys. 138, 174102 (2013)) or "npt" (the same with a Langevin-Hoover barostat that scales the cell
            isotropically: Quigley and Probert, J. Chem. Phys. 120, 11432 (2004)).
        temperature: K; in "nve" exactly that of the first velocities, since nothing corrects chance later.
        timestep: fs.
        thermostat_time: fs, inverse of the friction.
        barostat_time: fs, after which fluctuations of the volume have died away (ASE's P_tau).
        pressure: eV/Å³ (`ase.units.bar` and `GPa` convert).
        seed: of the first velocities and of all random forces.
        interval: steps from one recorded frame to the next; the last step of a run is always recorded.

    Raises:
        ConfigError: a value that makes no sense.
    """

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    temperature: float = 300.0
    timestep: float = 0.5
    thermostat_time: float = 100.0
    barostat_time: float = 1000.0
    pressure: float = units.bar
    seed: int = 0
    interval: int = 10

    def __post_init__(self) -> None:
        if self.ensemble not in ("nve", "nvt", "npt"):
            raise ConfigError(f"ensemble is {self.ensemble!r}; it can be 'nve', 'nvt' or 'npt'.")
        for name in ("temperature", "timestep", "thermostat_time", "barostat_time", "pressure"):
            if not (isinstance(getattr(self, name), Real) and -np.inf < getattr(self, name) < np.inf):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a finite number.")
        for name in ("seed", "interval"):
            if not isinstance(getattr(self, name), Integral):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a whole number.")
        for name in ("timestep", "thermostat_time", "barostat_time", "interval"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive.")
        if self.temperature < 0 or self.seed < 0:
            raise ConfigError(f"temperature ({self.temperature} K) and seed ({self.seed}) cannot be negative.")

    def steps(self, time: float) -> int:
        """Number of steps in ``time`` (fs).

        Raises:
            ConfigError: not even one, or infinitely many.
        """
        if not 0.5 < time / self.timestep < np.inf:
            raise ConfigError(f"time is {time} fs; it must be finite and at least one step of {self.timestep} fs.")
        return round(time / self.timestep)


@dataclass(frozen=True)
class MDResult:
    """A finished run, with what came before if it was resumed.

    Attributes:
        atoms: the last structure with its velocities and calculator.
        settings: how it was made.
        steps: total number of steps.
        log: recorded columns by name, see `ase_geomol.simulate.Row`.
        broken_bonds: bonds of the first structure that broke.
        wall_time: s, without what came before a resume.
        steps_per_second: of this part; 0 if there was nothing left to do.
        departure: where the run left what the potential knows and was stopped, or None.
    """

    atoms: Atoms
    settings: MDSettings
    steps: int
    log: dict[str, np.ndarray]
    broken_bonds: tuple[BrokenBond, ...]
    wall_time: float
    steps_per_second: float
    departure: Departure | None = None

    @property
    def time(self) -> float:
        """Simulated time in fs."""
        return self.steps * self.settings.timestep

    @property
    def drift(self) -> float | None:
        """Slope of the total energy in meV/atom/ps, where energy should be conserved ("nve")."""
        if self.settings.ensemble != "nve" or len(self.log["time_fs"]) < 2:
            return None
        slope = np.polyfit(self.log["time_fs"], self.log["total_eV"], 1)[0]
        return float(slope) * 1e6 / len(self.atoms)


def run_md(
    atoms: Atoms,
    settings: MDSettings = MDSettings(),
    *,
    time: float = 1000.0,
    folder: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop_above: float | None = None,
    on_step: Callable[[Row], object] | None = None,
) -> MDResult:
    """Run molecular dynamics of a copy of ``atoms``, with any ASE calculator.

    The first velocities are drawn from the Maxwell-Boltzmann distribution; the motion of the centre of mass and,
    of a molecule, the rotation are taken out. In a ``folder`` the run leaves trajectory.extxyz, log.csv and
    state.json. After an interrupt (Ctrl-C raises KeyboardInterrupt as usual) or an error everything up to then is
    there, and ``resume`` goes on as if nothing had happened: bit for bit, if the calculator gives the same
    forces for the same structure. A last step that is no multiple of the interval leaves trajectory and log again
    when the run is made longer.

    Args:
        atoms: the structure, with a calculator; constraints are respected.
        settings: ensemble, temperature, time step, ….
        time: fs in all; a resumed run can be made longer.
        folder: where the run is recorded; None keeps it in memory.
        resume: go on with the run in ``folder``; ``atoms`` gives calculator, elements and constraints only.
        overwrite: replace a run in ``folder``.
        stop_above: eV; stop, with what was computed so far as the result, as soon as the energy of an atom is uncertain
            by more. It can differ when the run is resumed.
        on_step: called with the log's line after every step.

    Raises:
        ConfigError: ``time`` is not one step, ``resume`` without a folder, or ``stop_above`` is not positive or the
            calculator knows no ``energies_std``.
        InputError: constant pressure without a cell; a structure that the calculator cannot compute.
        DataError: there is nothing to resume, or it was made otherwise: with other settings, another calculator
            (for ours: other weights or dtype; device and skin may differ), periodicity, charge or spin.
        OutputError: the folder holds another run, or cannot be written.
        GeoMolError: the simulation exploded.
    """
    _check(atoms, settings, folder, resume)
    if stop_above is not None:
        check_limit(atoms.calc, stop_above)
    steps = settings.steps(time)
    moving = atoms.copy()
    moving.calc = atoms.calc
    identity = _identity(atoms, settings)
    start = None
    if folder is not None:
        claim_folder(folder, resume=resume, overwrite=overwrite)
        start = load_snapshot(folder, identity, atoms.numbers) if resume else None
    run = _Run(moving, settings, start, folder)
    if folder is not None and overwrite and not resume:
        clear_folder(folder)
    recorder = Recorder(folder, identity, start) if folder is not None else None
    begin = clock.perf_counter()
    first = run.step
    with _recording(run, recorder):
        departure = run.go(steps, recorder, stop_above, on_step)
    wall = clock.perf_counter() - begin
    log = read_log(folder) if folder is not None else columns(run.rows)
    rate = (run.step - first) / wall if run.step > first else 0.0
    return MDResult(moving, settings, run.step, log, run.bonds.broken, wall, rate, departure)


class _Run:
    """A run in progress: atoms, integrator, random numbers and the bonds under watch."""

    def __init__(self, atoms: Atoms, settings: MDSettings, start: Snapshot | None, folder: Path | None) -> None:
        self.atoms, self.settings = atoms, settings
        self.rng = np.random.default_rng(settings.seed)
        self.step = 0
        self.rows: list[Row] = []
        if start is None:
            _see_computable(atoms)
            draw_velocities(atoms, settings.temperature, self.rng)
            if settings.ensemble == "nve":
                _scale_velocities(atoms, settings.temperature)
            self.bonds = BondWatch(atoms)
        else:
            assert folder is not None
            self.step = start.step
            atoms.set_cell(np.array(start.cell))
            atoms.set_positions(np.array(start.positions), apply_constraint=False)
            atoms.set_momenta(np.array(start.momenta), apply_constraint=False)
            self.rng.bit_generator.state = start.rng
            first = load_first_frame(folder) if start.sizes[0] else atoms
            self.bonds = BondWatch(first, tuple(_broken(bond) for bond in start.broken))
        self.free = degrees_of_freedom(atoms, settings.ensemble)
        self.dynamics = _integrator(atoms, settings, self.rng)
        if start is not None and start.barostat is not None:
            self.dynamics.p_eps, self.dynamics.force_eps = start.barostat  # type: ignore[attr-defined]
        self.snapshot = start or self.take_snapshot((0, 0))

    def go(
        self,
        steps: int,
        recorder: Recorder | None,
        stop_above: float | None,
        on_step: Callable[[Row], object] | None,
    ) -> Departure | None:
        """Advance to ``steps``, or to where an atom's energy is uncertain by more than ``stop_above`` (eV).

        The snapshot is always one between two steps, whenever an interrupt comes.

        A last step that is no multiple of the interval is recorded behind what the snapshot counts: going on cuts it
        off, and leaves the same files as a run that never stopped there.
        """
        departure = self._look(stop_above)
        if self.step == 0 and not any(self.snapshot.sizes):
            self._record(self.row(), recorder)
            self._keep(recorder, now=True)
        while self.step < steps and departure is None:
            try:
                self.dynamics.step()
            except GeoMolError as error:
                at = (self.step + 1) * self.settings.timestep / 1000
                raise GeoMolError(f"The simulation stopped at {at:.4g} ps: {error}") from error
            self.step += 1
            departure = self._look(stop_above)
            row = self.row()
            check_alive(row, self.settings.temperature)
            if self.step % self.settings.interval == 0:
                self._record(row, recorder)
            self._keep(recorder, now=False)
            if on_step is not None:
                on_step(row)
        row = self.row()  # the last structure's results, also if there was nothing left to do
        if self.step % self.settings.interval:
            self._record(row, recorder)
        return departure

    def _look(self, stop_above: float | None) -> Departure | None:
        if stop_above is None:
            return None
        return find_departure(self.atoms, self.step * self.settings.timestep, stop_above)

    def _record(self, row: Row, recorder: Recorder | None) -> None:
        self.bonds.look(self.atoms, row["time_fs"])
        self.rows.append(row)
        if recorder is not None:
            recorder.record(row, self.atoms)

    def _keep(self, recorder: Recorder | None, *, now: bool) -> None:
        self.snapshot = self.take_snapshot(recorder.sizes if recorder else (0, 0))
        if recorder is not None:
            recorder.save(self.snapshot, self.atoms.numbers, now=now)

    def row(self) -> Row:
        """The log's line of this step."""
        potential = float(self.atoms.get_potential_energy())
        kinetic = float(self.atoms.get_kinetic_energy())
        row = {
            "step": float(self.step),
            "time_fs": self.step * self.settings.timestep,
            "potential_eV": potential,
            "kinetic_eV": kinetic,
            "total_eV": potential + kinetic,
            "temperature_K": 2 * kinetic / (max(self.free, 1) * units.kB),
        }
        if self.settings.ensemble == "npt":
            row["volume_A3"] = float(self.atoms.get_volume())
        if "energy_std" in self.atoms.calc.results:  # type: ignore[union-attr]
            row["energy_std_eV"] = float(self.atoms.calc.results["energy_std"])  # type: ignore[union-attr]
        return row

    def take_snapshot(self, sizes: tuple[int, int]) -> Snapshot:
        """Everything that the next step depends on."""
        barostat = None
        if self.settings.ensemble == "npt":
            barostat = float(self.dynamics.p_eps), float(self.dynamics.force_eps)  # type: ignore[attr-defined]
        return Snapshot(
            step=self.step,
            positions=self.atoms.get_positions(),
            momenta=self.atoms.get_momenta(),
            cell=self.atoms.cell.array.copy(),
            rng=self.rng.bit_generator.state,  # type: ignore[arg-type]
            barostat=barostat,
            broken=[asdict(bond) for bond in self.bonds.broken],
            sizes=sizes,
        )


@contextmanager
def _recording(run: _Run, recorder: Recorder | None) -> Iterator[None]:
    """Save the last good state at the end, also after Ctrl-C and errors of the simulation."""
    if recorder is None:
        yield
        return
    try:
        yield
        recorder.save(run.snapshot, run.atoms.numbers)
    except (KeyboardInterrupt, GeoMolError) as error:
        if not isinstance(error, OSError):  # with a full disk the last state saved has to do
            recorder.save(run.snapshot, run.atoms.numbers)
        raise
    finally:
        recorder.close()


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Set velocities of the Maxwell-Boltzmann distribution, without drift and, for a molecule, rotation.

    Args:
        atoms: changed in place.
        temperature: K.
        rng: random numbers.
    """
    masses = atoms.get_masses()[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    if not _moves_freely(atoms):
        atoms.set_momenta(momenta)
        return
    velocities = momenta / masses - momenta.sum(0) / masses.sum()
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        squares = (arms**2).sum(1)[:, None, None] * np.eye(3) - arms[:, :, None] * arms[:, None, :]
        inertia = (masses[:, :, None] * squares).sum(0)
        spin = np.linalg.pinv(inertia, rcond=1e-8) @ (masses * np.cross(arms, velocities)).sum(0)
        velocities = velocities - np.cross(spin, arms)
    atoms.set_momenta(velocities * masses)


def _scale_velocities(atoms: Atoms, temperature: float) -> None:
    """Give the atoms exactly the kinetic energy of a temperature (K) at constant energy."""
    kinetic = atoms.get_kinetic_energy()
    if kinetic > 0:
        wanted = degrees_of_freedom(atoms, "nve") * units.kB * temperature / 2
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(wanted / kinetic))


def degrees_of_freedom(atoms: Atoms, ensemble: str) -> int:
    """How many degrees of freedom carry the temperature.

    All 3N under a thermostat, less constraints. At constant energy, what `draw_velocities` has taken out stays
    out: 3 of the centre of mass and, of a molecule, 3 rotations (2 if it is linear).
    """
    free = int(atoms.get_number_of_degrees_of_freedom())
    if ensemble != "nve" or not _moves_freely(atoms):
        return free
    if atoms.pbc.any():
        return free - 3
    arms = atoms.positions - atoms.get_center_of_mass()
    return free - 3 - (3 if np.linalg.matrix_rank(arms, tol=1e-3) > 1 else 2)


def _moves_freely(atoms: Atoms) -> bool:
    return len(atoms) > 1 and not atoms.constraints


def _integrator(atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> VelocityVerlet | LangevinBAOAB:
    timestep = settings.timestep * units.fs
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    pressure: dict[str, Any] = {}
    if settings.ensemble == "npt":
        pressure = {"externalstress": -settings.pressure, "P_tau": settings.barostat_time * units.fs}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*P_mass", category=UserWarning)  # it tells the barostat's mass
        return LangevinBAOAB(
            atoms,
            timestep,
            temperature_K=settings.temperature,
            T_tau=settings.thermostat_time * units.fs,
            hydrostatic=True,
            rng=rng,
            **pressure,
        )


def _broken(bond: dict[str, Any]) -> BrokenBond:
    first, second = bond["atoms"]
    return BrokenBond((first, second), bond["label"], bond["time"])


def _identity(atoms: Atoms, settings: MDSettings) -> dict[str, Any]:
    """What must stay the same when a run is resumed, in JSON's types."""
    calc = atoms.calc
    other = {"calculator": getattr(calc, "name", type(calc).__name__)}
    state = {"pbc": atoms.pbc, "charge": atoms.info.get("charge", 0), "spin": atoms.info.get("spin")}
    parts = {**asdict(settings), **getattr(calc, "identity", other), **state}
    return {key: np.asarray(value).tolist() for key, value in parts.items()}


def _see_computable(atoms: Atoms) -> None:
    """Let the calculator refuse a bad structure with its own sentence, before anything else meets it."""
    if not np.isfinite(atoms.get_potential_energy()):
        raise InputError("The energy of the first structure is NaN or infinite: check its positions.")


def _check(atoms: Atoms, settings: MDSettings, folder: Path | None, resume: bool) -> None:
    if resume and folder is None:
        raise ConfigError("Only a run that was recorded in a folder can be resumed.")
    if settings.ensemble == "npt" and not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise InputError(
            "Constant pressure needs a structure with a cell, periodic in three directions: take 'nvt' for a molecule."
        )
