"""ResNet (arXiv:1512.03385), stride on the 3x3 convolution. B batch, C channels, H W pixels, K classes, D features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from datastill.networks.body import Body, Shape
from datastill.networks.registry import network

LARGE_SIDE = 112


class Block(nn.Module):
    """relu(main(x) + shortcut(x)), with a 1x1 projection as shortcut where the shape changes."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, *main: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*main)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False), nn.BatchNorm2d(fan_out)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, fan_out, H / stride, W / stride] for float[B, fan_in, H, W]."""
        y: Tensor = self.relu(self.main(x) + self.shortcut(x))
        return y


def basic(fan_in: int, width: int, stride: int) -> Block:
    """Two 3x3 convolutions."""
    return Block(
        fan_in,
        width,
        stride,
        nn.Conv2d(fan_in, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
    )


def bottleneck(fan_in: int, width: int, stride: int) -> Block:
    """1x1, 3x3 with the stride, 1x1 to four times the width."""
    return Block(
        fan_in,
        4 * width,
        stride,
        nn.Conv2d(fan_in, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 4 * width, 1, bias=False),
        nn.BatchNorm2d(4 * width),
    )


class ResNet(Body):
    """Stem, four stages of blocks, global average pooling, one linear layer.

    Args:
        classes: K.
        shape: (C, H, W). Sides of 112 pixels and more get the 7x7 stem of stride 2 with max-pooling, smaller ones a
            3x3 stem of stride 1 without pooling.
        repeats: blocks of each stage.
        wide: bottleneck blocks instead of basic ones.
        width: channels of the stem and of the first stage; each stage doubles them.
    """

    def __init__(self, classes: int, shape: Shape, repeats: Sequence[int], wide: bool, width: int) -> None:
        super().__init__()
        large = min(shape[1:]) >= LARGE_SIDE
        kernel, stride = (7, 2) if large else (3, 1)
        stem = nn.Conv2d(shape[0], width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        if large:
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        stages, fan_in = [], width
        for stage, count in enumerate(repeats):
            for index in range(count):
                inner = width << stage
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(bottleneck(fan_in, inner, stride) if wide else basic(fan_in, inner, stride))
                fan_in = 4 * inner if wide else inner
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(fan_in, classes)
        for module in self.modules():
            # The small stem replaces torchvision's after its initialisation and keeps PyTorch's default.
            if isinstance(module, nn.Conv2d) and (large or module is not stem):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, z: Tensor) -> Tensor:
        """Return the pooled last map, float[B, D]."""
        maps: Tensor = self.pool(self.stages(self.stem(z)))
        return maps.flatten(1)


@network("resnet10")
def resnet10(classes: int, shape: Shape, *, width: int = 64) -> ResNet:
    """ResNet of basic blocks 1, 1, 1, 1."""
    return ResNet(classes, shape, (1, 1, 1, 1), False, width)


@network("resnet18")
def resnet18(classes: int, shape: Shape, *, width: int = 64) -> ResNet:
    """ResNet of basic blocks 2, 2, 2, 2."""
    return ResNet(classes, shape, (2, 2, 2, 2), False, width)


@network("resnet34")
def resnet34(classes: int, shape: Shape, *, width: int = 64) -> ResNet:
    """ResNet of basic blocks 3, 4, 6, 3."""
    return ResNet(classes, shape, (3, 4, 6, 3), False, width)


@network("resnet50")
def resnet50(classes: int, shape: Shape, *, width: int = 64) -> ResNet:
    """ResNet of bottlenecks 3, 4, 6, 3."""
    return ResNet(classes, shape, (3, 4, 6, 3), True, width)


@network("resnet101")
def resnet101(classes: int, shape: Shape, *, width: int = 64) -> ResNet:
    """ResNet of bottlenecks 3, 4, 23, 3."""
    return ResNet(classes, shape, (3, 4, 23, 3), True, width)
