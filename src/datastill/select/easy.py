"""Easy images first, from a window of difficulty: level 1 of arXiv 2305.18381 as a choice of real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from datastill.errors import DatastillError
from datastill.fields import Context, register
from datastill.recipe import DatasetInfo, Recipe
from datastill.select.ranking import ByScores, ranked, rows_by_class
from datastill.settings import setting


@register("select", "easy")
@dataclass(frozen=True, kw_only=True)
class EasyFirst(ByScores):
    """The images of each class by ascending score, from the lower end of the window on."""

    score: Literal["loss", "el2n"] = setting("loss", help="early loss, or norm of softmax minus one-hot")
    window: tuple[float, float] = setting(
        (0.0, 1.0), low=0.0, high=1.0, help="which share of each class, the easiest first, may be used"
    )

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse what networks refuse, and a window that holds nothing."""
        mistakes = super().check(recipe, info)
        if self.window[0] >= self.window[1]:
            mistakes.append(
                f"select 'easy' was given window={list(self.window)}; its first number must be below its second."
            )
        return mistakes

    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k, the easiest of the window first.

        Raises: DatastillError naming the first class that has, in all or in the window, too few images.
        """
        rows = rows_by_class(counts, ctx)
        named = zip(rows, counts, ctx.real.classes, strict=True)
        windows = [self._held(n, len(mine), name) for mine, n, name in named]
        scores = getattr(self.scores(ctx), self.score)
        return [
            ranked(mine, scores, ctx, largest=False)[first : first + n]
            for mine, first, n in zip(rows, windows, counts, strict=True)
        ]

    def _held(self, n: int, count: int, name: str) -> int:
        """Return where the window of a class of `count` images begins."""
        first, end = (round(share * count) for share in self.window)
        if end - first < n:
            raise DatastillError(
                f"class '{name}' has {end - first} of its {count} training images in select.window="
                f"{list(self.window)}, but this recipe starts from {n} per class; widen the window or ask for a "
                f"smaller --ipc."
            )
        return first
