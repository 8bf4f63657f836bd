"""Dense labels: what is said of every box, what a student sees of them, and when they are nothing but static ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.codecs import LabelCodec
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Expanded, FixedBoxes, Items, Label, Labels, Pictures
from datastill.label import Dense, Hard, Static
from datastill.networks import Network, Space, create_network
from datastill.recipe import TrainRecipe, choice
from datastill.runtime.seeds import rng
from datastill.training.boxes import Boxes
from datastill.training.loop import Learner, train
from datastill.training.losses import cross_entropy, one_hot, soft_kl, training_loss
from datastill.training.supply import Batch, Data, batch_rows, supply
from datastill.training.views import View, to_unit
from reference import boxes as plain
from reference import tiny

CPU = torch.device("cpu")
COUNT, GRID = 12, 3
PLAIN = TrainRecipe(batch=5, crop=0, flip=False, temperature=2.0)
FULL = TrainRecipe(batch=5, crop=2, flip=True, cutout=2, mix="mixup", temperature=2.0)
WIDE: dict[str, Any] = {"batch": 5, "crop": 2, "flip": True, "mix": "cutmix"}


def images(dtype: torch.dtype = torch.uint8) -> Tensor:
    made = torch.randint(0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return made if dtype == torch.uint8 else made.to(dtype) / 251 % 1


def classes() -> Tensor:
    return torch.arange(COUNT) % 4


def content() -> Content:
    pictures = Pictures(images(), classes(), ())
    return Content(Items.of(cls=classes(), picture=torch.arange(COUNT)), pictures)


def context(given: Mapping[str, Network] | None = None, codec: str = "fp32", k: int = 2, **settings: Any) -> Context:
    changes = {name: settings.pop(name) for name in ("student", "networks", "store") if name in settings}
    label = choice("dense", **({"grid": GRID, "codec": {"kind": codec, "k": k}} | settings))
    made: dict[str, Any] = {"label": label, "student": tiny.STUDENT, "match": choice("none")}
    return tiny.context(given=given, **(made | changes))


def labelled(ctx: Context, x: Tensor | None = None) -> Labels:
    return ctx.fields.label.make(images() if x is None else x, ctx, content())


def expanded(dense: Dense) -> Expanded:
    """Items with random labels of the form that `dense` stores."""
    boxes = dense.rendering(tiny.recipe())
    rows = 0 if dense.column == "H" else COUNT * (1 if boxes is None else boxes.count)
    values = torch.randn(rows, 4, generator=torch.Generator().manual_seed(1)) if rows else None
    labels = Labels("logits" if rows else "classes", values, views=boxes)
    return Expanded(images(), classes(), labels, 4)


def supplied(
    dense: Dense, recipe: TrainRecipe, steps: int = 12, start: int = 0, seed: int = 0, data: Expanded | None = None
) -> Iterator[Batch]:
    data = data or expanded(dense)
    return dense.supply(data, recipe.work(COUNT, steps), recipe, seed, device=CPU, start=start)


def equal(one: Batch, two: Batch) -> None:
    for name in ("x", "target", "hard", "rows"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert one.kind == two.kind
    for name in ("mixed", "weight", "mixed_weight"):
        first, second = getattr(one, name), getattr(two, name)
        assert (first is None) == (second is None), name
        assert first is None or torch.equal(first, second), name


# --- what is said of boxes ---


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_label_is_what_the_networks_say_of_that_very_box(dtype: torch.dtype) -> None:
    ctx, x = context(), images(dtype)
    labels = labelled(ctx, x)
    assert labels.views == FixedBoxes(GRID, 0.625, "side", whole=True)
    assert labels.values is not None
    found = labels.values.view(COUNT, 1 + GRID**2, 4)
    networks = [ctx.network(name) for name in ctx.makers]
    wanted = plain.told(to_unit(x), networks, GRID, Fraction(5, 8))
    torch.testing.assert_close(found[:, 1:].double(), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted[:, 0] - wanted[:, 1]).abs().mean() > 0.05  # or the order of boxes would not show
    static = Static(codec=LabelCodec(kind="fp32")).make(x, ctx, content())
    assert static.values is not None
    assert torch.equal(found[:, 0], static.values)


@pytest.mark.parametrize(
    ("settings", "rows", "column"),
    [
        ({}, 10, "S"),
        ({"views": "flat"}, 10, "S"),
        ({"own": "hard"}, 9, "S"),
        ({"views": "local"}, 9, "S"),
        ({"local": "hard"}, 1, "S"),
        ({"views": "global"}, 1, "S"),
        ({"weight": 0.0}, 1, "S"),
        ({"own": "hard", "local": "hard"}, 0, "H"),
        ({"views": "local", "local": "hard"}, 0, "H"),
        ({"views": "global", "own": "hard"}, 0, "H"),
    ],
)
def test_only_labels_that_a_student_will_read_are_stored(settings: dict[str, Any], rows: int, column: str) -> None:
    ctx = context(**settings)
    labels = labelled(ctx)
    assert ctx.fields.label.column == column
    assert labels.kind == {"H": "classes", "S": "logits"}[column]
    assert (0 if labels.values is None else len(labels.values)) == rows * COUNT
    assert labels.views == ctx.fields.label.rendering(ctx.recipe)
    assert (labels.views is None) == (rows < 9)


def test_labels_depend_on_each_image_and_its_networks_alone() -> None:
    ctx, order = context(), torch.arange(COUNT).flip(0)
    one, again, other = labelled(ctx), labelled(ctx), labelled(ctx, images()[order])
    assert one.values is not None
    assert again.values is not None
    assert other.values is not None
    assert torch.equal(one.values, again.values)
    each = one.values.view(COUNT, -1, 4)
    torch.testing.assert_close(other.values.view(COUNT, -1, 4), each[order], rtol=1e-5, atol=1e-5)


def test_labels_of_many_images_are_made_part_by_part_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, many = context(), torch.cat([images()] * 6)
    whole = ctx.fields.label.make(many, ctx, _many(6))
    monkeypatch.setattr("datastill.label.dense.CHUNK", 64)
    parts = ctx.fields.label.make(many, ctx, _many(6))
    assert whole.values is not None
    assert parts.values is not None
    assert torch.equal(whole.values, parts.values)


def _many(times: int) -> Content:
    one = content()
    return Content(one.items[torch.arange(COUNT).repeat(times)], one.pictures)


def test_several_equal_networks_say_what_one_of_them_says() -> None:
    one = create_network("convnet", classes=4, shape=(3, 8, 8), space=Space((0.5,) * 3, (0.2,) * 3), seed=0, width=8)
    made = next(iter(tiny.NETWORKS.values()))
    alone = labelled(context({"a": one}, networks={"a": made}))
    both = labelled(context({"a": one, "b": one}, networks={"a": made, "b": made}))
    assert alone.values is not None
    assert both.values is not None
    torch.testing.assert_close(alone.values, both.values)


def test_stored_logits_are_probabilities_to_half_precision() -> None:
    exact, stored = labelled(context()).values, labelled(context(codec="fp16")).values
    assert exact is not None
    assert stored is not None
    p, q = exact.softmax(1), stored.softmax(1)
    assert q.min() >= 0
    assert (q.sum(1) - 1).abs().max() < 1e-6
    assert (p - q).abs().sum(1).max() < 1e-3


def test_what_labels_say_of_the_classes_is_measured_box_by_box() -> None:
    ctx = context(codec="int3")
    labels = labelled(ctx)
    assert labels.values is not None
    each = labels.values.view(COUNT, 10, 4)
    right = [sum(int(each[i, v].argmax()) == i % 4 for i in range(COUNT)) / COUNT for v in range(10)]
    assert labels.tells["whole"] == pytest.approx(right[0], abs=1e-4)
    assert labels.tells["agreement"] == pytest.approx(right[1:], abs=1e-4)
    p = each[:, 1:].double().softmax(2)
    assert labels.tells["entropy"] == pytest.approx(float(-(p * p.log()).sum(2).mean()), abs=1e-3)
    assert labels.facts.keys() == {"kl", "top1"}
    assert "whole" not in labelled(context(own="hard")).tells
    assert labelled(context(views="global")).tells == {}


# --- without boxes, labels are static or hard ones ---


@pytest.mark.parametrize("settings", [{"views": "global"}, {"weight": 0.0}, {"views": "flat", "weight": 0.0}])
@pytest.mark.parametrize("own", ["soft", "hard"])
def test_students_without_boxes_are_those_of_static_or_hard_labels_to_the_bit(
    settings: dict[str, Any], own: str
) -> None:
    ctx = context(own=own, **settings)
    labels = labelled(ctx)
    base: Label = Static(codec=LabelCodec(kind="fp32")) if own == "soft" else Hard()
    theirs = base.make(images(), ctx, content())
    assert (labels.kind, labels.views, labels.arrays is None) == (theirs.kind, None, theirs.arrays is None)
    states = []
    for label, told in ((ctx.fields.label, labels), (base, theirs)):
        space = Space((0.5,) * 3, (0.2,) * 3)
        network = create_network("convnet", classes=4, shape=(3, 8, 8), space=space, seed=0, width=8, norm="batch")
        learner = Learner(network, FULL, FULL.work(COUNT, 6), 0, tiny.device())
        data = Expanded(images(), classes(), told, 4)
        list(train(learner, label.supply(data, learner.work, FULL, 0, device=CPU)))
        states.append(tiny.state(network))
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


# --- pairs ---


@pytest.mark.parametrize("recipe", [PLAIN, FULL, replace(FULL, mix="cutmix", hard_weight=0.5)])
def test_the_wholes_of_a_pair_are_the_batch_of_static_labels_to_the_bit(recipe: TrainRecipe) -> None:
    dense = Dense(grid=GRID)
    data = expanded(dense)
    assert data.labels.values is not None
    static = Data(data.images, data.cls, data.labels.values.view(COUNT, 10, 4)[:, 0], "logits")
    pairs = supplied(dense, recipe, data=data)
    for batch, whole in zip(pairs, supply(static, recipe.work(COUNT, 12), recipe, 0), strict=True):
        assert batch.x.shape == (10, 3, 8, 8)
        for name in ("x", "target", "hard", "rows"):
            assert torch.equal(getattr(batch, name)[:5], getattr(whole, name)), name
        assert (batch.mixed is None) == (whole.mixed is None)
        if batch.mixed is not None and whole.mixed is not None:
            assert torch.equal(batch.mixed[:5], whole.mixed)


def test_the_other_half_of_a_pair_is_one_box_of_each_with_the_label_of_that_box() -> None:
    dense = Dense(grid=GRID, temperature=4.0)
    data = expanded(dense)
    assert data.labels.values is not None
    values, seen = data.labels.values.view(COUNT, 10, 4), []
    for step, batch in enumerate(supplied(dense, PLAIN, steps=60, data=data)):
        boxes = rng(0, "dense", step).integers(0, GRID**2, 5).tolist()
        assert torch.equal(batch.rows[5:], batch.rows[:5])
        for b, (row, j) in enumerate(zip(batch.rows[5:].tolist(), boxes, strict=True)):
            wanted = plain.stretched(to_unit(data.images[row]), j // GRID, j % GRID, GRID, Fraction(5, 8))
            torch.testing.assert_close(batch.x[5 + b], wanted, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(batch.target[5 + b], values[row, 1 + j] / 4.0)
        seen += boxes
    counts = torch.tensor(seen).bincount(minlength=9)
    assert counts.min() > 15  # of 33


def test_boxes_have_crops_flips_and_mixing_of_their_own_drawn_as_for_wholes() -> None:
    dense = Dense(grid=GRID)
    data = expanded(dense)
    bare = list(supplied(dense, PLAIN, data=data))
    for step, batch in enumerate(supplied(dense, FULL, data=data)):
        view = View.draw(rng(0, "dense view", step), 5, (3, 8, 8), FULL)
        assert torch.equal(batch.x[5:], view.mix(view.apply(bare[step].x[5:])))
        assert torch.equal(batch.target[5:], view.blend(bare[step].target[5:]))
        whole = View.draw(rng(0, "view", step), 5, (3, 8, 8), FULL)
        assert whole.lam != view.lam


def test_a_random_resized_crop_and_shuffled_tiles_are_for_wholes_alone() -> None:
    dense = Dense(grid=GRID)
    strong, mild = TrainRecipe(**WIDE, resized_crop=0.3, shuffle_tiles=2), TrainRecipe(**WIDE)
    for one, two in zip(supplied(dense, strong), supplied(dense, mild), strict=True):
        assert torch.equal(one.x[5:], two.x[5:])
        assert not torch.equal(one.x[:5], two.x[:5])


@pytest.mark.parametrize("own", ["soft", "hard"])
@pytest.mark.parametrize("local", ["soft", "hard"])
@pytest.mark.parametrize("hard_weight", [0.0, 0.5])
def test_the_loss_of_a_pair_is_that_of_the_wholes_plus_the_weight_times_that_of_the_boxes(
    own: Any, local: Any, hard_weight: float
) -> None:
    dense = Dense(grid=GRID, own=own, local=local, weight=0.7)
    recipe = replace(FULL, hard_weight=hard_weight)
    for batch, bare in zip(supplied(dense, recipe), supplied(dense, replace(recipe, mix="none")), strict=True):
        logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))
        found = training_loss(recipe, batch.kind, logits, batch.target, batch.mixed, batch.weight, batch.mixed_weight)
        wanted = torch.zeros(())
        for rows, kind, weight in ((slice(0, 5), own, 1.0), (slice(5, 10), local, 0.7)):
            hot = one_hot(bare.hard[rows], 4)
            view = View.draw(rng(0, "view" if weight == 1.0 else "dense view", int(_step(bare))), 5, (3, 8, 8), recipe)
            hard = cross_entropy(logits[rows], view.blend(hot))
            soft = hard_weight * hard + soft_kl(logits[rows], batch.target[rows], 2.0)
            wanted = wanted + weight * (hard if kind == "hard" else soft)
        torch.testing.assert_close(found, wanted)


def _step(batch: Batch) -> int:
    """Return the step that a batch belongs to, by its rows."""
    work = PLAIN.work(COUNT, 12)
    return next(s for s in range(12) if torch.equal(torch.from_numpy(batch_rows(work, 0, s)), batch.rows[:5]))


def test_a_single_box_that_is_the_whole_with_certain_labels_doubles_the_loss_and_its_gradient() -> None:
    dense = Dense(grid=1, ratio=1.0, own="hard")
    certain = Labels("logits", 1e4 * one_hot(classes(), 4), views=FixedBoxes(1, 1.0, "side", whole=False))
    data, recipe = Expanded(images(), classes(), certain, 4), replace(PLAIN, temperature=1.0)
    space = Space((0.5,) * 3, (0.2,) * 3)
    network = create_network("convnet", classes=4, shape=(3, 8, 8), space=space, seed=0, width=8, norm="instance")
    hard = Hard().supply(data, recipe.work(COUNT, 3), recipe, 0, device=CPU)
    for pair, base in zip(supplied(dense, recipe, steps=3, data=data), hard, strict=True):
        assert torch.equal(pair.x[5:], base.x)
        losses, gradients = [], []
        for batch in (pair, base):
            loss = training_loss(
                recipe, batch.kind, network(batch.x), batch.target, batch.mixed, batch.weight, batch.mixed_weight
            )
            losses.append(loss)
            gradients.append(torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True))
        torch.testing.assert_close(losses[0], 2 * losses[1])
        for two, one in zip(*gradients, strict=True):
            torch.testing.assert_close(two, 2 * one, rtol=1e-4, atol=1e-5)


# --- boxes alone, and boxes as items of their own ---


def test_boxes_alone_are_the_other_halves_of_pairs_under_the_mean() -> None:
    pair = expanded(Dense(grid=GRID))
    assert pair.labels.values is not None
    values = pair.labels.values.view(COUNT, 10, 4)[:, 1:].flatten(0, 1)
    local = replace(pair, labels=Labels("logits", values, views=FixedBoxes(GRID, 0.625, "side", whole=False)))
    alone = supplied(Dense(grid=GRID, views="local", weight=3.0), FULL, data=local)
    for one, two in zip(alone, supplied(Dense(grid=GRID), FULL, data=pair), strict=True):
        assert torch.equal(one.x, two.x[5:])
        assert torch.equal(one.target, two.target[5:])
        assert one.weight is None


def test_a_flat_order_shows_every_whole_and_every_box_once_before_any_again() -> None:
    dense = Dense(grid=GRID, views="flat")
    data = expanded(dense)
    assert data.labels.values is not None
    marked = Labels("logits", torch.arange(float(COUNT * 10))[:, None].expand(-1, 4), views=data.labels.views)
    batches = list(supplied(dense, PLAIN, steps=48, data=replace(data, labels=marked)))
    assert {len(batch.x) for batch in batches} == {5}
    told = torch.cat([batch.target[:, 0] for batch in batches]).long()
    assert torch.equal(told[:120].sort().values, torch.arange(120))
    assert torch.equal(told[120:].sort().values, torch.arange(120))
    assert torch.equal(torch.cat([batch.rows for batch in batches]), told // 10)
    boxes = Boxes.on(8, 8, GRID, 0.625)
    for batch in batches[:24]:
        for x, at in zip(batch.x, batch.target[:, 0].long().tolist(), strict=True):
            image, view = to_unit(data.images[at // 10][None]), at % 10
            assert torch.equal(x[None], image if view == 0 else boxes.cut(image, torch.tensor([view - 1])))


@pytest.mark.parametrize(("weight", "own"), [(1.0, "soft"), (0.5, "soft"), (1.0, "hard")])
def test_rows_of_a_flat_order_count_alike_but_for_the_weight_of_boxes(weight: float, own: Any) -> None:
    dense = Dense(grid=GRID, views="flat", weight=weight, own=own)
    for batch in supplied(dense, PLAIN):
        if dense.even:
            assert batch.weight is None
            assert batch.mixed_weight is None
            continue
        weight_ = torch.full((5,), 0.2) if batch.weight is None else batch.weight  # none: boxes alone, or wholes alone
        total = weight_ if batch.mixed_weight is None else weight_ + batch.mixed_weight
        assert set(total.tolist()) <= {torch.tensor(0.2).item(), torch.tensor(0.2 * weight).item()}


# --- any step again, and what cannot be ---


@pytest.mark.parametrize(
    ("views", "own", "local"), list(itertools.product(["pair", "flat", "local"], ["soft", "hard"], ["soft", "hard"]))
)
def test_any_step_is_had_again_from_the_seed_alone(views: Any, own: Any, local: Any) -> None:
    dense = Dense(grid=GRID, views=views, own=own, local=local)
    whole = list(supplied(dense, FULL))
    for start in (1, 7):
        for one, two in zip(supplied(dense, FULL, start=start), whole[start:], strict=True):
            equal(one, two)
    other = next(supplied(dense, FULL, seed=1))
    assert not torch.equal(other.x, whole[0].x)


def refused(sentence: str, **settings: Any) -> None:
    with pytest.raises(DatastillError, match=sentence) as error:
        context(**settings)
    assert str(error.value).endswith(".")


def test_boxes_that_would_be_the_same_or_empty_are_refused() -> None:
    refused(r"asked for grid=5, but boxes of 5 out of 8 pixels .* a grid of at most 4", grid=5)
    refused(r"boxes of 8 out of 8 pixels .* at most 1", ratio=1.0)
    refused(r"boxes of no pixel out of 8 pixels at ratio=0\.05", ratio=0.05)
    assert context(grid=4).recipe.label.settings["grid"] == 4
    assert context(grid=1, ratio=1.0).fields.label.rendering(tiny.recipe()) == FixedBoxes(1, 1.0, "side", whole=True)
    assert context(grid=5, views="global").recipe.label.settings["grid"] == 5  # there are no boxes


def test_a_loaded_recipe_that_nobody_checked_is_refused_when_its_boxes_are_needed() -> None:
    dense = Dense(grid=6)
    with pytest.raises(DatastillError, match="a grid of at most 4"):
        next(supplied(dense, PLAIN))


def test_students_that_keep_small_windows_and_impossible_wishes_are_refused() -> None:
    strong = replace(tiny.STUDENT, resized_crop=0.5)
    refused(r"student\.resized_crop=0\.5; set it to null and use student\.crop", student=strong)
    shuffled = replace(tiny.STUDENT, shuffle_tiles=2)
    refused(r"pictures as they are, but student\.shuffle_tiles=2 puts their parts in another order", student=shuffled)
    for student in (strong, shuffled):
        assert context(views="global", student=student).fields.label.column == "S"
    refused(r"views=local, boxes alone, and for weight=0, no boxes", views="local", weight=0.0)
    refused("label 'dense' asks the networks of the recipe, but the table", networks={}, store=choice("pixels"))
    refused("label codec 'topk' was given k=4 for 4 classes", codec="topk", k=4)
    bare = context(own="hard", local="hard", networks={}, store=choice("pixels"))
    assert labelled(bare).kind == "classes"


def test_an_untrained_normalisation_is_not_touched_by_labelling() -> None:
    ctx = context()
    norms = [m for name in ctx.makers for m in ctx.network(name).modules() if isinstance(m, nn.BatchNorm2d)]
    before = [tiny.state(norm) for norm in norms]
    labelled(ctx)
    for norm, state in zip(norms, before, strict=True):
        assert not norm.training
        assert all(torch.equal(state[name], value) for name, value in norm.state_dict().items())
