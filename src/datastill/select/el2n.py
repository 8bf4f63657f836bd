"""EL2N, hardest first: images with the largest error early in training (Paul et al., arXiv 2107.07075)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from datastill.fields import Context, register
from datastill.select.ranking import ByScores, ranked, rows_by_class


@register("select", "el2n")
@dataclass(frozen=True, kw_only=True)
class EL2N(ByScores):
    """The images of each class by descending mean norm of softmax minus one-hot, which is what the paper keeps."""

    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k, the hardest first.

        Raises: DatastillError naming the first class that has too few images.
        """
        rows = rows_by_class(counts, ctx)
        scores = self.scores(ctx).el2n
        return [ranked(mine, scores, ctx, largest=True)[:n] for mine, n in zip(rows, counts, strict=True)]
