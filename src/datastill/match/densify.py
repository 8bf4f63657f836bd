"""Densification (G-VBSM, arXiv 2311.17950): images of a class drawn away from each other. n images of a class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32  # larger pictures are averaged down to it
Scale = Literal["released", "mean"]


def densification(x: Tensor, cls: Tensor, tau: float, scale: Scale = "released") -> Tensor:
    """Return the sum over classes of KL(softmax(l / tau) || softmax(l)), l the eigenvalues of X X^T, a number.

    X is float[n, C * 32 * 32], the images of the class, averaged down to 32 x 32 where they are larger. The first
    distribution is constant for the gradient, which draws eigenvalues together. As released, eigenvalues of pictures
    lie hundreds apart, so that in float32 both distributions are one-hot, and value and gradient are exactly zero.

    Args:
        x: float[B, C, H, W], normalised by the data set's mean and deviation.
        cls: long[B], on the CPU.
        tau: the temperature.
        scale: "mean" divides l by its mean, which makes it work; no part of the paper.
    """
    sides = min(SIDE, x.shape[2]), min(SIDE, x.shape[3])
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        if sides != x.shape[2:]:
            x = functional.adaptive_avg_pool2d(x, sides)
        flat = x.flatten(1)
        for count, rows in _by_count(cls):
            if count > 1:  # a single image has a single eigenvalue, and nothing to be drawn from
                alike = flat[rows.to(x.device, non_blocking=True)].view(-1, count, flat.shape[1])
                total = total + _divergence(torch.linalg.eigvalsh(alike @ alike.mT), tau, scale).sum()
    return total


def _by_count(cls: Tensor) -> list[tuple[int, Tensor]]:
    """Return (n, rows long[m * n]) for each number n of images that m classes have, class after class."""
    found: dict[int, list[Tensor]] = {}
    for k in cls.unique():
        rows = (cls == k).nonzero().flatten()
        found.setdefault(len(rows), []).append(rows)
    return [(count, torch.cat(rows)) for count, rows in sorted(found.items())]


def _divergence(values: Tensor, tau: float, scale: Scale) -> Tensor:
    """Return KL(softmax(l / tau) || softmax(l)) of eigenvalues l float[m, n], float[m]."""
    if scale == "mean":
        values = values / values.mean(dim=1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    log_p = functional.log_softmax(values.detach() / tau, dim=1)
    return (log_p.exp() * (log_p - functional.log_softmax(values, dim=1))).sum(dim=1)
