"""One batch's augmentation as data: drawn once, applied to any batch again.

B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datastill.recipe import TrainRecipe
from datastill.training.augment import Augment, Drawn


@dataclass(frozen=True)
class View:
    """The drawn values of one batch; every part may be absent (None).

    tiles: long[B, 2, f], the order of the f strips of rows and of the f strips of columns, before any crop.
    pad and shift: random crop out of `pad` pixels of black border, shift long[B, 2] (row, column) in 0..2*pad.
    window: float32[B, 4], a random resized crop in place of the shift: (top, left, height, width) as shares of a side.
    flip: bool[B], horizontal. lam and partner: mixing share in [0, 1] and long[B], the batch's permutation.
    box: (top, bottom, left, right) in pixels, the part that CutMix takes from the partner.
    hole: long[B, 2], the middle (row, column) of a black square of `side` pixels (Cutout, arXiv 1708.04552).
    inputs: what is done to network inputs, after all that is done to pixels and before they are mixed.
    """

    tiles: Tensor | None = None
    pad: int = 0
    shift: Tensor | None = None
    window: Tensor | None = None
    flip: Tensor | None = None
    lam: float = 1.0
    partner: Tensor | None = None
    box: tuple[int, int, int, int] | None = None
    hole: Tensor | None = None
    side: int = 0
    inputs: Drawn | None = None

    @staticmethod
    def draw(rng: np.random.Generator, batch: int, shape: tuple[int, int, int], recipe: TrainRecipe) -> View:
        """Draw crops, flips, mixing and augmentation for a batch of `batch` pictures of `shape` (C, H, W)."""
        view = View()
        if recipe.shuffle_tiles > 1:
            order = np.tile(np.arange(recipe.shuffle_tiles), (batch, 2, 1))
            view = replace(view, tiles=torch.from_numpy(rng.permuted(order, axis=2)))
        if recipe.resized_crop is not None:
            view = replace(view, window=_windows(rng, batch, recipe.resized_crop))
        elif recipe.crop:
            shift = torch.from_numpy(rng.integers(0, 2 * recipe.crop + 1, (batch, 2)))
            view = replace(view, pad=recipe.crop, shift=shift)
        if recipe.flip:
            view = replace(view, flip=torch.from_numpy(rng.random(batch) < 0.5))
        if recipe.cutout:
            middle = torch.from_numpy(rng.integers(0, shape[1:], (batch, 2)))
            view = replace(view, hole=middle, side=recipe.cutout)
        if recipe.mix != "none":
            view = view._mixing(rng, batch, shape, recipe)
        if recipe.augment != "none":
            augment = Augment(recipe.operations, recipe.augment)
            view = replace(view, inputs=augment.draw(rng, batch, shape, one_kind=True))
        return view

    def _mixing(self, rng: np.random.Generator, batch: int, shape: tuple[int, int, int], recipe: TrainRecipe) -> View:
        lam = float(rng.beta(recipe.mix_alpha, recipe.mix_alpha))
        view = replace(self, lam=lam, partner=torch.from_numpy(rng.permutation(batch)))
        if recipe.mix == "cutmix":
            view = view._with_box(rng, shape)
        return self if recipe.mix_share < 1.0 and rng.random() >= recipe.mix_share else view

    def _with_box(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> View:
        height, width = shape[1:]
        side = (1.0 - self.lam) ** 0.5
        top, left = int(rng.integers(height)), int(rng.integers(width))
        half_h, half_w = int(height * side) // 2, int(width * side) // 2
        box = (max(top - half_h, 0), min(top + half_h, height), max(left - half_w, 0), min(left + half_w, width))
        kept = 1.0 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)
        return replace(self, lam=kept, box=box)

    def to(self, device: torch.device) -> View:
        """Return the view with its tensors on `device`."""

        def there(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        moved = {name: there(getattr(self, name)) for name in ("tiles", "shift", "window", "flip", "partner", "hole")}
        inputs = None if self.inputs is None else self.inputs.to(device)
        return replace(self, inputs=inputs, **moved)  # type: ignore[arg-type]  # each is a tensor or None

    def framed(self, other: View, rows: Tensor) -> View:
        """Return the view with the crops and flips of rows long[B] of another one in place of its own.

        What is done to network inputs stays: like the black square, it is of a visit and not of a picture.
        """
        shift = None if other.shift is None else other.shift[rows]
        flip = None if other.flip is None else other.flip[rows]
        return replace(self, pad=other.pad, shift=shift, window=None, flip=flip)

    def apply(self, x: Tensor) -> Tensor:
        """Shuffle, crop, flip, cut x [B, C, H, W] of any dtype, channels last (a window makes it float32 in [0, 1])."""
        if self.tiles is not None:
            x = _picked(x, _strips(x.shape[2], self.tiles[:, 0]), _strips(x.shape[3], self.tiles[:, 1]))
        if self.window is not None:
            x = _resampled(to_unit(x), self.window)
        if self.shift is not None or self.flip is not None:
            x = self._moved(x)
        return x if self.hole is None else x.masked_fill(_square(self.hole, self.side, x), 0)

    def _moved(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = torch.arange(height, device=x.device).expand(len(x), -1)
        columns = torch.arange(width, device=x.device).expand(len(x), -1)
        if self.flip is not None:
            columns = torch.where(self.flip[:, None], width - 1 - columns, columns)
        if self.shift is not None:
            x = functional.pad(x, (self.pad,) * 4)
            rows, columns = rows + self.shift[:, :1], columns + self.shift[:, 1:]
        return _picked(x, rows, columns)

    def show(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return what a network is shown, float[B, C, H, W], of pictures [B, C, H, W] of any dtype: the whole view.

        Args:
            x: pictures, uint8 or float in [0, 1].
            scale: float[2, C], mean and deviation of each channel of the data set, by which pixels become inputs.
        """
        x = to_unit(self.apply(x))
        if self.inputs is not None:
            assert scale is not None, "augmentation of network inputs needs the mean and the deviation of the data set"
            mean, deviation = scale[:, :, None, None]
            x = self.inputs.apply((x - mean) / deviation) * deviation + mean
        return self.mix(x)

    def mix(self, x: Tensor) -> Tensor:
        """Mix pictures x float[B, C, H, W] with their partners: a weighted sum (MixUp), or a box (CutMix)."""
        if self.partner is None:
            return x
        if self.box is None:
            return torch.lerp(x[self.partner], x, self.lam)
        top, bottom, left, right = self.box
        mixed = x.clone()
        mixed[:, :, top:bottom, left:right] = x[self.partner][:, :, top:bottom, left:right]
        return mixed

    def blend(self, targets: Tensor) -> Tensor:
        """Mix targets float[B, K], probabilities or logits, by the share that `mix` gave the pictures."""
        return targets if self.partner is None else torch.lerp(targets[self.partner], targets, self.lam)


