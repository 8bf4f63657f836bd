"""Wide ResNet (arXiv:1605.07146): norm and ReLU before each convolution. B batch, C channels, H W pixels, K classes."""

from __future__ import annotations

from torch import Tensor, nn

from datastill.networks.body import Body, Shape
from datastill.networks.registry import network


class Unit(nn.Module):
    """Two 3x3 convolutions behind norms, and a shortcut: a 1x1 behind the first norm where the shape changes."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.BatchNorm2d(fan_in), nn.ReLU(inplace=True))
        self.main = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module | None = None
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, fan_out, H / stride, W / stride] for float[B, fan_in, H, W]."""
        entered: Tensor = self.enter(x)
        kept: Tensor = x if self.shortcut is None else self.shortcut(entered)
        y: Tensor = kept + self.main(entered)
        return y


class WideResNet(Body):
    """3x3 stem, three stages of units, norm, global average pooling, one linear layer.

    Args:
        classes: K.
        shape: (C, H, W).
        units: of each stage; the depth is 6 * units + 4.
        factor: how many times wider than the stem's `width` the first stage is; each stage doubles it.
        width: channels of the stem.
    """

    def __init__(self, classes: int, shape: Shape, units: int, factor: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False)]
        fan_in = width
        for stage in range(3):
            fan_out = (width * factor) << stage
            for index in range(units):
                layers.append(Unit(fan_in, fan_out, 2 if stage and index == 0 else 1))
                fan_in = fan_out
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(fan_in), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(fan_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, z: Tensor) -> Tensor:
        """Return the pooled last map, float[B, 4 * factor * width]."""
        maps: Tensor = self.pool(self.layers(z))
        return maps.flatten(1)


@network("wrn_16_2")
def wrn_16_2(classes: int, shape: Shape, *, width: int = 16) -> WideResNet:
    """Wide ResNet of depth 16, twice as wide; its last map is 8x8 on 32-pixel images."""
    return WideResNet(classes, shape, 2, 2, width)
