"""IDC's mosaics the plain way (arXiv 2205.14959): how they begin, how they are taken apart, and a receiver of a set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional


def decoded(pictures: Tensor, factor: int) -> Tensor:
    """Return [f * f * n, C, H, W] of pictures [n, C, H, W] in 0..1: all first tiles, then all second ones."""
    height, width = pictures.shape[2:]
    padded = functional.pad(pictures, (0, -width % factor, 0, -height % factor), value=0.5)
    h, w = padded.shape[2] // factor, padded.shape[3] // factor
    tiles = [
        padded[:, :, i * h : (i + 1) * h, j * w : (j + 1) * w] for i in range(factor) for j in range(factor)
    ]  # fmt: skip
    return functional.interpolate(torch.cat(tiles), (height, width), mode="bilinear", align_corners=False)


def mixed(images: Tensor, factor: int, nearest: bool) -> Tensor:
    """Return pictures [n, C, H, W] of f * f * n images [., C, H, W]: tile k of picture q is image k * n + q."""
    n, (height, width) = len(images) // factor**2, images.shape[2:]
    h, w = -(-height // factor), -(-width // factor)
    made = torch.full((n, *images.shape[1:]), torch.nan)
    for q in range(n):
        for k in range(factor**2):
            rows = slice(k // factor * h, min(k // factor * h + h, height))
            columns = slice(k % factor * w, min(k % factor * w + w, width))
            size = (rows.stop - rows.start, columns.stop - columns.start)
            image = images[k * n + q][None]
            small = (
                functional.interpolate(image, size, mode="nearest")
                if nearest
                else functional.interpolate(image, size, mode="bilinear", antialias=True)
            )
            made[q, :, rows, columns] = small[0]
    return made


def line(values: Sequence[Fraction], out: int) -> list[Fraction]:
    """Return a row of pixels stretched to `out` of them: bilinear, corners not aligned, in exact numbers."""
    made = []
    for i in range(out):
        place = max(Fraction(0), (i + Fraction(1, 2)) * Fraction(len(values), out) - Fraction(1, 2))
        low = int(place)
        made.append(values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low]))
    return made


def plane(values: Sequence[Sequence[Fraction]], size: tuple[int, int]) -> list[list[Fraction]]:
    """Return a channel of a tile at full size, in exact numbers."""
    wide = [line(row, size[1]) for row in values]
    columns = [line(column, size[0]) for column in zip(*wide, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def received(folder: Path, factor: int) -> np.ndarray:
    """Return the items uint8[N, C, H, W] of a saved set of one picture a file, as its data card says it is read."""
    rows = pq.read_table(folder / "images.parquet").to_pylist()
    opened = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    pictures = [pixels.reshape(*pixels.shape[:2], -1) for pixels in opened]
    seen = dict.fromkeys(range(len(rows)), 0)
    items = []
    for picture in pq.read_table(folder / "items.parquet")["picture"].to_pylist():
        i, j = divmod(seen[picture], factor)
        seen[picture] += 1
        items.append(_item(pictures[picture], i, j, factor))
    return np.stack(items)


def _item(picture: np.ndarray, i: int, j: int, factor: int) -> np.ndarray:
    height, width, channels = picture.shape
    h, w = -(-height // factor), -(-width // factor)
    grey = np.full((h, w, channels), 127.5)
    there = picture[i * h : (i + 1) * h, j * w : (j + 1) * w]
    grey[: there.shape[0], : there.shape[1]] = there
    exact = [[[Fraction(float(v)) for v in row] for row in grey[:, :, c]] for c in range(channels)]
    made = [plane(channel, (height, width)) for channel in exact]
    return np.array([[[round(v) for v in row] for row in channel] for channel in made], dtype=np.uint8)