def edges(side: int, factor: int) -> list[int]:
    """Return where each of `factor` strips of a side begins, and the end; the first ones may be a pixel longer."""
    return [i * (side // factor) + min(i, side % factor) for i in range(factor + 1)]


def _strips(side: int, order: Tensor) -> Tensor:
    """Return the pixels of a side, long[B, side], when its strips stand in `order`, long[B, f]."""
    factor = order.shape[1]
    strip_of = torch.from_numpy(np.repeat(np.arange(factor), np.diff(edges(side, factor))))
    place_of = order.argsort(dim=1)
    return place_of[:, strip_of.to(order.device, non_blocking=True)].argsort(dim=1, stable=True)


def _picked(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return x [B, C, H, W] at rows long[B, h] and columns long[B, w], channels last."""
    item = torch.arange(len(x), device=x.device)[:, None, None]
    picked = x.permute(0, 2, 3, 1)[item, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _square(middle: Tensor, side: int, x: Tensor) -> Tensor:
    """Return bool[B, 1, H, W]: whether a pixel of x [B, C, H, W] lies in the square of `side` pixels at its middle."""
    low = middle - side // 2
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
    down = (rows >= low[:, :1]) & (rows < low[:, :1] + side)
    across = (columns >= low[:, 1:]) & (columns < low[:, 1:] + side)
    return (down[:, :, None] & across[:, None, :])[:, None]


def _windows(rng: np.random.Generator, batch: int, smallest: float) -> Tensor:
    """Draw float32[B, 4] windows of `smallest` to all of the area, at a ratio of width to height of 3/4 to 4/3."""
    width, height = np.ones(batch), np.ones(batch)
    outside = np.ones(batch, dtype=bool)
    for _ in range(10):
        area, ratio = rng.uniform(smallest, 1.0, batch), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), batch))
        width = np.where(outside, np.sqrt(area * ratio), width)
        height = np.where(outside, np.sqrt(area / ratio), height)
        outside = (width > 1.0) | (height > 1.0)
    width, height = np.minimum(width, 1.0), np.minimum(height, 1.0)
    top, left = rng.random(batch) * (1.0 - height), rng.random(batch) * (1.0 - width)
    return torch.from_numpy(np.stack([top, left, height, width], axis=1).astype(np.float32))


def _resampled(x: Tensor, window: Tensor) -> Tensor:
    """Cut float32[B, 4] windows out of x float32[B, C, H, W] and stretch them to its size, bilinear."""
    top, left, height, width = window.unbind(dim=1)
    zero = torch.zeros_like(top)
    across = torch.stack([width, zero, 2 * left + width - 1], dim=1)
    down = torch.stack([zero, height, 2 * top + height - 1], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def to_unit(x: Tensor) -> Tensor:
    """Return pixels as float32 in [0, 1]: uint8 is divided by 255, floats pass."""
    return x.float().div_(255.0) if x.dtype == torch.uint8 else x
