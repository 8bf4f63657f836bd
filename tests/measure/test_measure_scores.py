"""The robust scores: hand calculations, ranges, and what is missing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastill.errors import DatastillError
from datastill.measure.scores import NEEDS, ars, hlr, ior, lrs, scores_of

ACCURACY = st.floats(0.0, 1.0)
GAP = st.floats(-1.0, 1.0)
NEITHER = 0.2689414213699951  # (1 - 1/e) / (e - 1/e) = 1 / (1 + e)


def row(arm: str, top1: list[float], **changes: Any) -> dict[str, Any]:
    """Return the fields of a row that the scores read, under changes; the method is the arm's."""
    made: dict[str, Any] = {"arm": arm, "method": arm, "role": "method", "random": False, "ipc": 10,
                            "student": "convnet", "column": "S", "seeds": list(range(len(top1))),
                            "top1": {"per_seed": top1}, "same_work": True,
                            "recipe": {"networks": {"first": {"arch": "convnet"}}}}  # fmt: skip
    return made | changes


def comparison(ipc: int = 10, student: str = "convnet") -> list[dict[str, Any]]:
    """Return the rows of one method, its images with hard labels, random images in two columns, and the whole set."""
    rows = [
        row("whole", [80.0, 82.0, 81.0], method="random", role="whole", column="H", random=False),
        row("good_hard", [30.0, 31.0, 29.0], method="good", role="hard", column="H"),
        row("random_hard", [25.0, 26.0, 24.0], method="random", role="hard", column="H", random=True),
        row("good", [45.0, 47.0, 46.0]),
        row("random", [40.0, 41.0, 42.0], random=True),
    ]
    return [r | {"ipc": ipc, "student": student} for r in rows]


def only(rows: list[dict[str, Any]], method: str = "good") -> dict[str, Any]:
    (found,) = [s for s in scores_of(rows) if s["method"] == method]
    return found


def test_the_scores_are_those_of_a_hand_calculation() -> None:
    assert hlr(0.8, 0.3) == pytest.approx(0.5)
    assert ior(0.45, 0.4) == pytest.approx(0.05)
    # a = 0.5 * 0.05 - 0.5 * 0.5 = -0.225: (0.7985162 - 0.3678794) / (2.7182818 - 0.3678794)
    assert lrs(0.5, 0.05) == pytest.approx(0.4306368 / 2.3504024, abs=1e-7)
    # a = 0.8 * 0.05 - 0.2 * 0.5 = -0.06: (0.9417645 - 0.3678794) / 2.3504024
    assert lrs(0.5, 0.05, weight=0.8) == pytest.approx(0.5738851 / 2.3504024, abs=1e-7)
    # b = 0.25 * 0.1 + 0.75 * 0.02 = 0.04: (1.0408108 - 0.3678794) / 2.3504024
    assert ars(0.1, 0.02, weight=0.25) == pytest.approx(0.6729314 / 2.3504024, abs=1e-7)


def test_the_ends_of_the_ranges_are_nought_and_one() -> None:
    assert hlr(1.0, 0.0) == 1.0
    assert hlr(0.0, 1.0) == -1.0
    assert lrs(1.0, -1.0) == ars(-1.0, -1.0) == 0.0
    assert lrs(-1.0, 1.0) == ars(1.0, 1.0) == 1.0
    assert lrs(0.0, 0.0) == ars(0.0, 0.0) == pytest.approx(NEITHER, abs=1e-15)
    assert lrs(0.7, 0.0, weight=1.0) == lrs(-0.2, 0.0, weight=1.0) == pytest.approx(NEITHER)


@pytest.mark.parametrize("value", [71.3, 1.0001, -0.01, math.nan, math.inf])
def test_a_percentage_is_refused_where_a_fraction_is_asked_for(value: float) -> None:
    for score in (hlr, ior):
        for pair in ((value, 0.5), (0.5, value)):
            with pytest.raises(DatastillError, match=r"is no fraction between 0 and 1.*divide a percentage by 100"):
                score(*pair)
    for combined in (lrs, ars):
        for pair in ((value * 1000, 0.1), (0.1, value * 1000)):
            with pytest.raises(DatastillError, match=r"lies in -1\.\.1; divide percentages by 100"):
                combined(*pair)
        with pytest.raises(DatastillError, match="weight of"):
            combined(0.1, 0.1, value)


