"""RDKit, or the sentence that names the extra to install. All providers take it from here."""

from ..errors import MissingExtraError

try:
    import rdkit
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdMolAlign
except ImportError as error:
    raise MissingExtraError("rdkit", "providers", "Making structures of molecules") from error

__all__ = ["Chem", "rdBase", "rdMolAlign", "rdkit"]
