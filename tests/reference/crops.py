"""RDED's pictures the plain way: one crop, one forward pass, one tile at a time (arXiv 2312.03526)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from datastill.networks import Network


def resized(image: Tensor, window: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return float[C, h, w]: the square (top, left, side) of an image uint8[C, H, W], resized as torch does."""
    top, left, side = window
    part = image[:, top : top + side, left : left + side].float() / 255.0
    return functional.interpolate(part[None], size, mode="bilinear", antialias=True)[0]


def loss(network: Network, crop: Tensor, size: tuple[int, int], k: int) -> float:
    """Return the cross-entropy of class k for a crop float[C, h, w] in the middle of zeros, after normalisation."""
    z = torch.zeros(1, len(crop), *size)
    top, left = (size[0] - crop.shape[1]) // 2, (size[1] - crop.shape[2]) // 2
    z[0, :, top : top + crop.shape[1], left : left + crop.shape[2]] = network.space.into(crop[None])[0]
    with torch.no_grad():
        return -float(torch.log_softmax(network.eval().body(z)[0], dim=0)[k])


def choose(losses: Sequence[Sequence[float]], keep: int) -> list[tuple[int, int]]:
    """Return (image, crop) of the `keep` images whose best crop is best, the best first."""
    best = [min((value, i, j) for j, value in enumerate(row)) for i, row in enumerate(losses)]
    return [(i, j) for _, i, j in sorted(best)[:keep]]


def cut_apart(picture: Tensor, factor: int) -> list[Tensor]:
    """Return the tiles [C, h, w] of a picture [C, H, W], row by row; where needed the first ones are a pixel larger."""
    tiles, top = [], 0
    for i in range(factor):
        height, left = picture.shape[1] // factor + (i < picture.shape[1] % factor), 0
        for j in range(factor):
            width = picture.shape[2] // factor + (j < picture.shape[2] % factor)
            tiles.append(picture[:, top : top + height, left : left + width])
            left += width
        top += height
    return tiles


def shuffled(picture: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return a picture [C, H, W] whose column strips, then row strips, stand in these orders."""
    for axis, order in ((2, columns), (1, rows)):
        sides = [picture.shape[axis] // len(order) + (i < picture.shape[axis] % len(order)) for i in range(len(order))]
        strips = picture.split(sides, dim=axis)
        picture = torch.cat([strips[i] for i in order], dim=axis)
    return picture
