"""Mean, deviation and n; paired differences; and the sentence that may be said of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
FEWEST = 3  # seeds for a claim


@dataclass(frozen=True)
class Summary:
    """Top-1 accuracies in percent, one per seed; std is the sample deviation (None for one seed)."""

    per_seed: tuple[float, ...]
    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarise at least one value."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(tuple(values), statistics.fmean(values), std, len(values))

    def __str__(self) -> str:
        spread = f" ± {self.std:.2f}" if self.std is not None else ""
        return f"{self.mean:.2f}{spread} (n={self.n})"


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds, in points; t and p (two-sided) are None where n < 2 or nothing varies."""

    mean: float
    t: float | None
    p: float | None
    n: int

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Difference:
        """Compare accuracies of the same seeds, in the same order."""
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        mean = statistics.fmean(gaps)
        if len(gaps) < 2 or statistics.pstdev(gaps) < 1e-12:
            return cls(mean, None, None, len(gaps))
        from scipy.stats import ttest_rel  # a second of import that most runs need not wait for

        test = ttest_rel(ours, theirs)
        t, p = float(test.statistic), float(test.pvalue)
        return cls(mean, None if math.isnan(t) else t, None if math.isnan(p) else p, len(gaps))

    @property
    def verdict(self) -> str:
        """better, worse, or none: a difference within noise is called none; too few seeds prove nothing."""
        if self.n < FEWEST:
            return "unproven"
        certain = self.p < LEVEL if self.p is not None else self.mean != 0  # a gap that never varies is no noise
        return ("better" if self.mean > 0 else "worse") if certain else "none"

    def __str__(self) -> str:
        test = ""
        if self.t is not None and self.p is not None:
            test = f", t {self.t:.1f}, p " + (f"{self.p:.3f}" if self.p >= 0.001 else "< 0.001")
        return f"{self.mean:+.2f} points (paired{test}, n={self.n})"


def verdict_sentence(method: str, control: str, student: str, ours: Summary, theirs: Summary, gap: Difference) -> str:
    """Return the first sentence of a report."""
    said = {
        "better": "beats its control",
        "worse": "does not beat its control: it is worse",
        "none": "does not beat its control: the difference is within noise",
        "unproven": f"was measured with fewer than {FEWEST} seeds, which proves nothing",
    }[gap.verdict]
    return f"{method} {said}. With {student}, it reaches {ours} and {control} reach {theirs}: {gap}."
