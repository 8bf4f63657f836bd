"""Cross-entropy plus BatchNorm statistics of frozen networks.

arXiv 2306.13092 (SRe2L), and after it arXiv 2408.06927 (INFER), 2311.18838 (CDA) and 2409.17612 (DWA). G parts in one
pass, K images each, L BatchNorm layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datastill.errors import DatastillError, suggestion
from datastill.fields import Content, Context, Items, Match, Optimise, Part, register
from datastill.match.crops import Curriculum, resized_crop, smallest_share
from datastill.match.directed import adjusted
from datastill.networks import sketch
from datastill.networks.taps import Tapped, batch_norms, tap
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.training.views import to_unit

if TYPE_CHECKING:
    from datastill.draft import Draft

Moments = list[tuple[Tensor, Tensor]]
MOMENT_BATCH = 500
MEASURED_PARTS = 4  # of each network, whose losses are measured before and after Clip: a few tell


@register("match", "statistics")
@dataclass(frozen=True, kw_only=True)
class Statistics(Match):
    """L = ce * CE(f(z), y) + alpha * R(z), on z = the images of one set under one augmentation for the whole batch.

    R = sum over layers of w (var_weight ||running_var - var||_2 + mean_weight ||running_mean - mean||_2), w = `first`
    for the first layer, else 1; mean and biased variance are those of the layer's input over the K images of the part.

    A part is the items of one compensator, with the network that made it, or the learned items of one set, with
    `network`. With `adjust_steps` and `adjust_rho`, each part meets a copy of its network that was moved uphill in the
    cross-entropy of the part's first images, under the augmentation of its first round (DWA). Networks that were
    trained on crops with black borders remember statistics of such crops; `reference` "plain" puts the statistics of
    the training images as they are in the place of the running ones (ours; not in the paper).
    """

    ce: float = setting(1.0, low=0.0)
    alpha: float = setting(1.0, low=0.0, help="weight of the statistics (r_bn)")
    first: float = setting(10.0, low=0.0, help="weight of the first BatchNorm layer")
    mean_weight: float = setting(1.0, low=0.0, help="of the means in the statistics")
    var_weight: float = setting(1.0, low=0.0, help="of the variances in the statistics")
    lr: float = setting(0.25, low=0.0, help="of what is learned, in the unit of the store")
    betas: tuple[float, float] = setting((0.5, 0.9), low=0.0, high=0.999999)
    rounds: int = setting(1000, low=0, help="optimiser steps per part")
    jitter: int = setting(4, low=0, help="largest circular shift down and right, in pixels")
    two_sided: bool = setting(False, help="whether shifts go up and left, too")
    resized_crop: bool = setting(False, help="one random resized crop per step for the whole batch")
    min_scale: float = setting(0.08, low=0.01, high=1.0, help="smallest share of the area that a resized crop keeps")
    curriculum: Curriculum = setting(
        "none", help="how that share falls from 1 to min_scale: at once, along a cosine or a line, or in one step"
    )
    milestone: float = setting(1.0, low=0.0, high=1.0, help="share of the rounds after which it is min_scale")
    flip: bool = setting(False, help="one horizontal flip decision per step for the whole batch")
    antialias: bool = setting(True, help="whether resizing filters")
    reference: Literal["running", "plain"] = setting(
        "running", help="the networks' running statistics, or those of the un-augmented training images"
    )
    network: str | None = setting(None, help="that sets without a network of their own meet; none: the table's first")
    adjust_steps: int = setting(0, low=0, help="ascent steps on a part's network before its first round")
    adjust_rho: float = setting(0.0, low=0.0, help="length of their way, in the 2-norm of all weights")

    requires = frozenset({"gradients", "sets"})

    @property
    def total_rounds(self) -> int:
        """Return the optimiser steps per part."""
        return self.rounds

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse networks without a BatchNorm layer, one that the table lacks, and settings without effect."""
        mistakes = self._without_effect()
        if not recipe.networks:
            mistakes.append("match 'statistics' asks networks of the recipe, but the table 'networks' is empty.")
        elif self.network is not None and self.network not in recipe.networks:
            mistakes.append(
                f"match 'statistics' was given network={self.network}, but the table 'networks' has no such "
                f"entry{suggestion(self.network, recipe.networks)}"
            )
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

    def _without_effect(self) -> list[str]:
        if self.curriculum != "none" and not self.resized_crop:
            return [
                f"match 'statistics' was given curriculum={self.curriculum}, which is of resized crops, but "
                "resized_crop=false; set it to true, or curriculum to none."
            ]
        return []

    @property
    def _adjusts(self) -> bool:
        return self.adjust_steps > 0 and self.adjust_rho > 0

    def optimise(self) -> dict[str, Optimise]:
        """Return Adam with a cosine to zero, from a fresh state for every part."""
        return dict.fromkeys(("compensators", "pixels"), Optimise(self.lr, self.betas, 1e-8, "cosine"))

    def parts(self, items: Items, makers: tuple[str, ...]) -> list[Part]:
        """Return one part per compensator, those of one network next to each other, then one per set of other units."""
        found: list[tuple[Tensor, str]] = []
        for maker, network in enumerate(makers):
            for unit in items.unit[items.maker == maker].unique():
                found.append((items.unit == unit, network))
        free = (items.unit >= 0) & (items.maker < 0)
        for number in items.set[free].unique():
            found.append((free & (items.set == number), self.network or makers[0]))
        if not self.rounds:
            return []
        return [
            Part(index, mine.nonzero().flatten(), network, self._adjusts) for index, (mine, network) in enumerate(found)
        ]

    def begin(self, draft: Draft, ctx: Context) -> None:
        """Move a private copy of the part's network, where the settings ask for it; parts are alone then."""
        if not self._adjusts:
            return
        (part,) = draft.parts
        x, target = draft.batch(draft.rows)
        z = self._augment(x.detach(), ctx.rng("view", part=part.index, round=0))
        moved = adjusted(ctx.network(part.network), z, target, self.adjust_steps, self.adjust_rho)
        draft.memo["adjusted"] = tap(moved, z[:1])

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        """Pull every part of the draft towards its network once."""
        x, target = draft.batch(draft.rows)
        groups = len(draft.parts)
        views = [
            self._augment(z, ctx.rng("view", part=p.index, round=draft.round), draft.round)
            for z, p in zip(x.chunk(groups), draft.parts, strict=True)
        ]
        z = torch.cat(views) if groups > 1 else views[0]
        name = draft.parts[0].network
        network = draft.memo["adjusted"] if self._adjusts else _tapped(ctx, name)
        ce, distance = self.losses(network, z, target, groups, self._wanted(ctx, name))
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
            gap = self.var_weight * torch.linalg.vector_norm(wanted_var - var, dim=1)
            gap = gap + self.mean_weight * torch.linalg.vector_norm(wanted_mean - mean, dim=1)
            distance = distance + (self.first if layer == 0 else 1.0) * gap
        return ce, distance

    def _wanted(self, ctx: Context, name: str) -> Moments | None:
        """Return the moments of every layer's input over the training images as they are, if `reference` asks so."""
        if self.reference == "running":
            return None
        key = ("plain moments", name)
        if key not in ctx.memo:
            ctx.memo[key] = _plain_moments(_tapped(ctx, name), ctx.real.data(ctx.pool).images, ctx.device.torch)
        made: Moments = ctx.memo[key]
        return made

    def _augment(self, x: Tensor, rng: np.random.Generator, round_: int = 0) -> Tensor:
        if self.resized_crop:
            smallest = smallest_share(self.curriculum, self.milestone, round_, self.rounds, self.min_scale)
            x = resized_crop(x, rng, self.antialias, smallest)
        if self.flip and rng.random() < 0.5:
            x = x.flip(3)
        if self.jitter:
            down, right = rng.integers(-self.jitter if self.two_sided else 0, self.jitter + 1, 2).tolist()
            x = torch.roll(x, (down, right), dims=(2, 3))
        return x

    @torch.no_grad()
    def facts(self, ctx: Context, content: Content, sealed: Content) -> dict[str, Any]:
        """Return `losses`: per network, mean CE and R of a few of its parts in two or three forms.

        natural: without compensators, where there are any; open: as the match saw them; rendered: as a receiver gets
        them. A network whose statistics have another scale than the others' shows here. Networks are those of the
        table, as they label, not the moved copies of `adjust_steps`.
        """
        found: dict[str, dict[str, Tensor]] = {}
        every = self.parts(content.items, ctx.makers)
        for name in ctx.makers:
            mine = [part for part in every if part.network == name][:MEASURED_PARTS]
            for part in mine:
                sums = found.setdefault(name, {})
                items = content.items[part.rows]
                target = functional.one_hot(items.cls, ctx.info.classes).float().to(ctx.device.torch)
                for form, images in _forms(part.rows, ctx, content, sealed).items():
                    ce, distance = self.losses(_tapped(ctx, name), to_unit(images).to(ctx.device.torch), target, 1)
                    sums[form] = sums.get(form, 0) + torch.stack([ce[0], distance[0]]).cpu() / len(mine)
        losses = {
            name: {form: {"cross-entropy": round(float(ce), 4), "statistics": round(float(distance), 4)}
                   for form, (ce, distance) in sums.items()}
            for name, sums in found.items()
        }  # fmt: skip
        return {"losses": losses} if every else {}


def _forms(rows: Tensor, ctx: Context, content: Content, sealed: Content) -> dict[str, Tensor]:
    """Return the images of a part in the forms whose losses are told, in order."""
    store, items, forms = ctx.fields.store, content.items[rows], {}
    if bool((items.maker >= 0).all()):  # made of a picture and a compensator, so there is a form without it
        forms["natural"] = store.decode(Content(_unlearned(items), content.pictures), torch.arange(len(items)))
    forms["open"] = store.decode(content, rows, open=True)
    return forms | {"rendered": store.expand(_only(sealed, rows))}


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
