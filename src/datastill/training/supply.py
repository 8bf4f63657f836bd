"""Device-resident training data, and the iterator where order, views, mixing and targets meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from datastill.recipe import DatasetInfo, TrainRecipe, Work
from datastill.runtime.seeds import rng
from datastill.training.losses import TargetKind, one_hot
from datastill.training.views import View


@dataclass(frozen=True)
class Data:
    """Pictures uint8 or float[N, C, H, W] (floats in [0, 1]), their targets float[N, K] (float[N * V, K] for V views of
    each, None where teachers answer in the loop), the kind of the targets, and classes long[N].

    scale: float[2, C], mean and deviation of each channel of the data set, where recipes may augment network inputs.
    """

    images: Tensor
    classes: Tensor
    targets: Tensor | None
    kind: TargetKind
    scale: Tensor | None = None

    def to(self, device: torch.device) -> Data:
        """Return the data on `device`."""
        targets = None if self.targets is None else self.targets.to(device)
        scale = None if self.scale is None else self.scale.to(device)
        return replace(
            self, images=self.images.to(device), classes=self.classes.to(device), targets=targets, scale=scale
        )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Batch:
    """What a training step eats: x float[B, C, H, W] pixels, target float[B, K], hard long[B], rows long[B].

    mixed: float[B, K], the classes mixed like the pictures, where a recipe weighs them beside soft labels.
    weight: float[B], what the loss of each row counts, in a sum; None: the mean over B. mixed_weight: the same of the
    cross-entropy with `mixed`; None: the recipe's weight of it times `weight`.
    """

    x: Tensor
    target: Tensor
    hard: Tensor
    rows: Tensor
    kind: TargetKind
    mixed: Tensor | None = None
    weight: Tensor | None = None
    mixed_weight: Tensor | None = None


def scale_of(info: DatasetInfo) -> Tensor:
    """Return float32[2, C], the mean and the deviation of each channel of a data set, of pixels in [0, 1]."""
    return torch.tensor([info.mean, info.std])


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, items: int) -> np.ndarray:
    return rng(seed, "order", epoch).permutation(items)


def batch_rows(work: Work, seed: int, step: int) -> np.ndarray:
    """Return the rows of one step: cuts of an endless chain of permutations, so that every batch is full.

    A short last batch is filled from the next permutation (equal items per step for every arm of a comparison).
    """
    at, rows = step * work.batch, []
    wanted = work.batch
    while wanted:
        epoch, start = divmod(at, work.items)
        piece = _permutation(seed, epoch, work.items)[start : start + wanted]
        rows.append(piece)
        at, wanted = at + len(piece), wanted - len(piece)
    return np.concatenate(rows)


def batch_visits(work: Work, step: int) -> np.ndarray:
    """Return how often each row of `batch_rows` came before, long[B]: a permutation is one visit of every item."""
    return (step * work.batch + np.arange(work.batch)) // work.items


def supply(
    data: Data,
    work: Work,
    recipe: TrainRecipe,
    seed: int,
    *,
    start: int = 0,
    teach: Callable[[Tensor], Tensor] | None = None,
    fixed: View | None = None,
) -> Iterator[Batch]:
    """Yield the batches of steps `start`..`work.steps`-1; any step can be had again from the seed alone.

    Args:
        data: pictures and targets, on the device of the training.
        work: how many steps of how many items.
        recipe: crops, flips, mixing and augmentation.
        seed: of order and views.
        start: the first step to yield.
        teach: asked for the targets of each finished batch (pixels, mixed) instead of `data.targets`.
        fixed: crops and flips of V views of each item in place of free ones; row i * V + v is view v of item i, here
            and in `data.targets`. On its t-th visit an item is seen as view t mod V.
    """
    shape = (data.images.shape[1], data.images.shape[2], data.images.shape[3])
    device = data.images.device
    for step in range(start, work.steps):
        order, view = draw_batch(work, shape, recipe, seed, step)
        told = order
        if fixed is not None:
            told = _views_seen(data, order, batch_visits(work, step))
            view = view.framed(fixed, torch.from_numpy(told))
        rows, view, x = see(data, order, view)
        if teach is not None:
            target = teach(x)
        else:
            assert data.targets is not None, "data without targets need a teacher"
            target = view.blend(data.targets[torch.from_numpy(told).to(device, non_blocking=True)])
        yield told_batch(data, rows, view, x, target, recipe)


def draw_batch(
    work: Work, shape: tuple[int, int, int], recipe: TrainRecipe, seed: int, step: int
) -> tuple[np.ndarray, View]:
    """Return the rows and the view of a step: all that is drawn for a batch of pictures of `shape` (C, H, W)."""
    return batch_rows(work, seed, step), View.draw(rng(seed, "view", step), work.batch, shape, recipe)


def see(data: Data, order: np.ndarray, view: View) -> tuple[Tensor, View, Tensor]:
    """Return rows long[B] and their view on the data's device, and the pixels float[B, C, H, W] that they give."""
    device = data.images.device
    rows, view = torch.from_numpy(order).to(device, non_blocking=True), view.to(device)
    x = view.show(data.images[rows], data.scale)
    return rows, view, x.contiguous(memory_format=torch.channels_last)


def told_batch(data: Data, rows: Tensor, view: View, x: Tensor, target: Tensor, recipe: TrainRecipe) -> Batch:
    """Return the batch of what `see` returned, with targets float[B, K]."""
    classes, mixed = data.classes[rows], None
    if recipe.hard_weight and data.kind == "logits":
        mixed = view.blend(one_hot(classes, target.shape[1]))
    return Batch(x, target, classes, rows, data.kind, mixed)


def _views_seen(data: Data, rows: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Return the row of each item's view at this visit, long[B], among all N * V views."""
    assert data.targets is not None, "fixed views have a target each"
    per_item = len(data.targets) // len(data)
    seen: np.ndarray = rows * per_item + visits % per_item
    return seen
