"""Simulations as thin functions over ASE: they take Atoms with any calculator and give frozen results."""

from .cells import see_crystal
from .crystal_pictures import eos_picture, path_picture, phonon_picture, trajectory_picture
from .defects import (
    SurfaceEnergy,
    conventional_cell,
    miller_cell,
    see_slab,
    see_symmetry,
    surface_energy,
    vacancy_energy,
)
from .elasticity import Elasticity, elasticity, see_strains
from .eos import EquationOfState, equation_of_state, see_volumes
from .evaluation import Evaluation, evaluate, load_structures
from .files import frame_text, names_structure_file, see_free, write_structure
from .md import MDResult, MDSettings, degrees_of_freedom, draw_velocities, run_md
from .neb import MinimumEnergyPath, minimum_energy_path, see_ends, see_images
from .phonons import Phonons, phonons, see_displacements
from .pictures import md_picture, parity_picture, relax_picture
from .record import Row, claim_folder, read_log
from .relax import RelaxResult, relax
from .resumable import ResumableCalculator, structure_key
from .structures import interpret, load_structure
from .supercells import is_endless
from .together import relax_together
from .trajectories import RadialDistribution, diffusion, mean_square_displacement, radial_distribution, read_run
from .watch import BrokenBond, Departure, check_limit

__all__ = [
    "BrokenBond",
    "Departure",
    "Elasticity",
    "EquationOfState",
    "Evaluation",
    "MDResult",
    "MDSettings",
    "MinimumEnergyPath",
    "Phonons",
    "RadialDistribution",
    "RelaxResult",
    "ResumableCalculator",
    "Row",
    "SurfaceEnergy",
    "check_limit",
    "claim_folder",
    "conventional_cell",
    "degrees_of_freedom",
    "diffusion",
    "draw_velocities",
    "elasticity",
    "eos_picture",
    "equation_of_state",
    "evaluate",
    "frame_text",
    "interpret",
    "is_endless",
    "load_structure",
    "load_structures",
    "md_picture",
    "mean_square_displacement",
    "miller_cell",
    "minimum_energy_path",
    "names_structure_file",
    "parity_picture",
    "path_picture",
    "phonon_picture",
    "phonons",
    "radial_distribution",
    "read_log",
    "read_run",
    "relax",
    "relax_picture",
    "relax_together",
    "run_md",
    "see_crystal",
    "see_displacements",
    "see_ends",
    "see_free",
    "see_images",
    "see_slab",
    "see_strains",
    "see_symmetry",
    "see_volumes",
    "structure_key",
    "surface_energy",
    "trajectory_picture",
    "vacancy_energy",
    "write_structure",
]
