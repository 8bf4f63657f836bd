"""Gradients of a network at its weights, class by class: how far two of them are apart, and what that does to pixels.

After DC (arXiv 2006.05929) and IDC (arXiv 2205.14959). B batch, C channels, H W pixels, K classes, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

Distance = Literal["rowcos", "cos", "mse", "l1", "l1_mean"]
Tensors = Literal["all", "weights", "conv"]
Slopes = Sequence[Tensor]

FEWEST = {"all": 1, "weights": 2, "conv": 4}  # dimensions of a tensor that is matched
FLOOR = 1e-6  # beside the product of two lengths, outside both
# Values of inputs (B * C * H * W) in a pass, beyond which another one is made: few enough for caches, or for memory.
TOGETHER = {"cpu": 1 << 18, "cuda": 1 << 22}


def matched_names(network: nn.Module, tensors: Tensors, distance: Distance) -> list[str]:
    """Return the names of the parameters that are matched; rows of one dimension are no rows."""
    fewest = max(FEWEST[tensors], 2 if distance == "rowcos" else 1)
    return [name for name, p in network.named_parameters() if p.ndim >= fewest]


def apart(mine: Slopes, wanted: Slopes, distance: Distance) -> Tensor:
    """Return how far two lists of gradients are apart, a number, differentiable in `mine`.

    Rows are what belongs to one output of a layer, float[R, n] of each tensor. Nothing is divided by how many there
    are: rowcos: sum over rows of 1 - cosine. cos: 1 - cosine of all numbers as one vector. mse: sum of squared
    differences. l1: sum of absolute ones. l1_mean: sum over rows of the mean absolute one.
    """
    if distance == "cos":
        return _turned(_line(mine), _line(wanted)).sum()
    each = {"rowcos": _turned, "mse": _squares, "l1": _absolute, "l1_mean": _mean_absolute}[distance]
    return torch.stack([each(_rows(a), _rows(b)).sum() for a, b in zip(mine, wanted, strict=True)]).sum()


def _rows(a: Tensor) -> Tensor:
    return a[:, None] if a.ndim == 1 else a.flatten(1)


def _line(slopes: Slopes) -> Tensor:
    return torch.cat([a.flatten() for a in slopes])[None]


def _turned(a: Tensor, b: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    turned: Tensor = 1.0 - (a * b).sum(dim=1) / (lengths + FLOOR)
    return turned


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(dim=1)


def _absolute(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(dim=1)


def _mean_absolute(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean(dim=1)


def _room(z: Tensor) -> int:
    """Return how many of inputs z float[B, C, H, W] make one pass."""
    return max(1, TOGETHER[z.device.type] // z[0].numel())


class Meeting:
    """A network that real and synthetic images of a class meet: their gradients at some of its weights.

    Samples must not mix in it: norms of batches are in evaluation mode.

    Args:
        body: eats network inputs.
        names: of the parameters that are matched; all others ask for no gradient from here on.
        distance: as in `apart`.
    """

    def __init__(self, body: nn.Module, names: Sequence[str], distance: Distance) -> None:
        self.body, self.names, self.distance = body, list(names), distance
        self._parameters = dict(body.named_parameters())
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in names)

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters that are matched."""
        return [self._parameters[name] for name in self.names]

    def slope(self, z: Tensor, cls: int, *, graph: bool = False) -> list[Tensor]:
        """Return the gradient of the mean cross-entropy of inputs z float[B, C, H, W], all of one class."""
        with torch.enable_grad():
            logits = self.body(z)
            loss = functional.cross_entropy(logits, logits.new_full((len(z),), cls, dtype=torch.long))
            return list(torch.autograd.grad(loss, self.tensors, create_graph=graph))

    def real(self, z: Tensor, cls: int) -> list[Tensor]:
        """Return the same without a graph, in as many passes as large images need."""
        parts = z.chunk(-(-len(z) // _room(z)))
        slopes = [self.slope(part, cls) for part in parts]
        if len(parts) == 1:
            return slopes[0]
        shares = [len(part) / len(z) for part in parts]
        return [
            torch.stack([a * share for a, share in zip(each, shares, strict=True)]).sum(dim=0)
            for each in zip(*slopes, strict=True)
        ]

    def looped(self, z: Sequence[Tensor], wanted: Iterator[Slopes]) -> tuple[list[Tensor], Tensor]:
        """Return the gradient of each class's distance at its inputs, and the distances float[K]: class after class.

        Args:
            z: synthetic inputs of each class, float[n_k, C, H, W]; an empty class is passed over.
            wanted: the real gradient of each class, asked for in order, so that one class's graph stands at a time.
        """
        found, losses = [], []
        for cls, (inputs, real) in enumerate(zip(z, wanted, strict=True)):
            if not len(inputs):
                found.append(inputs)
                losses.append(inputs.new_zeros(()))
                continue
            leaf = inputs.detach().requires_grad_()
            with torch.enable_grad():
                loss = apart(self.slope(leaf, cls, graph=True), real, self.distance)
            found += torch.autograd.grad(loss, leaf)
            losses.append(loss.detach())
        return found, torch.stack(losses)

    def batched(self, z: Sequence[Tensor], wanted: Iterator[Slopes]) -> tuple[list[Tensor], Tensor]:
        """Return the same, many classes in one pass; where their numbers of images differ, class after class.

        For a device that small batches leave idle. The norms of the network must be torch's own.
        """
        if len({len(inputs) for inputs in z}) > 1 or not len(z[0]):
            return self.looped(z, wanted)
        rest = {name: p for name, p in self._parameters.items() if name not in self.names}

        def loss(tensors: dict[str, Tensor], inputs: Tensor, cls: Tensor) -> Tensor:
            logits = functional_call(self.body, tensors | rest, (inputs,))
            return functional.cross_entropy(logits, cls.expand(len(inputs)))

        def distance(inputs: Tensor, cls: Tensor, real: Slopes) -> Tensor:
            tensors: dict[str, Tensor] = {name: self._parameters[name] for name in self.names}
            return apart(list(grad(loss)(tensors, inputs, cls).values()), real, self.distance)

        found: list[Tensor] = []
        losses = []
        for classes in torch.arange(len(z)).split(max(1, _room(z[0]) // len(z[0]))):
            low, high = int(classes[0]), int(classes[-1]) + 1
            leaf = torch.stack(list(z[low:high])).detach().requires_grad_()
            real = [torch.stack(each) for each in zip(*(next(wanted) for _ in range(low, high)), strict=True)]
            with torch.enable_grad():
                each = vmap(distance)(leaf, classes.to(leaf.device), real)
            (slopes,) = torch.autograd.grad(each.sum(), leaf)
            found += slopes.unbind()
            losses.append(each.detach())
        return found, torch.cat(losses)
