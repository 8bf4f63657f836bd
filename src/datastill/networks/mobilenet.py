"""MobileNetV2 for small images (arXiv:1801.04381). B batch, C channels, H W pixels, K classes, D features."""

from __future__ import annotations

from torch import Tensor, nn

from datastill.networks.body import Body, Shape
from datastill.networks.registry import network

# Expansion, channels, blocks, stride of the first block; strides are those of 32-pixel images.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def scaled(channels: int, width: float) -> int:
    """Return channels * width rounded to a multiple of 8, at least 8: every group count used here divides it."""
    return max(8, 8 * round(channels * width / 8))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1; at stride 1 with a shortcut, projected where the channels change."""

    def __init__(self, fan_in: int, fan_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = expansion * fan_in
        self.main = nn.Sequential(
            nn.Conv2d(fan_in, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, fan_out, 1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1 and fan_in == fan_out:
            self.shortcut = nn.Identity()
        elif stride == 1:
            self.shortcut = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, fan_out, H / stride, W / stride] for float[B, fan_in, H, W]."""
        y: Tensor = self.main(x)
        return y if self.shortcut is None else y + self.shortcut(x)


class MobileNetV2(Body):
    """Stem of stride 1, seven stages, 1x1 convolution, global average pooling, one linear layer; ReLU throughout.

    Args:
        classes: K.
        shape: (C, H, W).
        width: multiplies every channel count, rounded to multiples of 8.
    """

    def __init__(self, classes: int, shape: Shape, width: float) -> None:
        super().__init__()
        fan_in, last = scaled(32, width), scaled(1280, width)
        layers: list[nn.Module] = [
            nn.Conv2d(shape[0], fan_in, 3, padding=1, bias=False),
            nn.BatchNorm2d(fan_in),
            nn.ReLU(inplace=True),
        ]
        for expansion, channels, blocks, first in STAGES:
            fan_out = scaled(channels, width)
            for index in range(blocks):
                layers.append(InvertedResidual(fan_in, fan_out, expansion, first if index == 0 else 1))
                fan_in = fan_out
        layers += [nn.Conv2d(fan_in, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, classes)

    def features(self, z: Tensor) -> Tensor:
        """Return the pooled last map, float[B, D]."""
        maps: Tensor = self.pool(self.layers(z))
        return maps.flatten(1)


@network("mobilenetv2")
def mobilenetv2(classes: int, shape: Shape, *, width: float = 1.0) -> MobileNetV2:
    """MobileNetV2 whose last map is 4x4 on 32-pixel images."""
    return MobileNetV2(classes, shape, width)
