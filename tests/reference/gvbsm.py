"""G-VBSM the plain way (arXiv 2311.17950, section 3): one part, normalised units, hooks, one loop, float64.

B images, K classes, C channels, H W pixels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from datastill.networks import Network
from reference.conv_taps import Layer, statistics

Wanted = list[tuple[Tensor, ...]]


def wanted(network: Network, batches: Sequence[Tensor], side: int) -> Wanted:
    """Return what is wanted at each hook: BatchNorm's memory, else sums over batches of (B / N) * the batch's own."""
    total: dict[tuple[str, int], Tensor] = {}
    images = sum(len(x) for x in batches)
    layers: list[Layer] = []
    with torch.no_grad():
        for x in batches:
            _, layers = statistics(network, x, side)
            for layer in layers:
                for i, value in enumerate(layer.stats):
                    at = layer.name, i
                    total[at] = total.get(at, torch.zeros_like(value)) + len(x) / images * value
    return [
        tuple(total[layer.name, i] for i in range(4)) if layer.conv else layer.remembered for layer in layers
    ]  # fmt: skip


@dataclass
class Settings:
    """The settings of the method; `views` and `kept` say what was drawn for every step."""

    lr: float = 0.05
    alpha: float = 0.01
    first: float = 10.0
    average: float = 0.8
    bias_correction: bool = False
    densify: float = 1.0
    tau: float = 4.0
    scaled: bool = False
    patch: int = 4
    shifts: list[tuple[int, int]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)


def spread(x: Tensor, y: Tensor, tau: float, scaled: bool) -> Tensor:
    """Return the densification loss of x [B, C, H, W], small pictures."""
    total = torch.zeros((), dtype=x.dtype)
    for k in sorted(set(y.tolist())):
        flat = x[y == k].flatten(1)
        values = torch.linalg.eigvalsh(flat @ flat.T)
        values = values / values.mean() if scaled else values
        p, q = (values / tau).softmax(0).detach(), values.softmax(0)
        total = total + (p * (p.log() - q.log())).sum()
    return total


def recover(networks: Sequence[Network], wanted_: Sequence[Wanted], x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Return what normalised images float[B, C, H, W] become; the networks answer in turn."""
    given = [copy.deepcopy(n).to(memory_format=torch.contiguous_format).double().eval() for n in networks]
    mean, std = given[0].space.mean, given[0].space.std
    low, high = -mean / std, (1.0 - mean) / std
    u = nn.Parameter(x.double().clone())
    adam = torch.optim.Adam([u], lr=settings.lr, betas=(0.5, 0.9), eps=1e-8)
    averages: dict[tuple[int, int, int], Tensor] = {}
    visits: dict[tuple[int, int], int] = {}
    for t, shift in enumerate(settings.shifts):
        k = t % len(given)
        adam.param_groups[0]["lr"] = 0.5 * (1.0 + math.cos(math.pi * t / len(settings.shifts))) * settings.lr
        z = torch.roll(u, shift, dims=(2, 3))
        logits, layers = statistics(given[k].body, z, settings.patch)
        loss = nn.functional.cross_entropy(logits, y)
        for i, layer in enumerate(layers):
            if layer.conv and not settings.kept[t][i]:
                continue
            visits[k, i] = visits.get((k, i), 0) + 1
            for j, (stat, aim) in enumerate(zip(layer.stats, wanted_[k][i], strict=True)):
                value = settings.average * averages.get((k, i, j), torch.zeros_like(stat))
                averages[k, i, j] = value = value + (1.0 - settings.average) * stat.detach()
                if settings.bias_correction:
                    value = value / (1.0 - settings.average ** visits[k, i])
                gap = (aim - (value + stat - stat.detach())).norm()
                loss = loss + settings.alpha * (settings.first if i == 0 else 1.0) * gap
        if settings.densify:
            loss = loss + settings.densify * spread(z, y, settings.tau, settings.scaled)
        adam.zero_grad()
        loss.backward()
        adam.step()
        u.data = torch.minimum(torch.maximum(u.data, low), high)
    return u.detach()
