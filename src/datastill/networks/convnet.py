"""ConvNet-D, the network of dataset condensation (arXiv:2006.05929). B batch, C channels, H W pixels, K classes."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from datastill.errors import DatastillError, unknown
from datastill.networks.body import Body, Shape
from datastill.networks.registry import network

Norm = Literal["batch", "instance", "none"]


class ConvNet(Body):
    """`depth` blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then one linear layer on the whole map.

    Args:
        classes: K.
        shape: (C, H, W); the head is as large as the last map, so other sides do not run.
        width: channels of every block.
        depth: blocks; None takes the depth whose last map is nearest to 4x4 (32 px: 3, 64: 4, 128: 5, 224 and 256: 6).
        norm: "batch", "instance" (affine, per image and channel) or "none".

    Raises:
        DatastillError: unknown norm, or a depth that halves the image to nothing.
    """

    def __init__(
        self, classes: int, shape: Shape, width: int = 128, depth: int | None = None, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        channels, *sides = shape
        depth = natural_depth(min(sides)) if depth is None else depth
        # The field pads 28-pixel digits to 32, so that three halvings are exact.
        padding = 3 if channels == 1 and sides == [28, 28] else 1
        last = [(side + 2 * padding - 2) >> depth for side in sides]
        if depth < 1 or min(last) < 1:
            raise DatastillError(
                f"a ConvNet was asked for depth {depth} on images of {sides[0]}x{sides[1]} pixels, and each block "
                f"halves the sides; give a depth from 1 to {int(math.log2(min(sides)))}."
            )
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [
                nn.Conv2d(channels if block == 0 else width, width, 3, padding=padding if block == 0 else 1),
                _norm(norm, width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width * last[0] * last[1], classes)

    def features(self, z: Tensor) -> Tensor:
        """Return the flattened last map, float[B, width * h * w]."""
        maps: Tensor = self.blocks(z)
        return maps.reshape(len(maps), -1)


def natural_depth(side: int) -> int:
    """Return the number of halvings that takes a side (pixels) nearest to 4, at least 1."""
    return max(1, round(math.log2(side / 4)))


def _norm(norm: str, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "instance":
        return nn.GroupNorm(width, width)
    if norm == "none":
        return nn.Identity()
    raise unknown("norm", norm, ("batch", "instance", "none"))


@network("convnet")
def convnet(classes: int, shape: Shape, *, width: int = 128, depth: int | None = None, norm: Norm = "batch") -> ConvNet:
    """ConvNet with BatchNorm unless told otherwise."""
    return ConvNet(classes, shape, width, depth, norm)


@network("convnet_in")
def convnet_in(classes: int, shape: Shape, *, width: int = 128, depth: int | None = None) -> ConvNet:
    """ConvNet with instance normalisation: no statistic crosses images."""
    return ConvNet(classes, shape, width, depth, "instance")
