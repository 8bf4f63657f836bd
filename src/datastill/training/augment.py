"""Differentiable augmentation of network inputs as data: drawn once, applied to any batch again.

The operations of DSA (arXiv 2102.08259, after arXiv 2006.10738), in its own composition and in that of IDC (arXiv
2205.14959). They act on normalised images: what comes into sight is 0, the mean colour of the data set, and not black.
What is drawn is a record per image or per class. Applied to real and to synthetic images of a class alike, it is the
siamese augmentation of DSA.

N records, B batch, C channels, H W pixels; u is uniform in [0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datastill.errors import unknown
from datastill.recipe import OPERATIONS as OPERATIONS

PLACED = ("crop", "scale", "rotate")  # of which composition "all" takes one
DRAWS = 12  # uniform numbers of a record, whatever comes of them
SHIFT = 1.0  # of brightness, in deviations: from -0.5 to 0.5
SATURATION = 2.0  # its factor is below this
CROP = 0.125  # largest shift, as a share of a side
HOLE = 0.5  # side of the box that cutout empties, as a share of a side
STRETCH = 1.2  # largest factor of a side, and the inverse of the smallest
TURN = 15.0  # largest angle in degrees


@dataclass(frozen=True)
class Augment:
    """Which operations there are, and how they are put together.

    operations: names of `OPERATIONS`. compose: "one" of them for each record (DSA), or "all" (IDC): flip, then color,
    then one of crop, scale and rotate, then cutout, each where it is listed. No operation: images stay as they are.

    Raises: DatastillError for a name that is none of them.
    """

    operations: tuple[str, ...]
    compose: Literal["one", "all"]

    def __post_init__(self) -> None:
        for name in self.operations:
            if name not in OPERATIONS:
                raise unknown("operation", name, OPERATIONS)

    def draw(
        self, rng: np.random.Generator, count: int, shape: tuple[int, int, int], *, one_kind: bool = False
    ) -> Drawn:
        """Draw `count` records for images of `shape` (C, H, W).

        one_kind: what is picked (one operation, or one of crop, scale and rotate) is the same for all of them, and the
        numbers are each record's own: how DSA and IDC train their students.
        """
        return self.read(rng.random((count, DRAWS)), shape, one_kind=one_kind)

    def read(self, u: np.ndarray, shape: tuple[int, int, int], *, one_kind: bool = False) -> Drawn:
        """Return the records that numbers float64[N, DRAWS] in [0, 1) stand for.

        A row is: what is picked; brightness, saturation, contrast; the shift of the crop (row, column); the middle of
        the box of cutout (row, column); flip, where below one half; factors of width and height; angle.
        """
        height, width = shape[1:]
        choices = self.operations if self.compose == "one" else [n for n in self.operations if n in PLACED]
        always = frozenset(self.operations) - set(PLACED) if self.compose == "all" else frozenset[str]()
        codes = np.array([OPERATIONS.index(name) for name in choices], dtype=np.int64)
        which = np.floor((u[:1, 0].repeat(len(u)) if one_kind else u[:, 0]) * len(codes)).astype(np.int64)
        kinds = codes[which] if len(codes) else np.full(len(u), -1)
        most = [_rounded(side, CROP) for side in (height, width)]
        places = [side + 1 - _rounded(side, HOLE) % 2 for side in (height, width)]
        return Drawn(
            kinds, always,
            color=_float32(np.stack([(u[:, 1] - 0.5) * SHIFT, u[:, 2] * SATURATION, u[:, 3] + 0.5], axis=1)),
            shift=_long(np.floor(u[:, 4:6] * [2 * m + 1 for m in most]) - most),
            hole=_long(np.floor(u[:, 6:8] * places)),
            flip=torch.from_numpy(u[:, 8] < 0.5),
            matrix=_float32(_matrices(kinds == OPERATIONS.index("scale"), u[:, 9:11], u[:, 11])),
        )  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """N records, to be applied to a batch of N images, or to any batch after `of`.

    kinds: long[N], the place in `OPERATIONS` of what was picked, -1 for nothing; it stays on the host, which decides by
    it what runs. always: operations that every image has. color: float32[N, 3], what brightness adds, the factors of
    saturation and of contrast. shift: long[N, 2] of the crop, in pixels (row, column). hole: long[N, 2], the middle of
    the box of cutout (row, column). flip: bool[N]. matrix: float32[N, 2, 2], where scale and rotate look, (x, y).
    """

    kinds: np.ndarray
    always: frozenset[str]
    color: Tensor
    shift: Tensor
    hole: Tensor
    flip: Tensor
    matrix: Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def to(self, device: torch.device) -> Drawn:
        """Return the records with their tensors on `device`."""
        moved = {name: value.to(device, non_blocking=True) for name, value in self._tensors().items()}
        return replace(self, **moved)  # type: ignore[arg-type]  # each is a tensor

    def of(self, index: Tensor) -> Drawn:
        """Return the record of each image: index long[B] in 0..N-1. On the host, or the device is waited for."""
        there = index.to(self.color.device, non_blocking=True)
        picked = {name: value[there] for name, value in self._tensors().items()}
        return replace(self, kinds=self.kinds[index.cpu().numpy()], **picked)  # type: ignore[arg-type]  # each is a tensor

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("color", "shift", "hole", "flip", "matrix")}

    def apply(self, z: Tensor) -> Tensor:
        """Return network inputs z float[B, C, H, W], each under its own record; differentiable in z."""
        if "flip" in self.always:
            z = _flipped(z, self)
        if "color" in self.always:
            z = _coloured(z, self)
        z = self._picked(z)
        return _emptied(z, self) if "cutout" in self.always else z

    def _picked(self, z: Tensor) -> Tensor:
        """Run each operation that was picked on the images that have it, and put these back in their order."""
        kinds = np.where(self.kinds == OPERATIONS.index("rotate"), OPERATIONS.index("scale"), self.kinds)
        found = [int(kind) for kind in np.unique(kinds) if kind >= 0]
        if len(found) == 1:
            return _RUN[OPERATIONS[found[0]]](z, self)
        if not found:
            return z
        rows = [torch.from_numpy(np.flatnonzero(kinds == kind)) for kind in found]
        back = torch.cat(rows).argsort().to(z.device, non_blocking=True)
        parts = [
            _RUN[OPERATIONS[kind]](z[mine.to(z.device, non_blocking=True)], self.of(mine))
            for kind, mine in zip(found, rows, strict=True)
        ]
        return torch.cat(parts)[back]


def _coloured(z: Tensor, drawn: Drawn) -> Tensor:
    """Brightness, saturation around the grey of each pixel, contrast around the mean of each image."""
    add, saturation, contrast = (c.view(-1, 1, 1, 1) for c in drawn.color.to(z.dtype).unbind(dim=1))
    z = z + add
    grey = z.mean(dim=1, keepdim=True)
    z = (z - grey) * saturation + grey
    mean = z.mean(dim=(1, 2, 3), keepdim=True)
    return (z - mean) * contrast + mean


def _cropped(z: Tensor, drawn: Drawn) -> Tensor:
    """Look at pixel (i + row, j + column) for (i, j)."""
    sides = z.shape[2:]
    pads = [_rounded(side, CROP) for side in sides]
    z = functional.pad(z, (pads[1], pads[1], pads[0], pads[0]))
    rows, columns = (
        torch.arange(side, device=z.device) + drawn.shift[:, axis, None] + pads[axis] for axis, side in enumerate(sides)
    )
    batch, channels, _, width = z.shape
    z = z.gather(2, rows[:, None, :, None].expand(batch, channels, -1, width))
    return z.gather(3, columns[:, None, None, :].expand(batch, channels, sides[0], -1))


def _emptied(z: Tensor, drawn: Drawn) -> Tensor:
    """Empty a box, of which less lies in the image where its middle is near the border."""
    inside = []
    for axis, side in enumerate(z.shape[2:]):
        size = _rounded(side, HOLE)
        low = drawn.hole[:, axis, None] - size // 2
        place = torch.arange(side, device=z.device)
        inside.append((place >= low) & (place < low + size))
    return z.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


def _flipped(z: Tensor, drawn: Drawn) -> Tensor:
    return torch.where(drawn.flip[:, None, None, None], z.flip(3), z)


def _turned(z: Tensor, drawn: Drawn) -> Tensor:
    """Stretch or turn around the middle of the image, bilinear."""
    theta = functional.pad(drawn.matrix.to(z.dtype), (0, 1))
    grid = functional.affine_grid(theta, list(z.shape), align_corners=False)
    return functional.grid_sample(z, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


_RUN = {
    "color": _coloured, "crop": _cropped, "cutout": _emptied, "flip": _flipped, "scale": _turned, "rotate": _turned
}  # fmt: skip


def _matrices(scales: np.ndarray, factors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return float64[N, 2, 2]: diag(sx, sy) where a record scales, else the turn by its angle."""
    factors = factors * (STRETCH - 1.0 / STRETCH) + 1.0 / STRETCH
    angle = (angle - 0.5) * 2.0 * math.radians(TURN)
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(angle))
    turn = np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)
    stretch = np.stack([np.stack([factors[:, 0], zero], axis=1), np.stack([zero, factors[:, 1]], axis=1)], axis=1)
    return np.where(scales[:, None, None], stretch, turn)


def _rounded(side: int, share: float) -> int:
    return int(side * share + 0.5)


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _long(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
