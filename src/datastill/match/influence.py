"""What each image of a real batch does to the pull on synthetic ones: individual treatment effects (arXiv 2305.18381).

A match sees a batch of n real images as the mean h of a vector phi of each, and the synthetic images S of a class as a
vector s(S), both in several tensors. Its pull is G(h) = d distance(s(S), h) / dS, and the effect of an image x is

    ITE(x) = G(h) - G(h_x),  h_x = (n h - phi_x) / (n - 1)

the change of the pull where x is left out. What is asked for is its length. m directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from datastill.fields import Weighing
from datastill.match.aligned import Aligner
from datastill.match.slopes import TOGETHER, Meeting, apart

Vectors = Sequence[Tensor]
HELD = 1 << 24  # numbers of phi that are held at once


@dataclass(frozen=True)
class Side:
    """The synthetic images of a class, as a match sees them.

    leaf: float[N, C, H, W], pixels that want a gradient; `vectors`, s of them, have the graph back to it.
    moved: returns how the vectors change where the pixels move along a direction, like `leaf`.
    distance: of the vectors and those of real images, a number that vmap can batch.
    together: whether vmap can batch the graph, too; else images go one after another.
    """

    leaf: Tensor
    vectors: Vectors
    moved: Callable[[Tensor], Vectors]
    distance: Callable[[Vectors, Vectors], Tensor]
    together: bool

    @property
    def at(self) -> list[Tensor]:
        """The vectors without their graph."""
        return [v.detach() for v in self.vectors]

    def slope(self, h: Vectors) -> list[Tensor]:
        """Return the gradient of the distance at the vectors, beside real images h."""
        found: list[Tensor] = grad(self.distance)(self.at, list(h))
        return found


def effects(
    side: Side, h: Vectors, each: Iterable[Vectors], count: int, how: Weighing, rng: np.random.Generator
) -> Tensor:
    """Return the length of the effect of each image of a batch, float[n].

    Args:
        side: the synthetic images.
        h: the mean of phi over the batch.
        each: phi of the images in order, some at a time, float[c, ...] of each tensor.
        count: n, two at least.
        how: exact; taylor, the same to first order in 1 / n, and exact where the distance is squared; or sketch, the
            root mean square of the latter along m random directions, times their number of dimensions.
        rng: of the directions.
    """
    with torch.autocast(side.leaf.device.type, enabled=False):
        if how.estimate == "sketch":
            drawn = rng.standard_normal((how.sketches, *side.leaf.shape), dtype=np.float32)
            return sketched(side, h, each, count, torch.from_numpy(drawn).to(side.leaf))
        return torch.cat([_lengths(side, _changes(side, h, phi, count, how.estimate)) for phi in each])


def sketched(side: Side, h: Vectors, each: Iterable[Vectors], count: int, directions: Tensor) -> Tensor:
    """Return sqrt(1 / m sum over directions xi of <xi, ITE(x)>^2), to first order, float[n].

    Args:
        side, h, each, count: as in `effects`.
        directions: xi, float[m, N, C, H, W].
    """
    ways = [_way(side, h, direction) for direction in directions]
    found = []
    for phi in each:
        apart = [p - mean for p, mean in zip(phi, h, strict=True)]
        along = [sum((a * w).flatten(1).sum(1) for a, w in zip(apart, way, strict=True)) for way in ways]
        found.append(torch.stack(along).square().mean(0).sqrt() / (count - 1))  # type: ignore[arg-type]  # tensors
    return torch.cat(found)


def moved_along(leaf: Tensor, vectors: Vectors) -> Callable[[Tensor], Vectors]:
    """Return what turns a direction, like `leaf`, into the change of the vectors along it, by their graph.

    The product of u with the Jacobian is linear in u, and its gradient at u is the product from the other side.
    """
    u = [torch.zeros_like(v, requires_grad=True) for v in vectors]
    with torch.enable_grad():
        (product,) = torch.autograd.grad(vectors, leaf, u, create_graph=True)

    def moved(direction: Tensor) -> Vectors:
        return torch.autograd.grad(product, u, direction, retain_graph=True, materialize_grads=True)

    return moved


def _way(side: Side, h: Vectors, direction: Tensor) -> list[Tensor]:
    """Return w with <w, v> the change of <direction, G(h)> where h moves by v."""
    moved = list(side.moved(direction))

    found: list[Tensor] = grad(lambda of: _dot(side.slope(of), moved))(list(h))
    return found


def _dot(a: Vectors, b: Vectors) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _changes(side: Side, h: Vectors, phi: Vectors, count: int, estimate: str) -> list[Tensor]:
    """Return how the gradient of the distance at s changes with each image, float[c, ...] of each tensor."""

    def first(x: list[Tensor]) -> list[Tensor]:
        away = [(p - mean) / (count - 1) for p, mean in zip(x, h, strict=True)]
        # Mixed second derivatives are the same in either order, and this one needs gradients alone.
        change: list[Tensor] = grad(lambda at: _dot(grad(side.distance, argnums=1)(at, list(h)), away))(side.at)
        return change

    def left_out(x: list[Tensor]) -> list[Tensor]:
        without = [(count * mean - p) / (count - 1) for p, mean in zip(x, h, strict=True)]
        return [a - b for a, b in zip(slope, side.slope(without), strict=True)]

    slope = side.slope(h)
    found: list[Tensor] = vmap(left_out if estimate == "exact" else first)(list(phi))
    return found


def _lengths(side: Side, changes: Sequence[Tensor]) -> Tensor:
    """Return the length of what changes at s do at the pixels, float[c]."""
    if side.together:
        (found,) = torch.autograd.grad(side.vectors, side.leaf, list(changes), retain_graph=True, is_grads_batched=True)
    else:
        each = zip(*(of.unbind() for of in changes), strict=True)
        found = torch.cat([torch.autograd.grad(side.vectors, side.leaf, v, retain_graph=True)[0][None] for v in each])
    lengths: Tensor = torch.linalg.vector_norm(found.flatten(1), dim=1)
    return lengths


def slope_effects(
    meeting: Meeting,
    see: Callable[[Tensor], Tensor],
    own: Tensor,
    real: Tensor,
    cls: int,
    how: Weighing,
    rng: np.random.Generator,
) -> Tensor:
    """Return the effects of real images where phi is the gradient of each one's cross-entropy at the weights, float[n].

    Args:
        meeting: the network, its weights and the distance of two gradients.
        see: makes network inputs of pixels of this class.
        own: float[N, C, H, W], pixels of the synthetic images, one at least.
        real: float[n, C, H, W], those of real ones.
        cls: their class.
        how, rng: as in `effects`.
    """
    leaf, wanted = own.detach().requires_grad_(), see(real)
    together = leaf.device.type == "cuda"  # there no norm is replaced by one that vmap cannot batch
    with torch.enable_grad():
        z = see(leaf)
    vectors = meeting.slope(z, cls, graph=True)
    side = Side(leaf, vectors, moved_slopes(meeting, leaf, z, cls), partial(apart, distance=meeting.distance), together)
    room = TOGETHER[leaf.device.type] // max(wanted[0].numel(), leaf.numel())
    most = max(1, min(room, HELD // sum(v.numel() for v in vectors)))
    each = slope_of_each(meeting, wanted, cls, most, together=together)
    return effects(side, meeting.real(wanted, cls), each, len(real), how, rng)


def slope_of_each(meeting: Meeting, z: Tensor, cls: int, most: int, *, together: bool) -> Iterator[list[Tensor]]:
    """Yield the gradient at the weights of each of the inputs float[B, C, H, W], at most so many at a time."""

    def loss(tensors: dict[str, Tensor], one: Tensor) -> Tensor:
        logits = functional_call(meeting.body, tensors, (one[None],))
        return functional.cross_entropy(logits, logits.new_full((1,), cls, dtype=torch.long))

    for part in z.split(most):
        if together:
            now = {name: tensor.detach() for name, tensor in zip(meeting.names, meeting.tensors, strict=True)}
            yield list(vmap(grad(loss), in_dims=(None, 0))(now, part).values())
        else:
            slopes = [meeting.slope(one, cls) for one in part.split(1)]
            yield [torch.stack(of) for of in zip(*slopes, strict=True)]


def moved_slopes(meeting: Meeting, leaf: Tensor, z: Tensor, cls: int) -> Callable[[Tensor], Vectors]:
    """Return what turns a direction of the pixels into the change of the gradient of inputs z at the weights.

    It is the gradient at the weights of the loss's change along that direction: second gradients are all it takes.
    """

    @cache
    def at_pixels() -> Tensor:
        with torch.enable_grad():
            logits = meeting.body(z)
            loss = functional.cross_entropy(logits, logits.new_full((len(z),), cls, dtype=torch.long))
            return torch.autograd.grad(loss, leaf, create_graph=True)[0]

    def moved(direction: Tensor) -> Vectors:
        return torch.autograd.grad(at_pixels(), meeting.tensors, direction, retain_graph=True, materialize_grads=True)

    return moved


def feature_effects(
    aligner: Aligner,
    own: Tensor,
    real: Sequence[Tensor],
    cls: int,
    how: Weighing,
    rng: np.random.Generator,
) -> Tensor:
    """Return the effects of real images where phi is what the terms make of each, float[n].

    Args:
        aligner: the network, its terms and their distance; images must not meet in it.
        own: float[N, C, H, W], pixels of the synthetic images, one at least.
        real: those of real ones, in as many parts as pass the network.
        cls: their class.
        how, rng: as in `effects`.
    """
    leaf = own.detach().requires_grad_()
    with torch.enable_grad():
        vectors = [v.mean(dim=0) for v in aligner.vectors(leaf, cls)]
    with torch.no_grad():
        phi = [torch.cat(of) for of in zip(*(aligner.vectors(part, cls) for part in real), strict=True)]
    side = Side(leaf, vectors, moved_along(leaf, vectors), aligner.apart, leaf.device.type == "cuda")
    return effects(side, [p.mean(dim=0) for p in phi], [phi], len(phi[0]), how, rng)
