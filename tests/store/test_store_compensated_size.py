"""INFER's store where it says its own size: a few natural sets beside many plain real images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.cli.common import console, describe
from datastill.engine import build_content, distil
from datastill.errors import DatastillError
from datastill.fields import Content, Context
from datastill.measure.arms import ArmMaker
from datastill.recipe import choice, method
from datastill.report import words
from datastill.runtime.progress import Reporter
from datastill.settings import chosen
from datastill.sources import Dataset
from datastill.store import Compensated
from datastill.store.naturals import spread
from reference import tiny

FEW = choice("compensated", sets=1, extra=5)
AVIF = {"format": "avif", "quality": 60, "chroma": "444", "tiles": 8}
COLUMNS = ("cls", "stage", "set", "maker", "unit", "picture")
CONTROLS = {control.name: control for control in method("infer").controls}


def opened(data: Dataset | None = None, **changes: Any) -> tuple[Context, Content]:
    """Return a context on networks that are never asked, and its freshly opened content."""
    ctx = tiny.context(data, given={}, **changes)
    return ctx, ctx.fields.store.begin(ctx)


def same(one: Content, two: Content) -> bool:
    """Whether two contents hold the same items, pictures and arrays."""
    columns = all(torch.equal(getattr(one.items, c), getattr(two.items, c)) for c in COLUMNS)
    arrays = one.arrays.keys() == two.arrays.keys() and all(
        torch.equal(one.arrays[k], two.arrays[k]) for k in one.arrays
    )
    return columns and arrays and one.pictures.ids == two.pictures.ids


@pytest.mark.parametrize("leftover", ["drop", "natural"])
def test_not_saying_a_size_is_what_it_was(leftover: Any) -> None:
    assert chosen(Compensated(leftover="natural", sets=None, extra=0)) == {"leftover": "natural"}
    ctx, plain = opened(ipc=5, store=choice("compensated", leftover=leftover))
    _, said = opened(ipc=5, store=choice("compensated", leftover=leftover, sets=None, extra=0))
    assert same(plain, said)
    facts = ctx.fields.store.facts(plain, ctx)
    assert list(facts)[:6] == ["nominal", "natural", "compensators", "leftover", "sets", "items"]
    assert "extra" not in facts


def test_as_many_sets_as_ipc_buys_are_the_same_sets() -> None:
    _, bought = opened(ipc=5)  # N = 3
    _, said = opened(ipc=1, store=choice("compensated", sets=3))
    assert same(bought, said)


@pytest.mark.parametrize(("sets", "extra"), [(1, 5), (1, 1), (2, 0), (3, 36), (12, 0)])
def test_extra_images_come_last_and_are_spread_over_the_classes(sets: int, extra: int) -> None:
    ctx, content = opened(store=choice("compensated", sets=sets, extra=extra))
    items, made = content.items, 3 * sets * 4
    assert len(items) == made + extra
    assert len(content.pictures.cls) == len(set(content.pictures.ids)) == 4 * sets + extra
    beside = items[torch.arange(made, made + extra)]
    assert torch.equal(beside.cls.bincount(minlength=4), spread(extra, ctx, sets))
    assert (beside.maker == -1).all()
    assert (beside.unit == -1).all()
    assert torch.equal(beside.picture, torch.arange(4 * sets, 4 * sets + extra))
    assert torch.equal(content.pictures.cls[items.picture], items.cls)
    _, alone = opened(store=choice("compensated", sets=sets))
    assert all(torch.equal(getattr(items, c)[:made], getattr(alone.items, c)) for c in COLUMNS)
    assert content.pictures.ids[: 4 * sets] == alone.pictures.ids
    assert content.arrays["compensators"].shape == (2 * sets, *tiny.SHAPE)


def test_extra_images_are_the_next_ones_of_the_selection() -> None:
    ctx, content = opened(store=FEW)
    names, at = tiny.dataset().train.ids, 4
    counts = spread(5, ctx, 1)
    for k, rows in enumerate(ctx.fields.select.pick((counts + 1).tolist(), ctx)):
        assert content.pictures.ids[k] == names[int(rows[0])]
        assert content.pictures.ids[at : at + int(counts[k])] == tuple(names[int(r)] for r in rows[1:])
        at += int(counts[k])


def test_extra_alone_stands_beside_the_sets_that_ipc_buys() -> None:
    ctx, content = opened(ipc=4, store=choice("compensated", extra=7))
    assert (int(content.items.set[content.items.maker >= 0].max()), len(content.items)) == (1, 24 + 7)
    assert ctx.fields.store.facts(content, ctx)["sets"] == 2


def test_small_classes_give_what_they_have_beside_the_sets() -> None:
    _, content = opened(tiny.dataset(per_class=(12, 2, 12, 3)), store=choice("compensated", sets=2, extra=9))
    assert content.items.cls[content.items.set == 2].bincount(minlength=4).tolist() == [4, 0, 4, 1]


@pytest.mark.parametrize("settings", [{"sets": 1, "extra": 5}, {"sets": 1}, {"extra": 5}])
def test_facts_tell_of_no_budget_where_ipc_is_none(settings: dict[str, int]) -> None:
    ctx, content = opened(ipc=2, store=choice("compensated", **settings))  # N = 1
    facts, extra = ctx.fields.store.facts(content, ctx), settings.get("extra", 0)
    assert not {"nominal", "leftover"} & set(facts)
    assert {k: facts[k] for k in ("natural", "compensators", "extra", "sets", "items")} == {
        "natural": 4 + extra, "compensators": 2, "extra": extra, "sets": 1, "items": 12 + extra,
    }  # fmt: skip
    assert len(facts["compensator_norms"]) == 2
    assert json.loads(json.dumps(facts)) == facts


def test_compensators_are_learned_on_the_sets_alone() -> None:
    learned = []
    for extra in (0, 5):
        ctx = tiny.context(store=choice("compensated", sets=1, extra=extra))
        learned.append(content := build_content(ctx))
        parts = ctx.fields.match.parts(content.items, ctx.makers)
        assert [content.items.cls[p.rows].tolist() for p in parts] == [[0, 1, 2, 3]] * 2
    few, many = learned
    assert few.arrays["compensators"].abs().sum() > 0
    assert torch.equal(few.arrays["compensators"], many.arrays["compensators"])
    sealed = Compensated().seal(many)
    assert torch.equal(Compensated().expand(sealed)[12:], sealed.pictures.pixels[4:])


@pytest.mark.parametrize("label", ["static", "hard", "dynamic"])
@pytest.mark.parametrize("form", [{}, {"codec": AVIF}, {"storage": "jpeg75"}], ids=["plain", "coded", "jpeg"])
def test_such_a_set_comes_back_from_disk(label: str, form: dict[str, Any], tmp_path: Path) -> None:
    store = choice("compensated", sets=1, extra=5, **form)
    made = tiny.distilled(tmp_path / "set", store=store, label=choice(label))
    loaded = DistilledDataset.load(tmp_path / "set")
    one, two = made.expand(), loaded.expand()
    assert len(one.images) == len(one.cls) == 17
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.cls, two.cls)
    if label == "static":
        assert one.labels.values is not None
        assert two.labels.values is not None
        assert one.labels.values.shape == (17, 4)
        assert torch.equal(one.labels.values, two.labels.values)
    assert len({name for name in made.content.pictures.ids if name}) == 9


def test_what_is_told_of_such_a_set_names_no_budget(tmp_path: Path) -> None:
    made = tiny.distilled(tmp_path / "set", store=FEW)
    read_me = (tmp_path / "set" / "README.md").read_text()
    assert "48 training images. Labels" in read_me
    assert "Counts: compensators 2, extra 5, items 17, natural 9, sets 1." in read_me
    with console.capture() as told:
        describe(made)
    assert "9 natural images (5 of them beside the natural sets), 2 compensators." in told.get()
    assert "Budget" not in told.get()
    said = words.budget({"counts": made.facts["counts"], "classes": made.classes, "ipc": made.recipe.ipc})
    assert said[0] == (
        "9 natural images (as sets of one per class: 4; beside them, without compensators: 5) and 2 compensators, "
        "which all classes share, expand to 17 items, which is what a student sees."
    )
    assert len(said) == 2  # and how large compensators are


@pytest.mark.parametrize("codec", [{}, {"codec": AVIF}], ids=["plain", "coded"])
def test_controls_of_such_a_set_hold_its_natural_images(codec: dict[str, Any], tmp_path: Path) -> None:
    recipe = tiny.recipe(store=choice("compensated", sets=1, extra=5, **codec))
    own = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    maker = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
    alone, noise = (maker.make(CONTROLS[name]) for name in ("natural_only", "noise"))
    assert alone is not None
    assert noise is not None
    assert sorted(alone.distilled.content.pictures.ids) == sorted(own.content.pictures.ids)
    assert alone.distilled.content.pictures.codec == own.content.pictures.codec
    assert noise.distilled.facts["counts"]["extra"] == 5
    assert noise.distilled.facts["counts"]["compensator_norms"] == pytest.approx(
        own.facts["counts"]["compensator_norms"], rel=1e-5
    )
    assert torch.equal(noise.distilled.expand().images[12:], own.expand().images[12:])


def test_a_class_with_fewer_images_than_sets_is_named() -> None:
    with pytest.raises(
        DatastillError,
        match=r"^class 'class 2' has 3 training images, but store 'compensated' was given sets=4; give fewer sets, "
        r"or leave the class out with --classes\.$",
    ):
        opened(tiny.dataset(per_class=(12, 12, 3, 12)), store=choice("compensated", sets=4, extra=2))


def test_a_class_that_is_too_small_for_what_ipc_buys_is_named_beside_extra_images() -> None:
    with pytest.raises(DatastillError, match=r"^class 'class 2' has 1 training images, but this recipe starts from 2 "):
        opened(tiny.dataset(per_class=(12, 12, 1, 12)), ipc=4, store=choice("compensated", extra=3))


def test_more_extra_images_than_there_are_left_are_refused() -> None:
    with pytest.raises(DatastillError, match=r"^45 images were asked for, but there are 44 to choose from"):
        opened(store=choice("compensated", sets=1, extra=45))
    assert len(opened(store=choice("compensated", sets=1, extra=44))[1].pictures.cls) == 48


@pytest.mark.parametrize("settings", [{"sets": 2}, {"extra": 3}])
def test_a_left_over_budget_and_a_size_of_its_own_contradict(settings: dict[str, int]) -> None:
    with pytest.raises(DatastillError, match="leftover=natural, which spends what ipc leaves over, beside sets or"):
        opened(store=choice("compensated", leftover="natural", **settings))


def test_an_ipc_that_buys_no_set_matters_only_where_it_decides() -> None:
    opened(ipc=1, store=FEW)
    with pytest.raises(DatastillError, match="no room at ipc=1"):
        opened(ipc=1, store=choice("compensated", extra=5))
    with pytest.raises(DatastillError, match=r"'store\.sets' must be at least 1, not 0"):
        opened(store=choice("compensated", sets=0))
    with pytest.raises(DatastillError, match=r"'store\.extra' must be at least 0, not -1"):
        opened(store=choice("compensated", extra=-1))
