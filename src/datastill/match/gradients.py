"""Images whose gradients at the weights of many networks are those of real images: DC, DSA and IDC.

DC is arXiv 2006.05929, DSA arXiv 2102.08259, IDC arXiv 2205.14959. K classes, N synthetic items, B batch, C channels,
H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from datastill.fields import Content, Context, Optimise, Weighing, register
from datastill.match.influence import slope_effects
from datastill.match.lives import Life, fresh, pooled, settle_norms
from datastill.match.paired import LEARNED, ClassImages, Paired, Passes, inner_data, pixels_of
from datastill.match.slopes import Distance, Meeting, Slopes, Tensors, matched_names
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.training.augment import Drawn
from datastill.training.losses import one_hot
from datastill.training.supply import Data, scale_of

if TYPE_CHECKING:
    from datastill.draft import Draft

# Images per class: image updates of a network, and epochs on the set between two of them (the code of DC).
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
MOST_OUTER, EPOCHS = 50, 500  # elsewhere: so many updates at most, and so many epochs in all
SETTLING = 16  # real images of each class that BatchNorm layers see before an image update


def loops(ipc: int) -> tuple[int, int]:
    """Return image updates of a network, and epochs between two of them, by images per class."""
    outer = min(ipc, MOST_OUTER)
    return LOOPS.get(ipc, (outer, max(1, round(EPOCHS / outer))))


@register("match", "gradients")
@dataclass(frozen=True, kw_only=True)
class Gradients(Paired):
    """Pulls the images of each class until their gradient at a network's weights is that of real ones.

    A round is the life of one network: image updates, and training between them. In an image update the mean
    cross-entropy of B real images of a class, and of the synthetic ones, seen under one view, is differentiated at the
    weights; the distance of the two gradients, summed over classes, is differentiated at the pixels.
    """

    distance: Distance = setting(
        "rowcos",
        help="of gradients: cosine of each row, or of everything; squares; absolute values, or their row means",
    )
    tensors: Tensors = setting(
        "weights", help="what is matched: every tensor, those of two dimensions or more, or convolutions"
    )
    turns: int = setting(
        1, low=1, help="classes that share one momentum and step in turn (IDC: all classes); 1: one step for all"
    )
    outer: int | None = setting(None, low=1, help="image updates of a network; none: by images per class")
    inner: int | None = setting(
        None, low=0, help="epochs on the set between two image updates; none: by images per class"
    )
    inner_on: Literal["store", "real"] = setting("store", help="what the network learns from between image updates")
    inner_images: int = setting(2000, low=1, help="real images that it learns from between two image updates")
    most: int | None = setting(
        None, low=1, help="synthetic images of a class in an image update, drawn anew for each; none: all"
    )
    source: Literal["fresh", "early", "pool"] = setting(
        "fresh",
        help="networks as they are initialised, trained on real images for `epochs` first, or one of `pool` such ones",
    )
    epochs: int = setting(10, low=1, help="on all real images, of source early and pool")
    pool: int = setting(10, low=1, help="networks that are trained once and met again and again")
    bn: Literal["exact", "released"] = setting(
        "exact", help="what BatchNorm holds in an image update: the statistics of a batch of real images, or a tenth"
    )

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a network that cannot be built, and a setting that would do nothing."""
        found = super().check(recipe, info)
        if self.inner is not None and self.inner_on == "real":
            found.append(
                "match 'gradients' was given inner, which counts epochs on the set, but inner_on=real; set "
                "inner_images, or inner_on=store."
            )
        return found

    def unweighed(self, how: Weighing, info: DatasetInfo) -> str:
        """Refuse first derivatives of absolute values, which are the same on either side of a real image."""
        if how.estimate == "exact" or not self.distance.startswith("l1"):
            return ""
        return (
            f"estimate={how.estimate} is 0 for every image under the distance '{self.distance}' of match "
            f"'{self.name}', whose gradient changes by jumps; take select.estimate=exact"
        )

    def optimise(self) -> dict[str, Optimise]:
        """Return SGD, coasting where classes step in turn."""
        return dict.fromkeys(LEARNED, Optimise(self.lr, momentum=self.momentum, turns=self.turns))

    def loops(self, ipc: int) -> tuple[int, int]:
        """Return image updates of a network, and epochs on the set between two of them (0 where it sees real ones)."""
        outer, inner = loops(ipc)
        outer = outer if self.outer is None else self.outer
        if self.inner_on == "real":
            return outer, 0
        return outer, inner if self.inner is None else self.inner

    def passes(self, recipe: Recipe, info: DatasetInfo, items: int, rows: int) -> Passes:
        """Return the passes of image updates, of training between them, and of training before them."""
        outer, _ = self.loops(recipe.ipc)
        shown = items if self.most is None else min(items, self.most * info.classes)
        batch = min(self.network.training.batch, rows if self.inner_on == "real" else items)
        between = self.rounds * (outer - 1) * self._between(recipe.ipc, items, rows) * batch
        before = {"fresh": 0, "early": self.rounds, "pool": self.pool}[self.source] * self.epochs * self._epoch(rows)
        return Passes(
            trainings=self.rounds * outer * self.looked(info, rows) + between
            + before * min(self.network.training.batch, rows), second=self.rounds * outer * shown,
        )  # fmt: skip

    def prepare(self, ctx: Context) -> None:
        """Train the networks of a pool."""
        if self.source == "pool":
            for index in range(self.pool):
                pooled(self.network, ctx, index, self.epochs)

    def begin(self, draft: Draft, ctx: Context) -> None:
        """Put the real images into the draft's `memo`, by class and as training data."""
        super().begin(draft, ctx)
        real: ClassImages = draft.memo["real"]
        cls = real.cls.to(ctx.device.torch)
        targets = one_hot(cls, ctx.info.classes)
        draft.memo["data"] = Data(real.images, cls, targets, "classes", scale_of(ctx.info).to(ctx.device.torch))

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        """Let a network live: update the images, let it learn, and so on; returns the last distance of all classes."""
        outer, _ = self.loops(ctx.recipe.ipc)
        between = self._between(ctx.recipe.ipc, len(draft.rows), len(draft.memo["data"]))
        network, life = self._begun(draft, ctx, between * (outer - 1))
        names = matched_names(network.body, self.tensors, self.distance)
        for step in range(outer):
            if step and life:
                life.learn(draft.memo["data"] if self.inner_on == "real" else inner_data(draft, ctx), between)
            # Second gradients lose too much in 16 bits; those of real images follow the device.
            with torch.autocast(ctx.device.torch.type, enabled=False):
                self._settle(network, draft, ctx, step)
                losses = self._update(Meeting(network.body, names, self.distance), network, draft, ctx, step)
        return {"distance": losses.sum()[None]}

    def _begun(self, draft: Draft, ctx: Context, steps: int) -> tuple[Network, Life | None]:
        """Return the network of a round, and what trains it for `steps` steps in all between its image updates."""
        if self.source == "pool":
            index = int(ctx.rng("pool", round=draft.round).integers(self.pool))
            network = pooled(self.network, ctx, index, self.epochs)
        else:
            network = fresh(self.network, ctx, draft.round)
        data: Data = draft.memo["data"]
        real = self.inner_on == "real"
        early = self.epochs * self._epoch(len(data)) if self.source == "early" else 0
        if early:
            life = Life(network, self.network, ctx, draft.round, items=len(data), limit=early + steps * real)
            life.learn(data, early)
            if real:  # its momentum goes on
                return network, life
        items = len(data) if real else len(draft.rows)
        return network, Life(network, self.network, ctx, draft.round, items=items, limit=steps) if steps else None

    def _epoch(self, items: int) -> int:
        """Return the steps of an epoch on so many images."""
        return -(-items // min(self.network.training.batch, items))

    def _between(self, ipc: int, items: int, real: int) -> int:
        """Return the steps of training between two image updates, of `items` synthetic images or of `real` ones."""
        if self.inner_on == "real":
            return -(-self.inner_images // min(self.network.training.batch, real))
        return self.loops(ipc)[1] * self._epoch(items)

    def _settle(self, network: Network, draft: Draft, ctx: Context, step: int) -> None:
        """Put the network into evaluation mode: images of one class are to meet statistics of all."""
        if not any(isinstance(m, _BatchNorm) for m in network.modules()):
            network.eval()
            return
        real: ClassImages = draft.memo["real"]
        places = torch.cat(real.draw(ctx.rng(f"norms {step}", round=draft.round), SETTLING))
        settle_norms(network, pixels_of(real, places), self.bn)

    def _update(self, meeting: Meeting, network: Network, draft: Draft, ctx: Context, step: int) -> Tensor:
        """Pull all classes once and step; returns the distances float[K]."""
        drawn = self.drawn(ctx, draft.round, step)
        x, _ = draft.batch(draft.rows)
        rows = self._rows(draft, ctx, step)
        cls = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(r) for r in rows]))
        z = drawn.of(cls).apply(network.space.into(x[torch.cat(rows)]))
        z = z.contiguous(memory_format=torch.channels_last)
        wanted = self._wanted(meeting, network, draft, ctx, step, drawn, lambda k: x.detach()[rows[k]])
        by_class = z.detach().split([len(r) for r in rows])
        way = meeting.batched if z.device.type == "cuda" else meeting.looped
        slopes, losses = way(by_class, wanted)
        (dx,) = torch.autograd.grad(z, x, torch.cat(slopes))
        draft.pull(draft.rows, dx)
        draft.step()
        return losses

    def _rows(self, draft: Draft, ctx: Context, step: int) -> list[Tensor]:
        """Return the places long[n_k] of each class's items that take part in an image update."""
        items: list[Tensor] = draft.memo["items"]
        found = []
        for k, mine in enumerate(items):
            if self.most is not None and len(mine) > self.most:
                stream = ctx.rng(f"rows {step}", part=k, round=draft.round)
                picked = torch.from_numpy(stream.choice(len(mine), self.most, replace=False))
                mine = mine[picked.to(mine.device, non_blocking=True)]
            found.append(mine)
        return found

    def _wanted(
        self,
        meeting: Meeting,
        network: Network,
        draft: Draft,
        ctx: Context,
        step: int,
        drawn: Drawn,
        own: Callable[[int], Tensor],
    ) -> Iterator[Slopes]:
        """Yield the gradient of a batch of real images of each class, sifted beside `own`."""
        real: ClassImages = draft.memo["real"]
        items: list[Tensor] = draft.memo["items"]

        def see(pixels: Tensor, k: int) -> Tensor:
            z = drawn.of(torch.full((len(pixels),), k)).apply(network.space.into(pixels))
            return z.contiguous(memory_format=torch.channels_last)

        for k, mine in enumerate(real.draw(ctx.rng(f"real {step}", round=draft.round), self.batch)):

            def influence(how: Weighing, k: int = k, mine: Tensor = mine) -> Tensor:
                stream = ctx.rng(f"directions {step}", part=k, round=draft.round)
                return slope_effects(meeting, partial(see, k=k), own(k), pixels_of(real, mine), k, how, stream)

            kept = ctx.fields.select.sift(k, mine, influence, draft.state, ctx) if len(items[k]) else mine
            z = see(pixels_of(real, kept), k)
            # What 16 bits do to the pull is small beside what another batch does.
            with ctx.device.autocast():
                slopes = meeting.real(z, k)
            yield slopes

    def facts(self, ctx: Context, content: Content, sealed: Content) -> dict[str, Any]:
        """Return networks met, image updates (of all classes at once), and training steps between these."""
        if not self.rounds:
            return {}
        outer, _ = self.loops(ctx.recipe.ipc)
        between = self._between(ctx.recipe.ipc, len(content.items), len(ctx.pool))
        return {
            "networks_met": self.rounds,
            "image_updates": self.rounds * outer,
            "network_steps": self.rounds * (outer - 1) * between,
        }
