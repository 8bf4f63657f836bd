"""Static labels by networks that did not see the picture (cross-fitting), and labels dealt out anew (a control)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.artifact import DistilledDataset
from datastill.engine import build_content, label_content, make_context
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Items, Pictures, Real
from datastill.label import Static
from datastill.label.static import cross_fitted, deal, without_fold
from datastill.networks import Network
from datastill.recipe import choice, compose
from datastill.runtime.files import digest_of
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import derive
from datastill.settings import chosen
from datastill.training.bank import Bank, Training
from datastill.training.losses import one_hot
from datastill.training.predict import predict
from datastill.training.supply import Data
from reference import tiny

UNEVEN = (5, 2, 12, 7)
PIXELS: dict[str, Any] = {"store": choice("pixels", per_class=6), "match": choice("none")}
AVIF = {"format": "avif", "quality": 70, "chroma": "444", "tiles": 16}


def given(rows: Data) -> Data:
    """Return what a bank trains on."""
    return rows


class Remembers(nn.Module):
    """A network whose first logit says whether it was trained on this very picture; the second is its own number."""

    def __init__(self, seen: Tensor, number: float) -> None:
        super().__init__()
        self.seen, self.number = seen.flatten(1).float() / 255.0, number

    def forward(self, x: Tensor) -> Tensor:
        known = torch.cdist(x.flatten(1), self.seen, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values == 0
        logits = torch.zeros(len(x), 4)
        logits[:, 0], logits[:, 1] = known.float(), self.number
        return logits


class Watched(Bank):
    """A bank whose networks remember what they were given, and which remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(tiny.device(), Reporter())
        self.asked: dict[str, Data] = {}

    def get(self, training: Training, data: Callable[[], Data]) -> Network:
        """Return a network that remembers `data()`."""
        self.asked[training.name] = data()
        made: Any = Remembers(self.asked[training.name].images, float(derive(0, training.key) % 1000))
        return made


def watched(data: Any = None, **changes: Any) -> tuple[Context, Watched]:
    bank = Watched()
    recipe = tiny.recipe(**(PIXELS | changes))
    return make_context(data or tiny.dataset(), recipe, tiny.device(), Reporter(), bank), bank


def sealed_of(ctx: Context) -> Content:
    return ctx.fields.store.seal(ctx.fields.store.begin(ctx))


def answers(ctx: Context, content: Content) -> Tensor:
    labels = ctx.fields.label.make(ctx.fields.store.expand(content), ctx, content)
    assert labels.values is not None
    return labels.values


def static(**settings: Any) -> dict[str, Any]:
    return {"label": choice("static", codec={"kind": "fp32"}, **settings)}


# --- folds ---


