"""INFER the plain way (arXiv 2408.06927, section 3): one compensator at a time, in normalised units, hooks, one loop.

K classes, M networks, N natural sets, C channels, H W pixels.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from datastill.networks import Network
from reference.taps import recovery_loss, statistics


def budget(ipc: int, classes: int, makers: int) -> int:
    """Return the largest N with N * (K + M) <= ipc * K, found by counting."""
    n = 0
    while (n + 1) * (classes + makers) <= ipc * classes:
        n += 1
    return n


def recover(
    network: Network,
    naturals: Tensor,
    shifts: list[tuple[int, int]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.5, 0.9),
    alpha: float = 1.0,
    first: float = 10.0,
    project: str = "none",
) -> Tensor:
    """Return the compensator float[C, H, W], in normalised units, of one natural set and network.

    Args:
        network: trained; it is copied, brought to float64, contiguous and in eval mode.
        naturals: uint8[K, C, H, W], one real image of every class, in the order of the classes.
        shifts: (down, right) of every step; as many steps as there are shifts.
        lr, betas, alpha, first: of Adam, and the weights of R and of its first layer.
        project: "none" shows the loss x + u, "forward" Clip(x + u).
    """
    frozen = copy.deepcopy(network).to(memory_format=torch.contiguous_format).double().eval()
    mean, std = frozen.space.mean, frozen.space.std
    x = (naturals.double() / 255.0 - mean) / std
    low, high = -mean / std, (1.0 - mean) / std
    y = torch.arange(len(naturals))
    u = nn.Parameter(torch.zeros_like(x[:1]))
    adam = torch.optim.Adam([u], lr=lr, betas=betas, eps=1e-8)
    for t, shift in enumerate(shifts):
        adam.param_groups[0]["lr"] = 0.5 * (1.0 + math.cos(math.pi * t / len(shifts))) * lr
        z = x + u
        if project == "forward":
            inside = (z >= low) & (z <= high)  # the bounds themselves have derivative 1
            z = torch.where(inside, z, torch.clamp(z, low, high).detach())
        z = torch.roll(z, shift, dims=(2, 3))
        logits, found = statistics(frozen.body, z)
        loss = recovery_loss(logits, y, found, weight=alpha, first=first)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return u.detach()[0]
