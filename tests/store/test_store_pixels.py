"""Real images as they are, spread over the classes."""

from __future__ import annotations

import pytest
import torch

from datastill.errors import DatastillError
from datastill.fields import Content, Context
from datastill.recipe import choice
from datastill.store.naturals import natural_rows, spread
from reference import tiny


def opened(data=None, **settings: int) -> tuple[Context, Content]:
    ctx = tiny.context(data, given={}, store=choice("pixels", **settings), match=choice("none"))
    return ctx, ctx.fields.store.begin(ctx)


def test_ipc_images_of_each_class_are_kept_unless_told_otherwise() -> None:
    _, content = opened()
    assert content.pictures.cls.bincount().tolist() == [4, 4, 4, 4]
    _, content = opened(per_class=2)
    assert content.pictures.cls.bincount().tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("total", [4, 5, 7, 11, 16, 47, 48])
def test_a_total_is_spread_evenly(total: int) -> None:
    _, content = opened(total=total)
    counts = content.pictures.cls.bincount(minlength=4)
    assert counts.sum() == total == len(content.items)
    assert counts.max() - counts.min() <= 1


def test_a_larger_total_holds_the_pictures_of_a_smaller_one() -> None:
    kept = [set(opened(total=total)[1].pictures.ids) for total in range(4, 30)]
    assert all(few < many for few, many in zip(kept, kept[1:], strict=False))


def test_the_pictures_of_the_compensated_store_come_first_here_too() -> None:
    pixels = opened(per_class=5)[1].pictures
    ctx = tiny.context(given={}, ipc=5)
    naturals = ctx.fields.store.begin(ctx).pictures
    assert torch.equal(pixels.pixels.view(4, 5, *tiny.SHAPE)[:, :3], naturals.pixels.view(4, 3, *tiny.SHAPE))


def test_pictures_keep_the_pixels_classes_and_names_of_their_source() -> None:
    train = tiny.dataset().train
    _, content = opened(per_class=3)
    row = {name: i for i, name in enumerate(train.ids)}
    rows = torch.tensor([row[name] for name in content.pictures.ids])
    assert torch.equal(content.pictures.pixels, train.pixels[rows])
    assert torch.equal(content.pictures.cls, train.labels[rows])


def test_fewer_images_than_classes_are_refused() -> None:
    with pytest.raises(DatastillError, match="total=3 for 4 classes; give at least one each"):
        opened(total=3)


def test_two_counts_at_once_are_refused() -> None:
    with pytest.raises(DatastillError, match="per_class=2 and total=9; give one of them"):
        opened(per_class=2, total=9)


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(DatastillError, match=r"class 'class 2' has 3 training images, but .* 5 per class"):
        opened(tiny.dataset(per_class=(12, 12, 3, 12)), per_class=5)


def test_a_small_class_that_is_not_asked_for_more_does_not_hinder_the_others() -> None:
    data = tiny.dataset(per_class=(12, 12, 3, 12))
    ctx = tiny.context(data, given={}, store=choice("pixels"), match=choice("none"), ipc=3)
    rows = natural_rows(torch.tensor([3, 3, 3, 3]), ctx)
    assert [len(r) for r in rows] == [3, 3, 3, 3]
    assert [len(r) for r in natural_rows(torch.tensor([0, 0, 0, 0]), ctx)] == [0, 0, 0, 0]


UNEQUAL = (12, 5, 3, 12)


@pytest.mark.parametrize("total", range(12))
def test_spread_differs_by_at_most_one_and_grows_class_by_class(total: int) -> None:
    ctx = tiny.context(given={})
    counts = spread(total, ctx)
    assert counts.sum() == total
    assert counts.max() - counts.min() <= 1
    assert (spread(total + 1, ctx) - counts).sum() == 1
    assert (spread(total + 1, ctx) >= counts).all()


def spread_slowly(total: int, have: list[int], order: list[int]) -> list[int]:
    """Hand images out one by one, always to a class that has the fewest and is not used up: in `order` where equal."""
    counts = [0] * len(have)
    for _ in range(total):
        left = [k for k in order if counts[k] < have[k]]
        counts[min(left, key=lambda k: (counts[k], order.index(k)))] += 1
    return counts


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_spread_is_as_even_as_the_classes_allow(seed: int) -> None:
    ctx = tiny.context(tiny.dataset(per_class=UNEQUAL), given={}, seed=seed)
    order = ctx.rng("leftover").permutation(4).tolist()
    for total in range(sum(UNEQUAL) + 1):
        assert spread(total, ctx).tolist() == spread_slowly(total, list(UNEQUAL), order), total
    assert spread(sum(UNEQUAL), ctx).tolist() == list(UNEQUAL)


def test_spread_leaves_alone_what_is_taken_already() -> None:
    ctx = tiny.context(tiny.dataset(per_class=UNEQUAL), given={})
    assert spread(20, ctx, taken=3).tolist() == [9, 2, 0, 9]
    assert spread(0, ctx, taken=12).tolist() == [0, 0, 0, 0]


def test_spread_counts_allowed_images_only() -> None:
    ctx = tiny.context(tiny.dataset(per_class=UNEQUAL), given={}, validation=4)
    assert spread(28, ctx).tolist() == [11, 4, 2, 11]
    with pytest.raises(
        DatastillError, match="29 images were asked for, but there are 28 to choose from; ask for fewer"
    ):
        spread(29, ctx)


def test_more_images_than_there_are_are_refused() -> None:
    with pytest.raises(DatastillError, match="33 images were asked for, but there are 32"):
        opened(tiny.dataset(per_class=UNEQUAL), total=33)


def test_a_total_of_all_images_takes_every_one() -> None:
    data = tiny.dataset(per_class=UNEQUAL)
    _, content = opened(data, total=32)
    assert content.pictures.cls.bincount().tolist() == list(UNEQUAL)
    assert sorted(content.pictures.ids) == sorted(data.train.ids)


def test_what_a_larger_total_of_unequal_classes_holds_begins_with_a_smaller_one() -> None:
    data = tiny.dataset(per_class=UNEQUAL)
    kept = [set(opened(data, total=total)[1].pictures.ids) for total in range(4, 33)]
    assert all(few < many for few, many in zip(kept, kept[1:], strict=False))
