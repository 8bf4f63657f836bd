"""What a run would cost: every phase against what the run really does, and what is said not to be in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from datastill import recipe as recipes
from datastill.engine import build_content
from datastill.fields import resolve
from datastill.match.paired import Paired
from datastill.measure import costs as measured
from datastill.measure.costs import ANSWER, PULL, SECOND, Cost, estimate
from datastill.measure.reproduce import scaled
from datastill.recipe import Recipe, choice, compose, methods
from datastill.sources import load
from reference import tiny
from reference.comparing import STUDENT

PLAIN: dict[str, Any] = {"method": "random", "store": choice("pixels"), "match": choice("none")}
CROPS: dict[str, Any] = {"store": choice("crops", mipc=10, crops=3), "match": choice("none")}
LEARNED: dict[str, Any] = {"store": choice("synthetic", block=2)}
VARIOUS = choice("various", rounds=4, jitter=1)


def costs(recipe: Recipe, common: Any = None, seeds: int = 3) -> dict[str, float]:
    data = tiny.dataset()
    return dict(estimate(data, recipe, common or recipe.student, STUDENT, seeds, tiny.device()).phases)


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a training step on an image take a second, whatever the network."""
    monkeypatch.setattr(measured, "_step_seconds", lambda dataset, arch, settings, recipe, device: recipe.batch)


def counted(recipe: Recipe) -> measured._Run:
    data = tiny.dataset()
    return measured._Run(recipe, resolve(recipe, data.info), data.info, len(data.train))


def test_the_estimate_is_steps_times_seconds_and_leaves_out_what_is_cached(second: None) -> None:
    training = replace(tiny.TEACHING, steps=14)  # which no other test trains
    recipe = tiny.recipe(networks={name: replace(n, training=training) for name, n in tiny.NETWORKS.items()})
    students = 2 * 3 * 8 * 6  # arms, seeds, images of a step, steps: 24 items in batches of 8, two epochs
    matching = 4 * PULL * 2 * 4  # rounds, forward's and input's share, compensators, images of each
    labelling = ANSWER * (24 + 16)  # the items of the set, and random real images
    each = {"train": 14 * 16, "match on": matching, "label with": labelling}
    wanted = {f"{phase} {name}": seconds for name in ("first", "second") for phase, seconds in each.items()}
    assert costs(recipe) == pytest.approx(wanted | {"6 students": students})
    ctx = tiny.context(networks=recipe.networks)
    ctx.network("first")
    known = costs(recipe)
    assert "train first" not in known
    assert known["train second"] == 14 * 16
    assert known["match on first"] == pytest.approx(matching)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"ipc": 7}, {"store": choice("compensated", leftover="natural")},
        {"store": choice("compensated", sets=3, extra=5)}, {"match": VARIOUS}, LEARNED, LEARNED | {"match": VARIOUS},
        LEARNED | {"match": choice("various", rounds=4, jitter=1, backbones=1)},
        LEARNED | {"match": choice("statistics", rounds=4, jitter=1, network="second")},
        LEARNED | {"match": choice("statistics", rounds=0, jitter=1)}, PLAIN, CROPS,
        LEARNED | {"ipc": 2, "store": choice("tiles", factor=2, block=4)},
        PLAIN | {"store": choice("pixels", total=13)},
        PLAIN | {"store": choice("pixels", per_class=3)},
        PLAIN | {"store": choice("coded", total=9, codec={"format": "jpeg", "quality": 75, "tiles": 1})},
    ],
)  # fmt: skip
def test_items_and_matched_images_are_those_that_the_run_makes(changes: dict[str, Any]) -> None:
    recipe = tiny.recipe(**changes)
    ctx = tiny.context(**changes)
    content = ctx.fields.store.begin(ctx)
    run, match = counted(recipe), ctx.fields.match
    assert run.items == len(content.items)
    assert run.unknown == ()
    shown = dict.fromkeys(recipe.networks, 0)
    for part in match.parts(content.items, ctx.makers):
        for round_ in range(match.total_rounds):
            names = run._turns(match) if recipe.match.kind == "various" else (part.network,)  # type: ignore[arg-type]  # it is
            shown[names[round_ % len(names)]] += len(part.rows)
    assert {name: run._matched(name) for name in shown} == pytest.approx({n: PULL * v for n, v in shown.items()})


@pytest.mark.parametrize(
    ("label", "images"),
    [
        (choice("hard"), 0), (choice("static"), 24 + 16), (choice("views", views=3), 3 * (24 + 16)),
        (choice("dense", grid=3), 10 * (24 + 16)), (choice("dense", grid=3, own="hard"), 9 * (24 + 16)),
        (choice("replayed", epochs=2), 2 * (3 + 2) * 8), (choice("dynamic"), 0),
    ],
)  # fmt: skip
def test_answers_are_counted_as_they_are_stored(label: Any, images: int, second: None) -> None:
    found = costs(tiny.recipe(label=label))
    assert found.get("label with first", 0.0) == pytest.approx(ANSWER * images)


