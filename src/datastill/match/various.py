"""Statistics of many layers of several networks in turn (G-VBSM, arXiv 2311.17950), after SRe2L (arXiv 2306.13092).

G parts in one pass, B images each, K classes, C channels, H W pixels, P patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datastill.errors import DatastillError
from datastill.fields import Content, Context, Items, Match, Optimise, Part, register
from datastill.match.crops import resized_crop
from datastill.match.densify import Scale, densification
from datastill.networks import sketch
from datastill.networks.conv_taps import InputTaps, Moments
from datastill.networks.taps import batch_norms
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.training.moments import Measuring, real_moments
from datastill.training.views import to_unit

if TYPE_CHECKING:
    from datastill.draft import Draft

MEASURED_PARTS = 4  # whose losses are measured before and after rounding: a few tell
# Statistics of a hook in this round, float[G, D], its place among the hooks -> those that stand in the loss.
Smooth = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Target:
    """A network as the match meets it: its taps, and the statistics that are wanted at each hook, float[D] each."""

    taps: InputTaps
    wanted: list[Moments | None]


@register("match", "various")
@dataclass(frozen=True, kw_only=True)
class Various(Match):
    """L = ce * CE(f_k(z), y) + alpha * R_k(z) + densify * D(z), on z = the images of one set under one augmentation.

    Round t meets network k = t mod K of the table, or of its first `backbones`. R_k = sum over hooks of w * (sum of
    2-norms of wanted less found), w = `first` for the first hook, else 1. Hooks are on the inputs of BatchNorm (mean
    and biased variance of channels, wanted: its running ones) and, with `convs`, of convolutions (the same, and mean
    and biased variance of patches, wanted: those of the real images under the network's own training augmentation).

    Found statistics stand in the loss by the value of a moving average over the visits of the part to the network, with
    the gradient of the current ones. Averages begin at 0 in every part. A part is the learned items of one set, or of
    one compensator.
    """

    ce: float = setting(1.0, low=0.0)
    alpha: float = setting(0.01, low=0.0, help="weight of the statistics")
    first: float = setting(10.0, low=0.0, help="weight of the first hook")
    lr: float = setting(0.05, low=0.0, help="of what is learned, in the unit of the store")
    betas: tuple[float, float] = setting((0.5, 0.9), low=0.0, high=0.999999)
    rounds: int = setting(4000, low=0, help="optimiser steps per part")
    backbones: int | None = setting(None, low=1, help="networks that take turns, from the table's first on; none: all")
    crop: int = setting(0, low=0, high=64, help="border in the data set's mean colour, of which a crop leaves a part")
    resized_crop: bool = setting(False, help="one random resized crop per step for the whole batch")
    flip: bool = setting(False, help="one horizontal flip decision per step for the whole batch")
    jitter: int = setting(32, low=0, help="largest circular shift down and right, in pixels")
    antialias: bool = setting(True, help="whether resizing filters")
    convs: bool = setting(True, help="whether inputs of convolutions are matched, too")
    patch: int = setting(4, low=1, help="side of a patch, in pixels of a layer's input")
    real_batch: int = setting(64, low=1, help="real images of a batch whose statistics are measured")
    average: float = setting(0.8, low=0.0, high=0.999999, help="share of former visits in moving averages (alpha_m)")
    bias_correction: bool = setting(False, help="whether averages are divided by what of them is no zero")
    drop: float = setting(0.4, low=0.0, high=1.0, help="chance that a convolution is skipped in a step (beta_dr)")
    densify: float = setting(1.0, low=0.0, help="weight of D, which spreads the images of a class")
    densify_tau: float = setting(4.0, low=1e-3, help="temperature of what D draws eigenvalues to")
    densify_scale: Scale = setting(
        "released", help="eigenvalues as they are, where D is zero in float32, or over their mean (ours)"
    )

    requires = frozenset({"gradients", "sets"})

    @property
    def total_rounds(self) -> int:
        """Return the optimiser steps per part."""
        return self.rounds

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a table without networks, and networks in which nothing is tapped."""
        if not recipe.networks:
            return ["match 'various' asks networks of the recipe, but the table 'networks' is empty."]
        mistakes = []
        if self.backbones is not None and self.backbones > len(recipe.networks):
            mistakes.append(
                f"match 'various' was given backbones={self.backbones}, but the table 'networks' has "
                f"{len(recipe.networks)}; ask for at most so many."
            )
        for name in self._met(tuple(recipe.networks)):
            network = recipe.networks[name]
            try:
                made = sketch(network.arch, classes=info.classes, shape=info.shape, settings=network.settings)
            except DatastillError:
                continue  # said once, for the whole recipe
            tapped = bool(batch_norms(made))
            if self.convs:
                tapped = tapped or any(isinstance(module, nn.Conv2d) for module in made.modules())
            if not tapped:
                reads = "BatchNorm layers and convolutions" if self.convs else "BatchNorm layers alone with convs=false"
                mistakes.append(f"match 'various' reads {reads}, but network '{name}' has none; take another network.")
        return mistakes

    def _met(self, makers: tuple[str, ...]) -> tuple[str, ...]:
        return makers[: self.backbones]

    def optimise(self) -> dict[str, Optimise]:
        """Return Adam with a cosine to zero, from a fresh state for every part."""
        return dict.fromkeys(("compensators", "pixels"), Optimise(self.lr, self.betas, 1e-8, "cosine"))

    def parts(self, items: Items, makers: tuple[str, ...]) -> list[Part]:
        """Return one part per set of learned items and maker of them, in the order of sets.

        Every part meets every network, so all of them carry the first one's name and may share a pass.
        """
        if not self.rounds:
            return []
        learned = (items.unit >= 0).nonzero().flatten()
        of = torch.stack([items.set[learned], items.maker[learned]])
        kinds, kind = of.unique(dim=1, return_inverse=True)
        return [Part(index, learned[kind == index], makers[0]) for index in range(kinds.shape[1])]

    def prepare(self, ctx: Context) -> None:
        """Measure what every network's convolutions see of the real images."""
        for name in self._met(ctx.makers):
            self._target(ctx, name)

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        """Pull every part of the draft towards the network of this round once."""
        x, target = draft.batch(draft.rows)
        groups = len(draft.parts)
        views = [
            self._augment(z, ctx.rng("view", part=p.index, round=draft.round), ctx.info.mean)
            for z, p in zip(x.chunk(groups), draft.parts, strict=True)
        ]
        z = torch.cat(views) if groups > 1 else views[0]
        networks = self._met(ctx.makers)
        name = networks[draft.round % len(networks)]
        met = self._target(ctx, name)
        kept = self._kept(draft, ctx, met.taps)
        averages = _Averages(self, draft, name, kept.to(z.device, non_blocking=True))
        ce, distance = self.losses(met, z, target, groups, kept, averages)
        loss = self.ce * ce + self.alpha * distance
        told = {"cross-entropy": ce.detach(), "statistics": distance.detach()}
        if self.densify:
            spread = self._densification(z, draft, ctx)
            loss = loss + self.densify * spread
            told["densification"] = spread.detach()
        (dx,) = torch.autograd.grad(loss.sum(), x)
        draft.pull(draft.rows, dx)
        draft.step()
        return told

    def losses(
        self,
        met: Target,
        z: Tensor,
        target: Tensor,
        groups: int,
        kept: Tensor | None = None,
        smooth: Smooth | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return CE and R of each group, float[G], float32, or float64 where the network is.

        Args:
            met: the network.
            z: float[G * B, C, H, W], pixels.
            target: float[G * B, K].
            groups: G.
            kept: bool[G, hooks], on the CPU: which hooks count; None: all.
            smooth: puts averages in the place of statistics; None: they count as they are.
        """
        skipped: Sequence[bool] = () if kept is None else (~kept.any(dim=0)).tolist()
        logits, found, _ = met.taps(z, groups, skipped)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        each = -(target * functional.log_softmax(exact, dim=1)).sum(dim=1)
        ce = each.view(groups, -1).mean(dim=1)
        distance = torch.zeros_like(ce)
        on_device = None if kept is None else kept.to(z.device, non_blocking=True)
        for hook, (moments, wanted) in enumerate(zip(found, met.wanted, strict=True)):
            if moments is None or wanted is None:
                continue  # skipped by every group
            if smooth is not None:
                moments = smooth(torch.cat(moments, dim=1), hook).split([m.shape[1] for m in moments], dim=1)
            gap = _gap(moments[:2], wanted[:2])
            if len(moments) > 2:
                gap = gap + _gap(moments[2:], wanted[2:])
            if on_device is not None and met.taps.hooks[hook].kind == "conv":
                gap = torch.where(on_device[:, hook], gap, 0.0)
            distance = distance + (self.first if hook == 0 else 1.0) * gap
        return ce, distance

    def _kept(self, draft: Draft, ctx: Context, taps: InputTaps) -> Tensor:
        """Return bool[G, hooks]: which hooks count for which part in this round; BatchNorm always does."""
        drawn = [ctx.rng("drop", part=p.index, round=draft.round).random(len(taps.hooks)) for p in draft.parts]
        norm = torch.tensor([hook.kind == "norm" for hook in taps.hooks])
        return norm | torch.from_numpy(np.stack(drawn) >= self.drop)

    def _target(self, ctx: Context, name: str) -> Target:
        key = ("various", name, self.convs, self.patch, self.real_batch)
        if key not in ctx.memo:
            network = ctx.network(name)
            like = torch.zeros(1, *ctx.info.shape, device=ctx.device.torch)
            taps = InputTaps(network, like, convs=self.convs, patch=self.patch)
            with torch.no_grad():
                _, _, remembered = taps(like)
            real: dict[str, Moments] = {}
            if any(hook.kind == "conv" for hook in taps.hooks):
                real = self._measured(ctx, name, taps)
            wanted = [real.get(hook.name, own) for hook, own in zip(taps.hooks, remembered, strict=True)]
            ctx.memo[key] = Target(taps, wanted)
        made: Target = ctx.memo[key]
        return made

    def _measured(self, ctx: Context, name: str, taps: InputTaps) -> dict[str, Moments]:
        rows, trained = ctx.pool, ctx.recipe.networks[name].training
        measuring = Measuring(
            ctx.network(name), ctx.real.key_of(rows), trained, self.real_batch, self.patch, ctx.device.precision
        )
        label = f"measure real images with {name}"
        return real_moments(
            measuring, taps, lambda: ctx.real.data(rows), device=ctx.device, reporter=ctx.reporter, label=label
        )

    def _augment(self, x: Tensor, rng: np.random.Generator, colour: Sequence[float]) -> Tensor:
        if self.crop:
            x = _shifted(x, rng, self.crop, colour)
        if self.resized_crop:
            x = resized_crop(x, rng, self.antialias)
        if self.flip and rng.random() < 0.5:
            x = x.flip(3)
        if self.jitter:
            down, right = rng.integers(0, self.jitter + 1, 2).tolist()
            x = torch.roll(x, (down, right), dims=(2, 3))
        return x

    def _densification(self, z: Tensor, draft: Draft, ctx: Context) -> Tensor:
        mean, std = (torch.tensor(v, dtype=z.dtype, device=z.device).view(1, -1, 1, 1)
                     for v in (ctx.info.mean, ctx.info.std))  # fmt: skip
        groups = len(draft.parts)
        pairs = zip(((z - mean) / std).chunk(groups), draft.cls.chunk(groups), strict=True)
        return torch.stack([densification(x, cls, self.densify_tau, self.densify_scale) for x, cls in pairs])

    @torch.no_grad()
    def facts(self, ctx: Context, content: Content, sealed: Content) -> dict[str, Any]:
        """Return `losses`: per network, mean CE and R of a few parts as the match saw them and as a receiver gets them.

        All hooks count here, by the statistics of the part as they are.
        """
        store, every = ctx.fields.store, self.parts(content.items, ctx.makers)
        found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in self._met(ctx.makers)}
        chosen = every[:MEASURED_PARTS]
        for name in found if chosen else ():
            sums = {"open": torch.zeros(2), "rendered": torch.zeros(2)}
            for part in chosen:
                items = content.items[part.rows]
                target = functional.one_hot(items.cls, ctx.info.classes).float().to(ctx.device.torch)
                only = Content(sealed.items[part.rows], sealed.pictures, sealed.arrays)
                forms = {"open": store.decode(content, part.rows, open=True), "rendered": store.expand(only)}
                for form, images in forms.items():
                    x = to_unit(images).to(ctx.device.torch)
                    sums[form] += torch.stack(self.losses(self._target(ctx, name), x, target, 1)).flatten().cpu()
            for form, total in sums.items():
                ce, distance = (total / len(chosen)).tolist()
                found[name][form] = {"cross-entropy": round(ce, 4), "statistics": round(distance, 4)}
        return {"losses": found} if chosen else {}


class _Averages:
    """The moving averages of a draft's parts at one network's hooks, one row for each part; they stand in its state."""

    def __init__(self, match: Various, draft: Draft, network: str, kept: Tensor) -> None:
        self.match, self.state, self.network, self.kept = match, draft.state, network, kept

    def __call__(self, found: Tensor, hook: int) -> Tensor:
        """Return float[G, D]: the value of the average after this visit, with the gradient of `found`.

        A part that skips the hook keeps its average.
        """
        name = f"{self.network}/{hook}"
        share, now = self.match.average, found.detach()
        before = self.state.get(f"average/{name}", torch.zeros_like(now))
        kept = self.kept[:, hook, None]
        value = self.state[f"average/{name}"] = torch.where(kept, share * before + (1.0 - share) * now, before)
        if self.match.bias_correction:
            visits = self.state.get(f"visits/{name}", torch.zeros_like(now[:, :1])) + kept
            self.state[f"visits/{name}"] = visits
            value = value / (1.0 - share ** visits.clamp(min=1.0))
        return value + (found - now)


def _gap(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return float[G]: the 2-norms of the differences in variance and in mean, added; (mean, variance) each."""
    (mean, var), (wanted_mean, wanted_var) = found, wanted
    of_var: Tensor = torch.linalg.vector_norm(wanted_var - var, dim=1)
    of_mean: Tensor = torch.linalg.vector_norm(wanted_mean - mean, dim=1)
    return of_var + of_mean


def _shifted(x: Tensor, rng: np.random.Generator, border: int, colour: Sequence[float]) -> Tensor:
    """Cut x float[B, C, H, W] at one place out of itself in a border of the colour, one number for each channel."""
    height, width = x.shape[2:]
    down, right = rng.integers(0, 2 * border + 1, 2).tolist()
    flat = torch.tensor(colour, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
    inside = functional.pad(torch.ones_like(x[:1, :1]), (border,) * 4)
    framed = torch.where(inside > 0, functional.pad(x, (border,) * 4), flat)
    return framed[:, :, down : down + height, right : right + width]
