"""How firmly the training data hold the last layer of a network: an uncertainty without a committee.

Last-layer prediction rigidity (Bigi, Chong, Ceriotti, Grasselli, arXiv 2403.02251). Energies of atoms are linear in the
features f_i that the last layer reads. The training data hold the weights of that layer along the features that they
have, ``C = sum_i f_i f_i^T`` over all their atoms; a structure is uncertain where its features point elsewhere:

    std(E_i) = alpha sqrt(f_i^T (C + s I)^-1 f_i)    std(E) = alpha sqrt(F^T (C + s I)^-1 F),  F = sum_i f_i

The paper sums over structures, ``C = sum F F^T``; here each atom counts for itself, since it is atoms that are judged.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor, nn

from .nn import segment_sum


class RigidityForm(BaseModel):
    """What a rigidity was made from.

    Attributes:
        frames: number of training frames in C.
        valid_frames: number of validation frames that alpha and s were chosen on.
        scale: alpha, eV.
        regulariser: s, in units of the mean eigenvalue of C.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(ge=1)
    valid_frames: int = Field(ge=1)
    scale: FiniteFloat = Field(gt=0)
    regulariser: FiniteFloat = Field(gt=0)


class Rigidity(nn.Module):
    """Standard deviations of energies from the features that the last layer reads.

    It is left out of a potential's ``state_dict``: weights that are trained on are other weights.

    Args:
        whitening: (k, k) eV, a matrix W with ``W^T W = alpha^2 (C + s I)^-1``.
        form: what it was made from.
    """

    whitening: Tensor

    def __init__(self, whitening: Tensor, form: RigidityForm) -> None:
        super().__init__()
        self.register_buffer("whitening", whitening.double(), persistent=False)
        self.form = form

    def forward(self, features: Tensor, system: Tensor, n_systems: int) -> tuple[Tensor, Tensor]:
        """Standard deviations (S,) of the energies and (N,) of the energies of atoms, in eV.

        Args:
            features: (N, k), see `ase_geomol.potential.Potential.last_features`.
            system: (N,) structure of each atom.
            n_systems: S.
        """
        white = features @ self.whitening.T
        return segment_sum(white, system, n_systems).norm(dim=-1), white.norm(dim=-1)
