"""Simulations as thin functions over ASE: they take Atoms with any calculator and give frozen results."""

from .evaluation import Evaluation, evaluate, load_labelled
from .files import names_structure_file, see_free, write_structure
from .md import MDResult, MDSettings, degrees_of_freedom, draw_velocities, run_md
from .pictures import md_picture, parity_picture, relax_picture
from .record import Row, claim_folder, read_log
from .relax import RelaxResult, relax
from .structures import interpret, load_structure
from .watch import BrokenBond

__all__ = [
    "BrokenBond",
    "Evaluation",
    "MDResult",
    "MDSettings",
    "RelaxResult",
    "Row",
    "claim_folder",
    "degrees_of_freedom",
    "draw_velocities",
    "evaluate",
    "interpret",
    "load_labelled",
    "load_structure",
    "md_picture",
    "names_structure_file",
    "parity_picture",
    "read_log",
    "relax",
    "relax_picture",
    "run_md",
    "see_free",
    "write_structure",
]