@pytest.mark.parametrize("per_class", [12, UNEVEN])
@pytest.mark.parametrize("validation", [0, 3])
@pytest.mark.parametrize("folds", [2, 3, 7, 10])
def test_every_row_is_in_one_fold_and_folds_are_even_to_one_image(folds: int, validation: int, per_class: Any) -> None:
    real = Real(tiny.dataset(per_class=per_class), 0 if per_class == UNEVEN else validation)
    dealt = deal(real, folds, 0)
    assert len(dealt) == len(real.rows)
    assert set(dealt.tolist()) == set(range(folds))
    sizes = dealt.bincount(minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for k in range(4):
        mine = dealt[torch.isin(real.rows, real.of_class(k))].bincount(minlength=folds)
        assert mine.max() - mine.min() <= 1


def test_folds_are_a_function_of_the_seed() -> None:
    real = Real(tiny.dataset())
    assert torch.equal(deal(real, 3, 5), deal(Real(tiny.dataset()), 3, 5))
    assert not torch.equal(deal(real, 3, 5), deal(real, 3, 6))


@pytest.mark.parametrize("folds", [2, 4])
def test_a_network_without_a_fold_is_given_all_other_rows_and_none_of_it(folds: int) -> None:
    data = tiny.dataset()
    ctx, _ = watched(validation=4)
    dealt, keys = deal(ctx.real, folds, 0), set()
    for fold in range(folds):
        training, given = without_fold(ctx.training("first"), ctx.real, dealt, fold)
        seen = ctx.real.rows[dealt != fold]
        assert torch.equal(given().images, data.train.pixels[seen])
        assert torch.equal(given().classes, data.train.labels[seen])
        assert (training.recipe, training.info) == (ctx.training("first").recipe, ctx.info)
        left_out = sorted(ctx.real.rows[dealt == fold].tolist() + ctx.real.held_out.tolist())
        assert training.data_key == digest_of([data.fingerprint, left_out])
        keys.add(training.key)
    assert len(keys | {ctx.training("first").key}) == folds + 1


@pytest.mark.parametrize("folds", [1, 2, 5])
def test_no_item_is_labelled_by_a_network_that_saw_its_picture(folds: int) -> None:
    ctx, bank = watched(**static(folds=folds))
    found = answers(ctx, sealed_of(ctx))
    assert (found[:, 0] == float(folds == 1)).all()
    assert len(bank.asked) == 2 * folds
    given = sorted(len(data) for data in bank.asked.values())
    assert given == {1: [48] * 2, 2: [24] * 4, 5: [38] * 6 + [39] * 4}[folds]


def test_all_items_of_a_picture_go_by_that_picture() -> None:
    ctx, _ = watched(store=choice("compensated"), **static(folds=3))
    content = sealed_of(ctx)
    found = answers(ctx, content)
    assert len(found) == 24  # two natural sets of four, each as it is and under two zero compensators
    assert (found[:, 0] == 0).all()
    for picture in range(8):
        assert len(found[content.items.picture == picture].unique(dim=0)) == 1
    assert len(found.unique(dim=0)) > 1


def test_networks_of_folds_without_items_are_not_trained() -> None:
    ctx, bank = watched(store=choice("pixels", per_class=1), **static(folds=10))
    answers(ctx, sealed_of(ctx))
    assert len(bank.asked) <= 2 * 4


def test_labels_are_those_of_a_plain_loop_over_folds_and_items() -> None:
    data = tiny.dataset()
    ctx = tiny.context(validation=4, **PIXELS)
    content = sealed_of(ctx)
    found = cross_fitted(content.pictures.pixels, ctx, content, 3)
    dealt = dict(zip(ctx.real.rows.tolist(), deal(ctx.real, 3, 0).tolist(), strict=True))
    for item in range(len(found)):
        row = data.train.ids.index(content.pictures.ids[item])
        seen = torch.tensor([other for other, fold in dealt.items() if fold != dealt[row]])
        left_out = [other for other in range(48) if other not in seen.tolist()]
        total = torch.zeros(4)
        for name, made in ctx.recipe.networks.items():
            training = Training(name, made, ctx.info, digest_of([data.fingerprint, left_out]), "float32")
            classes = data.train.labels[seen]
            rows = Data(data.train.pixels[seen], classes, one_hot(classes, 4), "classes")
            network = ctx.bank.get(training, partial(given, rows))
            total += predict(network, data.train.pixels[row][None], device=torch.device("cpu"))[0]
        torch.testing.assert_close(found[item], total / 2, rtol=1e-5, atol=1e-5)


def test_a_network_of_a_fold_is_trained_once_and_kept() -> None:
    def run(**settings: Any) -> Context:
        ctx = tiny.context(seed=3, **PIXELS, label=choice("static", folds=2, **settings))
        answers(ctx, sealed_of(ctx))
        return ctx

    first, second = run(), run(codec={"kind": "int8"})
    assert {n for n in first.bank.reporter.seconds if n.startswith("train")} == {
        f"train {name} without fold {fold} (convnet)" for name in ("first", "second") for fold in (1, 2)
    }
    assert not any(name.startswith("train") for name in second.bank.reporter.seconds)


def test_one_fold_is_what_it_was() -> None:
    ctx = tiny.context(**PIXELS)
    content = sealed_of(ctx)
    pixels = content.pictures.pixels
    one, two = (predict(ctx.network(name), pixels, device=torch.device("cpu")) for name in ctx.makers)
    for settings in ({}, {"folds": 1, "shuffled": False}):
        assert torch.equal(answers(tiny.context(**PIXELS, label=choice("static", **settings)), content),
                           ((one + two) / 2).half().float())  # fmt: skip
    assert chosen(Static()) == {}
    assert compose("infer", ctx.info).label.plain() == {"kind": "static"}


# --- refusals ---


def test_items_of_no_known_picture_are_refused() -> None:
    ctx, bank = watched(**static(folds=2))
    content = sealed_of(ctx)
    assert content.pictures.places is not None
    places = content.pictures.places.clone()
    places[3:5] = -1
    strange = replace(content, pictures=replace(content.pictures, places=places))
    with pytest.raises(DatastillError, match="folds=2 asks which training image .* for 2 of 24 items that is unknown"):
        answers(ctx, strange)
    unpictured = replace(content, items=replace(content.items, picture=torch.full((24,), -1)))
    with pytest.raises(DatastillError, match=r"24 of 24 items .*; ask for label\.folds=1\.$"):
        answers(ctx, unpictured)
    assert not bank.asked


def test_items_that_are_kept_as_rendered_files_are_refused() -> None:
    ctx, _ = watched(store=choice("compensated", storage="jpeg75"), **static(folds=2))
    with pytest.raises(DatastillError, match="16 of 24 items"):
        answers(ctx, sealed_of(ctx))


def test_pictures_that_were_held_out_are_refused() -> None:
    ctx, _ = watched(validation=4, **static(folds=2))
    pictures = ctx.real.pictures(ctx.real.held_out)
    content = Content(Items.of(cls=pictures.cls, picture=torch.arange(4)), pictures)
    with pytest.raises(DatastillError, match="for 4 of 4 items that is unknown, or an image that was held out"):
        answers(ctx, content)


def test_a_class_of_one_image_is_refused() -> None:
    ctx, _ = watched(tiny.dataset(per_class=(6, 1, 6, 6)), store=choice("pixels", total=4), **static(folds=2))
    with pytest.raises(DatastillError, match="class 'class 1' has one training image, so no network without"):
        answers(ctx, sealed_of(ctx))


@pytest.mark.parametrize("folds", [0, 11])
def test_a_number_of_folds_out_of_range_is_refused(folds: int) -> None:
    with pytest.raises(DatastillError, match=f"'label.folds' must be between 1 and 10, not {folds}"):
        watched(**static(folds=folds))


# --- relabelling ---


@pytest.mark.parametrize(
    "store",
    [choice("pixels", per_class=6), choice("coded", per_class=6, codec=AVIF), choice("compensated"),
     choice("pixels", per_class=6, codec={"format": "jpeg", "quality": 75, "chroma": "420"})],
    ids=["pixels", "packed", "compensated", "jpeg"],
)  # fmt: skip
def test_a_saved_set_is_relabelled_as_the_one_in_memory(store: Any, tmp_path: Path) -> None:
    changes = {"store": store, "match": choice("none"), "validation": 4}
    tiny.distilled(tmp_path / "set", label=choice("hard"), **changes)
    loaded = DistilledDataset.load(tmp_path / "set")
    assert (loaded.content.pictures.places is None) != (loaded.content.pictures.ids == ())
    ctx = tiny.context(label=choice("static", folds=2), **changes)
    relabelled = label_content(ctx, loaded.content, loaded.facts)
    fresh = label_content(ctx, ctx.fields.store.seal(build_content(ctx)), {})
    assert relabelled.labels.values is not None
    assert fresh.labels.values is not None
    assert torch.equal(relabelled.labels.values, fresh.labels.values)
    relabelled.save(tmp_path / "again")
    again = DistilledDataset.load(tmp_path / "again")
    assert again.labels.values is not None
    assert torch.equal(again.labels.values, fresh.labels.values)


# --- labels dealt out anew ---


def shuffled(per_class: int, seed: int = 0, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return classes, labels, and the labels dealt out anew."""
    store = choice("pixels", per_class=per_class)
    found = []
    for dealt in (False, True):
        ctx = tiny.context(store=store, match=choice("none"), seed=seed, **static(shuffled=dealt, **settings))
        content = sealed_of(ctx)
        found.append(answers(ctx, content))
    return content.items.cls, found[0], found[1]


@pytest.mark.parametrize("folds", [1, 2])
def test_labels_change_places_within_their_class_alone(folds: int) -> None:
    cls, plain, dealt = shuffled(6, folds=folds)
    assert not (plain == dealt).all(dim=1).any()
    for k in range(4):
        mine, theirs = (sorted(map(tuple, values[cls == k].tolist())) for values in (plain, dealt))
        assert mine == theirs
        torch.testing.assert_close(plain[cls == k].mean(dim=0), dealt[cls == k].mean(dim=0))


def test_two_items_of_a_class_swap_and_a_single_one_keeps_its_label() -> None:
    cls, plain, dealt = shuffled(2)
    for k in range(4):
        assert torch.equal(plain[cls == k].flip(0), dealt[cls == k])
    _, plain, dealt = shuffled(1)
    assert torch.equal(plain, dealt)


def test_the_order_is_a_function_of_the_recipes_seed() -> None:
    one, two = shuffled(6)[2], shuffled(6)[2]
    assert torch.equal(one, two)

    def taken(seed: int) -> list[int]:
        _, plain, dealt = shuffled(12, seed)
        return [int((plain == row).all(dim=1).nonzero()[0]) for row in dealt]

    assert taken(0) != taken(1)


def test_the_codec_sees_labels_after_they_changed_places() -> None:
    pictures = Pictures(tiny.dataset().train.pixels, tiny.dataset().train.labels, ())
    content = Content(Items.of(cls=pictures.cls, picture=torch.arange(48)), pictures)
    ctx = tiny.context()
    plain = Static().make(pictures.pixels, ctx, content)
    dealt = Static(shuffled=True).make(pictures.pixels, ctx, content)
    assert plain.arrays is not None
    assert dealt.arrays is not None
    assert not torch.equal(plain.arrays["logits"], dealt.arrays["logits"])
    assert plain.facts["kl"] == pytest.approx(dealt.facts["kl"])
