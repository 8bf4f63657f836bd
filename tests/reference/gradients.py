"""DC and DSA as their specification tells them: class after class, one backward pass for all, in plain torch.

K classes, n images of each, C channels, H W pixels. What is drawn is asked for, so that another implementation can be
given the same. It is the slow side of a benchmark, too: no tensor is frozen and nothing is kept out of a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def row_cosines(mine: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the sum over rows of 1 - cosine, 1-D tensors left out, a row at a time."""
    total = torch.zeros((), dtype=mine[0].dtype)
    for a, b in zip(mine, wanted, strict=True):
        if a.ndim == 1:
            continue
        for row, other in zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True):
            total = total + 1 - (row @ other) / (row.norm() * other.norm() + 1e-6)
    return total


def released_cosines(mine: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the same, the rows of a tensor at once, as the released code has it."""
    total = torch.zeros((), dtype=mine[0].dtype)
    for a, b in zip(mine, wanted, strict=True):
        if a.ndim == 1:
            continue
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        total = total + torch.sum(1 - torch.sum(a * b, dim=-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-6))
    return total


def gradients(network: nn.Module, z: Tensor, cls: int, *, graph: bool) -> list[Tensor]:
    """Return the gradients of the mean cross-entropy of inputs of one class at all parameters."""
    loss = functional.cross_entropy(network(z), torch.full((len(z),), cls))
    found = torch.autograd.grad(loss, list(network.parameters()), create_graph=graph)
    return list(found) if graph else [g.detach().clone() for g in found]


def objective(
    network: nn.Module,
    synthetic: Sequence[Tensor],
    real: Sequence[Tensor],
    see: Callable[[int, Tensor], Tensor],
    distance: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor] = released_cosines,
) -> Tensor:
    """Return J, the sum of the distances of all classes, of inputs float[n, C, H, W] and float[B, C, H, W] of each.

    see: augments inputs of a class.
    """
    total = torch.zeros((), dtype=synthetic[0].dtype)
    for cls, (s, x) in enumerate(zip(synthetic, real, strict=True)):
        wanted = gradients(network, see(cls, x), cls, graph=False)
        total = total + distance(gradients(network, see(cls, s), cls, graph=True), wanted)
    return total


def condense(
    start: Tensor,
    classes: int,
    *,
    rounds: int,
    outer: int,
    inner: int,
    lr: float,
    momentum: float,
    network_of: Callable[[int], nn.Module],
    real_of: Callable[[int, int], list[Tensor]],
    see: Callable[[int, int, int, Tensor], Tensor],
    order_of: Callable[[int, int], Sequence[Sequence[int]]],
    train_lr: float = 0.01,
) -> Tensor:
    """Return normalised images float[K * n, C, H, W], class-major, learned from `start`.

    Args:
        start: the images as they begin.
        classes: K.
        rounds, outer, inner: networks, image updates of each, epochs on the set between two of them.
        lr, momentum: of the images.
        network_of: the untrained network of a round.
        real_of: the real inputs of each class, of a round and image update.
        see: the augmentation of a round, image update and class, of either side.
        order_of: the rows of every batch of one stretch of training, of a round and the image update that follows.
        train_lr: of the network.
    """
    s = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([s], lr=lr, momentum=momentum)
    cls = torch.arange(classes).repeat_interleave(len(s) // classes)
    for round_ in range(rounds):
        network = network_of(round_).train()
        learner = torch.optim.SGD(network.parameters(), lr=train_lr)
        for step in range(outer):
            if step and inner:
                held = s.detach().clone()
                for rows in order_of(round_, step):
                    learner.zero_grad()
                    functional.cross_entropy(network(held[rows]), cls[rows]).backward()
                    learner.step()

            def seen(k: int, z: Tensor, round_: int = round_, step: int = step) -> Tensor:
                return see(round_, step, k, z)

            loss = objective(network, s.chunk(classes), real_of(round_, step), seen)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return s.detach()
