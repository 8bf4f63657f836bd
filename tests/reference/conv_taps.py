"""Statistics at the inputs of convolutions and BatchNorm the plain way: hooks, loops over patches, mean and var."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Layer:
    """One hook: its name, whether it is a convolution, its statistics, and what BatchNorm remembers."""

    name: str
    conv: bool
    stats: tuple[Tensor, ...]
    remembered: tuple[Tensor, ...]


def patches(z: Tensor, side: int) -> list[Tensor]:
    """Return the p x p patches of z [B, C, H, W] after stretching, row by row, float[B, C, p, p] each."""
    height, width = ((s + side - 1) // side * side for s in z.shape[2:])
    if (height, width) != tuple(z.shape[2:]):
        z = functional.interpolate(z, (height, width), mode="bilinear", align_corners=False)
    return [
        z[:, :, top : top + side, left : left + side]
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def statistics(network: nn.Module, x: Tensor, side: int) -> tuple[Tensor, list[Layer]]:
    """Return logits of x and, per Conv2d and BatchNorm2d that fires, in the order of registration, its statistics.

    The network must be in eval mode; x is one group.
    """
    layers = {m: name for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))}
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[module] = args[0] + 0.0  # a layer behind may write into it

    handles = [module.register_forward_pre_hook(keep) for module in layers]
    logits = network(x)
    for handle in handles:
        handle.remove()
    found = []
    for module, name in layers.items():
        if module not in inputs:
            continue
        z = inputs[module]
        stats = [z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)]
        remembered: tuple[Tensor, ...] = ()
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            remembered = (module.running_mean, module.running_var)
        else:
            cut = patches(z, side)
            stats += [torch.stack([c.mean() for c in cut]), torch.stack([c.var(correction=0) for c in cut])]
        found.append(Layer(name, isinstance(module, nn.Conv2d), tuple(stats), remembered))
    return logits, found
