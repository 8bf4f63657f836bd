"""What a network makes of images, reduced to means of classes: what distribution matching sets side by side.

DM (arXiv 2110.04181) takes the means of the last features, DataDAM (arXiv 2310.00093) adds maps of where earlier layers
look, ATOM (arXiv 2405.01373) which channels they look with. All of them are lists of terms here.

B images, K classes, C channels, h w the sides of a map, D numbers of an image under one term.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from datastill.match.discrimination import exact
from datastill.networks import Body, Network
from datastill.networks.convnet import ConvNet
from datastill.settings import setting
from datastill.training.augment import Drawn

Tap = Literal["relu", "relu_last", "embed"]
FLOOR = 1e-12  # of the length by which an image's numbers are divided


@dataclass(frozen=True, kw_only=True)
class Term:
    """weight * sum over classes and taps of ||mean of r(f) over real - mean of r(f) over synthetic||^2.

    f is what comes out of the network at a tap, float[C, h, w] of an image. r(f) is all of it ("none"), or |f|^power
    summed over its channels, a map of h * w positions, or over its positions, a number for each channel. Distances are
    sums over D and over classes; means are over images alone.
    """

    tap: Tap = setting(
        "embed", help="after each ReLU but the last, and before its pooling; after the last; or what the head sees"
    )
    reduce: Literal["none", "channels", "positions"] = setting("none", help="what is summed over")
    power: float = setting(1.0, low=1.0, high=16.0, help="of absolute values, before they are summed")
    normalise: bool = setting(False, help="whether each image's numbers are divided by their length, before any mean")
    weight: float = setting(1.0, low=0.0)

    def reduced(self, f: Tensor) -> Tensor:
        """Return r(f), float[B, D], of f float[B, C, h, w], or [B, D] where nothing is summed over."""
        if self.reduce != "none":
            f = _raised(f, self.power).sum(dim=1 if self.reduce == "channels" else (2, 3))
        elif f.dim() == 4:  # channels last, as they lie in memory: no copy, and no distance asks for an order
            f = f.permute(0, 2, 3, 1)
        f = f.flatten(1)
        return functional.normalize(f, dim=1, eps=FLOOR) if self.normalise else f


class Aligner:
    """A network whose weights stay as they are, and the class means of what images become in it.

    Args:
        network: on the device, in training mode; weights ask for no gradient from here on.
        terms: what is looked at.
        classes: K.
        drawn: a view for each class, which all of its images are seen under; None for images as they are.
        most: values (B * C * H * W) that pass the network at once, where images do not meet in it; where they do, all.
    """

    def __init__(
        self, network: Network, terms: Sequence[Term], classes: int, *, drawn: Drawn | None = None, most: int
    ) -> None:
        self.network, self.terms, self.classes, self.drawn = network.requires_grad_(False), terms, classes, drawn
        self.joint = any(isinstance(module, _BatchNorm) for module in network.modules())
        self._most = most

    @torch.no_grad()
    def real(
        self, pixels: Callable[[Tensor], Tensor], places: Sequence[Tensor], seen: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Return the class means of real images, float32[K, D] of each term and tap, in the order of the network.

        Args:
            pixels: returns float[B, C, H, W] in [0, 1] of places long[B].
            places: of the images of each class, long[n_k], at least one.
            seen: what the head sees of each image is put here, float32[B, D] in the order of `places`.
        """
        counts, flat = [len(of_class) for of_class in places], torch.cat(list(places))
        cls = torch.arange(self.classes).repeat_interleave(torch.tensor(counts))
        found: list[Tensor] = []
        for part in torch.arange(len(cls)).split(len(cls) if self.joint else self.images):
            classes = slice(int(cls[part[0]]), int(cls[part[-1]]) + 1)
            shares = self._means(pixels(flat[int(part[0]) : int(part[-1]) + 1]), cls[part], classes, counts, seen)
            if not found:
                found = [share.new_zeros(self.classes, share.shape[1]) for share in shares]
            for whole, share in zip(found, shares, strict=True):
                whole[classes] += share
        return found

    def slopes(
        self, x: Tensor, items: Sequence[Tensor], loss: Callable[[list[Tensor], slice], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of synthetic images, a number, and its gradient at their pixels, like x.

        Whole classes pass the network at once, as many as there is room for: the loss is a sum over classes, or images
        meet in the network and pass in one batch anyway.

        Args:
            x: float[N, C, H, W] pixels; detached.
            items: rows of each class, long[n_k] on the device.
            loss: of the means float32[k, D] of some neighbouring classes, one after another, given as a slice.
        """
        counts = [len(rows) for rows in items]
        total, dx = torch.zeros((), device=x.device), torch.zeros_like(x)
        for classes in self._chunks(counts):
            rows = torch.cat(list(items[classes]))
            cls = torch.arange(classes.start, classes.stop).repeat_interleave(torch.tensor(counts[classes]))
            leaf = x[rows].requires_grad_()
            with torch.enable_grad():
                value = loss(self._means(leaf, cls, classes, counts), classes)
            (dx[rows],) = torch.autograd.grad(value, leaf)
            total = total + value.detach()
        return total, dx

    def distance(self, wanted: list[Tensor]) -> Callable[[list[Tensor], slice], Tensor]:
        """Return the loss of `terms` against the class means of real images, as `slopes` asks for it."""

        def loss(found: list[Tensor], classes: slice) -> Tensor:
            return self.apart(found, [all_[classes] for all_ in wanted])

        return loss

    def apart(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Return the distance of means of some classes, float[..., D] of each term and tap."""
        squares = [(mine - theirs).square().sum() for mine, theirs in zip(found, wanted, strict=True)]
        return torch.stack([term.weight * d for term, d in zip(self.order, squares, strict=True)]).sum()

    @property
    def images(self) -> int:
        """How many images pass the network at once."""
        channels, height, width = self.network.shape
        return max(1, self._most // (channels * height * width))

    @property
    def order(self) -> list[Term]:
        """The term of each of the class means."""
        return [term for tap in taps(self.network) for term in self.terms if term.tap == tap]

    def _chunks(self, counts: list[int]) -> list[slice]:
        if self.joint:
            return [slice(0, self.classes)]
        starts, room = [0], self.images
        for k, count in enumerate(counts):
            if count > room and k > starts[-1]:
                starts.append(k)
                room = self.images
            room -= count
        return [slice(a, b) for a, b in zip(starts, [*starts[1:], self.classes], strict=True)]

    def _means(
        self, x: Tensor, cls: Tensor, classes: slice, counts: Sequence[int], seen: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Return float[k, D] of each term and tap: what images of some neighbouring classes add to the class means.

        Nothing of an activation is held but that, where no gradient is asked for.

        Args:
            x: float[B, C, H, W] pixels.
            cls: long[B], on the host.
            classes: k of them, which cls lies in.
            counts: of all the images of each class of the data set, whose mean it is.
            seen: as for `real`.
        """
        shares = torch.zeros(classes.stop - classes.start, len(cls), dtype=x.dtype)
        shares[cls - classes.start, torch.arange(len(cls))] = 1.0 / torch.tensor(counts, dtype=x.dtype)[cls]
        shares = shares.to(x.device, non_blocking=True)
        found = []
        for tap, f in _activations(self.network.body, self._inputs(x, cls)):
            with torch.autocast(x.device.type, enabled=False):
                asked = [term for term in self.terms if term.tap == tap]
                found += [shares @ term.reduced(exact(f)) for term in asked]
                if tap == "embed" and seen is not None:
                    seen.append(Term().reduced(exact(f)))
        return found

    def vectors(self, x: Tensor, k: int) -> list[Tensor]:
        """Return what class means are taken of, float32[B, D] of each term and tap, of pixels of images of class k."""
        found = []
        for tap, f in _activations(self.network.body, self._inputs(x, torch.full((len(x),), k))):
            with torch.autocast(x.device.type, enabled=False):
                found += [term.reduced(exact(f)) for term in self.terms if term.tap == tap]
        return found

    def _inputs(self, x: Tensor, cls: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # places in an image want more than 16 bits
            z = self.network.space.into(x)
            z = z if self.drawn is None else self.drawn.of(cls).apply(z)
        return z.contiguous(memory_format=torch.channels_last)


def taps(network: Network) -> list[Tap]:
    """Return the taps that a network has, in its order: a ConvNet one after each ReLU, all the input of their head."""
    if not isinstance(network.body, ConvNet):
        return ["embed"]
    relus = sum(isinstance(layer, nn.ReLU) for layer in network.body.blocks)
    return [*["relu"] * (relus - 1), "relu_last", "embed"]  # type: ignore[list-item]  # literals


def _activations(body: Body, z: Tensor) -> Iterator[tuple[Tap, Tensor]]:
    """Yield what stands at each tap, while the network runs on its inputs z float[B, C, H, W]."""
    if not isinstance(body, ConvNet):
        yield "embed", body.features(z)
        return
    last = max(place for place, layer in enumerate(body.blocks) if isinstance(layer, nn.ReLU))
    for place, layer in enumerate(body.blocks):
        z = layer(z)
        if isinstance(layer, nn.ReLU):
            yield ("relu_last" if place == last else "relu"), z
    yield "embed", z


def _raised(f: Tensor, power: float) -> Tensor:
    f = f.abs()
    if power == 4.0:  # the power of the papers, many times faster so
        return f.square().square()
    return f if power == 1.0 else f.pow(power)
