"""Augmentation, mixing and soft labels the plain way: one image, one pixel, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
