"""Directed weight adjustment (DWA, arXiv 2409.17612): a network moved a little, uphill in the loss of some images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from datastill.networks import Network

TINY = 1e-12  # so that a zero gradient is a zero step


def adjusted(network: Network, x: Tensor, target: Tensor, steps: int, rho: float) -> Network:
    """Return a frozen copy of a network after `steps` normalised steps of gradient ascent on the cross-entropy.

    theta <- theta + (rho / steps) * g / (||g||_2 + 1e-12), one norm over all parameters, so that the whole way is at
    most rho. Buffers stay as they are: BatchNorm is in evaluation mode. The network itself is left alone.

    Args:
        network: frozen, on the device of x.
        x: float[B, C, H, W], pixels as they will be shown first.
        target: float[B, K], rows that sum to 1.
        steps: K.
        rho: the length of the way, in the 2-norm of all parameters.
    """
    moved = copy.deepcopy(network).eval().requires_grad_(True)
    parameters = list(moved.parameters())
    for _ in range(steps):
        loss = -(target * functional.log_softmax(moved(x), dim=1)).sum(dim=1).mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient * (rho / steps / (norm + TINY)))
    return moved.requires_grad_(False)
