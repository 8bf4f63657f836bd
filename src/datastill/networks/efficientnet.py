"""EfficientNet-B0 for small images (arXiv:1905.11946). B batch, C channels, H W pixels, K classes, D features."""

from __future__ import annotations

from torch import Tensor, nn

from datastill.networks.body import Body, Shape
from datastill.networks.mobilenet import scaled
from datastill.networks.registry import network

# Expansion, channels, blocks, kernel, stride of the first block; strides are those of 32-pixel images.
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
DROPOUT = 0.2


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means over the map."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, C, H, W] for the same."""
        y: Tensor = x * self.gate(x)
        return y


class MBConv(nn.Module):
    """1x1 expansion, depthwise, squeeze and excite, linear 1x1; an identity shortcut where the shape stays."""

    def __init__(self, fan_in: int, fan_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = expansion * fan_in
        # The released networks own this layer at expansion 1 too and skip it in the forward pass. It is kept, since
        # their parameters, states and BatchNorm layers are counted with it.
        self.expand = nn.Sequential(
            nn.Conv2d(fan_in, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.SiLU(inplace=True)
        )
        self.expands = expansion != 1
        self.main = nn.Sequential(
            nn.Conv2d(middle, middle, kernel, stride=stride, padding=kernel // 2, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.SiLU(inplace=True),
            SqueezeExcite(middle, max(1, fan_in // 4)),
            nn.Conv2d(middle, fan_out, 1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.keeps = stride == 1 and fan_in == fan_out

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, fan_out, H / stride, W / stride] for float[B, fan_in, H, W]."""
        y: Tensor = self.main(self.expand(x) if self.expands else x)
        return y + x if self.keeps else y


class EfficientNet(Body):
    """Stem of stride 1, seven stages, global average pooling, dropout and one linear layer; no last convolution.

    Args:
        classes: K.
        shape: (C, H, W).
        width: multiplies every channel count, rounded to multiples of 8.
    """

    def __init__(self, classes: int, shape: Shape, width: float) -> None:
        super().__init__()
        fan_in = scaled(32, width)
        layers: list[nn.Module] = [
            nn.Conv2d(shape[0], fan_in, 3, padding=1, bias=False),
            nn.BatchNorm2d(fan_in),
            nn.SiLU(inplace=True),
        ]
        for expansion, channels, blocks, kernel, first in STAGES:
            fan_out = scaled(channels, width)
            for index in range(blocks):
                layers.append(MBConv(fan_in, fan_out, expansion, kernel, first if index == 0 else 1))
                fan_in = fan_out
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(fan_in, classes))

    def features(self, z: Tensor) -> Tensor:
        """Return the pooled last map, float[B, D], before dropout."""
        maps: Tensor = self.pool(self.layers(z))
        return maps.flatten(1)


@network("efficientnet_b0")
def efficientnet_b0(classes: int, shape: Shape, *, width: float = 1.0) -> EfficientNet:
    """EfficientNet-B0 whose last map is 2x2 on 32-pixel images; the first block's expansion is never called."""
    return EfficientNet(classes, shape, width)
