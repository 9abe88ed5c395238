"""Optimisers; Muon is momentum whose matrices are made orthogonal before each step (arXiv 2502.16982)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from .low_rank import LowRank, linear_maps
from .sections import Optimiser

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz step that takes all singular values to about 1."""
STEPS = 5


class Muon(Optimizer):
    """Muon for the matrices of linear maps, AdamW for all other parameters.

    `torch.optim.Muon` does the same for one matrix after the other, in bfloat16; here the matrices of one shape are
    made orthogonal together. The step is scaled by 0.2 sqrt(largest side), so that
    one learning rate serves both kinds of parameters.

    Args:
        matrices: parameters (…, m, n), each one matrix or several.
        others: AdamW's groups of parameters.
        lr: learning rate.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled, of the matrices.
        momentum: of the matrices (Nesterov).
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([{"params": list(matrices)}], defaults)
        self.adamw = AdamW(others, lr=lr, betas=betas, eps=eps, fused=True)
        self.param_groups += self.adamw.param_groups
        self._share()

    def _share(self) -> None:
        """Let both optimisers have one state, so that it is saved, restored and scheduled as one."""
        self.adamw.param_groups = self.param_groups[1:]
        self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Make one step with the gradients at hand, or with those of ``closure``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        shape = lambda parameter: tuple(parameter.shape)  # noqa: E731
        learning = sorted((p for p in group["params"] if p.grad is not None), key=shape)
        for (*_, rows, columns), alike in itertools.groupby(learning, key=shape):
            parameters = list(alike)
            directions = orthogonal(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
            scale = 0.2 * math.sqrt(max(rows, columns))
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"] * scale)
        self.adamw.step()
        return loss

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        mean = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (…, m, n) with singular vectors as they were and singular values near 1.

    Those above 0.002 of the Frobenius norm end between 0.65 and 1.25; smaller ones grow about 480 times.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def matrices_of(module: nn.Module) -> list[Tensor]:
    """Weights of the linear maps to more than one number; a `DegreeLinear` is several of them."""
    return [part.weight for part in linear_maps(module) if not isinstance(part, nn.Linear) or part.out_features > 1]


def _decaying(module: nn.Module) -> list[Tensor]:
    """Parameters that are matrices, or stacks of them, by what they do: neither biases nor of a norm."""
    return [
        parameter
        for part in module.modules()
        if "Norm" not in type(part).__name__
        for name, parameter in part.named_parameters(recurse=False)
        if parameter.dim() > 1 and name != "bias"
    ]


def make_optimiser(module: nn.Module, settings: Optimiser, rank: int | None = None) -> Optimizer:
    """What the settings name, for all parameters that are not frozen; matrices decay, biases, norms and kernels do not.

    With ``rank`` instead `LowRank` for all linear maps.
    """
    if rank is not None:
        maps = [part.weight for part in linear_maps(module)]
        return LowRank(maps, rank, settings.lr, settings.betas, settings.eps, settings.weight_decay)
    matrices = [p for p in matrices_of(module) if p.requires_grad] if settings.name == "muon" else []
    known, decaying = {id(p) for p in matrices}, {id(p) for p in _decaying(module)}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": [p for p in others if id(p) in decaying], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if id(p) not in decaying], "weight_decay": 0.0},
    ]
    if settings.name == "muon":
        return Muon(matrices, groups, settings.lr, settings.betas, settings.eps, settings.weight_decay)
    kind = {"adam": Adam, "adamw": AdamW}[settings.name]
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
