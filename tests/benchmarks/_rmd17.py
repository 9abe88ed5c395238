"""MD17 and revised MD17: which molecules a folder has, and what others have published."""

from __future__ import annotations

from pathlib import Path

MOLECULES = (
    "ethanol",
    "aspirin",
    "uracil",
    "naphthalene",
    "azobenzene",
    "benzene",
    "malonaldehyde",
    "paracetamol",
    "salicylic",
    "toluene",
)
"""Of revised MD17, as its files are named."""

# Energy (kcal/mol) and forces (kcal/mol/Å) on MD17, from the table of GeoMFormer (arXiv 2406.16853), where benzene is
# that of 2017.
ORIGINAL = {
    "TorchMD-Net": {
        "aspirin": (0.123, 0.253),
        "benzene": (0.058, 0.196),
        "ethanol": (0.052, 0.109),
        "malonaldehyde": (0.077, 0.169),
        "naphthalene": (0.085, 0.061),
        "salicylic": (0.093, 0.129),
        "toluene": (0.074, 0.067),
        "uracil": (0.095, 0.095),
    },
    "PaiNN": {
        "aspirin": (0.167, 0.338),
        "ethanol": (0.064, 0.224),
        "malonaldehyde": (0.091, 0.319),
        "naphthalene": (0.116, 0.077),
        "salicylic": (0.116, 0.195),
        "toluene": (0.095, 0.094),
        "uracil": (0.106, 0.139),
    },
    "NequIP": {
        "aspirin": (None, 0.348),
        "benzene": (None, 0.187),
        "ethanol": (None, 0.208),
        "malonaldehyde": (None, 0.337),
        "naphthalene": (None, 0.097),
        "salicylic": (None, 0.238),
        "toluene": (None, 0.101),
        "uracil": (None, 0.173),
    },
    "GeoMFormer": {
        "aspirin": (0.118, 0.171),
        "benzene": (0.052, 0.146),
        "ethanol": (0.047, 0.062),
        "malonaldehyde": (0.071, 0.133),
        "naphthalene": (0.081, 0.040),
        "salicylic": (0.099, 0.098),
        "toluene": (0.078, 0.041),
        "uracil": (0.095, 0.068),
    },
}
# Energy (meV) and forces (meV/Å) on revised MD17: MACE (arXiv 2206.07697), as quoted by those who repeated it
# (github.com/kcheng0407/mace-rmd17-benchmark); of other molecules the quotations differ.
REVISED = {"MACE": {"ethanol": (0.4, 2.1), "aspirin": (2.2, 6.6)}}


def molecules_in(data: Path) -> list[str]:
    """Those that a folder has, in either layout."""
    names = [path.stem.removeprefix("rmd17_").split("_")[0] for path in data.glob("rmd17_*_train_*.npz")]
    names += [path.stem.removeprefix("rmd17_") for path in (data / "npz_data").glob("rmd17_*.npz")]
    return [molecule for molecule in MOLECULES if molecule in names]
