"""Cross-entropy plus BatchNorm statistics of frozen networks.

arXiv 2408.06927 (INFER), after arXiv 2306.13092 (SRe2L). G parts in one pass, K images each, L BatchNorm layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datastill.errors import DatastillError
from datastill.fields import Content, Context, Items, Match, Optimise, Part, register
from datastill.networks import sketch
from datastill.networks.taps import Tapped, batch_norms, tap
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.training.views import to_unit

if TYPE_CHECKING:
    from datastill.draft import Draft

Moments = list[tuple[Tensor, Tensor]]
MOMENT_BATCH = 500
FORMS = ("natural", "open", "rendered")
MEASURED_PARTS = 4  # of each network, whose losses are measured before and after Clip: a few tell


@register("match", "statistics")
@dataclass(frozen=True, kw_only=True)
class Statistics(Match):
    """L = ce * CE(f(z), y) + alpha * R(z), on z = the images of one set under one augmentation for the whole batch.

    R = sum over layers of w (||running_var - var||_2 + ||running_mean - mean||_2), w = `first` for the first layer,
    else 1; mean and biased variance are those of the layer's input over the K images of the part. Networks that were
    trained on crops with black borders remember statistics of such crops; `reference` "plain" puts the statistics of
    the training images as they are in the place of the running ones (ours; not in the paper).
    """

    ce: float = setting(1.0, low=0.0)
    alpha: float = setting(1.0, low=0.0, help="weight of the statistics (r_bn)")
    first: float = setting(10.0, low=0.0, help="weight of the first BatchNorm layer")
    lr: float = setting(0.25, low=0.0, help="of the compensators, in units of the data set's deviation")
    betas: tuple[float, float] = setting((0.5, 0.9), low=0.0, high=0.999999)
    rounds: int = setting(1000, low=0, help="optimiser steps per part")
    jitter: int = setting(4, low=0, help="largest circular shift down and right, in pixels")
    resized_crop: bool = setting(False, help="one random resized crop per step for the whole batch")
    flip: bool = setting(False, help="one horizontal flip decision per step for the whole batch")
    antialias: bool = setting(True, help="whether resizing filters")
    reference: Literal["running", "plain"] = setting(
        "running", help="the networks' running statistics, or those of the un-augmented training images"
    )

    requires = frozenset({"gradients", "class-balanced sets"})

    @property
    def total_rounds(self) -> int:
        """Return the optimiser steps per part."""
        return self.rounds

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse networks without a BatchNorm layer."""
        mistakes = []
        for name, network in recipe.networks.items():
            try:
                made = sketch(network.arch, classes=info.classes, shape=info.shape, settings=network.settings)
            except DatastillError:
                continue  # said once, for the whole recipe
            if not batch_norms(made):
                mistakes.append(
                    f"match 'statistics' reads BatchNorm layers, but network '{name}' has none; take another network."
                )
        return mistakes

    def optimise(self) -> dict[str, Optimise]:
        """Return Adam with a cosine to zero, from a fresh state for every part."""
        return {"compensators": Optimise(self.lr, self.betas, 1e-8, "cosine")}

    def parts(self, items: Items, makers: tuple[str, ...]) -> list[Part]:
        """Return one part per compensator, those of one network next to each other."""
        parts: list[Part] = []
        for maker, network in enumerate(makers):
            for unit in items.unit[items.maker == maker].unique():
                parts.append(Part(len(parts), (items.unit == unit).nonzero().flatten(), network))
        return parts if self.rounds else []

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        """Pull every part of the draft towards its network once."""
        x, target = draft.batch(draft.rows)
        groups = len(draft.parts)
        views = [
            self._augment(z, ctx.rng("view", part=p.index, round=draft.round))
            for z, p in zip(x.chunk(groups), draft.parts, strict=True)
        ]
        z = torch.cat(views) if groups > 1 else views[0]
        name = draft.parts[0].network
        ce, distance = self.losses(_tapped(ctx, name), z, target, groups, self._wanted(ctx, name))
        (dx,) = torch.autograd.grad((self.ce * ce + self.alpha * distance).sum(), x)
        draft.pull(draft.rows, dx)
        draft.step()
        return {"cross-entropy": ce.detach(), "statistics": distance.detach()}

    def losses(
        self, network: Tapped, z: Tensor, target: Tensor, groups: int, wanted: Moments | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return CE and R of each group, float[G]; z float[G * K, C, H, W] pixels, target float[G * K, classes].

        Both are float32, or float64 where the network is. `wanted` takes the place of the running statistics.
        """
        logits, layers = network(z, groups=groups)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        each = -(target * functional.log_softmax(exact, dim=1)).sum(dim=1)
        ce = each.view(groups, -1).mean(dim=1)
        distance = torch.zeros_like(ce)
        for layer, (mean, var, *running) in enumerate(layers):
            wanted_mean, wanted_var = wanted[layer] if wanted else running
            gap = torch.linalg.vector_norm(wanted_var - var, dim=1)
            gap = gap + torch.linalg.vector_norm(wanted_mean - mean, dim=1)
            distance = distance + (self.first if layer == 0 else 1.0) * gap
        return ce, distance

    def _wanted(self, ctx: Context, name: str) -> Moments | None:
        """Return the moments of every layer's input over the training images as they are, if `reference` asks so."""
        if self.reference == "running":
            return None
        key = ("plain moments", name)
        if key not in ctx.memo:
            ctx.memo[key] = _plain_moments(_tapped(ctx, name), ctx.real.data().images, ctx.device.torch)
        made: Moments = ctx.memo[key]
        return made

    def _augment(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        if self.resized_crop:
            x = _resized_crop(x, rng, self.antialias)
        if self.flip and rng.random() < 0.5:
            x = x.flip(3)
        if self.jitter:
            down, right = rng.integers(0, self.jitter + 1, 2).tolist()
            x = torch.roll(x, (down, right), dims=(2, 3))
        return x

    @torch.no_grad()
    def facts(self, ctx: Context, content: Content, sealed: Content) -> dict[str, Any]:
        """Return `losses`: per network, mean CE and R of a few of its parts in three forms.

        natural: without compensators; open: as the match saw them; rendered: as a receiver gets them. A network whose
        statistics have another scale than the others' shows here.
        """
        store, found = ctx.fields.store, {}
        every = self.parts(content.items, ctx.makers)
        for name in ctx.makers:
            sums = torch.zeros(len(FORMS), 2)
            mine = [part for part in every if part.network == name][:MEASURED_PARTS]
            for part in mine:
                items = content.items[part.rows]
                natural = store.decode(Content(_unlearned(items), content.pictures), torch.arange(len(items)))
                forms = (natural, store.decode(content, part.rows, open=True), store.expand(_only(sealed, part.rows)))
                target = functional.one_hot(items.cls, ctx.info.classes).float().to(ctx.device.torch)
                for row, form in zip(sums, forms, strict=True):
                    ce, distance = self.losses(_tapped(ctx, name), to_unit(form).to(ctx.device.torch), target, 1)
                    row += torch.stack([ce[0], distance[0]]).cpu() / len(mine)
            found[name] = {
                form: {"cross-entropy": round(float(ce), 4), "statistics": round(float(distance), 4)}
                for form, (ce, distance) in zip(FORMS, sums, strict=True)
            }
        return {"losses": found} if every else {}


@torch.no_grad()
def _plain_moments(network: Tapped, images: Tensor, device: torch.device) -> Moments:
    """Return mean and biased variance per layer and channel over all images, added up batch by batch in float64."""
    sums: list[tuple[Tensor, Tensor]] = []
    for pixels in images.split(MOMENT_BATCH):
        _, layers = network(to_unit(pixels.to(device)))
        share = len(pixels) / len(images)
        terms = [(share * m.double()[0], share * (v.double() + m.double().square())[0]) for m, v, *_ in layers]
        sums = terms if not sums else [(a + c, b + d) for (a, b), (c, d) in zip(sums, terms, strict=True)]
    return [(mean.float(), (square - mean.square()).float()) for mean, square in sums]


def _tapped(ctx: Context, name: str) -> Tapped:
    key = ("tapped", name)
    if key not in ctx.memo:
        like = torch.zeros(1, *ctx.info.shape, device=ctx.device.torch)
        ctx.memo[key] = tap(ctx.network(name), like)
    made: Tapped = ctx.memo[key]
    return made


def _unlearned(items: Items) -> Items:
    none = torch.full_like(items.unit, -1)
    return Items(items.cls, items.stage, items.set, none, none, items.picture)


def _only(content: Content, rows: Tensor) -> Content:
    return Content(content.items[rows], content.pictures, content.arrays)


def _resized_crop(x: Tensor, rng: np.random.Generator, antialias: bool) -> Tensor:
    """Crop 8 to 100 % of the area at a ratio of 3/4 to 4/3 and resize back, one crop for the whole batch."""
    height, width = x.shape[2:]
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            x = x[:, :, top : top + h, left : left + w]
            return functional.interpolate(x, (height, width), mode="bilinear", antialias=antialias)
    return x
