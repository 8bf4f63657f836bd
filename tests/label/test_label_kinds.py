"""Hard, static and dynamic labels: what they say, and where they agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.artifact import DistilledDataset
from datastill.codecs import decode_labels, label_error
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import Content, Expanded, Items, Label, Labels, Pictures
from datastill.label import Dynamic, Hard, Static
from datastill.label.static import combined, mean_logits
from datastill.recipe import TrainRecipe, choice
from datastill.runtime.progress import Reporter
from datastill.training.losses import soft_kl
from datastill.training.supply import Batch
from reference import tiny

CPU = torch.device("cpu")
PLAIN = TrainRecipe(batch=6, steps=4, crop=0, flip=False)
MIXED = replace(PLAIN, mix="mixup")


class Says(nn.Module):
    """A network that says the same of every picture, in double-wide numbers."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


class Affine(nn.Module):
    """An affine function of the pixels, for which mixing pictures is mixing logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(4, 192, generator=generator)
        self.bias = torch.randn(4, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def images(count: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def content(count: int = 12) -> Content:
    pictures = Pictures(images(count), torch.arange(count) % 4, ())
    return Content(Items.of(cls=pictures.cls, picture=torch.arange(count)), pictures)


def supplied(label: Label, data: Expanded, recipe: TrainRecipe, teachers: Any = None) -> Iterator[Batch]:
    return label.supply(data, recipe.work(len(data.images)), recipe, 0, device=CPU, teachers=teachers)


def expanded(labels: Labels, count: int = 12) -> Expanded:
    return Expanded(images(count), torch.arange(count) % 4, labels, 4)


def test_labels_are_means_of_logits_not_of_probabilities() -> None:
    given: Any = {"first": Says(10.0, 0.0), "second": Says(0.0, 0.0)}
    labels = Static().make(images(), tiny.context(given=given), content())
    assert labels.kind == "logits"
    assert labels.values is not None
    assert torch.equal(labels.values, torch.tensor([[5.0, 0.0]]).expand(12, -1))


@pytest.mark.parametrize("kind", ["fp16", "int4", "klt"])
def test_students_get_the_labels_that_a_receiver_decodes(kind: str) -> None:
    given: Any = {"first": Affine(0), "second": Affine(1)}
    ctx = tiny.context(given=given, label=choice("static", codec={"kind": kind}))
    labels, exact = ctx.fields.label.make(images(), ctx, content()), mean_logits(images(), ctx)
    assert labels.arrays is not None
    assert labels.values is not None
    assert torch.equal(labels.values, decode_labels(labels.arrays, 12, 4, labels.codec))
    assert labels.facts == label_error(exact, labels.values)
    assert (labels.facts["kl"]["4"] < 1e-4) == (kind == "fp16")
    for batch in supplied(ctx.fields.label, expanded(labels), PLAIN):
        assert torch.equal(batch.target, labels.values[batch.rows])


def test_a_codec_that_does_not_fit_the_classes_is_refused() -> None:
    with pytest.raises(DatastillError, match="label codec 'topk' was given k=10 for 4 classes"):
        tiny.context(given={}, label=choice("static", codec={"kind": "topk"}))


def test_every_network_labels_every_item_whichever_made_it() -> None:
    given: Any = {"first": Affine(0), "second": Affine(1)}
    x = images()
    wanted = (given["first"](x.float() / 255) + given["second"](x.float() / 255)) / 2
    torch.testing.assert_close(mean_logits(x, tiny.context(given=given)), wanted)


def test_a_static_label_stays_with_its_item_after_shuffling() -> None:
    values = torch.arange(48.0).view(12, 4)
    data = expanded(Labels("logits", values.half()))
    for batch in supplied(Static(), data, PLAIN):
        assert torch.equal(batch.target, values[batch.rows])
        assert torch.equal(batch.x, data.images[batch.rows].float() / 255)
        assert batch.kind == "logits"
    assert not torch.equal(next(supplied(Static(), data, PLAIN)).rows, torch.arange(6))


def test_crops_and_flips_leave_static_labels_as_they_are() -> None:
    values = torch.arange(48.0).view(12, 4)
    data = expanded(Labels("logits", values.half()))
    moved = False
    for batch in supplied(Static(), data, replace(PLAIN, crop=2, flip=True)):
        assert torch.equal(batch.target, values[batch.rows])
        moved |= not torch.equal(batch.x, data.images[batch.rows].float() / 255)
    assert moved


def test_static_and_hard_targets_are_mixed_like_their_pictures() -> None:
    flat = torch.arange(12).view(12, 1, 1, 1).expand(12, 3, 8, 8).to(torch.uint8) * 20
    values = flat[:, 0, 0, :1].float().repeat(1, 4) / 255 * torch.tensor([1.0, 2.0, 3.0, 4.0])
    data = Expanded(flat, torch.arange(12) % 4, Labels("logits", values), 4)
    for batch in supplied(Static(), data, MIXED):
        wanted = batch.x[:, 0, 0, :1] * torch.tensor([1.0, 2.0, 3.0, 4.0])
        torch.testing.assert_close(batch.target, wanted, rtol=0, atol=1e-5)
    for batch in supplied(Hard(), data, MIXED):
        assert batch.kind == "classes"
        torch.testing.assert_close(batch.target.sum(dim=1), torch.ones(6))
        assert (batch.target[torch.arange(6), batch.hard] > 0).all()


def test_hard_targets_are_one_hot() -> None:
    labels = Hard().make(images(), tiny.context(given={}), content())
    assert labels == Labels("classes")
    for batch in supplied(Hard(), expanded(labels), PLAIN):
        assert torch.equal(batch.target, torch.eye(4)[batch.hard])


def test_static_and_dynamic_agree_where_nothing_is_augmented() -> None:
    ctx = tiny.context(match=choice("none"))
    teachers = {name: ctx.network(name) for name in ctx.makers}
    static = expanded(Labels("logits", mean_logits(images(), ctx)))
    dynamic = expanded(Labels("teachers", None, ctx.makers))
    pairs = zip(supplied(Static(), static, PLAIN), supplied(Dynamic(), dynamic, PLAIN, teachers), strict=True)
    for one, two in pairs:
        assert torch.equal(one.x, two.x)
        assert one.kind == two.kind == "logits"
        torch.testing.assert_close(one.target, two.target, rtol=1e-5, atol=1e-5)


def test_static_and_dynamic_agree_for_affine_networks_at_every_share() -> None:
    given: Any = {"first": Affine(0), "second": Affine(1)}
    ctx = tiny.context(given=given)
    static = expanded(Labels("logits", mean_logits(images(), ctx)))
    dynamic = expanded(Labels("teachers", None, ctx.makers))
    moved = False
    for one, two in zip(supplied(Static(), static, MIXED), supplied(Dynamic(), dynamic, MIXED, given), strict=True):
        torch.testing.assert_close(one.target, two.target, rtol=1e-5, atol=1e-4)
        moved |= not torch.equal(one.x, static.images[one.rows].float() / 255)
    assert moved


def test_dynamic_labels_answer_on_the_very_pixels_of_the_batch() -> None:
    given: Any = {"first": Affine(0), "second": Affine(1)}
    data = expanded(Labels("teachers", None, ("first", "second")))
    for batch in supplied(Dynamic(), data, replace(MIXED, crop=2, flip=True), given):
        torch.testing.assert_close(batch.target, (given["first"](batch.x) + given["second"](batch.x)) / 2)


def test_logits_of_equal_norms_keep_their_directions_and_have_the_mean_norm() -> None:
    one, two, three = (torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    plain = combined([one, two, three], "norm_mean")
    norms = torch.stack([x.norm() for x in (one, two, three)])
    torch.testing.assert_close(plain, norms.mean() * sum(x / x.norm() for x in (one, two, three)) / 3)
    louder = combined([one, 10 * two, three], "norm_mean")
    factor = (norms.sum() + 9 * norms[1]) / norms.sum()
    torch.testing.assert_close(louder, plain * factor)
    torch.testing.assert_close(combined([one], "norm_mean"), one)
    assert torch.equal(combined([one, two, three]), (one + two + three) / 3)
    assert combined([one, torch.zeros(5, 4)], "norm_mean").isfinite().all()


def test_static_labels_take_norms_over_the_set_and_dynamic_ones_over_the_batch() -> None:
    given: Any = {"first": Affine(0), "second": Says(10.0, -20.0, 5.0, 0.0)}
    ctx = tiny.context(given=given, label=choice("static", combine="norm_mean", codec={"kind": "fp32"}))
    x = images()
    answers = [network(x.float() / 255) for network in given.values()]
    labels = ctx.fields.label.make(x, ctx, content())
    assert labels.values is not None
    torch.testing.assert_close(labels.values, combined(answers, "norm_mean"))
    assert not torch.allclose(labels.values, combined(answers))
    data = expanded(Labels("teachers", None, ("first", "second")))
    for batch in supplied(Dynamic(combine="norm_mean"), data, replace(MIXED, crop=2, flip=True), given):
        answers = [network(batch.x) for network in given.values()]
        torch.testing.assert_close(batch.target, combined(answers, "norm_mean"))


@pytest.mark.parametrize("render", ["uint8", "float"])
def test_labels_are_made_after_the_seal_on_what_a_receiver_rebuilds(tmp_path: Path, render: str) -> None:
    recipe = tiny.recipe(store=choice("compensated", render=render), match=choice("statistics", rounds=6, lr=0.3))
    distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    ctx = tiny.context(store=recipe.store, match=recipe.match)
    assert loaded.labels.values is not None
    assert torch.equal(mean_logits(loaded.expand().images, ctx).half().float(), loaded.labels.values)
    naturals = loaded.content.pictures.pixels[loaded.content.items.picture]
    assert not torch.equal(mean_logits(naturals, ctx).half().float(), loaded.labels.values)


def test_a_float_rendering_is_labelled_like_its_rounded_one_but_for_the_rounding() -> None:
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ctx = tiny.context()
    near, far = mean_logits(x, ctx), mean_logits((x * 255).round().to(torch.uint8), ctx)
    assert not torch.equal(near, far)
    torch.testing.assert_close(near, far, rtol=0, atol=0.1)


def test_the_soft_loss_vanishes_exactly_where_logits_differ_by_a_constant() -> None:
    wanted = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert soft_kl(wanted + 3.0, wanted, 30.0).item() == pytest.approx(0.0, abs=1e-7)
    assert soft_kl(wanted * 1.5, wanted, 1.0).item() > 1e-3


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_labels_that_ask_networks_are_refused_where_there_are_none(name: str) -> None:
    with pytest.raises(DatastillError, match=f"label '{name}' asks the networks of the recipe, but the table"):
        tiny.context(networks={}, store=choice("pixels"), match=choice("none"), label=choice(name))