@given(a=ACCURACY, b=ACCURACY, c=ACCURACY, d=ACCURACY, weight=st.floats(0.0, 1.0))
def test_every_score_of_accuracies_stays_in_its_range(a: float, b: float, c: float, d: float, weight: float) -> None:
    assert -1.0 <= hlr(a, b) <= 1.0
    assert ior(a, b) == -ior(b, a)
    assert 0.0 <= lrs(hlr(a, b), ior(c, d), weight) <= 1.0
    assert 0.0 <= ars(ior(a, b), ior(c, d), weight) <= 1.0


@given(first=GAP, second=GAP, better=GAP, weight=st.floats(0.01, 0.99))
def test_better_parts_never_make_a_worse_score(first: float, second: float, better: float, weight: float) -> None:
    low, high = sorted((first, better))
    assert lrs(second, low, weight) <= lrs(second, high, weight)
    assert lrs(high, second, weight) <= lrs(low, second, weight)
    assert ars(low, second, weight) <= ars(high, second, weight)
    assert ars(second, low, weight) <= ars(second, high, weight)
    if high - low > 1e-6:
        assert lrs(second, low, weight) < lrs(second, high, weight)
        assert lrs(high, second, weight) < lrs(low, second, weight)


@given(first=GAP, second=GAP)
def test_equal_weights_do_not_care_which_part_is_better(first: float, second: float) -> None:
    assert ars(first, second) == pytest.approx(ars(second, first))
    assert lrs(-first, second) == pytest.approx(ars(first, second))


def test_the_scores_of_a_comparison_are_paired_by_seed() -> None:
    found = only(comparison())
    assert {k: found[k] for k in ("ipc", "student", "method", "column", "weight")} == {
        "ipc": 10, "student": "convnet", "method": "good", "column": "S", "weight": 0.5
    }  # fmt: skip
    assert found["hlr"]["per_seed"] == pytest.approx([0.50, 0.51, 0.52])
    assert found["hlr"]["mean"] == pytest.approx(0.51)
    assert found["hlr"]["std"] == pytest.approx(0.01)
    assert found["ior"]["per_seed"] == pytest.approx([0.05, 0.06, 0.04])
    wanted = [(math.exp(0.5 * i - 0.5 * h) - 1 / math.e) / (math.e - 1 / math.e)
              for h, i in ((0.50, 0.05), (0.51, 0.06), (0.52, 0.04))]  # fmt: skip
    assert found["lrs"]["per_seed"] == pytest.approx(wanted)
    assert found["lrs"]["mean"] == pytest.approx(sum(wanted) / 3)
    assert (found["lrs"]["seeds"], found["lrs"]["n"], found["lrs"]["same_work"]) == ([0, 1, 2], 3, True)
    json.dumps(found)


def test_random_images_stand_at_no_improvement_over_themselves() -> None:
    found = only(comparison(), "random")
    assert found["ior"]["per_seed"] == [0.0, 0.0, 0.0]
    assert found["hlr"]["per_seed"] == pytest.approx([0.55, 0.56, 0.57])


def test_the_order_of_the_rows_changes_no_score() -> None:
    rows = comparison(10) + comparison(50) + comparison(10, "resnet18")
    assert scores_of(rows[::-1]) == scores_of(rows)[::-1]


def test_a_method_with_hard_labels_is_its_own_row_with_hard_labels() -> None:
    rows = [row("whole", [90.0], role="whole", column="H"), row("good", [60.0], column="H"),
            row("random", [50.0], column="H", random=True)]  # fmt: skip
    found = only(rows)
    assert found["hlr"]["per_seed"] == pytest.approx([0.3])
    assert found["ior"]["per_seed"] == pytest.approx([0.1])
    assert found["hlr"]["std"] is None


def test_augmentation_is_scored_where_the_same_arms_were_trained_without() -> None:
    plain = [row("good@plain", [30.0, 32.0, 31.0], method="good"),
             row("random@plain", [28.0, 31.0, 28.0], method="random", random=True)]  # fmt: skip
    rows = plain + comparison()
    found = only(rows)
    gaps = [(0.05, 0.02), (0.06, 0.01), (0.04, 0.03)]
    assert found["ars"]["per_seed"] == pytest.approx([ars(a, b) for a, b in gaps])
    assert found["missing"] == {}
    assert [s["method"] for s in scores_of(rows)] == ["good", "random"]  # rows without augmentation are no methods
    assert found["ior"] == only(comparison())["ior"]  # nor the random images that a method stands beside
    assert only([r for r in rows if r["arm"] != "random@plain"])["missing"] == {
        "ars": "there is no row of random real images without augmentation."
    }


