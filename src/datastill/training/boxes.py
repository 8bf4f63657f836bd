"""Equal boxes on a grid, and what stands in them stretched to the whole: the views of dense labels (arXiv 2409.16239).

B batch, C channels, H x W pixels, G boxes along a side: box j = a * G + b is number a from the top and b from the left.
The paper's body was not at hand: corners, ratio of sides and the stretching are reconstructed (docs/ladd.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datastill.training.views import to_unit

Taps = tuple[Tensor, Tensor, Tensor]


def box_side(side: int, ratio: float, of: Literal["side", "area"] = "side") -> int:
    """Return the side of a box in pixels: a share of `side`, or the root of a share, rounded, halves upwards.

    Python's `round` takes halves to the even neighbour, and half of the usual sizes would come out one pixel smaller.
    """
    share = ratio if of == "side" else math.sqrt(ratio)
    return math.floor(share * side + 0.5)


def corners(side: int, box: int, grid: int) -> list[int]:
    """Return the first pixel of each of `grid` boxes along a side: from 0 to side - box; a single one in the middle.

    In whole numbers, so that every machine has the same boxes: halves go upwards.
    """
    if grid == 1:
        return [(side - box + 1) // 2]
    gaps = grid - 1
    return [(2 * k * (side - box) + gaps) // (2 * gaps) for k in range(grid)]


@dataclass(frozen=True)
class Boxes:
    """G x G boxes of pictures of one size. Make them with `on`.

    rows, columns: for each of G boxes and each pixel of the stretched side, the two pixels that it lies between
    (long[G, H] or long[G, W]), and its share of the second one (float32).
    """

    grid: int
    rows: Taps
    columns: Taps

    @staticmethod
    def on(height: int, width: int, grid: int, ratio: float, of: Literal["side", "area"] = "side") -> Boxes:
        """Return the boxes of pictures of height x width pixels; a box keeps the share `ratio` of each side or area."""
        rows, columns = (_taps(side, box_side(side, ratio, of), grid) for side in (height, width))
        return Boxes(grid, rows, columns)

    def to(self, device: torch.device) -> Boxes:
        """Return the boxes with their tensors on `device`."""
        rows, columns = (tuple(part.to(device) for part in taps) for taps in (self.rows, self.columns))
        return Boxes(self.grid, rows, columns)  # type: ignore[arg-type]  # three tensors, as before

    def cut(self, x: Tensor, which: Tensor) -> Tensor:
        """Return float32[B, C, H, W] in [0, 1]: of each picture its box long[B], stretched to the whole, bilinear.

        As `interpolate(..., align_corners=False)` of the box alone, which knows no pixel outside of it. Every value
        depends on its own picture only, so a picture comes out the same to the bit in any batch. A box that is the
        whole picture gives the picture.

        Args:
            x: uint8 or float[B, C, H, W], floats in [0, 1].
            which: long[B], each 0..G*G-1.
        """
        x = to_unit(x)
        x = _between(x, self.rows, which // self.grid, 2)
        return _between(x, self.columns, which % self.grid, 3)


def _between(x: Tensor, taps: Taps, which: Tensor, dim: int) -> Tensor:
    first, second, share = (part[which] for part in taps)
    shape = [len(x), 1, 1, 1]
    shape[dim] = x.shape[dim]
    whole = list(x.shape)
    low, high = (x.gather(dim, place.view(shape).expand(whole)) for place in (first, second))
    return torch.lerp(low, high, share.view(shape))


def _taps(side: int, box: int, grid: int) -> Taps:
    at = torch.arange(side, dtype=torch.float64)
    inside = ((at + 0.5) * box / side - 0.5).clamp(min=0)
    low = inside.floor().long()
    first = torch.tensor(corners(side, box, grid))[:, None]
    return first + low, first + (low + 1).clamp(max=box - 1), (inside - low).float().expand(grid, -1)
