"""CAFE's controller on scripted accuracies, its query, and the fixed counts beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.match.dynamic import Controller, Policy, query_accuracy
from datastill.match.paired import ClassImages
from datastill.recipe import choice
from datastill.runtime.seeds import rng
from datastill.settings import build
from reference import tiny
from reference.cafe import left_at, released

Accuracies = Iterator[float]


def lived(policy: Policy, life: Accuracies, phase: Callable[[], Accuracies]) -> tuple[Controller, list[int]]:
    """Run a controller on scripted accuracies, and return it with the epochs of each phase."""
    control, phases = Controller(policy), list[int]()
    while not control.updated(next(life)):
        accuracies = phase()
        while not control.trained(next(accuracies)):
            pass
        phases.append(control.phase)
    return control, phases


def constant() -> Accuracies:
    return repeat(0.4)


def rising(slope: float) -> Accuracies:
    return (0.1 + slope * t for t in range(10_000))


DYNAMIC = Policy(kind="dynamic")


def test_a_constant_accuracy_ends_the_life_at_ten_updates_and_runs_every_phase_to_its_bound() -> None:
    control, phases = lived(DYNAMIC, constant(), constant)
    assert (control.updates, phases) == (10, [50] * 9)
    assert control.counted() == [1, 10, 450, 0, 9]


def test_a_steep_ramp_ends_every_phase_at_ten_epochs_and_the_life_at_its_bound() -> None:
    steep = 0.0301 / 9  # of accuracies: ten of them span more than `move`
    control, phases = lived(DYNAMIC, rising(0.05), lambda: rising(steep))
    assert phases == [10] * 49
    assert control.counted() == [1, 50, 490, 1, 0]
    _, slow = lived(DYNAMIC, constant(), lambda: rising(0.0299 / 9))
    assert slow == [50] * 9


def test_k_updates_go_with_one_phase_less() -> None:
    for kind, outer in (("fresh", 1), ("fixed", 7)):
        control, phases = lived(Policy(kind=kind, outer=outer, inner=3), constant(), constant)  # type: ignore[arg-type]  # both are kinds
        assert control.updates == outer
        assert phases == [3] * (outer - 1)
        assert control.counted() == [1, outer, 3 * (outer - 1), 0, 0]


def test_windows_slide_by_one_and_begin_anew_in_each_phase() -> None:
    # A jump at the sixth update is out of the window once ten follow it.
    life = chain([0.1] * 5, repeat(0.5))
    control, _ = lived(DYNAMIC, life, lambda: rising(0.01))
    assert control.updates == 15
    # A step of 0.04 after twelve epochs: the window holds both sides from the thirteenth on.
    _, phases = lived(DYNAMIC, constant(), lambda: chain([0.2] * 12, repeat(0.24)))
    assert phases == [13] * 9


def test_both_thresholds_are_strict() -> None:
    quarter = Policy(kind="dynamic", settle=0.25, move=0.25, window=2, most_outer=4, most_inner=4)
    swinging = [0.5, 0.75] * 10
    control, phases = lived(quarter, iter(swinging), lambda: iter(swinging))
    assert (control.updates, phases, control.cut) == (4, [4] * 3, (1, 3))


def test_random_walks_are_left_where_the_plain_rule_leaves_them() -> None:
    for seed in range(40):
        walk = (0.3 + rng(seed, "walk").normal(0.0, 0.012, 400).cumsum()).clip(0.0, 1.0).tolist()
        control, _ = lived(DYNAMIC, iter(walk), lambda: rising(0.05))
        assert control.updates == left_at(walk, 10, lambda spread: spread < 0.04, 50)
        _, phases = lived(DYNAMIC, constant(), lambda walk=walk: iter(walk))  # type: ignore[misc]
        assert phases == [left_at(walk, 10, lambda spread: spread > 0.03, 50)] * 9


def test_no_threshold_and_a_changing_accuracy_are_counts_of_ten() -> None:
    free = Policy(kind="dynamic", settle=1.0, move=0.0)
    control, phases = lived(free, iter([0.1, 0.3] * 30), lambda: iter([0.2, 0.21] * 30))
    fixed, same = lived(Policy(kind="fixed", outer=10, inner=10), constant(), constant)
    assert phases == same == [10] * 9
    assert control.counted() == fixed.counted() == [1, 10, 90, 0, 0]


def test_policies_say_how_long_a_life_can_be_and_whether_anything_is_asked_or_trained() -> None:
    found = [(p.longest, p.asks, p.trains) for p in (
        Policy(), Policy(kind="fixed"), Policy(kind="fixed", inner=0), Policy(kind="fixed", outer=1), DYNAMIC,
    )]  # fmt: skip
    assert found == [
        ((1, 0), False, False), ((20, 10), False, True), ((20, 0), False, False), ((1, 10), False, False),
        ((50, 50), True, True),
    ]  # fmt: skip


def test_a_query_has_the_same_size_whatever_the_number_of_classes() -> None:
    assert [DYNAMIC.each(classes) for classes in (2, 10, 100, 1000, 5000)] == [640, 128, 13, 1, 1]


def test_settings_out_of_range_are_refused_by_their_path() -> None:
    mistakes: list[str] = []
    assert build(Policy, {"kind": "sometimes", "window": 1, "settle": 2.0}, "match.policy", mistakes) is None
    assert [m.split(" ")[0] for m in mistakes] == [
        "'match.policy.kind'",
        "'match.policy.settle'",
        "'match.policy.window'",
    ]


class Scripted(nn.Module):
    """A network that is right on the images of some places and says class 0 of all others."""

    def __init__(self, logits: Tensor, images: Tensor) -> None:
        super().__init__()
        self.logits, self.images, self.seen = logits, images, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        place = (x[:, None] - self.images[None]).abs().flatten(2).sum(dim=2).argmin(dim=1)
        self.seen.append(place)
        return self.logits[place]


def asked(per_class: Any) -> tuple[Scripted, ClassImages]:
    data = tiny.dataset(per_class=per_class)
    bare = {"store": choice("pixels"), "match": choice("none"), "label": choice("hard"), "networks": {}}
    real = ClassImages(tiny.context(data, given={}, **bare))
    right = torch.arange(len(real.cls)) % 3 > 0
    logits = torch.nn.functional.one_hot(torch.where(right, real.cls, 0), 4).float()
    return Scripted(logits, real.images.float() / 255.0), real


def test_a_query_is_the_mean_accuracy_of_classes_on_real_images_that_are_drawn_anew() -> None:
    network, real = asked(12)
    found = [query_accuracy(network, real, rng(0, "query", t), 5) for t in range(2)]
    for accuracy, seen in zip(found, network.seen, strict=True):
        assert real.cls[seen].bincount().tolist() == [5] * 4
        assert len(seen.unique()) == 20
        classes = [real.cls[seen] == k for k in range(4)]
        says = network.logits[seen].argmax(dim=1) == real.cls[seen]
        assert accuracy == pytest.approx(sum(float(says[k].float().mean()) for k in classes) / 4, abs=1e-7)
    assert not torch.equal(*network.seen)
    assert query_accuracy(network, real, rng(0, "query", 0), 5) == found[0]


def test_a_class_with_few_images_weighs_as_much_as_any_other() -> None:
    network, real = asked((12, 12, 12, 3))
    accuracy = query_accuracy(network, real, rng(0, "query"), 12)
    says = network.logits.argmax(dim=1) == real.cls
    each = [float(says[real.cls == k].float().mean()) for k in range(4)]
    assert len(network.seen[0]) == 39
    assert accuracy == pytest.approx(sum(each) / 4, abs=1e-7)


def test_the_released_accuracy_rises_on_a_constant_one_and_ours_does_not() -> None:
    assert released([0.4] * 4, 10) == pytest.approx([0.4, 0.44, 0.444, 0.4444])
    network, real = asked(12)
    assert len({query_accuracy(network, real, rng(0, "query", t), 12) for t in range(4)}) == 1
