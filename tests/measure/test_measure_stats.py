"""Means, deviations, paired tests, and the words that they allow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from datastill.measure.stats import Difference, Summary, verdict_sentence


def test_a_summary_is_the_mean_and_the_sample_deviation() -> None:
    found = Summary.of([1.0, 2.0, 4.0])
    assert found.per_seed == (1.0, 2.0, 4.0)
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx(math.sqrt(7 / 3))  # (16 + 1 + 25) / 9 over n - 1
    assert found.n == 3
    assert str(Summary.of([50.0, 51.0])) == "50.50 ± 0.71 (n=2)"


def test_one_seed_has_no_deviation() -> None:
    found = Summary.of([12.25])
    assert found.std is None
    assert str(found) == "12.25 (n=1)"


def test_a_paired_difference_is_that_of_a_hand_calculation() -> None:
    found = Difference.of([50.0, 52.0, 51.0], [48.0, 51.0, 50.0])  # gaps 2, 1, 1: mean 4/3, deviation 1/sqrt(3)
    assert found.mean == pytest.approx(4 / 3)
    assert found.t == pytest.approx(4.0)
    assert found.p == pytest.approx(1 - 4 / math.sqrt(18), abs=1e-9)  # t with 2 degrees of freedom, two-sided
    assert found.n == 3
    assert found.verdict == "none"


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_paired_differences_agree_with_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(50, 2, n), rng.normal(49, 2, n)
    found, wanted = Difference.of(ours.tolist(), theirs.tolist()), stats.ttest_1samp(ours - theirs, 0.0)
    assert found.t == pytest.approx(wanted.statistic)
    assert found.p == pytest.approx(wanted.pvalue)
    other = Difference.of(theirs.tolist(), ours.tolist())
    assert other.mean == pytest.approx(-found.mean)
    assert other.t == pytest.approx(-wanted.statistic)
    assert other.p == found.p


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ([60.0, 61.0, 62.0], [50.0, 51.2, 51.9], "better"),
        ([50.0, 51.2, 51.9], [60.0, 61.0, 62.0], "worse"),
        ([50.0, 52.0, 51.0], [51.0, 50.0, 51.5], "none"),
        ([50.0, 51.0, 52.0], [50.0, 51.0, 52.0], "none"),
        ([60.0, 61.0], [50.0, 51.2], "unproven"),
        ([60.0], [50.0], "unproven"),
    ],
)
def test_verdicts_are_what_the_pairs_bear(ours: list[float], theirs: list[float], word: str) -> None:
    assert Difference.of(ours, theirs).verdict == word


def test_a_gap_that_never_varies_is_no_noise() -> None:
    assert Difference.of([60.0, 61.0, 62.0], [50.0, 51.0, 52.0]).verdict == "better"


def test_seeds_must_pair() -> None:
    with pytest.raises(ValueError, match="zip"):
        Difference.of([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([50.0, 51.2, 51.9], "infer beats its control."),
        ([70.0, 71.2, 71.9], "infer does not beat its control: it is worse."),
        ([61.0, 60.0, 62.5], "infer does not beat its control: the difference is within noise."),
    ],
)
def test_the_first_sentence_says_whether_the_control_was_beaten(theirs: list[float], said: str) -> None:
    ours = [60.0, 61.0, 62.0]
    gap = Difference.of(ours, theirs)
    text = verdict_sentence("infer", "real images", "convnet", Summary.of(ours), Summary.of(theirs), gap)
    assert text.startswith(said)
    assert "With convnet, it reaches 61.00 ± 1.00 (n=3) and real images reach" in text
    assert f"{gap.mean:+.2f} points (paired" in text
    assert text.endswith("n=3).")


def test_too_few_seeds_are_said_to_prove_nothing() -> None:
    ours, theirs = [60.0, 61.0], [50.0, 51.2]
    gap = Difference.of(ours, theirs)
    text = verdict_sentence("infer", "real images", "convnet", Summary.of(ours), Summary.of(theirs), gap)
    assert text.startswith("infer was measured with fewer than 3 seeds, which proves nothing.")
