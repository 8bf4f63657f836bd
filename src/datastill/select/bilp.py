"""BiLP: real images are pruned before a method looks at any, and again in each batch while it does.

arXiv 2305.18381. Level 1 leaves out the images that are hardest to learn. Level 2 leaves out of a batch those whose
effect on what is learned is extreme.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.fields import Context, Match, Weighing, make_choice, register
from datastill.recipe import DatasetInfo, Recipe
from datastill.runtime.seeds import rng
from datastill.select.ranking import ByNetwork, ranked, rows_by_class, scores_of
from datastill.select.sieve import Sieve, Tails, Threshold
from datastill.settings import setting
from datastill.training.dynamics import Scoring
from datastill.training.trials import Trials, utilities

# Score: epochs and runs where nothing is said. Five epochs are reported to be enough; the other numbers are ours.
TRAINED = {"loss_early": (5, 3), "loss_converge": (40, 3), "el2n": (5, 3), "forgetting": (20, 1)}
TRIALS = "monte_carlo"
SCORES = (*TRAINED, TRIALS)


@register("select", "bilp")
@dataclass(frozen=True, kw_only=True)
class Bilp(ByNetwork):
    """The easiest `keep` of each class by a score; what a method looks at, and begins from, is taken from these.

    Of each batch of them that a match looks at, those pass whose effect was not extreme when it was last estimated:
    every so many batches of a class, of all images of the batch.

    Networks of the recipe, those behind the labels too, are trained on all allowed rows: pruning is for what is
    distilled. With nothing pruned and `then` random, rows and streams are those of select `random`.
    """

    keep: float = setting(1.0, low=1e-6, high=1.0, help="share of each class that stays; 1 prunes nothing")
    score: Literal["loss_early", "loss_converge", "el2n", "forgetting", "monte_carlo"] = setting(
        "loss_early", help="what tells easy from hard; monte_carlo: how well those do who train on an image"
    )
    order: Literal["easiest", "hardest"] = setting("easiest", help="which stay")
    window: tuple[float, float] = setting(
        (0.0, 1.0), low=0.0, high=1.0, help="which shares, in that order, `keep` is taken from"
    )
    balanced: bool = setting(True, help="class by class; false: of all images at once, which favours easy classes")
    rounding: Literal["ours", "released"] = setting(
        "ours", help="keep round(keep * n), one at least; released: drop floor((1 - keep) * n)"
    )
    then: Literal["random", "easiest", "hardest", "whole"] = setting(
        "random", help="what the store begins from; whole: random ones of all, as if nothing were pruned"
    )
    epochs: int | None = setting(None, low=1, help="of each scoring network; none is what suits the score")
    runs: int | None = setting(None, low=1, help="scoring networks, from different seeds; none likewise")
    trials: int = setting(100, low=2, help="monte_carlo: students, each on its own few images")
    share: float = setting(0.2, low=1e-6, high=1.0, help="monte_carlo: of half a class, what one student trains on")
    steps: int = setting(100, low=1, help="monte_carlo: optimiser steps of a student")
    beta: float = setting(0.0, low=0.0, high=0.9, help="share of a real batch that is left out by its effect; 0: none")
    every: int = setting(10, low=1, help="batches of a class from one estimate of effects to the next")
    estimate: Literal["taylor", "exact", "sketch"] = setting(
        "taylor", help="of the effect of an image: to first order, by leaving it out, or along random directions"
    )
    sketches: int = setting(16, low=1, help="random directions of estimate sketch")
    tails: Tails = setting("both", help="what is left out: small effects, large ones, or half of each")
    threshold: Threshold = setting(
        "quantiles",
        help="beta is a share of a class's last 4096 effects, or of a normal law with their running moments",
    )
    refill: bool = setting(False, help="whether others that pass take the place of what is left out of a batch")

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse what networks refuse if one is asked, an empty window, utilities across classes, unknown effects."""
        asks = self.prunes or self.then in ("easiest", "hardest") or self.network is not None
        mistakes = super().check(recipe, info) if asks else []
        if self.window[0] >= self.window[1]:
            mistakes.append(
                f"select 'bilp' was given window={list(self.window)}; its first number must be below its second."
            )
        if self.score == TRIALS and not self.balanced:
            mistakes.append(
                "select 'bilp' was given score=monte_carlo with balanced=false, but its values compare images of one "
                "class alone; leave select.balanced at true."
            )
        match = make_choice("match", recipe.match, []) if self.beta else None
        if isinstance(match, Match) and (why := match.unweighed(self._weighing, info)):
            mistakes.append(f"select 'bilp' was given beta={self.beta:g}, but {why}, or select.beta=0.")
        return mistakes

    @property
    def _weighing(self) -> Weighing:
        return Weighing(self.estimate, self.sketches)

    @property
    def prunes(self) -> bool:
        """Whether anything is left out."""
        return self.keep < 1.0 or self.window != (0.0, 1.0)

    def pool(self, ctx: Context) -> Tensor:
        """Return the rows that stay, long[n], ascending; no network is asked where all of them do."""
        if not self.prunes:
            return ctx.real.rows
        if (key := ("pool", self)) not in ctx.memo:
            groups = [ctx.real.of_class(k) for k in range(ctx.info.classes)] if self.balanced else [ctx.real.rows]
            found = []
            for rows in groups:
                first, end = self._held(len(rows))
                found.append(self._ranked(rows, ctx, hardest=self.order == "hardest")[first:end])
            ctx.memo[key] = torch.cat(found).sort().values
        made: Tensor = ctx.memo[key]
        return made

    def available(self, ctx: Context) -> list[int]:
        """Return how many rows of each class a set may begin from; no network is asked where classes are balanced."""
        whole = super().available(ctx)
        if self.then == "whole" or not self.prunes:
            return whole
        if not self.balanced:
            return [int(torch.isin(ctx.real.of_class(k), self.pool(ctx)).sum()) for k in range(ctx.info.classes)]
        return [end - first for first, end in map(self._held, whole)]

    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k, in the order that `then` names.

        Random ones are in the order in which select `random` takes them, without those that were pruned: sets at two
        shares have as many images in common as they can.

        Raises: DatastillError naming the first class that has, in all or after pruning, too few images.
        """
        rows = rows_by_class(counts, ctx)
        if self.then != "whole":
            rows = self._kept(rows, counts, ctx)
        chosen = []
        for k, (mine, n) in enumerate(zip(rows, counts, strict=True)):
            if self.then in ("easiest", "hardest"):
                chosen.append(self._ranked(mine, ctx, hardest=self.then == "hardest")[:n])
                continue
            whole = ctx.real.of_class(k)
            order = whole[torch.from_numpy(rng(ctx.recipe.seed, "select", k).permutation(len(whole)))]
            chosen.append(order[torch.isin(order, mine)][:n])
        return chosen

    def scored(self, ctx: Context) -> Tensor:
        """Return the score of every allowed row, float64[N] in order: large for hard, but for `monte_carlo` for useful.

        Raises: DatastillError for a class too small for `monte_carlo`.
        """
        training, seed = ctx.training(self.asked(ctx)), ctx.recipe.seed
        if self.score == TRIALS:
            return self._utilities(Trials(training, self.trials, self.share, self.steps, seed), ctx)
        epochs, runs = TRAINED[self.score]
        epochs, runs = self.epochs or epochs, self.runs or runs
        last = max(1, epochs // 4) if self.score == "loss_converge" else None
        found = scores_of(Scoring(training, epochs, runs, seed, last), ctx)
        return {"el2n": found.el2n, "forgetting": found.forgetting}.get(self.score, found.loss)

    def sift(
        self, k: int, places: Tensor, influence: Callable[[Weighing], Tensor], state: dict[str, Tensor], ctx: Context
    ) -> Tensor:
        """Return those of a batch that pass, one at least; their effects are asked for in every `every`-th batch."""
        if not self.beta:
            return places
        sieve = Sieve(state, len(ctx.pool), ctx.info.classes)
        batch = sieve.count(k)
        if batch % self.every == 0 and len(places) > 1:
            sieve.judge(k, places, influence(self._weighing), self.beta, self.tails, self.threshold)
        kept = sieve.passing(k, places)
        if not self.refill or len(kept) == len(places):
            return kept
        others = self._places(k, ctx)
        others = others[sieve.open[others] & torch.isin(others, places, invert=True)]
        order = torch.from_numpy(rng(ctx.recipe.seed, ctx.stage, "refill", k, batch).permutation(len(others)))
        return torch.cat([kept, others[order[: len(places) - len(kept)]]])

    def counted(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return how many real images the batches of a match had, and how many of these passed."""
        if "sieve.seen" not in state:
            return {}
        return {"real_seen": dict(zip(("drawn", "passed"), state["sieve.seen"].tolist(), strict=True))}

    def _places(self, k: int, ctx: Context) -> Tensor:
        """Return where in `pool` the images of a class stand, long[n_k]."""
        if (key := ("places", self, k)) not in ctx.memo:
            ctx.memo[key] = torch.isin(self.pool(ctx), ctx.real.of_class(k)).nonzero().flatten()
        made: Tensor = ctx.memo[key]
        return made

    def _utilities(self, asked: Trials, ctx: Context) -> Tensor:
        for k, name in enumerate(ctx.real.classes):
            if len(ctx.real.of_class(k)) < 2:
                raise DatastillError(
                    f"class '{name}' has fewer than two training images, and select.score=monte_carlo trains on some "
                    f"and scores on others; take another score or leave the class out with --classes."
                )
        if (key := ("utilities", asked.key)) not in ctx.memo:
            ctx.memo[key] = utilities(asked, ctx.real.data, device=ctx.device, reporter=ctx.reporter)
        made: Tensor = ctx.memo[key]
        return made

    def _ranked(self, rows: Tensor, ctx: Context, *, hardest: bool) -> Tensor:
        """Return some allowed rows, the easiest or the hardest first, equal ones in the order of their index."""
        return ranked(rows, self.scored(ctx), ctx, largest=hardest != (self.score == TRIALS))

    def _held(self, count: int) -> tuple[int, int]:
        """Return from where to where the order of `count` rows is kept."""
        if self.rounding == "released":
            first, end = (int(edge * count) for edge in self.window)
            return first, end - int((1.0 - self.keep) * (end - first))
        first, end = (rounded(edge * count) for edge in self.window)
        return first, min(end, first + max(1, rounded(self.keep * (end - first))))

    def _kept(self, rows: list[Tensor], counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return the rows of each class that stay; refuses too few, before any network is trained where it can."""
        for name, mine, left, n in zip(ctx.real.classes, rows, self.available(ctx), counts, strict=True):
            if left < n:
                raise DatastillError(
                    f"class '{name}' keeps {left} of its {len(mine)} training images under select 'bilp', but this "
                    f"recipe starts from {n} per class; raise select.keep or ask for a smaller --ipc."
                )
        pool = self.pool(ctx)
        return [mine[torch.isin(mine, pool)] for mine in rows]


def rounded(number: float) -> int:
    """Return the nearest whole number, where 25.5 and what 255 * (1 - 0.9) is in binary are the same number."""
    return round(round(number, 9))