@pytest.mark.parametrize(
    ("gone", "lost", "said"),
    [
        ("whole", {"hlr", "lrs"}, "there is no row of the whole training set with hard labels."),
        ("good_hard", {"hlr", "lrs"}, "there is no row of its images with hard labels."),
        ("random", {"ior", "lrs"}, "there is no row of random real images with the same kind of labels."),
    ],
)
def test_a_score_without_its_rows_is_missing_and_says_why(gone: str, lost: set[str], said: str) -> None:
    found = only([r for r in comparison() if r["arm"] != gone])
    assert {s for s in NEEDS if found[s] is None} == lost | {"ars"} == set(found["missing"])
    assert all(found["missing"][score] == said for score in lost)


def test_another_column_ipc_or_student_is_never_borrowed() -> None:
    others = [r | change for r in comparison() for change in ({"ipc": 50}, {"student": "resnet18"})]
    others = [r for r in others if r["arm"] != "whole"] + [row("random", [9.0], column="D", random=True)]
    found = [s for s in scores_of([*others, row("good", [45.0])]) if (s["ipc"], s["student"]) == (10, "convnet")]
    good = next(s for s in found if s["method"] == "good")
    assert all(good[score] is None for score in NEEDS)
    assert good["missing"]["lrs"] == (
        "there is no row of the whole training set with hard labels, nor of its images with hard labels, nor of random "
        "real images with the same kind of labels."
    )


def test_the_whole_set_is_trained_on_once_for_every_ipc() -> None:
    rows = comparison(10) + [r for r in comparison(50) if r["role"] != "whole"]
    assert [s["hlr"]["mean"] for s in scores_of(rows) if s["method"] == "good"] == pytest.approx([0.51, 0.51])


def test_the_whole_set_of_the_same_ipc_comes_first_since_it_had_the_same_steps() -> None:
    other = [r | {"top1": {"per_seed": [90.0, 92.0, 91.0]}} if r["role"] == "whole" else r for r in comparison(50)]
    found = [s["hlr"]["mean"] for s in scores_of(comparison(10) + other) if s["method"] == "good"]
    assert found == pytest.approx([0.51, 0.61])


def test_random_images_are_those_whose_labels_came_from_the_same_networks() -> None:
    other = {"networks": {"first": {"arch": "resnet18"}}}
    mine = row("good", [45.0, 47.0, 46.0], recipe=other)
    rows = [r for r in comparison() if r["arm"] != "good"] + [mine]
    assert only(rows)["ior"] is None
    rows.append(row("good/random_S", [44.0, 44.0, 44.0], method="good", role="control", random=True, recipe=other))
    assert only(rows)["ior"]["per_seed"] == pytest.approx([0.01, 0.03, 0.02])
    assert only(rows)["hlr"]["mean"] == pytest.approx(0.51)


def test_only_seeds_that_every_row_has_are_counted() -> None:
    rows = comparison()
    rows[0] = rows[0] | {"seeds": [2, 5], "top1": {"per_seed": [81.0, 99.0]}}
    found = only(rows)
    assert (found["hlr"]["seeds"], found["ior"]["seeds"], found["lrs"]["seeds"]) == ([2], [0, 1, 2], [2])
    assert found["hlr"]["per_seed"] == pytest.approx([0.52])
    rows[0] = rows[0] | {"seeds": [5, 6]}
    assert only(rows)["missing"]["lrs"] == "its rows have no seed in common."


def test_unequal_work_is_told() -> None:
    rows = comparison()
    rows[0] = rows[0] | {"same_work": False}
    found = only(rows)
    assert [found[s]["same_work"] for s in ("hlr", "ior", "lrs")] == [False, True, False]


def test_accuracies_of_a_comparison_above_a_hundred_are_refused() -> None:
    with pytest.raises(DatastillError, match="is no fraction between 0 and 1"):
        scores_of([row("random", [4500.0], random=True)])
    with pytest.raises(DatastillError, match="weight of 2"):
        scores_of(comparison(), weight=2.0)
