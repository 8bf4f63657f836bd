"""A method beside its controls: equal work, paired seeds, nothing trained twice, and the sentence on top."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import features

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.measure import student as students
from datastill.measure.evaluate import Plan, evaluate, verdict
from datastill.measure.rows import put_against_random
from datastill.measure.teachers import measure_teachers
from datastill.recipe import choice, method
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset
from datastill.training.predict import accuracy, predict
from reference import tiny

STUDENT = "convnet(width=8)"
NAMES = [control.name for control in method("infer").controls]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> DistilledDataset:
    folder = tmp_path_factory.mktemp("evaluate") / "set"
    return distil(tiny.dataset(), tiny.recipe(), device=tiny.device(), reporter=Reporter(), out=folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate") / "run"


def results(
    own: DistilledDataset, run: Path, data: Dataset | None = None, *, seeds: int = 3, **options: Any
) -> dict[str, Any]:
    plan = Plan.of(own, [STUDENT], seeds=seeds, **options)
    return evaluate(own, data or tiny.dataset(), plan, run=run, device=tiny.device(), reporter=Reporter(), command="it")


@pytest.fixture(scope="module")
def found(own: DistilledDataset, run: Path) -> dict[str, Any]:
    return results(own, run)


def test_every_control_has_a_row_beside_the_methods_own(found: dict[str, Any]) -> None:
    assert [row["arm"] for row in found["rows"]] == ["infer", *NAMES]
    for row in found["rows"]:
        assert row["student"] == STUDENT
        assert (row["epoch"], row["split"]) == ("last", "test")
        assert row["seeds"] == [0, 1, 2]
        assert row["top1"]["n"] == len(row["top1"]["per_seed"]) == 3
        assert row["top1"]["mean"] == pytest.approx(sum(row["top1"]["per_seed"]) / 3)
        assert 0 <= min(row["top1"]["per_seed"]) <= max(row["top1"]["per_seed"]) <= 100


def test_every_arm_is_trained_for_as_many_steps_of_as_many_items(found: dict[str, Any]) -> None:
    steps = {row["arm"]: row["steps"] for row in found["rows"]}
    assert steps.pop("other_steps") == 2
    assert set(steps.values()) == {6}  # ceil(24 items / 8) steps an epoch, two epochs, as the method's own set
    assert {row["batch"] for row in found["rows"]} == {8}
    assert {row["items"] for row in found["rows"]} > {24, 16, 8}


def test_columns_are_those_of_the_labels(found: dict[str, Any]) -> None:
    columns = {row["arm"]: row["column"] for row in found["rows"]}
    assert {name for name, column in columns.items() if column == "H"} == {
        "infer_hard",
        "random_hard",
        "equal_bytes_hard",
        "coded_hard",
    }
    assert set(columns.values()) == {"H", "S"}


def test_differences_are_paired_by_seed(found: dict[str, Any]) -> None:
    mine = found["rows"][0]["top1"]["per_seed"]
    for row in found["rows"][1:]:
        gaps = [a - b for a, b in zip(mine, row["top1"]["per_seed"], strict=True)]
        assert row["method_minus_this"]["mean"] == pytest.approx(sum(gaps) / 3)
        assert row["method_minus_this"]["n"] == 3
        assert row["method_minus_this"]["verdict"] in ("better", "worse", "none")


def test_the_results_are_written_and_hold_their_origin(found: dict[str, Any], own: DistilledDataset, run: Path) -> None:
    assert json.loads((run / "results.json").read_text()) == json.loads(json.dumps(found, allow_nan=False))
    assert found["recipe"] == own.recipe.plain()
    assert found["commands"] == ["", "it"]
    assert found["bytes"] == own.ledger()
    assert found["source"] == own.facts["source"]
    assert found["rows"][0]["bytes"]["total"] == own.ledger()["total"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["paper"] == []
    assert found["verdict"] == verdict(found["rows"], Plan.of(own, [STUDENT]))


def test_nothing_is_trained_or_made_twice(
    found: dict[str, Any], own: DistilledDataset, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    plain = vars(students)["run_student"]

    def counted(*args: Any, **options: Any) -> Any:
        made.append(args[4])
        return plain(*args, **options)

    monkeypatch.setattr(students, "run_student", counted)
    few = [name for name in NAMES if not name.startswith("equal_bytes")]  # these weigh sets anew to find their size
    again = results(own, run, controls=few)
    assert made == []
    wanted = [row for row in found["rows"] if not row["arm"].startswith("equal_bytes")]
    assert json.loads(json.dumps(again["rows"])) == json.loads(json.dumps(wanted))
    results(own, run, seeds=4, controls=["random_soft"])
    assert made == [3, 3]


def test_a_control_that_cannot_be_made_here_is_left_out_and_told(
    own: DistilledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, told = features.check, []
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and known(name))
    monkeypatch.setattr(Reporter, "say", lambda self, text: told.append(text))
    there = results(own, tmp_path, seeds=1, steps=1, controls=["coded_hard", "random_hard"])
    assert [row["arm"] for row in there["rows"]] == ["infer", "random_hard"]
    (said,) = told
    assert said.startswith(
        "The control coded_hard was left out: store 'coded': pictures in format 'avif' need a Pillow"
    )


def test_another_data_set_is_refused(own: DistilledDataset, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match="is not the data set that .* was distilled from: its contents differ"):
        results(own, tmp_path, tiny.dataset(seed=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"controls": ["random_sof"]}, "there is no control 'random_sof'; did you mean 'random_soft'"),
        ({"split": "tests"}, "there is no split 'tests'; did you mean 'test'"),
        ({"split": "validation"}, "distilled with no validation images; distil with --set validation=COUNT"),
        ({"seeds": 0}, "at least one student, one seed and one step"),
        ({"steps": 0}, "at least one student, one seed and one step"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(own: DistilledDataset, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatastillError, match=sentence):
        Plan.of(own, [STUDENT], **options)


@pytest.mark.parametrize(
    ("student", "sentence"),
    [("convnt", "there is no network 'convnt'; did you mean 'convnet'"), ("convnet(widht=8)", "no setting 'widht'")],
)
def test_an_unknown_student_is_refused_before_any_work(own: DistilledDataset, student: str, sentence: str) -> None:
    with pytest.raises(DatastillError, match=sentence):
        Plan.of(own, [student])


def test_a_plan_without_students_is_refused(own: DistilledDataset) -> None:
    with pytest.raises(DatastillError, match="at least one student"):
        Plan.of(own, [])


def test_a_plan_names_all_controls_or_none_or_some(own: DistilledDataset) -> None:
    assert Plan.of(own, [STUDENT]).controls == tuple(NAMES)
    assert Plan.of(own, [STUDENT], controls=False).controls == ()
    assert Plan.of(own, [STUDENT], controls=["noise"]).controls == ("noise",)
    assert Plan.of(own, ["convnet(width=8),resnet10", "vit_tiny"]).students == (
        "convnet(width=8)",
        "resnet10",
        "vit_tiny",
    )


def test_choices_are_made_on_held_out_rows_and_never_on_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.dataset()
    blank = replace(
        data, test=replace(data.test, pixels=torch.zeros(0, *tiny.SHAPE).byte(), labels=torch.zeros(0).long())
    )
    own = distil(blank, tiny.recipe(validation=8), device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    seen: list[torch.Tensor] = []
    plain: Callable[..., Any] = vars(students)["run_student"]

    def watched(distilled: Any, expanded: Any, testing: students.Testing, *args: Any, **options: Any) -> Any:
        seen.append(testing.images)
        return plain(distilled, expanded, testing, *args, **options)

    monkeypatch.setattr(students, "run_student", watched)
    found = results(own, tmp_path / "run", blank, seeds=1, controls=["random_soft"], split="validation", steps=2)
    held = Real(data, 8).held_out
    assert len(seen) == 2
    assert all(torch.equal(images, data.train.pixels[held]) for images in seen)
    assert {row["split"] for row in found["rows"]} == {"validation"}
    assert found["chosen_on"] == "validation"
    assert found["verdict"][0].startswith("infer was measured with fewer than 3 seeds")


def test_steps_that_are_asked_for_are_made_by_every_arm(own: DistilledDataset, tmp_path: Path) -> None:
    found = results(own, tmp_path, seeds=1, steps=9, controls=["random_soft", "other_steps"])
    assert [row["steps"] for row in found["rows"]] == [9, 9, 3]


def test_teachers_are_scored_one_by_one_and_as_the_mean_of_their_logits(own: DistilledDataset) -> None:
    test = tiny.dataset().test
    testing = students.Testing(test.pixels, test.labels, "test")
    found = measure_teachers(own, tiny.dataset(), testing, tiny.device(), Reporter())
    ctx = tiny.context()
    logits = [predict(ctx.network(name), test.pixels, device=tiny.device().torch) for name in ctx.makers]
    assert [found[name]["top1"] for name in ctx.makers] == [accuracy(each, test.labels) for each in logits]
    assert found["mean of logits"]["top1"] == accuracy(torch.stack(logits).mean(dim=0), test.labels)
    sizes = [sum(v.numel() * v.element_size() for v in ctx.network(name).state_dict().values()) for name in ctx.makers]
    assert [found[name]["bytes"] for name in ctx.makers] == sizes
    assert found["mean of logits"]["bytes"] == sum(sizes)


def row(arm: str, *per_seed: float, column: str = "S") -> dict[str, Any]:
    label = {"kind": "hard" if column == "H" else "static"}
    return {"arm": arm, "student": STUDENT, "top1": {"per_seed": list(per_seed)}, "random": arm.startswith("random"),
            "ipc": 4, "column": column, "role": "control", "recipe": {"label": label, "networks": {}}}  # fmt: skip


@pytest.mark.parametrize("column", ["H", "S"])
def test_the_verdict_is_against_random_images_of_the_same_column(column: str, own: DistilledDataset) -> None:
    plan, other = Plan.of(own, [STUDENT]), {"H": "S", "S": "H"}[column]
    rows = [
        row("infer", 60.0, 61.0, 62.0, column=column), row("noise", 10.0, 11.0, 11.5, column=column),
        row("random_other", 40.0, 41.0, 42.0, column=other), row("random_same", 65.0, 66.1, 66.9, column=column),
    ]  # fmt: skip
    put_against_random(rows)
    assert verdict(rows, plan)[0].startswith("infer does not beat its control: it is worse.")
    assert "random real images with the same kind of labels reach 66.00" in verdict(rows, plan)[0]


def test_without_the_nearest_control_no_verdict_is_given(own: DistilledDataset) -> None:
    rows = [row("infer", 60.0, 61.0, 62.0)]
    put_against_random(rows)
    (said,) = verdict(rows, Plan.of(own, [STUDENT], controls=False))
    assert said.startswith("infer reaches 61.00 ± 1.00 (n=3) with convnet(width=8); its nearest control, ")


def test_dynamic_labels_are_measured_with_their_networks_bytes(tmp_path: Path) -> None:
    recipe = tiny.recipe(method="infer-dyn", label=choice("dynamic"))
    own = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    found = results(own, tmp_path / "run", seeds=1, steps=3, controls=["random_soft", "infer_hard", "other_steps"])
    columns = {row["arm"]: row["column"] for row in found["rows"]}
    assert columns == {"infer-dyn": "D", "random_soft": "D", "infer_hard": "H", "other_steps": "D"}
    weights = sum(found["teachers"][name]["bytes"] for name in recipe.networks)
    assert found["rows"][0]["bytes"]["teachers"] > weights
    assert [row["steps"] for row in found["rows"]] == [3, 3, 3, 9]
