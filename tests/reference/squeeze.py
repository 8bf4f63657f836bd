"""SRe2L and DWA the plain way: one set at a time, in normalised units, hooks, one loop (arXiv 2306.13092, 2409.17612).

K classes, C channels, H W pixels.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from datastill.networks import Network
from reference.taps import statistics


def sets_across(classes: int, ipc: int, block: int) -> list[list[tuple[int, int]]]:
    """Return the sets of SRe2L as lists of (class, image): for each image the classes in blocks."""
    return [
        [(k, j) for k in range(first, min(first + block, classes))]
        for j in range(ipc)
        for first in range(0, classes, block)
    ]


def sets_class_major(classes: int, ipc: int, block: int) -> list[list[tuple[int, int]]]:
    """Return the sets of G-VBSM: all images of a class, then of the next, cut into blocks."""
    every = [(k, j) for k in range(classes) for j in range(ipc)]
    return [every[i : i + block] for i in range(0, len(every), block)]


def loss_of(
    network: Network, z: Tensor, y: Tensor, alpha: float, first: float, mean_weight: float, var_weight: float
) -> Tensor:
    """Return CE + alpha * (var_weight * variances + mean_weight * means) of normalised z."""
    logits, found = statistics(network.body, z)
    total = nn.functional.cross_entropy(logits, y)
    for layer, (mean, var, running_mean, running_var) in enumerate(found):
        norms = var_weight * (running_var - var).norm() + mean_weight * (running_mean - mean).norm()
        total = total + alpha * (first if layer == 0 else 1.0) * norms
    return total


def moved(network: Network, z: Tensor, y: Tensor, steps: int, rho: float) -> Network:
    """Return a copy moved by normalised ascent on the cross-entropy of normalised z, by an optimiser and backward."""
    theta = copy.deepcopy(network).eval().requires_grad_(True)
    ascent = torch.optim.SGD(theta.parameters(), lr=1.0, maximize=True)
    for _ in range(steps):
        ascent.zero_grad()
        nn.functional.cross_entropy(theta.body(z), y).backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in theta.parameters() if p.grad is not None))
        for parameter in theta.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(rho / steps / (norm + 1e-12))
        ascent.step()
    return theta.requires_grad_(False)


def recover(
    network: Network,
    start: Tensor,
    y: Tensor,
    shifts: list[tuple[int, int]],
    *,
    lr: float,
    alpha: float = 1.0,
    first: float = 10.0,
    mean_weight: float = 1.0,
    var_weight: float = 1.0,
    steps: int = 0,
    rho: float = 0.0,
) -> Tensor:
    """Return the learned pictures of one set, float64[b, C, H, W] in normalised units.

    Args:
        network: trained; it is copied, brought to float64, contiguous and in eval mode.
        start: normalised pictures to begin from.
        y: their classes.
        shifts: (down, right) of every step; as many steps as there are shifts.
        lr, alpha, first, mean_weight, var_weight: of Adam, and the weights of the statistics.
        steps, rho: of the directed adjustment, on the first view.
    """
    frozen = copy.deepcopy(network).to(memory_format=torch.contiguous_format).double().eval()
    mean, std = frozen.space.mean, frozen.space.std
    low, high = -mean / std, (1.0 - mean) / std
    x = nn.Parameter(start.double().clone())
    if steps:
        frozen = moved(frozen, torch.roll(x.detach(), shifts[0], dims=(2, 3)), y, steps, rho)
    adam = torch.optim.Adam([x], lr=lr, betas=(0.5, 0.9), eps=1e-8)
    for t, shift in enumerate(shifts):
        adam.param_groups[0]["lr"] = 0.5 * (1.0 + math.cos(math.pi * t / len(shifts))) * lr
        z = torch.roll(x, shift, dims=(2, 3))
        adam.zero_grad()
        loss_of(frozen, z, y, alpha, first, mean_weight, var_weight).backward()
        adam.step()
        with torch.no_grad():
            x.copy_(torch.minimum(torch.maximum(x, low), high))
    return x.detach()
