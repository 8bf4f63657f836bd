"""CAFE as its specification tells it, class by class and image by image: slow and plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from datastill.networks import Network
from datastill.networks.convnet import ConvNet


def alignment(real: Sequence[Tensor], synthetic: Sequence[Tensor], cls: tuple[Tensor, Tensor], weights: Sequence[float],
              classes: int) -> Tensor:  # fmt: skip
    """Return L_align (2.1): features of each tap, real float[R, ...] and synthetic float[N, ...], and their classes."""
    total = torch.zeros((), dtype=synthetic[0].dtype)
    for f_real, f_synthetic, weight in zip(real, synthetic, weights, strict=True):
        for k in range(classes):
            of_real = [f for f, y in zip(f_real, cls[0], strict=True) if y == k]
            of_synthetic = [f for f, y in zip(f_synthetic, cls[1], strict=True) if y == k]
            gap = sum(of_real) / len(of_real) - sum(of_synthetic) / len(of_synthetic)
            total = total + weight * (gap**2).sum()
    return total


def discrimination(real: Tensor, synthetic: Tensor, cls: tuple[Tensor, Tensor], classes: int) -> Tensor:
    """Return L_disc (2.2): last features, real float[R, D] and synthetic float[N, D], and their classes."""
    centres = []
    for k in range(classes):
        mine = [f for f, y in zip(synthetic, cls[1], strict=True) if y == k]
        centres.append(sum(mine) / len(mine))
    total = torch.zeros((), dtype=synthetic.dtype)
    for f, y in zip(real, cls[0], strict=True):
        logits = torch.stack([(f * centre).sum() for centre in centres])
        total = total - (logits[y] - torch.logsumexp(logits, 0))
    return total


def left_at(accuracies: Sequence[float], window: int, leaves: Callable[[float], bool], most: int) -> int:
    """Return after how many values a loop is left (2.3): a full window is tested, then its oldest value dropped."""
    seen: list[float] = []
    for count, accuracy in enumerate(accuracies, start=1):
        seen.append(accuracy)
        if len(seen) == window:
            if leaves(max(seen) - min(seen)):
                return count
            seen.pop(0)
        if count == most:
            return count
    raise AssertionError("the script is too short")


def released(accuracies: Sequence[float], classes: int) -> list[float]:
    """Return what the released accumulator makes of true accuracies (7.2): it keeps its former value among the sums."""
    found, kept = list[float](), 0.0
    for accuracy in accuracies:
        kept = kept / classes + accuracy
        found.append(kept)
    return found


def features(network: Network, x: Tensor) -> list[Tensor]:
    """Return f1 to f4 of a ConvNet (2): each block after its ReLU, before its pooling, then the last pooling's."""
    z, found = network.space.into(x), list[Tensor]()
    for layer in cast(ConvNet, network.body).blocks:
        z = layer(z.clone())  # ReLUs write in place
        if isinstance(layer, nn.ReLU):
            found.append(z)
    return [*found, z]


def loss(network: Network, real: Tensor, synthetic: Tensor, cls: tuple[Tensor, Tensor], classes: int, beta: float,
         shallow: float = 0.1) -> Tensor:  # fmt: skip
    """Return L (2.1, 2.2) of pixels, with the weights of the released code: f4 counts again as f5."""
    found, wanted = features(network, synthetic), features(network, real)
    weights = [shallow] * (len(found) - 2) + [1.0, 1.0]
    flat_real, flat_synthetic = wanted[-1].flatten(1), found[-1].flatten(1)
    aligned = alignment([*wanted, flat_real], [*found, flat_synthetic], cls, [*weights, 1.0], classes)
    return aligned + beta * discrimination(flat_real, flat_synthetic, cls, classes)


def life(network: Network, synthetic: Tensor, cls: Tensor, batches: Sequence[tuple[Tensor, Tensor]], *, classes: int,
         lr: float, momentum: float, velocity: Tensor, inner: int, scale: Tensor) -> Tensor:  # fmt: skip
    """Return the images after the life of one network (2.4), one update for each real batch; velocity moves in place.

    Args:
        network: float[...] weights, trained in place by plain SGD of rate 0.01 on all images at once.
        synthetic: float[N, C, H, W] in deviations of the data set.
        cls: long[N].
        batches: real pixels and their classes.
        classes: K.
        lr: of the images.
        momentum: of the images.
        velocity: like synthetic.
        inner: epochs between two updates.
        scale: float[2, C], mean and deviation, by which images become pixels.
    """
    mean, deviation = scale[:, :, None, None]
    trained = torch.optim.SGD(network.parameters(), lr=0.01)
    for step, (real, of_real) in enumerate(batches):
        leaf = synthetic.clone().requires_grad_()
        value = loss(network, real, leaf * deviation + mean, (of_real, cls), classes, 0.01)
        (slope,) = torch.autograd.grad(value, leaf)
        velocity.mul_(momentum).add_(slope)
        synthetic = synthetic - lr * velocity
        for _ in range(inner if step < len(batches) - 1 else 0):
            trained.zero_grad()
            functional.cross_entropy(network(synthetic * deviation + mean), cls).backward()
            trained.step()
    return synthetic
