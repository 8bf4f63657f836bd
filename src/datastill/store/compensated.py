"""INFER's parameterization: a few real images per class, and compensators that all classes share.

arXiv 2408.06927. K classes, M networks, N natural sets (one real image of every class each), C channels, H W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datastill.codecs import PictureCodec
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Items, Pictures, Store, register
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.store.naturals import coded, natural_rows, picture_mistakes, pictures_of, spread
from datastill.training.views import to_unit

JPEG75 = PictureCodec(format="jpeg", quality=75, chroma="420")  # of the released code
CHUNK = 2048  # items per decoded block, so that a large set never stands in memory as floats


@dataclass(frozen=True)
class Budget:
    """What ipc buys. A compensator counts as one image: N is the largest integer with N * (K + M) <= ipc * K."""

    sets: int
    natural: int
    compensators: int
    leftover: int
    items: int

    @classmethod
    def of(cls, ipc: int, classes: int, makers: int) -> Budget:
        """Return the budget in exact integers (the released code's float division differs now and then)."""
        sets = ipc * classes // (classes + makers)
        return cls.holding(sets, classes, makers, ipc * classes - sets * (classes + makers))

    @classmethod
    def holding(cls, sets: int, classes: int, makers: int, leftover: int = 0) -> Budget:
        """Return the counts of so many natural sets."""
        return cls(sets, sets * classes, sets * makers, leftover, (makers + 1) * sets * classes)

    @staticmethod
    def smallest_ipc(classes: int, makers: int) -> int:
        """Return the smallest ipc that buys one natural set."""
        return -(-(classes + makers) // classes)


class _TakeRows(torch.autograd.Function):
    """x[index] whose gradient adds up in a fixed order, on every device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,), gradient = ctx.saved_tensors, gradients[0]
        zeros = gradient.new_zeros((ctx.rows, *gradient.shape[1:]))
        # index_add_ walks rows in order on a CPU but uses atomics on CUDA, where index_put_ sorts instead.
        if gradient.is_cuda:
            return zeros.index_put_((index,), gradient, accumulate=True), None
        return zeros.index_add_(0, index, gradient), None


class _Clip(torch.autograd.Function):
    """Clamp to [0, 1] whose derivative is 1 on the bounds themselves.

    Natural images stand there often (black, white), and what torch.clamp says of them changed between releases.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward((x >= 0.0) & (x <= 1.0))
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        kept: Tensor = gradients[0] * ctx.saved_tensors[0]
        return kept


@register("store", "compensated")
@dataclass(frozen=True, kw_only=True)
class Compensated(Store):
    """Natural sets, and one compensator per natural set and network; item = Clip(natural + compensator).

    Open, compensators are float32[N * M, C, H, W] in units of the data set's deviation (space "std"), zero at first;
    sealed, they are in pixel units, int8 of round(127 u) or float16, clamped to [-1, 1], which changes no item.
    """

    project: Literal["none", "forward"] = setting("none", help="whether the match sees Clip(x + u) or x + u")
    storage: Literal["int8", "fp16", "jpeg75"] = setting("int8")
    leftover: Literal["drop", "natural"] = setting(
        "drop", help="budget that buys no whole set: dropped, or spent on at most one more real image per class"
    )
    render: Literal["uint8", "float"] = setting("uint8", help="whether items are rounded to 8 bits")
    bound: float | None = setting(None, low=0.0, high=1.0, help="largest absolute compensator, in pixel units")
    codec: PictureCodec = setting(PictureCodec(), help="how natural images are stored")
    sets: int | None = setting(None, low=1, help="natural sets, in place of what ipc buys")
    extra: int = setting(0, low=0, help="more real images beside the sets, without compensators, spread over classes")

    provides = frozenset({"gradients", "sets", "compensators"})

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse no networks, an ipc that buys nothing, contradicting sizes, and a codec that cannot hold pictures."""
        makers, found = len(recipe.networks), picture_mistakes(self.name, self.codec, info)
        if self.storage == "jpeg75" and self.codec != PictureCodec():
            found.append("store 'compensated' keeps every item as a JPEG with storage=jpeg75; leave its codec alone.")
        if self.leftover == "natural" and self._own_size:
            found.append(
                "store 'compensated' was given leftover=natural, which spends what ipc leaves over, beside sets or "
                "extra, which no ipc bounds; for more natural images give extra alone."
            )
        return found + self._unaffordable(recipe, info, makers)

    @property
    def _own_size(self) -> bool:
        """Whether the store says its size itself, so that ipc is no budget."""
        return self.sets is not None or self.extra > 0

    def _budget(self, ipc: int, classes: int, makers: int) -> Budget:
        return Budget.of(ipc, classes, makers) if self.sets is None else Budget.holding(self.sets, classes, makers)

    def _unaffordable(self, recipe: Recipe, info: DatasetInfo, makers: int) -> list[str]:
        if not makers:
            return ["store 'compensated' has one compensator per network, but the table 'networks' is empty."]
        if not self._budget(recipe.ipc, info.classes, makers).sets:
            smallest = Budget.smallest_ipc(info.classes, makers)
            return [
                f"store 'compensated' has no room at ipc={recipe.ipc} with {info.classes} classes and {makers} "
                f"networks; ask for --ipc {smallest} or more."
            ]
        return []

    def begin(self, ctx: Context) -> Content:
        """Open zero compensators on N selected real images per class; items in the order (class, maker, set).

        Natural images beside the sets come last: per class the next of the selection, each an item as it is. Images
        are coded here, before anything is learned on them: what is learned is what a receiver sees.

        Raises: DatastillError for a class that has fewer images than there are sets, and for too large an `extra`.
        """
        classes, makers = ctx.info.classes, len(ctx.makers)
        budget = self._budget(ctx.recipe.ipc, classes, makers)
        self._refuse_small_classes(ctx)
        rows = natural_rows(spread(self._beside(budget, ctx), ctx, budget.sets) + budget.sets, ctx)
        parts = [r[: budget.sets] for r in rows] + [r[budget.sets :] for r in rows]
        pictures = coded(pictures_of(parts, ctx, self.codec), self.codec)
        items = self._items(budget, classes, makers, pictures)
        shape = (budget.compensators, *ctx.info.shape)
        arrays = {"compensators": torch.zeros(shape), "std": torch.tensor(ctx.info.std).view(1, -1, 1, 1)}
        return Content(items, pictures, arrays, ("compensators",))

    def _refuse_small_classes(self, ctx: Context) -> None:
        """Refuse more sets than a class has images; where ipc decides their number, the selection says so."""
        for name, have in zip(ctx.real.classes, ctx.fields.select.available(ctx), strict=True):
            if self.sets is not None and have < self.sets:
                raise DatastillError(
                    f"class '{name}' has {have} training images, but store 'compensated' was given sets={self.sets}; "
                    "give fewer sets, or leave the class out with --classes."
                )

    def _beside(self, budget: Budget, ctx: Context) -> int:
        """Return how many natural images stand beside the sets."""
        if self.leftover == "drop":
            return self.extra
        return min(budget.leftover, sum(have > budget.sets for have in ctx.fields.select.available(ctx)))

    @staticmethod
    def _items(budget: Budget, classes: int, makers: int, pictures: Pictures) -> Items:
        k, j, n = (
            axis.flatten()
            for axis in torch.meshgrid(
                torch.arange(classes), torch.arange(makers + 1), torch.arange(budget.sets), indexing="ij"
            )
        )
        spare = torch.arange(budget.natural, len(pictures.cls))
        none = torch.full_like(spare, -1)
        return Items.of(
            cls=torch.cat([k, pictures.cls[spare]]),
            set=torch.cat([n, torch.full_like(spare, budget.sets)]),
            maker=torch.cat([j - 1, none]),
            unit=torch.cat([torch.where(j > 0, n * makers + j - 1, -1), none]),
            picture=torch.cat([k * budget.sets + n, spare]),
        )

    def decode(self, content: Content, rows: Tensor, *, open: bool = False) -> Tensor:
        """Return natural + compensator as float32[B, C, H, W] pixels: open as `project` says, closed always clipped."""
        items = content.items[rows]
        x = to_unit(content.pictures.pixels[items.picture])
        if "compensators" not in content.arrays:
            return x
        made = (items.unit >= 0).view(-1, 1, 1, 1)
        u = _TakeRows.apply(self._pixel_units(content), items.unit.clamp(min=0))
        total: Tensor = torch.where(made, x + u, x)
        if open and self.project == "none":
            return total
        total = _Clip.apply(total)
        return total if open or self.render == "float" else (total * 255.0).round() / 255.0

    @staticmethod
    def _pixel_units(content: Content) -> Tensor:
        u = content.arrays["compensators"]
        if u.dtype == torch.int8:
            return u.float() / 127.0
        return u.float() if u.dtype == torch.float16 else u * content.arrays["std"]

    def settle(self, content: Content, when: Literal["step", "round"] = "step") -> None:
        """Clamp compensators to the bound, where there is one."""
        if self.bound is not None and when == "step":
            limit = self.bound / content.arrays["std"]
            u = content.arrays["compensators"].data
            torch.minimum(torch.maximum(u, -limit, out=u), limit, out=u)

    def seal(self, content: Content) -> Content:
        """Round compensators to what will be written, or render every item to JPEG ("jpeg75")."""
        u = self._pixel_units(content).detach().clamp(-1.0, 1.0)
        kept = (127.0 * u).round().to(torch.int8) if self.storage == "int8" else u.half()
        sealed = Content(content.items, content.pictures, {"compensators": kept})
        if self.storage != "jpeg75":
            return sealed
        exact = replace(content, arrays={"compensators": u.to(torch.float32), "std": torch.ones(1, 1, 1, 1)})
        return _as_jpeg(replace(self, render="float").decode(exact, torch.arange(len(content.items))), content)

    def expand(self, content: Content) -> Tensor:
        """Return uint8 (render "uint8") or float32[N, C, H, W] in [0, 1] (render "float")."""
        if "compensators" not in content.arrays:
            return content.pictures.pixels[content.items.picture]
        parts = []
        for rows in torch.arange(len(content.items)).split(CHUNK):
            x = self.decode(content, rows)
            parts.append(x if self.render == "float" else (x * 255.0).round().to(torch.uint8))
        return torch.cat(parts)

    def facts(self, content: Content, ctx: Context) -> dict[str, Any]:
        """Return what there is, and from an open content how large compensators are and how much Clip cuts off.

        "natural" counts every real image. Where ipc is the budget, "nominal" and "leftover" tell of it; where `sets` or
        `extra` is given there is none, and "extra" tells how many of the real images stand beside the sets.
        """
        budget = self._budget(ctx.recipe.ipc, ctx.info.classes, len(ctx.makers))
        nominal, natural = ctx.recipe.ipc * ctx.info.classes, len(content.pictures.cls)
        u, free = self._pixel_units(content), replace(self, project="none")
        made = (content.items.unit >= 0).nonzero().flatten()
        outside = 0
        for rows in made.split(CHUNK):
            total = free.decode(content, rows, open=True)
            outside += int(((total < 0) | (total > 1)).sum())
        counts = {"natural": natural, "compensators": budget.compensators}
        if self._own_size:
            counts |= {"extra": natural - budget.natural}
        else:
            counts = {"nominal": nominal} | counts | {"leftover": nominal - natural - budget.compensators}
        return counts | {
            "sets": budget.sets,
            "items": len(content.items),
            "compensator_norms": [round(float(n), 6) for n in content.arrays["compensators"].flatten(1).norm(dim=1)],
            "compensator_rms": float(u.square().mean().sqrt()),
            "compensator_max": float(u.abs().max()),
            "saturated_share": outside / (len(made) * u[0].numel()),
        }


def _as_jpeg(images: Tensor, content: Content) -> Content:
    """Render as the released code does: truncate to 8 bits, JPEG at quality 75 with 4:2:0 chroma, decode."""
    files, pixels = [], []
    for image in (images * 255.0).to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).save(file, "JPEG", quality=75)
        files.append(file.getvalue())
        with Image.open(file, formats=["JPEG"]) as back:
            decoded = torch.from_numpy(np.array(back))
        pixels.append(decoded[None] if decoded.ndim == 2 else decoded.permute(2, 0, 1))
    items = content.items
    real = [content.pictures.ids[p] if u < 0 else "" for p, u in zip(items.picture, items.unit, strict=True)]
    pictures = Pictures(torch.stack(pixels), items.cls, tuple(real), JPEG75, tuple(files))
    return Content(replace(items, unit=torch.full_like(items.unit, -1), picture=torch.arange(len(items))), pictures)
