"""Memories: classes come in groups, a memory tells of seen classes alone, and every memory gets the same work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.fields import Expanded, Labels
from datastill.measure import student as measured
from datastill.measure.proxies import common, continual
from datastill.measure.proxies.common import Feed
from datastill.measure.proxies.continual import (
    SomeLogits,
    class_groups,
    compare_with_random,
    restricted,
    restricted_testing,
    seen_after,
    verdict,
)
from datastill.recipe import Work, choice
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.proxies import remembered

STUDENT = "convnet(width=4, depth=1)"
HOW: dict[str, Any] = {"device": tiny.device(), "reporter": Reporter(), "student": STUDENT, "groups": 2, "steps": 3}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> DistilledDataset:
    return tiny.distilled(tmp_path_factory.mktemp("continual") / "set")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("continual") / "run"


@pytest.fixture(scope="module")
def found(own: DistilledDataset, run: Path) -> dict[str, Any]:
    return continual(own, tiny.dataset(), run=run, seeds=3, whole=True, **HOW)


def feed_of(made: DistilledDataset, expanded: Expanded | None = None) -> Feed:
    return Feed("infer", "as distilled", "method", made, expanded or made.expand(), "key")


@pytest.mark.parametrize(("classes", "groups"), [(10, 5), (10, 3), (4, 4), (7, 1)])
def test_groups_part_all_classes_into_even_shares(classes: int, groups: int) -> None:
    made = class_groups(classes, groups, 0)
    assert len(made) == groups
    assert sorted(k for group in made for k in group) == list(range(classes))
    assert max(map(len, made)) - min(map(len, made)) <= 1


def test_the_order_is_that_of_the_seed() -> None:
    assert class_groups(20, 5, 3) == class_groups(20, 5, 3)
    assert class_groups(20, 5, 3) != class_groups(20, 5, 4)


def test_seen_classes_grow_group_by_group_and_are_ascending() -> None:
    assert seen_after([(3, 1), (0,), (2, 4)]) == [(1, 3), (0, 1, 3), (0, 1, 2, 3, 4)]


def test_a_memory_holds_the_items_of_seen_classes_under_new_numbers(own: DistilledDataset) -> None:
    whole = own.expand()
    part = restricted(feed_of(own), (1, 3))
    kept = [i for i, k in enumerate(whole.cls.tolist()) if k in (1, 3)]
    assert torch.equal(part.expanded.images, whole.images[kept])
    assert part.expanded.cls.tolist() == [{1: 0, 3: 1}[int(whole.cls[i])] for i in kept]
    assert part.expanded.classes == 2
    assert part.distilled.info.classes == 2
    assert part.distilled.classes == ("class 1", "class 3")


def test_soft_labels_are_the_distribution_given_the_seen_classes(own: DistilledDataset) -> None:
    whole, seen = own.expand(), (0, 2, 3)
    assert whole.labels.values is not None
    part = restricted(feed_of(own), seen).expanded
    assert part.labels.values is not None
    kept = torch.isin(whole.cls, torch.tensor(seen))
    for temperature in (1.0, 30.0):
        p = torch.softmax(whole.labels.values[kept].float() / temperature, dim=1)[:, list(seen)]
        conditional = p / p.sum(dim=1, keepdim=True)
        mine = torch.softmax(part.labels.values.float() / temperature, dim=1)
        assert torch.allclose(mine, conditional, atol=1e-5)


def test_what_is_said_of_unseen_classes_and_their_items_never_reaches_a_student(own: DistilledDataset) -> None:
    whole, seen = own.expand(), (0, 1)
    assert whole.labels.values is not None
    values, images = whole.labels.values.clone(), whole.images.clone()
    values[:, 2:] += 50.0
    unseen = whole.cls >= 2
    values[unseen] = 99.0
    images[unseen] = 0
    changed = replace(whole, images=images, labels=Labels("logits", values))
    one, other = (_batches(feed_of(own, e), seen) for e in (whole, changed))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.target, b.target)
        assert a.target.shape == (8, 2)


def _batches(feed: Feed, seen: tuple[int, ...]) -> list[Any]:
    part = restricted(feed, seen)
    work = Work(len(part.expanded.cls), 8, 2, 4)
    made = part.distilled
    return list(
        made.fields.label.supply(
            part.expanded, work, made.recipe.student, 0, device=torch.device("cpu"), teachers=made.teachers
        )
    )


def test_with_all_classes_seen_a_memory_is_the_set_itself(own: DistilledDataset) -> None:
    whole, part = own.expand(), restricted(feed_of(own), (0, 1, 2, 3)).expanded
    assert whole.labels.values is not None
    assert part.labels.values is not None
    assert torch.equal(part.images, whole.images)
    assert torch.equal(part.cls, whole.cls)
    assert torch.equal(part.labels.values, whole.labels.values)


def test_hard_labels_have_as_many_classes_as_were_seen(own: DistilledDataset) -> None:
    hard = replace(own, recipe=own.recipe.patched({"label": choice("hard")}), labels=Labels("classes"))
    for batch in _batches(feed_of(hard), (1, 2, 3)):
        assert batch.target.shape == (8, 3)
        assert torch.allclose(batch.target.sum(dim=1), torch.ones(8))


def test_networks_in_the_loop_say_nothing_of_unseen_classes() -> None:
    made = tiny.distilled(None, method="infer-dyn", label=choice("dynamic"))
    seen = (0, 3)
    part = restricted(feed_of(made), seen)
    x = part.expanded.images[:5].float() / 255
    for name, network in part.distilled.teachers.items():
        assert isinstance(network, SomeLogits)
        assert torch.equal(network(x), made.teachers[name](x)[:, list(seen)])
    for batch in _batches(feed_of(made), seen):
        wanted = sum(made.teachers[name](batch.x) for name in made.labels.teachers) / len(made.labels.teachers)
        assert torch.allclose(batch.target, wanted[:, list(seen)], atol=1e-5)


def test_the_test_images_are_those_of_seen_classes() -> None:
    images = torch.arange(6)[:, None]
    testing = restricted_testing(measured.Testing(images, torch.tensor([0, 2, 1, 2, 3, 0]), "test", "k"), (0, 2))
    assert testing.images.flatten().tolist() == [0, 1, 3, 5]
    assert testing.labels.tolist() == [0, 1, 1, 0]
    assert (testing.split, testing.key) == ("test", "k")


def test_every_memory_has_a_row_with_the_same_work(found: dict[str, Any]) -> None:
    rows = {row["arm"]: row for row in found["rows"]}
    assert list(rows) == ["infer", "random_soft", "random_hard", "whole"]
    assert [row["column"] for row in rows.values()] == ["S", "S", "H", "H"]
    assert {row["steps"] for row in rows.values()} == {3}
    assert found["seen"] == [2, 4]
    for row in rows.values():
        assert len(row["after"]) == 2
        for seed in range(3):
            each = [after["per_seed"][seed] for after in row["after"]]
            assert row["average"]["per_seed"][seed] == pytest.approx(sum(each) / 2)
    assert rows["infer"]["held"] == [[12, 24]] * 3
    assert rows["whole"]["held"] == [[24, 48]] * 3
    assert (rows["whole"]["bytes"], rows["infer"]["bytes"]["total"] > 0) == (None, True)


def test_the_difference_is_paired_and_stands_beside_the_method_alone(found: dict[str, Any]) -> None:
    own, random, *others = found["rows"]
    gap = own["against_random"]
    gaps = [a - b for a, b in zip(own["average"]["per_seed"], random["average"]["per_seed"], strict=True)]
    assert gap["arm"] == "random_soft"
    assert gap["mean"] == pytest.approx(sum(gaps) / 3)
    assert [row["against_random"] for row in (random, *others)] == [None] * 3


def test_students_have_an_output_and_test_images_for_seen_classes_only(
    own: DistilledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []
    plain = vars(common)["run_student"]

    def watched(
        distilled: Any, expanded: Any, testing: measured.Testing, student: str, seed: int, **options: Any
    ) -> Any:
        result = plain(distilled, expanded, testing, student, seed, **options)
        tested = sorted(testing.labels.unique().tolist())
        seen.append((distilled.info.classes, expanded.classes, tested, len(result["per_class"]), options["steps"]))
        return result

    monkeypatch.setattr(common, "run_student", watched)
    continual(own, tiny.dataset(), run=tmp_path, seeds=1, **HOW)
    assert sorted(map(str, seen)) == sorted(
        map(str, [(2, 2, [0, 1], 2, 3)] * 3 + [(4, 4, [0, 1, 2, 3], 4, 3)] * 3)
    )  # three memories, two groups


def test_nothing_is_trained_twice_and_the_ceiling_is_optional(
    found: dict[str, Any], own: DistilledDataset, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "run_student", None)
    again = continual(own, tiny.dataset(), run=run, seeds=3, **HOW)
    assert json.loads(json.dumps(again["rows"])) == json.loads(json.dumps(found["rows"][:3]))
    assert json.loads((run / "results.json").read_text()) == json.loads(json.dumps(again, allow_nan=False))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": 5}, "5 groups were asked for, but the set has 4 classes; ask for --groups 4 or fewer"),
        ({"groups": 0}, "--groups must be at least 1, not 0"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"student": "convnt"}, "there is no network 'convnt'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    own: DistilledDataset, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DatastillError, match=said):
        continual(own, tiny.dataset(), run=tmp_path, **HOW | options)
    assert not list(tmp_path.iterdir())


HIGH, LOW = [[90.0, 91.0, 92.0], [80.0, 81.0, 82.5]], [[70.0, 70.5, 72.0], [60.0, 62.0, 61.0]]


@pytest.mark.parametrize(
    ("own", "random", "said"),
    [
        (HIGH, LOW, "As a memory, infer beats its control. With convnet, averaged over 2 groups of classes"),
        (LOW, HIGH, "As a memory, infer does not beat its control: it is worse."),
        ([g[:2] for g in HIGH], [g[:2] for g in LOW], "As a memory, infer was measured with fewer than 3 seeds"),
    ],
)
def test_the_verdict_follows_the_paired_test(own: Any, random: Any, said: str) -> None:
    results = remembered({"infer": own, "random_soft": random, "random_hard": LOW if random is HIGH else random})
    assert results["verdict"][0].startswith(said)


def test_without_random_images_of_the_same_labels_nothing_is_claimed() -> None:
    results = remembered({"infer": HIGH, "random_hard": LOW})
    compare_with_random(results["rows"])
    assert results["rows"][0]["against_random"] is None
    assert verdict(results["rows"], "convnet", 2)[0].endswith("so this says nothing about the method.")


def test_labels_of_views_are_refused_before_any_work(tmp_path: Path) -> None:
    made = tiny.distilled(tmp_path / "set", match=choice("none"), label=choice("views"))
    with pytest.raises(DatastillError, match="the views that this set's labels belong to are named by the numbers of"):
        continual(made, tiny.dataset(), run=tmp_path / "run", seeds=1, **HOW)
    assert not (tmp_path / "run").exists()


def test_a_memory_keeps_the_labels_of_the_boxes_of_its_items() -> None:
    made = tiny.distilled(None, match=choice("none"), label=choice("dense", grid=3))
    whole, part = made.expand(), restricted(feed_of(made), (1, 3)).expanded
    assert whole.labels.values is not None
    assert part.labels.values is not None
    kept = torch.isin(whole.cls, torch.tensor([1, 3]))
    each = whole.labels.values.view(len(whole.cls), 10, 4)[kept][:, :, [1, 3]]
    assert torch.equal(part.labels.values, each.flatten(0, 1))
    assert part.labels.views == whole.labels.views
    for batch in _batches(feed_of(made), (1, 3)):
        assert batch.target.shape == (16, 2)
