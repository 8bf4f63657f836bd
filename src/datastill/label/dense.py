"""Dense labels: a stored soft label for each of a grid of boxes of every item (LADD, arXiv 2409.16239).

A student sees the whole item with its own label, and one box of it, stretched to the whole, with the label of that box.
The body of the paper was not at hand: what is reconstructed is told in docs/ladd.md.

N items, K classes, G x G boxes, B items in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datastill.codecs import LabelCodec, label_problems
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Expanded, FixedBoxes, Label, Labels, register
from datastill.label.hard import Hard
from datastill.label.static import Static, mean_of, needs_networks
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe, Work
from datastill.runtime.seeds import rng
from datastill.settings import setting
from datastill.training.boxes import Boxes, box_side
from datastill.training.losses import one_hot
from datastill.training.supply import Batch, batch_rows
from datastill.training.views import View

CHUNK = 1024  # items whose boxes stand in memory at once, in full batches of `predict`
Seen = tuple[np.ndarray, np.ndarray | None]  # rows of items, and which box of each; None: the whole


@register("label", "dense")
@dataclass(frozen=True, kw_only=True)
class Dense(Label):
    """Logits of G x G boxes of each item under a codec, and those of the whole item before them.

    Logits and not probabilities, as everywhere here: what is stored then serves every temperature, and the loss
    applies it. At temperature 1 the loss differs by the entropy of the labels, a constant, from the cross-entropy with
    the probabilities. Where students see no box, labels are those of `static`, or of `hard`, to the bit.
    """

    grid: int = setting(5, low=1, high=32, help="boxes in a row and in a column")
    ratio: float = setting(0.625, low=0.01, high=1.0, help="what a box keeps of a side of its picture")
    ratio_of: Literal["side", "area"] = setting("side", help="area: `ratio` is meant of the area")
    views: Literal["pair", "flat", "local", "global"] = setting(
        "pair",
        help="pair: each item whole and as one random box. flat: boxes and wholes are items of their own, in one "
        "order. local: one random box alone. global: the whole alone",
    )
    weight: float = setting(1.0, low=0.0, high=1000.0, help="of a box in the loss, where a whole counts 1; 0: no boxes")
    temperature: float = setting(
        1.0, low=1e-3, high=1000.0, help="by which logits of boxes are divided, before the student's own temperature"
    )
    own: Literal["soft", "hard"] = setting("soft", help="what the whole is told: mean logits, or its class")
    local: Literal["soft", "hard"] = setting("soft", help="what a box is told; hard is a control: the item's class")
    codec: LabelCodec = setting(LabelCodec(), help="how logits are stored")

    @property
    def column(self) -> Literal["H", "S"]:
        """S where anything soft is stored."""
        return "S" if self._stores_boxes or self._stores_whole else "H"

    @property
    def pictures_per_item(self) -> int:
        """Two in pairs: an optimiser step of B items is then one of 2 B pictures."""
        return 2 if self.views == "pair" and self._cuts else 1

    @property
    def even(self) -> bool:
        """Whether wholes and boxes count alike and are told in the same way."""
        return not (self._cuts and self.views != "local") or (self.weight == 1.0 and self.own == self.local)

    @property
    def _cuts(self) -> bool:
        return self.views != "global" and self.weight > 0

    @property
    def _stores_boxes(self) -> bool:
        return self._cuts and self.local == "soft"

    @property
    def _stores_whole(self) -> bool:
        return self.views != "local" and self.own == "soft"

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a recipe without networks, a codec that does not fit, and boxes or students that do not."""
        mistakes = [] if self.column == "H" else needs_networks(self, recipe) + label_problems(self.codec, info.classes)
        if self.views == "local" and not self._cuts:
            mistakes.append(
                "label 'dense' was asked for views=local, boxes alone, and for weight=0, no boxes; ask for a weight "
                "above 0, or for views=global."
            )
        if not self._cuts:
            return mistakes
        if recipe.student.resized_crop is not None:
            mistakes.append(
                "label 'dense' labels boxes of its own, of which a random resized crop would leave too little, but "
                f"student.resized_crop={recipe.student.resized_crop}; set it to null and use student.crop, or choose "
                "label 'static'."
            )
        if recipe.student.shuffle_tiles > 1:
            mistakes.append(
                "label 'dense' labels boxes of pictures as they are, but student.shuffle_tiles="
                f"{recipe.student.shuffle_tiles} puts their parts in another order; set it to 1, or choose label "
                "'static'."
            )
        return mistakes + self._misplaced(min(info.shape[1:]))

    def _misplaced(self, side: int) -> list[str]:
        """Return a sentence where boxes of pictures of this side are empty, or where neighbours would be the same."""
        box = box_side(side, self.ratio, self.ratio_of)
        if box < 1:
            return [f"label 'dense' cuts boxes of no pixel out of {side} pixels at ratio={self.ratio}; raise it."]
        most = side - box + 1
        if self.grid <= most:
            return []
        return [
            f"label 'dense' was asked for grid={self.grid}, but boxes of {box} out of {side} pixels stand less than a "
            f"pixel apart then, and some would be the same; ask for a grid of at most {most}, or for a smaller ratio."
        ]

    def rendering(self, recipe: Recipe) -> FixedBoxes | None:
        """Return the boxes; None where labels belong to whole items, or are none."""
        if not self._stores_boxes:
            return None
        return FixedBoxes(self.grid, self.ratio, self.ratio_of, self._stores_whole)

    def make(self, images: Tensor, ctx: Context, content: Content) -> Labels:
        """Return mean logits of each item, and of each of its boxes, as they come back from the codec."""
        if not self._stores_boxes:
            whole: Label = Static(codec=self.codec) if self._stores_whole else Hard()
            return whole.make(images, ctx, content)
        boxes, count = self._boxes(images), self.grid**2
        networks, parts = [ctx.network(name) for name in ctx.makers], images.split(CHUNK)
        with ctx.reporter.phase("label", len(networks) * (count * len(parts) + self._stores_whole)) as phase:
            told = [mean_of(networks, images, ctx, phase)] if self._stores_whole else []
            for j in range(count):
                cut = (boxes.cut(part, torch.full((len(part),), j)) for part in parts)
                told.append(torch.cat([mean_of(networks, x, ctx, phase) for x in cut]))
        labels = Labels.coded(torch.stack(told, dim=1).flatten(0, 1), self.codec, self.rendering(ctx.recipe))
        assert labels.values is not None, "logits were just coded"
        return replace(labels, tells=_told_of(labels.values.view(len(images), len(told), -1), content.items.cls, count))

    def _boxes(self, images: Tensor) -> Boxes:
        mistakes = self._misplaced(min(images.shape[2:]))
        if mistakes:  # a set that was loaded has a recipe that nobody checked against its images
            raise DatastillError(" ".join(mistakes))
        return Boxes.on(images.shape[2], images.shape[3], self.grid, self.ratio, self.ratio_of)

    def supply(
        self,
        data: Expanded,
        work: Work,
        recipe: TrainRecipe,
        seed: int,
        *,
        device: torch.device,
        start: int = 0,
        teachers: Mapping[str, Network] | None = None,
    ) -> Iterator[Batch]:
        """Yield batches of wholes and of boxes, each mixed among themselves; weights are those of `Batch`.

        Crops, flips and mixing are drawn for wholes as `static` draws them, and anew for boxes. Random resized crops
        and shuffled tiles are for wholes alone. A pair has 2 B pictures, wholes first.
        """
        if not self._cuts:
            plain: Label = Static(codec=self.codec) if self._stores_whole else Hard()
            return plain.supply(data, work, recipe, seed, device=device, start=start)
        told = _Told.of(self, data, self._boxes(data.images), recipe, seed, device)
        return (told.batch(self._seen(work, seed, step), work.batch, step) for step in range(start, work.steps))

    def _seen(self, work: Work, seed: int, step: int) -> list[Seen]:
        """Return what a step shows: whole items, boxes, or both."""
        count = self.grid**2
        if self.views != "flat":
            rows = batch_rows(work, seed, step)
            local: Seen = rows, rng(seed, "dense", step).integers(0, count, work.batch)
            return [local] if self.views == "local" else [(rows, None), local]
        item, view = np.divmod(batch_rows(replace(work, items=work.items * (1 + count)), seed, step), 1 + count)
        whole = view == 0
        parts: list[Seen] = [(item[whole], None), (item[~whole], view[~whole] - 1)]
        return [part for part in parts if len(part[0])]


