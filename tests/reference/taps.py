"""Statistics at BatchNorm inputs the plain way: hooks, torch.mean and torch.var, one group at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def statistics(network: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Return logits of x and, per BatchNorm2d that fires, in the order of registration, the four statistics.

    The network must be in eval mode; x is one group.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[module] = args[0]

    handles = [norm.register_forward_pre_hook(keep) for norm in norms]
    logits = network(x)
    for handle in handles:
        handle.remove()
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for norm in norms:
        if norm in inputs:
            h = inputs[norm] if inputs[norm].dtype == torch.float64 else inputs[norm].float()
            mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            found.append((mean, var, norm.running_mean, norm.running_var))
    return logits, found


def recovery_loss(
    logits: Tensor, labels: Tensor, found: Sequence[tuple[Tensor, ...]], weight: float = 1.0, first: float = 10.0
) -> Tensor:
    """Return CE + weight * R of one group (SRe2L, arXiv:2306.13092): plain 2-norms, the stem's `first` times."""
    total = nn.functional.cross_entropy(logits.to(found[0][0].dtype), labels)
    for layer, (mean, var, running_mean, running_var) in enumerate(found):
        norms = (running_var - var).norm() + (running_mean - mean).norm()
        total = total + weight * (first if layer == 0 else 1.0) * norms
    return total