def test_networks_in_the_loop_answer_in_every_step_of_every_student_and_pairs_are_two_pictures(second: None) -> None:
    students = 2 * 3 * 6
    assert costs(tiny.recipe())["6 students"] == students * 8
    in_the_loop = costs(tiny.recipe(label=choice("dynamic")))["6 students"]
    assert in_the_loop == pytest.approx(students * (8 + 2 * ANSWER * 8))
    assert costs(tiny.recipe(label=choice("dense", grid=3)))["6 students"] == students * 16


def test_a_network_that_nothing_asks_is_not_trained(second: None) -> None:
    networks = {name: replace(n, training=replace(tiny.TEACHING, steps=17)) for name, n in tiny.NETWORKS.items()}
    hard = {"label": choice("hard"), "networks": networks}
    assert list(costs(tiny.recipe(**PLAIN, **hard))) == ["6 students"]
    assert {"train first", "train second"} <= set(costs(tiny.recipe(**hard)))
    chosen = costs(tiny.recipe(**CROPS, **hard))
    assert chosen.keys() == {"train first", "choose crops with first", "6 students"}
    assert chosen["choose crops with first"] == pytest.approx(ANSWER * 4 * 10 * 3)  # classes, candidates, crops


def test_what_a_match_asks_besides_its_rounds_is_counted(second: None) -> None:
    rows = len(tiny.dataset().train)
    various = costs(tiny.recipe(**LEARNED, match=VARIOUS))
    assert various["measure real images with second"] == pytest.approx(ANSWER * rows)
    assert "measure real images with first" not in costs(
        tiny.recipe(**LEARNED, match=choice("various", rounds=4, convs=False))
    )
    moved = {"rounds": 4, "jitter": 1, "adjust_steps": 3, "adjust_rho": 0.01}
    directed = costs(tiny.recipe(**LEARNED, match=choice("statistics", **moved)))
    assert directed["match on first"] == pytest.approx((4 * PULL + 3) * 16)
    assert "match on second" not in directed
    plain = costs(tiny.recipe(**LEARNED, match=choice("statistics", rounds=4, reference="plain")))
    assert plain["match on first"] == pytest.approx(4 * PULL * 16 + ANSWER * rows)


MET = {"arch": "convnet_in", "settings": {"width": 8, "depth": 2}}
FIXED = {"kind": "fixed", "outer": 3, "inner": 2}
DYNAMIC = {"kind": "dynamic", "window": 2, "query": 8, "most_outer": 3, "most_inner": 2, "settle": 0.0, "move": 1.0}


def condensed(kind: str, training: dict[str, Any], **settings: Any) -> dict[str, Any]:
    inner = {"lr": 0.01, "crop": 0, "flip": False} | training
    match = choice(kind, rounds=2, lr=0.1, network=MET | {"training": inner}, **settings)
    return {"match": match, "networks": {}, "label": choice("hard"), "store": choice("synthetic"), "ipc": 2}


@contextmanager
def passing() -> Iterator[dict[str, int]]:
    """Count the images that pass networks, by what is asked of them."""
    found = dict.fromkeys(("answers", "pulls", "trainings", "second"), 0)

    def counting(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            weights, pixels = module.weight.requires_grad, given[0].requires_grad
            kind = {(True, True): "second", (True, False): "trainings", (False, True): "pulls"}.get((weights, pixels))
            found[kind if kind and torch.is_grad_enabled() else "answers"] += len(given[0])

    handle = register_module_forward_pre_hook(counting)
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "changes",
    [
        condensed("features", {}, steps=3, batch=5),
        condensed("features", {}, batch=100),
        condensed("features", {}, batch=5) | {"store": choice("tiles", factor=2, block=4)},
        condensed("features", {}, batch=5) | {"store": choice("compensated"), "ipc": 4, "networks": tiny.NETWORKS},
        condensed("living", {"batch": 3}, policy=FIXED, batch=5, beta=0.0),
        condensed("living", {"batch": 3}, policy=DYNAMIC, batch=5, beta=0.0),
        condensed("gradients", {"batch": 3}, outer=3, inner=2, batch=5),
        condensed("gradients", {"batch": 3}, outer=3, inner=2, batch=5, most=1),
        condensed("gradients", {"batch": 7}, outer=3, inner_on="real", inner_images=20, batch=5),
        condensed("gradients", {"batch": 7}, outer=1, source="early", epochs=2, batch=5),
        condensed("gradients", {"batch": 9}, outer=1, source="pool", pool=3, epochs=2, batch=5),
    ],
)  # fmt: skip
def test_what_passes_a_network_of_the_matchs_own_is_counted_before(changes: dict[str, Any]) -> None:
    ctx = tiny.context(**changes)
    run, match = counted(ctx.recipe), ctx.fields.match
    with passing() as found:
        build_content(ctx)
    assert isinstance(match, Paired)
    said = match.passes(ctx.recipe, ctx.info, run.items, len(ctx.real.rows))
    assert found == {name: getattr(said, name) for name in found}
    assert run.condensing is not None
    phase, images, network = run.condensing
    weights = {"answers": ANSWER, "pulls": PULL, "trainings": 1.0, "second": SECOND}
    assert images == pytest.approx(sum(weights[name] * count for name, count in found.items()))
    assert phase == ("match at the most" if "policy" in changes["match"].settings and said.bound else "match")
    assert network == match.network
    assert run.unknown == ()


