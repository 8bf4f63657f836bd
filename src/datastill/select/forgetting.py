"""Forgetting events: images that went from right to wrong while a network trained (Toneva et al., arXiv 1812.05159)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from datastill.fields import Context, register
from datastill.select.ranking import ByScores, ranked, rows_by_class
from datastill.settings import setting


@register("select", "forgetting")
@dataclass(frozen=True, kw_only=True)
class Forgetting(ByScores):
    """The images of each class by how often they were forgotten; those never learned count as hardest of all."""

    order: Literal["hardest", "easiest"] = setting("hardest", help="which come first; the paper keeps the hardest")
    epochs: int = setting(20, low=1, help="of each scoring network")
    runs: int = setting(1, low=1, help="scoring networks, from different seeds")

    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k.

        Raises: DatastillError naming the first class that has too few images.
        """
        rows = rows_by_class(counts, ctx)
        scores, largest = self.scores(ctx).forgetting, self.order == "hardest"
        return [ranked(mine, scores, ctx, largest=largest)[:n] for mine, n in zip(rows, counts, strict=True)]
