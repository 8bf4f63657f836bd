"""One change at a time: what is measured beside what, what stays, and what is refused before any work."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from datastill.errors import DatastillError
from datastill.measure import ablation
from datastill.measure.ablation import Ablation, Plan, ablate, against, helps
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.comparing import NETWORKS, STUDENT, TEACHING, count_students, without_times

PLAN = """
name: small
says: a ladder
method: datastill
changes: [label=static, store.codec.format=webp-lossless]
experiments:
  - name: loss
    variants:
      mse: [student.soft_loss=mse]
      hard: [label=hard]
  - name: one network
    variants:
      first: ["teachers=convnet(width=8)"]
  - name: beside
    adopt: false
    variants:
      raw: {changes: [store.codec.format=raw], size: same}
      infer: {method: infer, size: own, changes: [ipc=4, match.rounds=2]}
      one set: {method: infer, changes: [match.rounds=2, store.sets=1, store.codec.format=webp-lossless]}
      cannot: {method: infer, changes: [ipc=4, match.rounds=2]}
"""
COMMON = ("student.batch=8", "validation=8", *TEACHING)
DATA = {"classes": 4, "per_class": 16}
BUDGET = 14_000
Found = dict[str, Any]


def asked(folder: Path, text: str = PLAN, **options: Any) -> Ablation:
    """Return an ablation of four steps and two seeds unless told otherwise."""
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    given: Found = {"budget": BUDGET, "steps": 4, "student": STUDENT, "seeds": 2, "changes": COMMON,
                    "networks": NETWORKS}  # fmt: skip
    return Ablation(plan=Plan.from_yaml(path), **(given | options))


def measured(folder: Path, made: Ablation) -> Found:
    return ablate(
        tiny.dataset(**DATA), made, out=folder / "run", device=tiny.device(), reporter=Reporter(), command="it"
    )


def only_the_first(patch: pytest.MonkeyPatch) -> None:
    """Let the first variant help, and no other one: what four steps bring is noise."""
    said = iter([True, False, False])
    patch.setattr(ablation, "helps", lambda gap: next(said))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def found(folder: Path, _own_cache: None) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        only_the_first(patch)
        return measured(folder, asked(folder))


def rows(found: Found) -> dict[str, Found]:
    return {row["variant"]: row for experiment in found["experiments"] for row in experiment["rows"]}


def test_a_variant_stands_on_what_was_adopted_before_it(found: Found) -> None:
    assert [e["adopted"] for e in found["experiments"]] == ["mse", None, None]
    assert found["best"]["changes"] == ["student.soft_loss=mse"]
    told = rows(found)
    assert [told[name]["trained"]["soft_loss"] for name in ("mse", "hard", "first", "raw")] == [
        "mse",
        "kl",
        "mse",
        "mse",
    ]
    assert [told[name]["beside"] for name in ("mse", "hard", "first", "raw")] == ["start", "start", "mse", "mse"]
    assert list(told["first"]["recipe"]["networks"]) == ["convnet(width=8)"]
    assert told["mse"]["adopted"]
    assert sum(row["adopted"] for row in told.values()) == 1
    assert [found["start"]["order"], *(row["order"] for row in told.values())] == list(range(7))


def test_differences_are_paired_with_the_running_best(found: Found) -> None:
    told = rows(found)
    for name, other in (
        ("mse", found["start"]),
        ("hard", found["start"]),
        ("first", told["mse"]),
        ("raw", told["mse"]),
    ):
        gaps = [a - b for a, b in zip(told[name]["top1"]["per_seed"], other["top1"]["per_seed"], strict=True)]
        assert told[name]["against_best"]["mean"] == pytest.approx(statistics.fmean(gaps))
        assert told[name]["against_best"]["sd"] == pytest.approx(statistics.stdev(gaps))
    assert found["start"]["against_best"] is None


def test_sets_fill_the_budget_or_take_as_many_images_as_the_best(found: Found) -> None:
    told = rows(found)
    for row in (found["start"], told["mse"], told["hard"], told["first"]):
        assert row["bytes"]["total"] <= BUDGET
    whole = 4 * 16 - 8
    assert found["start"]["pictures"] < whole
    assert told["hard"]["pictures"] > found["start"]["pictures"], "hard labels leave bytes for more images"
    assert told["raw"]["pictures"] == told["mse"]["pictures"]
    assert told["one set"]["bytes"]["total"] <= BUDGET
    assert told["one set"]["recipe"]["store"]["extra"] == told["one set"]["pictures"] - 4 > 0
    assert told["infer"]["recipe"]["ipc"] == 4
    assert told["infer"]["of"] == "infer"


def test_what_cannot_be_made_is_left_out_and_said(found: Found) -> None:
    assert "cannot" not in rows(found)
    assert [failure["method"] for failure in found["failures"]] == ["beside: cannot"]
    assert "size: own" in found["failures"][0]["says"]


def test_the_same_call_trains_nobody_again(folder: Path, found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = count_students(monkeypatch)
    only_the_first(monkeypatch)
    again = measured(folder, asked(folder))
    assert trained == []
    assert without_times(again["experiments"]) == without_times(found["experiments"])
    assert read_json(folder / "run" / "results.json") == again


def test_variants_that_train_alike_share_students(folder: Path, found: Found) -> None:
    count = len(list((folder / "run" / "students").glob("*.json")))
    assert count == 2 * 6  # start, mse, hard, first, one set, infer, for two seeds; "raw" has the very pixels of "mse"
    assert len(list((folder / "run" / "sets").iterdir())) == 6  # start and mse differ in their students alone


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([50.5, 50.5, 50.5], [50.0, 50.0, 50.0], True),
        ([50.2, 50.2, 50.2], [50.0, 50.0, 50.0], False),  # under 0.3 points
        ([52.0, 50.0, 49.5], [50.0, 50.0, 50.0], False),  # 0.5, with a deviation of 1.3
        ([52.0, 51.0, 50.5], [50.0, 50.0, 50.0], True),  # 1.17, with 0.76
        ([49.0, 49.0, 49.0], [50.0, 50.0, 50.0], False),
    ],
)
def test_the_rule_wants_points_and_more_than_the_spread(ours: Any, theirs: Any, expected: bool) -> None:
    assert helps(against({"top1": {"per_seed": ours}}, {"top1": {"per_seed": theirs}})) is expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "test"}, "not made on the test split"),
        ({"seeds": 1}, "--seeds 2 or more"),
        ({"steps": 0}, "at least one step"),
        ({"split": "val"}, "must be test or validation"),
        ({"student": "convnot"}, "convnot"),
        ({"changes": ("student.optimizer=sgd",)}, "optimiser"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_work(tmp_path: Path, options: Found, said: str) -> None:
    with pytest.raises(DatastillError, match=said):
        measured(tmp_path, asked(tmp_path, **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x", "no experiments"),
        ("name: x\nexperiments: [{name: a, variants: {}}]", "has no variants"),
        ("name: x\nexperiments: [{name: a, variants: {b: [c=1]}}, {name: a, variants: {b: [c=1]}}]", "twice"),
        ("name: x\nexperiments: [{name: a, variants: {b: {chnages: []}}}]", "changes"),
        ("name: x\nexperiments: [{name: a, variants: {b: {size: big}}}]", "big"),
        ("experiments: [", "not YAML"),
    ],
)
def test_a_mistaken_plan_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DatastillError, match=said) as refusal:
        asked(tmp_path, text)
    assert "plan.yaml" in str(refusal.value)


def test_a_variant_that_leads_nowhere_is_refused_before_any_work(tmp_path: Path) -> None:
    text = PLAN.replace("[label=hard]", "[label=hrad]")
    with pytest.raises(DatastillError, match="hrad"):
        measured(tmp_path, asked(tmp_path, text))
