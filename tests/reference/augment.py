"""Augmentation, mixing and soft labels the plain way: one image, one pixel, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def cropped(image: np.ndarray, pad: int, shift: Sequence[int], flipped: bool) -> np.ndarray:
    """Return image [C, H, W] cut out of a black border of `pad` pixels at `shift` (row, column), then mirrored."""
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                row, column = i + shift[0] - pad, j + shift[1] - pad
                if 0 <= row < height and 0 <= column < width:
                    out[c, i, width - 1 - j if flipped else j] = image[c, row, column]
    return out


def mixed(values: np.ndarray, lam: float, partner: Sequence[int]) -> np.ndarray:
    """Return lam * v_i + (1 - lam) * v_partner(i) for rows of any shape, in float64."""
    out = np.zeros(values.shape, dtype=np.float64)
    for i, p in enumerate(partner):
        out[i] = lam * values[i].astype(np.float64) + (1 - lam) * values[p].astype(np.float64)
    return out


def softmax(row: Sequence[float], temperature: float) -> list[float]:
    """Return softmax(row / temperature)."""
    largest = max(row)
    powers = [math.exp((value - largest) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def soft_kl(logits: np.ndarray, wanted: np.ndarray, temperature: float) -> float:
    """Return (1/B) sum_i sum_c P_ic (log P_ic - log S_ic), P and S the softmax of wanted and logits [B, K] over T."""
    total = 0.0
    for student, teacher in zip(logits.tolist(), wanted.tolist(), strict=True):
        for p, s in zip(softmax(teacher, temperature), softmax(student, temperature), strict=True):
            total += p * (math.log(p) - math.log(s))
    return total / len(logits)


def cut_out(image: np.ndarray, side: int, middle: Sequence[int]) -> np.ndarray:
    """Return image [C, H, W] with a black square of `side` pixels whose first row is middle - side // 2."""
    out = image.copy()
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            top, left = middle[0] - side // 2, middle[1] - side // 2
            if top <= i < top + side and left <= j < left + side:
                out[:, i, j] = 0
    return out


def operated(image: np.ndarray, u: Sequence[float], operations: Sequence[str], compose: str) -> np.ndarray:
    """Return a normalised image [C, H, W] under the record that twelve numbers in [0, 1) stand for, in float64.

    The constants are those of the tables of DSA (arXiv 2102.08259), typed once more.
    """
    out = image.astype(np.float64)
    placed = [name for name in operations if name in ("crop", "scale", "rotate")]
    if compose == "one":
        order = [operations[int(u[0] * len(operations))]] if operations else []
    else:
        order = [name for name in ("flip", "color") if name in operations]
        order += [placed[int(u[0] * len(placed))]] if placed else []
        order += [name for name in ("cutout",) if name in operations]
    for name in order:
        out = _operation(name, out, u)
    return out


def _operation(name: str, x: np.ndarray, u: Sequence[float]) -> np.ndarray:
    height, width = x.shape[1:]
    if name == "color":
        return _color(x, u[1], u[2], u[3])
    if name == "crop":
        most = [int(side * 0.125 + 0.5) for side in (height, width)]
        down, across = (int(v * (2 * m + 1)) - m for v, m in zip(u[4:6], most, strict=True))
        return _moved(x, lambda i, j: (i + down, j + across))
    if name == "cutout":
        return _holed(x, u[6:8])
    if name == "flip":
        return _moved(x, lambda i, j: (i, width - 1 - j)) if u[8] < 0.5 else x
    if name == "scale":
        wide, tall = (1 / 1.2 + v * (1.2 - 1 / 1.2) for v in u[9:11])
        return _sampled(x, [[wide, 0.0], [0.0, tall]])
    angle = math.pi * (u[11] * 30.0 - 15.0) / 180.0
    return _sampled(x, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _color(x: np.ndarray, bright: float, saturated: float, contrast: float) -> np.ndarray:
    out = x + (bright - 0.5)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            grey = sum(out[:, i, j]) / len(x)
            out[:, i, j] = (out[:, i, j] - grey) * (2 * saturated) + grey
    mean = sum(out.flatten().tolist()) / out.size
    return (out - mean) * (contrast + 0.5) + mean


def _moved(x: np.ndarray, whence: Callable[[int, int], tuple[int, int]]) -> np.ndarray:
    out = np.zeros_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            row, column = whence(i, j)
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                out[:, i, j] = x[:, row, column]
    return out


def _holed(x: np.ndarray, u: Sequence[float]) -> np.ndarray:
    """Return x without every pixel of a box, whose pixels outside of the image fall on its border."""
    out, places = x.copy(), []
    for side, v in zip(x.shape[1:], u, strict=True):
        size = int(side * 0.5 + 0.5)
        middle = int(v * (side + 1 - size % 2))
        places.append([min(max(middle - size // 2 + k, 0), side - 1) for k in range(size)])
    for i in places[0]:
        for j in places[1]:
            out[:, i, j] = 0
    return out


def _sampled(x: np.ndarray, matrix: Sequence[Sequence[float]]) -> np.ndarray:
    """Return x where each pixel looks, by a matrix of (x, y) in -1..1: the mean of four pixels, 0 outside."""
    height, width = x.shape[1:]
    out = np.zeros_like(x)
    for i in range(height):
        for j in range(width):
            across, down = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            column = ((matrix[0][0] * across + matrix[0][1] * down + 1) * width - 1) / 2
            row = ((matrix[1][0] * across + matrix[1][1] * down + 1) * height - 1) / 2
            for a in (math.floor(row), math.floor(row) + 1):
                for b in (math.floor(column), math.floor(column) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        out[:, i, j] += x[:, a, b] * (1 - abs(row - a)) * (1 - abs(column - b))
    return out
