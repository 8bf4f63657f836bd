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


@pytest.mark.parametrize("total", range(12))
def test_spread_differs_by_at_most_one_and_grows_class_by_class(total: int) -> None:
    ctx = tiny.context(given={})
    counts = spread(total, ctx)
    assert counts.sum() == total
    assert counts.max() - counts.min() <= 1
    assert (spread(total + 1, ctx) - counts).sum() == 1
    assert (spread(total + 1, ctx) >= counts).all()
