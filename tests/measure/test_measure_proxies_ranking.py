"""Orders of candidates: agreement, its intervals, choices, and the sentence that may be said of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from datastill.errors import DatastillError
from datastill.measure.proxies import ranking
from datastill.measure.proxies.ranking import (
    Candidate,
    agree,
    check_candidates,
    choices,
    correlations,
    orders,
    resampled,
    standing,
    told_value,
    verdict,
)
from datastill.recipe import TrainRecipe
from reference.proxies import ARMS, ranked, rows_of

DRAW = np.random.default_rng(0)
REAL = [float(v) for v in np.arange(24)]


def noisy(spread: float, seed: int) -> list[float]:
    return [float(v) for v in np.array(REAL) + np.random.default_rng(seed).normal(0, spread, len(REAL))]


def test_resamples_are_correlated_as_scipy_does_it_ties_and_all() -> None:
    x, y = DRAW.integers(0, 6, 15).astype(float), DRAW.normal(size=15)
    draws = DRAW.integers(0, 15, (50, 15))
    for found, rows in zip(resampled(x, y, draws), draws, strict=True):
        assert found["rho"] == pytest.approx(spearmanr(x[rows], y[rows]).statistic, abs=1e-12)
        assert found["tau"] == pytest.approx(kendalltau(x[rows], y[rows]).statistic, abs=1e-12)


def test_a_score_in_which_nothing_varies_has_no_correlation() -> None:
    flat = np.ones(5)
    assert correlations(flat, np.arange(5)) == {"rho": None, "tau": None}
    assert resampled(np.arange(5.0), np.arange(5.0), np.zeros((1, 5), dtype=int)) == [{"rho": None, "tau": None}]
    found, gaps = agree(REAL[:5], {"own": [1.0] * 5, "random": REAL[:5]}, "own", "random")
    nothing = {"value": None, "low": None, "high": None}
    assert found["own"]["tau"] == nothing
    assert gaps is not None
    assert gaps["rho"] == nothing


def test_the_same_order_is_one_and_the_reverse_is_minus_one_with_no_width() -> None:
    found, _ = agree(REAL, {"same": [v * 2 for v in REAL], "reverse": [-v for v in REAL]}, "same", None)
    for name, wanted in (("same", 1.0), ("reverse", -1.0)):
        for measure in ("rho", "tau"):
            assert list(found[name][measure].values()) == pytest.approx([wanted] * 3)
    assert found["same"]["n"] == 24


def test_intervals_hold_the_value_and_are_the_same_every_time() -> None:
    scores = {"own": noisy(4.0, 1), "random": noisy(12.0, 2)}
    found, gaps = agree(REAL, scores, "own", "random")
    again = agree(REAL, scores, "own", "random")
    assert (found, gaps) == again
    assert gaps is not None
    for part in (*found.values(), gaps):
        for measure in ("rho", "tau"):
            assert part[measure]["low"] < part[measure]["value"] < part[measure]["high"]
    difference = found["own"]["tau"]["value"] - found["random"]["tau"]["value"]
    assert gaps["tau"]["value"] == pytest.approx(difference)
    width = gaps["tau"]["high"] - gaps["tau"]["low"]
    apart = [found[n]["tau"]["high"] - found[n]["tau"]["low"] for n in scores]
    assert width < sum(apart)  # the same candidates are drawn for both


def test_more_candidates_make_a_narrower_interval() -> None:
    widths = []
    for n in (12, 48):
        real = np.arange(n)
        other = [float(v) for v in real + np.random.default_rng(3).normal(0, n / 4, n)]
        tau = agree([float(v) for v in real], {"own": other}, "own", None)[0]["own"]["tau"]
        widths.append(tau["high"] - tau["low"])
    assert widths[1] < widths[0]


def test_the_top_half_is_that_of_the_real_accuracies() -> None:
    real = [float(v) for v in range(6)]
    own = [5.0, 4.0, 3.0, 10.0, 11.0, 12.0]  # right among the better half, reversed below
    found = orders(rows_of({"infer": own, "whole": real}), None)
    assert found["agreement"]["infer"]["top half"]["n"] == 3
    assert found["agreement"]["infer"]["top half"]["tau"]["value"] == pytest.approx(1.0)
    assert found["agreement"]["infer"]["all"]["tau"]["value"] == pytest.approx(kendalltau(own, real).statistic)
    assert found["difference"] is None


def test_sizes_rank_too_where_candidates_have_them() -> None:
    scores = {"infer": REAL, "random_soft": REAL, "whole": REAL}
    assert set(orders(rows_of(scores), "random_soft")["agreement"]) == {"infer", "random_soft"}
    found = orders(rows_of(scores, sizes=[int(-v) for v in REAL]), "random_soft")
    assert found["agreement"]["size"]["all"]["tau"]["value"] == pytest.approx(-1.0)


def test_a_choice_is_the_first_best_and_is_judged_on_the_real_set() -> None:
    found = choices([50.0, 80.0, 70.0], {"infer": [1.0, 2.0, 9.0], "random_soft": [5.0, 5.0, 1.0]}, ["a", "b", "c"])
    assert found["best"] == {"candidate": "b", "real_top1": 80.0}
    assert found["arms"]["infer"] == {"candidate": "c", "real_top1": 70.0, "behind": 10.0}
    assert found["arms"]["random_soft"] == {"candidate": "a", "real_top1": 50.0, "behind": 30.0}
    assert found["blind"]["real_top1"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("own", "random", "wanted", "said"),
    [
        (1.0, 40.0, "better", "infer ranks 24 networks more like the whole real set than its control does."),
        (40.0, 1.0, "worse", "infer ranks 24 networks less like the whole real set than its control does."),
        (3.0, 3.1, "none", "infer does not rank 24 networks more like the whole real set than its control"),
    ],
)
def test_the_verdict_follows_the_interval_of_the_difference(own: float, random: float, wanted: str, said: str) -> None:
    results = ranked({"infer": noisy(own, 1), "random_soft": noisy(random, 2), "whole": REAL})
    assert standing(results) == wanted
    first, half, choice = verdict(results)
    assert first.startswith(said)
    for arm in ("infer", "random_soft"):
        assert told_value(results["agreement"][arm]["all"]["tau"]) in first
        assert told_value(results["agreement"][arm]["top half"]["tau"]) in half
        assert f"'{results['choices']['arms'][arm]['candidate']}'" in choice
    assert json.loads(json.dumps(results, allow_nan=False)) == results


@pytest.mark.parametrize(("n", "arms"), [(19, ARMS), (24, ("infer", "whole"))])
def test_few_candidates_or_no_control_prove_nothing(n: int, arms: tuple[str, ...]) -> None:
    results = ranked(dict.fromkeys(arms, REAL[:n]))
    assert standing(results) == "unproven"
    assert verdict(results)[0].startswith(f"infer was tried on {n} networks; a claim takes 20 or more, and a control.")
    assert ("random real images" in verdict(results)[0]) == ("random_soft" in arms)


def test_values_are_told_with_their_interval() -> None:
    assert told_value({"value": 0.414, "low": 0.12, "high": 0.63}) == "0.41 [0.12, 0.63]"
    assert told_value({"value": -0.1, "low": -0.2, "high": 0.05}, "+") == "-0.10 [-0.20, +0.05]"
    assert told_value({"value": None, "low": None, "high": None}) == "undefined, since nothing varies"


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "holds 0 networks; a ranking needs at least 3"), (list("ab"), "holds 2 networks"),
     (list("abca"), "'a' stands twice in the grid")],
)  # fmt: skip
def test_a_grid_that_ranks_nothing_is_refused(names: list[str], said: str) -> None:
    made = [Candidate(name, "convnet", TrainRecipe()) for name in names]
    with pytest.raises(DatastillError, match=said):
        check_candidates(made, "networks")


def test_times_are_sums_and_what_is_unknown_stays_unknown() -> None:
    rows: list[dict[str, Any]] = rows_of({"infer": [1.0, 2.0], "whole": [1.0, 2.0]})
    for row in rows:
        row["seconds"] = {"infer": [1.0, 2.0], "whole": [10.0, 20.0]}
    assert ranking._times(rows, 4.0) == {"students": {"infer": 6.0, "whole": 60.0}, "distillation": 4.0, "saved": 50.0}
    assert ranking._times(rows, None)["saved"] is None
