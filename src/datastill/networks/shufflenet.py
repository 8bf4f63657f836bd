"""ShuffleNet-v1 with two groups, for small images (arXiv:1707.01083). B batch, C channels, H W pixels, K classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datastill.networks.body import Body, Shape
from datastill.networks.mobilenet import scaled
from datastill.networks.registry import network

GROUPS = 2
STAGES = ((200, 4), (400, 8), (800, 4))


class Shuffle(nn.Module):
    """Interleaves the channels of the groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, C, H, W] for the same, in the memory format of x."""
        if self.groups == 1:
            return x
        batch, channels, height, width = x.shape
        # A plain reshape would copy a channels-last tensor out of that format.
        if x.is_contiguous(memory_format=torch.channels_last):
            split = x.permute(0, 2, 3, 1).reshape(batch, height, width, self.groups, channels // self.groups)
            return split.transpose(3, 4).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        split = x.reshape(batch, self.groups, channels // self.groups, height, width)
        return split.transpose(1, 2).reshape(batch, channels, height, width)


class Unit(nn.Module):
    """Grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1; stride 1 adds the input, stride 2 appends it, pooled."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, groups: int) -> None:
        super().__init__()
        middle = fan_out // 4 if stride == 1 else (fan_out - fan_in) // 4
        made = fan_out if stride == 1 else fan_out - fan_in
        self.main = nn.Sequential(
            nn.Conv2d(fan_in, middle, 1, groups=groups, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            Shuffle(groups),
            nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, made, 1, groups=GROUPS, bias=False),
            nn.BatchNorm2d(made),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, fan_out, H / stride, W / stride] for float[B, fan_in, H, W]."""
        y: Tensor = self.main(x)
        y = y + x if self.pool is None else torch.cat([y, self.pool(x)], 1)
        return torch.relu_(y)


class ShuffleNet(Body):
    """Stem of one 1x1 convolution, three stages, global average pooling, one linear layer.

    Args:
        classes: K.
        shape: (C, H, W).
        width: multiplies every channel count, rounded to multiples of 8.
    """

    def __init__(self, classes: int, shape: Shape, width: float) -> None:
        super().__init__()
        fan_in = scaled(24, width)
        layers: list[nn.Module] = [
            nn.Conv2d(shape[0], fan_in, 1, bias=False),
            nn.BatchNorm2d(fan_in),
            nn.ReLU(inplace=True),
        ]
        groups = 1
        for channels, units in STAGES:
            fan_out = scaled(channels, width)
            for index in range(units):
                layers.append(Unit(fan_in, fan_out, 2 if index == 0 else 1, groups))
                fan_in, groups = fan_out, GROUPS
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(fan_in, classes)

    def features(self, z: Tensor) -> Tensor:
        """Return the pooled last map, float[B, D]."""
        maps: Tensor = self.pool(self.layers(z))
        return maps.flatten(1)


@network("shufflenet_g2")
def shufflenet_g2(classes: int, shape: Shape, *, width: float = 1.0) -> ShuffleNet:
    """ShuffleNet-v1 g=2 whose last map is 4x4 on 32-pixel images."""
    return ShuffleNet(classes, shape, width)
