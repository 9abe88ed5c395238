"""Less than all weights: which ones are trained, and changes of low rank (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ase_geomol.nn import ScalarReadout, VectorReadout
from ase_geomol.nn.degrees import DegreeLinear

from .recipe import FineTuning


def linear_maps(module: nn.Module) -> list[nn.Linear | DegreeLinear]:
    """All linear maps; the weight of each is a matrix, or of a `DegreeLinear` several."""
    return [part for part in module.modules() if isinstance(part, nn.Linear | DegreeLinear)]


def freeze(module: nn.Module, settings: FineTuning) -> None:
    """Let only those parameters have gradients that the method changes."""
    if settings.method == "full":
        return
    module.requires_grad_(False)
    if settings.method == "low-rank":
        for part in linear_maps(module):
            part.weight.requires_grad_()
    else:
        for part in module.modules():
            if isinstance(part, ScalarReadout | VectorReadout):
                part.requires_grad_()


def learned_numbers(module: nn.Module, settings: FineTuning | None) -> int:
    """How many numbers a training may choose: parameters, or those of the factors."""
    if settings is None or settings.method != "low-rank":
        return sum(p.numel() for p in module.parameters() if p.requires_grad)
    shapes = (shape for part in linear_maps(module) for shape in _shapes(part.weight, settings.rank))
    return sum(math.prod(shape) for shape in shapes)


def _shapes(matrix: Tensor, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the factors (…, m, r) and (…, r, n) of a change of matrices (…, m, n)."""
    *stack, rows, columns = matrix.shape
    rank = min(rank, rows, columns)
    return (*stack, rows, rank), (*stack, rank, columns)


class LowRank(Optimizer):
    """AdamW for the factors of changes: each matrix is what it was at first, plus ``up @ down``.

    The network never knows of the factors: after each step its weights are the sums, and what is exported is ordinary.
    By the chain rule a gradient G of the matrix is ``G downᵀ`` of ``up`` and ``upᵀ G`` of ``down``. The running mean of
    the weights is a mean of such sums, and may have more singular values.

    Args:
        matrices: parameters (…, m, n), each one matrix or several.
        rank: r of the factors (…, m, r), zero at first, and (…, r, n), random.
        lr: learning rate.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of the factors.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        rank: int,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__([{"params": list(matrices)}], {"lr": lr})
        self.matrices: list[Tensor] = self.param_groups[0]["params"]
        self.first = [matrix.detach().clone() for matrix in self.matrices]
        random = torch.Generator().manual_seed(0)  # all processes have the same factors
        self.factors: list[tuple[Tensor, Tensor]] = []
        for matrix in self.matrices:
            of_up, of_down = _shapes(matrix, rank)
            down = torch.randn(of_down, generator=random) / math.sqrt(of_down[-1])
            self.factors.append((matrix.detach().new_zeros(of_up), down.to(matrix)))
        every = [factor.requires_grad_() for factors in self.factors for factor in factors]
        self.adamw = AdamW(every, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Make one step with the gradients at hand, or with those of ``closure``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrix, (up, down) in zip(self.matrices, self.factors, strict=True):
            gradient = matrix.grad
            up.grad = None if gradient is None else gradient @ down.mT
            down.grad = None if gradient is None else up.mT @ gradient
        self.adamw.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self.adamw.step()
        for matrix, first, (up, down) in zip(self.matrices, self.first, self.factors, strict=True):
            if matrix.grad is not None:
                matrix.copy_(first + up @ down)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        factors = [[factor.detach() for factor in factors] for factors in self.factors]
        return {"first": self.first, "factors": factors, "adamw": self.adamw.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for first, saved in zip(self.first, state_dict["first"], strict=True):
            first.copy_(saved)
        for factors, saved in zip(self.factors, state_dict["factors"], strict=True):
            for factor, values in zip(factors, saved, strict=True):
                factor.copy_(values)
        self.adamw.load_state_dict(state_dict["adamw"])
