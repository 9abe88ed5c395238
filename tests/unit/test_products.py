"""What spherical attention and networks at points can learn: tensor products that keep parity, and no others."""

from __future__ import annotations

import torch
from benchmarks._products import PATHS, features, learn, products
from benchmarks._sphere import random_rotation

from ase_geomol.nn.degrees import wigner


def test_paths_of_even_sum_are_learned_and_no_others():
    """Theorem 1 of the paper, but for parity: what points multiply is no pseudo-tensor, such as the cross product."""
    errors = learn(PATHS, steps=150, rate=3e-2)
    assert {path: error for path, error in errors.items() if path.even and error > 0.15} == {}
    assert {path: error for path, error in errors.items() if not path.even and error < 0.99} == {}
    assert sum(path.even for path in PATHS) == 8


def test_products_are_tensors():
    x = features(4, torch.Generator().manual_seed(0)).double()
    matrix = wigner(random_rotation()[None], 2)
    torch.testing.assert_close(products(matrix @ x, PATHS), matrix @ products(x, PATHS))
    cross = next(place for place, path in enumerate(PATHS) if path == (1, 1, 1))
    expected = torch.linalg.cross(x[:, 1:4, 0], x[:, 1:4, 1])
    found = products(x, PATHS)[:, 1:4, cross]
    assert torch.allclose(found / found.norm(dim=1, keepdim=True), expected / expected.norm(dim=1, keepdim=True))