def test_a_match_of_no_rounds_and_one_that_sifts_batches_are_told(second: None) -> None:
    assert "match" not in costs(tiny.recipe(**condensed("features", {}) | {"match": choice("features", rounds=0)}))
    sifted = condensed("features", {}, batch=5) | {"select": choice("bilp", beta=0.5)}
    assert counted(tiny.recipe(**sifted)).unknown == (
        "choosing real images by 'bilp'", "weighing the real images of a batch",
    )  # fmt: skip
    assert costs(tiny.recipe(**condensed("features", {}, batch=5)))["match"] == pytest.approx(
        2 * (ANSWER * 5 * 4 + PULL * 8)
    )


def test_what_is_not_known_is_named_and_not_counted() -> None:
    changes: dict[str, Any] = {"select": choice("easy"), "label": choice("static", folds=2)}
    assert counted(tiny.recipe(**changes)).unknown == (
        "choosing real images by 'easy'", "the networks of label.folds",
    )  # fmt: skip
    assert counted(tiny.recipe(match=choice("noise", norms=[1.0] * 4))).unknown == ()
    assert str(Cost({"12 students": 100.0}, ("a", "b"))) == "12 students 2 min; not counted: a, b"
    assert str(Cost({"12 students": 100.0})) == "12 students 2 min"


def test_of_every_preset_with_a_papers_number_all_is_known_or_named() -> None:
    info = load("digits").info
    for name, found in methods().items():
        if found.paper:
            recipe = compose(name, info, ipc=10)
            run = measured._Run(recipe, resolve(recipe, info), info, 1437)
            known = isinstance(run.fields.match, measured.KNOWN_MATCHES)
            assert known != any("the match" in said for said in run.unknown), name
            assert all(images >= 0 for network in recipe.networks for _, images in run.passes(network))


def test_what_is_longer_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_step_seconds", lambda *args: 0.5)
    recipe, training = tiny.recipe(), replace(tiny.TEACHING, steps=1000)
    base = sum(costs(recipe).values())
    longer = (
        replace(recipe, student=replace(recipe.student, epochs=3)),
        replace(recipe, match=recipes.choice("statistics", rounds=5, lr=0.1, jitter=1)),
        replace(recipe, ipc=8),
        replace(recipe, networks={name: replace(n, training=training) for name, n in tiny.NETWORKS.items()}),
    )  # fmt: skip
    assert [sum(costs(other).values()) > base for other in longer] == [True] * 4
    assert sum(costs(recipe, seeds=4).values()) > base
    assert sum(costs(scaled(recipe, 0.5)).values()) < base


def test_two_protocols_that_differ_have_students_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_step_seconds", lambda *args: 0.5)
    recipe = tiny.recipe()
    assert costs(recipe)["6 students"] == 18
    assert costs(recipe, replace(recipe.student, lr=0.5))["12 students"] == 36


@pytest.mark.parametrize("batch", [8, 100])
def test_a_step_is_timed_on_the_real_images_even_where_a_batch_holds_more(batch: int) -> None:
    recipe = replace(tiny.STUDENT, batch=batch)
    assert 0 < measured._step_seconds(tiny.dataset(), "convnet", {"width": 8}, recipe, tiny.device()) < 60


def test_timing_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    measured._step_seconds(tiny.dataset(), "convnet", {"width": 8}, tiny.STUDENT, tiny.device())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (5400, "1.5 h"), (86400, "24.0 h")],
)
def test_costs_are_told_in_the_unit_that_is_read_most_easily(seconds: float, told: str) -> None:
    assert str(Cost({"all": seconds})) == f"all {told}"
