"""What a trained network says of pictures: logits and features, in float32, in evaluation mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datastill.training.views import to_unit


@torch.no_grad()
def predict(network: Any, images: Tensor, *, device: torch.device, batch: int = 64, features: bool = False) -> Tensor:
    """Return float32[N, K] logits (or float32[N, D] features) on the CPU; every module's mode is left as it was.

    Args:
        network: a `datastill.networks.Network`.
        images: uint8 or float[N, C, H, W], floats in [0, 1].
        device: where to compute.
        batch: pictures per forward pass; part of the result's last bits, hence fixed. On a CPU larger ones were no
            faster and took more memory.
        features: return the penultimate features instead of logits.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval().to(device)
    answer = network.features if features else network
    parts = []
    for start in range(0, len(images), batch):
        x = to_unit(images[start : start + batch].to(device)).contiguous(memory_format=torch.channels_last)
        parts.append(answer(x).float().cpu())
    for module, mode in modes.items():
        module.training = mode
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return top-1 accuracy in percent; logits float[N, K], labels long[N]."""
    return 100.0 * float((logits.argmax(dim=1) == labels).double().mean())
