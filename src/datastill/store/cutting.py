"""Square crops of pictures, many sizes at once: where they lie, what they look like, padded and stitched together.

n pictures, m crops of each, C channels, H x W pixels; a window is (top, left, side) in whole pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datastill.training.views import edges, to_unit


def draw_windows(
    rng: np.random.Generator, pictures: int, crops: int, scale: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Return long[n, m, 3] windows, as a random resized crop of ratio 1 draws them.

    Args:
        rng: a larger `pictures` extends a smaller one.
        pictures, crops: n and m.
        scale: smallest and largest share of the area.
        size: H, W; a window never leaves them.
    """
    area, down, across = np.moveaxis(rng.random((pictures, crops, 3)), 2, 0)
    share = scale[0] + (scale[1] - scale[0]) * area
    side = np.sqrt(share * size[0] * size[1]).round().astype(np.int64).clip(1, min(size))
    top, left = ((u * (n - side + 1)).astype(np.int64) for u, n in zip((down, across), size, strict=True))
    return torch.from_numpy(np.stack([top, left, side], axis=2))


def cut(images: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return float[n, m, C, h, w] in [0, 1]: windows long[n, m, 3] of images [n, C, H, W] resized to h, w pixels.

    Images are uint8, or floats in [0, 1], whose type is kept.

    Bilinear with antialiasing, as `torch.nn.functional.interpolate` resizes one crop. It is linear in rows and in
    columns, so that windows of all sizes are cut by two matrix products.
    """
    n, channels, height, width = images.shape
    m = windows.shape[1]
    top, left, side = windows.to(images.device).flatten(0, 1).unbind(1)
    x = to_unit(images).permute(0, 2, 1, 3).reshape(n, height, channels * width)
    rows = _weights(top, side, height, size[0]).to(x.dtype).view(n, m * size[0], height)
    columns = _weights(left, side, width, size[1]).to(x.dtype)
    lines = (rows @ x).view(n * m, size[0] * channels, width)
    made = lines @ columns.transpose(1, 2)
    return made.view(n, m, size[0], channels, size[1]).transpose(2, 3)


def _weights(start: Tensor, length: Tensor, pixels: int, out: int) -> Tensor:
    """Return float64[B, out, pixels]: what each pixel of a side gives to each one of its resized part.

    start, length: long[B], the parts. The filter is a triangle, as wide as a resized pixel where that is more than one.
    """
    scale = length.double()[:, None, None] / out
    middle = scale * (torch.arange(out, device=start.device)[:, None] + 0.5)
    place = torch.arange(pixels, device=start.device) - start[:, None, None]
    inside = (place >= 0) & (place < length[:, None, None])
    weights = (1.0 - ((place + 0.5 - middle) / scale.clamp(min=1.0)).abs()).clamp(min=0.0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def padded(crops: Tensor, size: tuple[int, int], colour: Tensor) -> Tensor:
    """Return crops float[B, C, h, w] in the middle of H x W pixels of one colour, float[1, C, 1, 1].

    Where the border is uneven, its larger half is right and below.
    """
    height, width = crops.shape[2:]
    if (height, width) == size:
        return crops
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    frame = colour.expand(len(crops), -1, *size).clone()
    frame[:, :, top : top + height, left : left + width] = crops
    return frame


def stitched(tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """Return uint8[n, C, H, W] of tiles uint8[f * f, n, C, h, w], row by row.

    Where f divides no side evenly, the first tiles are a pixel larger and are stretched to it (nearest).
    """
    factor = round(len(tiles) ** 0.5)
    down, across = (np.diff(edges(n, factor)).tolist() for n in size)
    rows = []
    for i, height in enumerate(down):
        line = [functional.interpolate(tiles[i * factor + j], (height, width)) for j, width in enumerate(across)]
        rows.append(torch.cat(line, dim=3))
    return torch.cat(rows, dim=2)
