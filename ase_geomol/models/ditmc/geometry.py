"""Centring and turning of many sets of positions at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def centre(positions: Tensor, atoms: Tensor) -> Tensor:
    """Shift positions (G, S, N, 3) so that the mean over ``atoms`` (G, N) is zero; zeros elsewhere."""
    real = atoms[:, None, :, None].to(positions.dtype)
    mean = (positions * real).sum(-2, keepdim=True) / real.sum(-2, keepdim=True)
    return (positions - mean) * real


def align(moving: Tensor, fixed: Tensor) -> Tensor:
    """Turn centred positions (…, N, 3) onto others as well as a rotation can, without reflection (Kabsch).

    Where several rotations do equally well (atoms on a line, a single atom), it is one of them. No gradients.
    """
    with torch.no_grad():
        u, _, vh = torch.linalg.svd(moving.mT @ fixed)
        improper = torch.linalg.det(u @ vh) < 0
        sign = torch.ones_like(u[..., 0, :])
        sign[..., -1] = torch.where(improper, -1.0, 1.0)
        rotation = (u * sign[..., None, :]) @ vh
    return moving @ rotation


def handedness(positions: Tensor, centres: Tensor) -> Tensor:
    """Where each atom has to go (G, S, N, 3) for stereocentres to be, or to stay, as they should.

    The gradient of the volumes ``(x1 - x4) · (x2 - x4) × (x3 - x4)``, squeezed to lengths below 1.

    Args:
        positions: (G, S, N, 3) Å.
        centres: (G, C, 4) four atoms of each, whose volume should be positive; -1 where there is none.
    """
    places = torch.arange(positions.shape[-2], device=positions.device)
    chosen = (centres.flatten(1)[..., None] == places).to(positions.dtype).unsqueeze(1)  # (G, 1, 4 C, N)
    a, b, c, d = (chosen @ positions).unflatten(-2, (-1, 4)).unbind(-2)
    a, b, c = a - d, b - d, c - d
    gradients = [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)]
    gradients.append(-sum(gradients))
    total = chosen.mT @ torch.stack(gradients, -2).flatten(-3, -2)
    return total * torch.rsqrt(total.square().sum(-1, keepdim=True) + 1)


def random_rotations(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Rotation matrices (…, 3, 3), uniform in SO(3), on the generator's device."""
    quaternions = torch.randn(*shape, 4, generator=generator, device=generator.device, dtype=dtype)
    w, x, y, z = functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
