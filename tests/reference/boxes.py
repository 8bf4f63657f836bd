"""Boxes of dense labels the plain way: one item and one box at a time, corners by fractions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional


def half_up(value: Fraction) -> int:
    """Return the nearest whole number, halves upwards."""
    return math.floor(value + Fraction(1, 2))


def corners(side: int, box: int, grid: int) -> list[int]:
    """Return the first pixels of `grid` boxes whose steps are equal before they are rounded."""
    if grid == 1:
        return [half_up(Fraction(side - box, 2))]
    return [half_up(k * Fraction(side - box, grid - 1)) for k in range(grid)]


def stretched(image: Tensor, a: int, b: int, grid: int, ratio: Fraction) -> Tensor:
    """Return box number a from the top and b from the left of image float[C, H, W], resized to H x W."""
    height, width = image.shape[1:]
    high, wide = half_up(ratio * height), half_up(ratio * width)
    top, left = corners(height, high, grid)[a], corners(width, wide, grid)[b]
    cut = image[None, :, top : top + high, left : left + wide]
    return functional.interpolate(cut, (height, width), mode="bilinear", align_corners=False)[0]


def all_stretched(images: Tensor, grid: int, ratio: Fraction) -> Iterator[Tensor]:
    """Yield every box of every image float[N, C, H, W], item by item, row by row."""
    for image in images:
        for a in range(grid):
            for b in range(grid):
                yield stretched(image, a, b, grid, ratio)


def told(images: Tensor, networks: Sequence[nn.Module], grid: int, ratio: Fraction) -> Tensor:
    """Return float64[N, grid * grid, K]: what the networks say on average of each box, one box at a time."""
    with torch.no_grad():
        rows = [
            torch.stack([network(x[None])[0].double() for network in networks]).mean(0)
            for x in all_stretched(images, grid, ratio)
        ]
    return torch.stack(rows).view(len(images), grid * grid, -1)