@dataclass(frozen=True)
class _Told:
    """A set on the device of a training. whole: float[N, K] or None; local: float[N, G * G, K] or None."""

    dense: Dense
    images: Tensor
    cls: Tensor
    classes: int
    whole: Tensor | None
    local: Tensor | None
    boxes: Boxes
    recipe: TrainRecipe
    seed: int
    scale: Tensor | None

    @classmethod
    def of(
        cls_, dense: Dense, data: Expanded, boxes: Boxes, recipe: TrainRecipe, seed: int, device: torch.device
    ) -> _Told:
        values, stored = data.labels.values, data.labels.views
        whole = local = None
        if values is not None:
            each = values.float().view(len(data.images), -1, data.classes).to(device)
            first = stored is None or (isinstance(stored, FixedBoxes) and stored.whole)
            whole = each[:, 0] if first else None
            local = None if stored is None else each[:, int(first) :]
        scale = None if data.scale is None else data.scale.to(device)
        return cls_(dense, data.images.to(device), data.cls.to(device), data.classes, whole, local, boxes.to(device),
                    recipe, seed, scale)  # fmt: skip

    def batch(self, seen: list[Seen], items: int, step: int) -> Batch:
        """Return the batch of a step of so many items."""
        parts = [self._part(rows, box, step) for rows, box in seen]
        soft = [part.soft is not None for part in parts]
        share = [1.0 / items if box is None or self.dense.views == "local" else self.dense.weight / items
                 for _, box in seen]  # fmt: skip
        sizes = [len(rows) for rows, _ in seen]
        hot = torch.cat([part.hot for part in parts])
        even = len(set(soft)) == 1 and all(s == 1.0 / sum(sizes) for s in share)
        common = {
            "x": torch.cat([part.x for part in parts]).contiguous(memory_format=torch.channels_last),
            "hard": torch.cat([part.classes for part in parts]),
            "rows": torch.cat([part.rows for part in parts]),
        }
        weight = None if even else self._weights(share, sizes)
        if not any(soft):
            return Batch(target=hot, kind="classes", weight=weight, **common)
        target = torch.cat([torch.zeros_like(part.hot) if part.soft is None else part.soft for part in parts])
        if all(soft):
            mixed = hot if self.recipe.hard_weight else None
            return Batch(target=target, kind="logits", mixed=mixed, weight=weight, **common)
        pairs = list(zip(share, soft, strict=True))
        return Batch(
            target=target, kind="logits", mixed=hot,
            weight=self._weights([s if is_soft else 0.0 for s, is_soft in pairs], sizes),
            mixed_weight=self._weights([s * self.recipe.hard_weight if is_soft else s for s, is_soft in pairs], sizes),
            **common,
        )  # fmt: skip

    def _weights(self, each: list[float], sizes: list[int]) -> Tensor:
        return torch.cat([torch.full((n,), w, device=self.images.device) for w, n in zip(each, sizes, strict=True)])

    def _part(self, order: np.ndarray, box: np.ndarray | None, step: int) -> _Part:
        device, shape = self.images.device, self.images.shape
        rows = torch.from_numpy(order).to(device, non_blocking=True)
        x, recipe, stream = self.images[rows], self.recipe, "view"
        soft = None if self.whole is None else self.whole[rows]
        if box is not None:
            which = torch.from_numpy(box).to(device, non_blocking=True)
            x, stream = self.boxes.cut(x, which), "dense view"
            recipe = replace(recipe, resized_crop=None, shuffle_tiles=1)
            soft = None if self.local is None else self.local[rows, which] / self.dense.temperature
        view = View.draw(rng(self.seed, stream, step), len(order), (shape[1], shape[2], shape[3]), recipe).to(device)
        x, classes = view.show(x, self.scale), self.cls[rows]
        hot = view.blend(one_hot(classes, self.classes))
        return _Part(x, rows, classes, hot, None if soft is None else view.blend(soft))


@dataclass(frozen=True)
class _Part:
    """Wholes or boxes of a batch: pixels, rows, classes, and their targets mixed like the pixels."""

    x: Tensor
    rows: Tensor
    classes: Tensor
    hot: Tensor
    soft: Tensor | None


def _told_of(values: Tensor, cls: Tensor, count: int) -> dict[str, Any]:
    """Return what logits float[N, V, K], the last `count` of which are boxes, say of classes long[N]; plain data.

    agreement: share of items whose box is told the item's class, a row of boxes after the other. entropy: mean over
    all boxes, in nat, at temperature 1; near 0 labels are hardly more than classes. whole: agreement of whole items.
    """
    boxes = values[:, -count:].double()
    log_p = boxes.log_softmax(dim=2)
    right = (values.argmax(dim=2) == cls[:, None]).double().mean(dim=0)
    found: dict[str, Any] = {
        "agreement": [round(v, 4) for v in right[-count:].tolist()],
        "entropy": round(float(-(log_p.exp() * log_p).sum(dim=2).mean()), 4),
    }
    return found | ({"whole": round(float(right[0]), 4)} if values.shape[1] > count else {})
