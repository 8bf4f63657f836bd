"""One random resized crop for a whole batch, and curricula of its smallest share. C channels, H W pixels.

CDA (arXiv 2311.18838): whole images first, small crops later.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from torch import Tensor
from torch.nn import functional

Curriculum = Literal["none", "cosine", "linear", "step"]


def smallest_share(curriculum: Curriculum, milestone: float, round_: int, rounds: int, low: float) -> float:
    """Return the smallest share of the area that a crop of this round keeps (arXiv 2311.18838).

    It falls from 1 in round 0 to `low` at milestone * rounds, and stays there.
    """
    end = milestone * rounds
    if curriculum == "none" or round_ >= end:
        return low
    if curriculum == "step":
        return 1.0
    left = 1.0 - round_ / end if curriculum == "linear" else 0.5 * (1.0 + math.cos(math.pi * round_ / end))
    return low + (1.0 - low) * left


def resized_crop(x: Tensor, rng: np.random.Generator, antialias: bool, smallest: float = 0.08) -> Tensor:
    """Crop `smallest` to all of the area of x float[B, C, H, W], at a ratio of 3/4 to 4/3, and resize it back.

    A box that does not fit is drawn again, ten times; then the whole image is taken, as torchvision does.
    """
    height, width = x.shape[2:]
    for _ in range(10):
        area = height * width * rng.uniform(smallest, 1.0)
        ratio = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            x = x[:, :, top : top + h, left : left + w]
            return functional.interpolate(x, (height, width), mode="bilinear", antialias=antialias)
    return x
