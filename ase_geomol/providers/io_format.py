"""What ASE's entry point ``ase.ioformats`` loads. ASE imports it whenever it is imported itself: nothing heavy here."""

from ase.utils.plugins import ExternalIOFormat

SMILES = ExternalIOFormat(
    desc="SMILES strings, one a line; read as conformers",
    code="+F",
    module="ase_geomol.providers.smiles_files",
    ext="smi",
)
