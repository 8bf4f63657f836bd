"""Synthetic class centres as a linear classifier of real features (CAFE, arXiv 2203.01531).

K classes, R real images, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def discrimination(real: Tensor, cls: Tensor, centres: Tensor) -> Tensor:
    """Return L = -sum_i log softmax(<f_i, c_k>)_{y_i}, a scalar in float32, or float64 where the features are.

    Dot products of features that no norm bounds are large: neither they nor their softmax are left to 16 bits.

    Args:
        real: f, float[R, D], features of real images.
        cls: y, long[R].
        centres: c, float[K, D], mean features of the synthetic images of each class; gradients flow into them alone
            where the real features carry none.
    """
    with torch.autocast(real.device.type, enabled=False):
        return functional.cross_entropy(exact(real) @ exact(centres).T, cls, reduction="sum")


def slope(real: Tensor, cls: Tensor, centres: Tensor) -> Tensor:
    """Return dL/dc, float[K, D]: (softmax(f c^T) - onehot(y))^T f; arguments as for `discrimination`.

    sum(slope * c) has the gradient of L at these centres, and falls into a sum over classes: so synthetic images can
    pass the network class by class once all centres are known.
    """
    with torch.no_grad(), torch.autocast(real.device.type, enabled=False):
        features = exact(real)
        gap = functional.softmax(features @ exact(centres).T, dim=1)
        gap[torch.arange(len(cls), device=cls.device), cls] -= 1.0
        return gap.T @ features


def exact(values: Tensor) -> Tensor:
    """Return values in float32, or float64 where they are."""
    return values if values.dtype == torch.float64 else values.float()
