"""Crops that a network finds easy: cut, judged, kept and stitched, against one crop at a time; and who is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.fields import Content, Context
from datastill.networks import Network, Space, create_network
from datastill.recipe import DatasetInfo, choice
from datastill.runtime.seeds import rng
from datastill.store import crops as store_crops
from datastill.store.crops import SEPARATOR, Crops
from datastill.store.cutting import cut, draw_windows, padded, stitched
from reference import crops as plain
from reference import tiny

MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)


def network(side: int = 8) -> Network:
    made = create_network("convnet", classes=4, shape=(3, side, side), space=Space(MEAN, STD), seed=3, width=8)
    return made.requires_grad_(False).eval()


def opened(data: Any = None, *, ipc: int = 2, given: Any = None, **settings: Any) -> tuple[Context, Content]:
    answering = {"first": network()} if given is None else given
    ctx = tiny.context(data, given=answering, store=choice("crops", **settings), match=choice("none"), ipc=ipc)
    return ctx, ctx.fields.store.begin(ctx)


def pictures(count: int, shape: tuple[int, int, int] = (3, 8, 8)) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def sources(content: Content) -> list[list[str]]:
    return [name.split(SEPARATOR) for name in content.pictures.ids]


def test_windows_lie_inside_and_take_their_share_of_the_area() -> None:
    top, left, side = draw_windows(rng(0, "w"), 300, 7, (0.08, 1.0), (32, 32)).flatten(0, 1).unbind(1)
    assert min(int(top.min()), int(left.min())) == 0
    assert int((top + side).max()) == int((left + side).max()) == 32
    assert int(side.min()) == round((0.08 * 1024) ** 0.5)
    assert int(side.max()) == 32
    area = (side.double() / 32) ** 2
    assert float(area.mean()) == pytest.approx(0.54, abs=0.02)
    at_half = top[side == 16]
    assert set(at_half.tolist()) == set(range(17))


def test_windows_of_more_images_begin_with_those_of_fewer() -> None:
    few, many = (draw_windows(rng(0, "w"), n, 3, (0.08, 1.0), (32, 32)) for n in (5, 50))
    assert torch.equal(few, many[:5])


def test_the_whole_area_is_the_whole_picture() -> None:
    windows = draw_windows(rng(0, "w"), 4, 3, (1.0, 1.0), (8, 8))
    assert (windows == torch.tensor([0, 0, 8])).all()
    images = pictures(4)
    torch.testing.assert_close(cut(images, windows, (8, 8))[:, 1], images / 255.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), (32, 32)), ((3, 32, 32), (16, 16)), ((1, 9, 9), (4, 4)),
                                             ((3, 12, 20), (6, 10)), ((3, 8, 8), (8, 8))])  # fmt: skip
def test_crops_of_all_sizes_at_once_are_those_that_torch_resizes_one_by_one(shape: Any, size: Any) -> None:
    images = pictures(5, shape)
    windows = draw_windows(rng(2, "w"), 5, 8, (0.02, 1.0), shape[1:])
    found = cut(images, windows, size)
    wanted = torch.stack([
        torch.stack([plain.resized(image, window, size) for window in row.tolist()])
        for image, row in zip(images, windows, strict=True)
    ])  # fmt: skip
    assert found.shape == (5, 8, shape[0], *size)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def test_around_a_crop_a_network_sees_zeros_and_the_larger_border_is_right_and_below() -> None:
    space = Space(MEAN, STD)
    crops = 1.0 + pictures(3, (3, 3, 3)) / 255.0
    z = space.into(padded(crops, (8, 8), space.mean))
    assert torch.equal(z[:, :, 2:5, 2:5], space.into(crops))
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:5, 2:5] = False
    assert float(z[:, :, outside].abs().sum()) == 0.0
    assert padded(crops, (3, 3), space.mean) is crops


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_stitched_and_cut_apart_every_tile_comes_back(factor: int) -> None:
    tiles = torch.stack([pictures(5, (3, 4, 4)) + i for i in range(factor**2)])
    made = stitched(tiles, (4 * factor, 4 * factor))
    for q, picture in enumerate(made):
        for k, tile in enumerate(plain.cut_apart(picture, factor)):
            assert torch.equal(tile, tiles[k, q])


def test_where_tiles_do_not_fit_evenly_the_first_are_a_pixel_larger() -> None:
    tiles = torch.stack([torch.full((1, 3, 4, 4), k, dtype=torch.uint8) for k in range(4)])
    (made,) = stitched(tiles, (9, 9))
    assert made[0, 0].tolist() == [0] * 5 + [1] * 4
    assert made[0, :, 8].tolist() == [1] * 5 + [3] * 4
    assert [tuple(tile.shape[1:]) for tile in plain.cut_apart(made, 2)] == [(5, 5), (5, 4), (4, 5), (4, 4)]


@pytest.mark.parametrize(("factor", "ipc"), [(1, 3), (2, 2)])
def test_pictures_are_those_of_one_crop_at_a_time(factor: int, ipc: int) -> None:
    ctx, content = opened(ipc=ipc, factor=factor, crops=3)
    store, seen = ctx.fields.store, network()
    assert isinstance(store, Crops)
    losses = []
    for k, mine in enumerate(ctx.fields.select.pick([12] * 4, ctx)):
        images = ctx.real.pictures(mine)
        windows = draw_windows(ctx.rng("crops", part=k), 12, 3, store.scale, (8, 8)).tolist()
        cuts = [[plain.resized(image, w, (8 // factor,) * 2) for w in row]
                for image, row in zip(images.pixels, windows, strict=True)]  # fmt: skip
        scores = [[plain.loss(seen, crop, (8, 8), k) for crop in row] for row in cuts]
        kept = plain.choose(scores, ipc * factor**2)
        losses += [scores[i][j] for i, j in kept]
        for q, picture in enumerate(content.pictures.pixels[content.pictures.cls == k]):
            for rank, tile in enumerate(plain.cut_apart(picture, factor)):
                i, j = kept[rank * ipc + q]
                assert (tile - cuts[i][j] * 255).abs().max() <= 0.51
                assert sources(content)[k * ipc + q][rank] == images.ids[i]
    assert store.facts(content, ctx)["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)


@pytest.mark.parametrize(("order", "sign"), [("easiest", 1), ("hardest", -1)])
def test_the_kept_are_the_first_of_the_best_crops_and_the_tiles_their_ranks(
    order: str, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = torch.from_numpy(rng(7, "planted").permutation(4 * 12 * 5)).double().view(4, 12, 5)
    monkeypatch.setattr(Crops, "losses", lambda self, images, windows, k, network, ctx: planted[k])
    ctx, content = opened(factor=2, ipc=2, order=order)
    found = sources(content)
    for k, mine in enumerate(ctx.fields.select.pick([12] * 4, ctx)):
        names = ctx.real.pictures(mine).ids
        kept = plain.choose((sign * planted[k]).tolist(), 8)
        for rank, (i, _) in enumerate(kept):
            tile, picture = divmod(rank, 2)
            assert found[2 * k + picture][tile] == names[i]
        wanted = [float(planted[k, i, j]) for i, j in kept]
        assert content.arrays["losses"][8 * k : 8 * k + 8].tolist() == wanted


def test_one_crop_of_as_many_images_as_are_kept_is_a_crop_of_each() -> None:
    ctx, content = opened(ipc=4, mipc=4, crops=1, factor=1)
    for k, mine in enumerate(ctx.fields.select.pick([4] * 4, ctx)):
        names = [content.pictures.ids[i] for i in (content.pictures.cls == k).nonzero().flatten().tolist()]
        assert sorted(names) == sorted(ctx.real.pictures(mine).ids)
    scores = content.arrays["losses"].view(4, 4)
    assert torch.equal(scores, scores.sort(dim=1).values)


@pytest.mark.parametrize("order", ["easiest", "hardest", "random"])
def test_no_image_gives_two_crops_and_held_out_ones_give_none(order: str) -> None:
    answering = {"first": network()}
    ctx = tiny.context(
        given=answering, store=choice("crops", factor=2, order=order), match=choice("none"), ipc=2, validation=12
    )
    content = ctx.fields.store.begin(ctx)
    named = Counter(name for picture in sources(content) for name in picture)
    assert len(named) == 4 * 2 * 4
    assert set(named.values()) == {1}
    allowed = set(ctx.real.pictures(ctx.real.rows).ids)
    assert set(named) <= allowed


def test_scores_do_not_depend_on_the_order_of_images_nor_on_how_many_are_judged_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctx, _ = opened(ipc=2, crops=3)
    store, seen = ctx.fields.store, network()
    assert isinstance(store, Crops)
    images = pictures(11)
    windows = draw_windows(rng(5, "w"), 11, 3, (0.08, 1.0), (8, 8))
    whole = store.losses(images, windows, 2, seen, ctx)
    order = torch.from_numpy(rng(6, "order").permutation(11))
    torch.testing.assert_close(store.losses(images[order], windows[order], 2, seen, ctx), whole[order])
    monkeypatch.setattr(store_crops, "VALUES", 1)
    torch.testing.assert_close(store.losses(images, windows, 2, seen, ctx), whole)


def test_all_crops_of_a_class_meet_the_network_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, passes = network(), []
    seen.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    opened(given={"first": seen}, crops=5)
    assert passes == [60] * 4  # 5 crops of 12 images of each class


def test_more_candidates_never_give_worse_crops() -> None:
    losses = [opened(mipc=n, ipc=3)[1].arrays["losses"].view(4, 3) for n in (3, 6, 12, 300)]
    for few, many in zip(losses, losses[1:], strict=False):
        assert (many <= few + 1e-6).all()
    assert (losses[1] < losses[0]).any()
    assert torch.equal(losses[2], losses[3])  # there are 12 images of a class


def test_a_random_order_asks_no_network_and_needs_none_in_the_table() -> None:
    ctx, content = opened(given={}, order="random")
    assert "losses" not in content.arrays
    assert "loss" not in ctx.fields.store.facts(content, ctx)
    assert tiny.context(networks={}, store=choice("crops", order="random"), match=choice("none"), label=choice("hard"))


def test_a_setting_names_the_network_that_judges() -> None:
    asked = {"first": network(), "second": network()}
    asked["second"].body.head.weight.data.neg_()  # type: ignore[operator]  # a linear layer
    one, other = (opened(given=asked, network=name)[1] for name in ("first", "second"))
    assert one.pictures.ids != other.pictures.ids
    assert opened(given=asked)[1].pictures.ids == one.pictures.ids


@pytest.mark.parametrize("factor", [1, 2])
def test_every_picture_names_the_images_in_it_before_and_after_it_was_written(factor: int, tmp_path: Path) -> None:
    ctx, content = opened(factor=factor)
    names = {name: row for row, name in enumerate(tiny.dataset().train.ids)}
    labels = tiny.dataset().train.labels
    made = tiny.distilled(
        tmp_path, store=choice("crops", factor=factor), match=choice("none"), label=choice("hard"), ipc=2
    )
    loaded = DistilledDataset.load(tmp_path)
    assert loaded.content.pictures.ids == made.content.pictures.ids
    assert torch.equal(loaded.expand().images, made.expand().images)
    assert loaded.content.arrays == {}
    for found in (content, loaded.content):
        for picture, k in zip(sources(found), found.pictures.cls.tolist(), strict=True):
            assert len(picture) == factor**2
            assert {int(labels[names[name]]) for name in picture} == {k}
    rows = ctx.real.rows_of(content.pictures)
    known = [names[name] for name in content.pictures.ids] if factor == 1 else [-1] * len(rows)
    assert rows.tolist() == known  # several images are no single row, which cross-fitted labels would ask for


@pytest.mark.parametrize(("settings", "said"), [
    ({"factor": 1}, ["parts of real images", "one square of an image", "8 x 8 pixels", "the image of each"]),
    ({"factor": 2}, ["2 x 2 tiles", "4 x 4 pixels", "one a line, in the order of the tiles"]),
    ({"factor": 1, "codec": {"format": "jpeg", "quality": 75}}, ["but for what the codec lost"]),
    ({"factor": 1, "codec": {"format": "png", "tiles": 16}}, ["`pictures/` holds", "The column `place`", "a grid of"]),
])  # fmt: skip
def test_the_data_card_says_that_these_are_parts_of_real_images(
    settings: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    tiny.distilled(
        tmp_path, store=choice("crops", order="random", **settings), match=choice("none"), label=choice("hard"), ipc=2
    )
    text = " ".join((tmp_path / "README.md").read_text().split())
    for words in said:
        assert words in text
    places = DistilledDataset.load(tmp_path).content.pictures.places
    assert (places is None) == (settings.get("codec", {}).get("tiles", 1) == 1)


def test_pixels_are_rounded_or_cut_to_eight_bits() -> None:
    near, low = (opened(rounding=name, crops=1)[1].pictures.pixels.int() for name in ("nearest", "truncate"))
    gap = near - low
    assert set(gap.unique().tolist()) == {0, 1}


def test_a_lossy_codec_is_applied_at_the_seal_to_what_was_judged() -> None:
    ctx, content = opened(codec={"format": "jpeg", "quality": 75, "chroma": "420"})
    sealed = ctx.fields.store.seal(content)
    assert not torch.equal(sealed.pictures.pixels, content.pictures.pixels)
    assert sealed.pictures.encoded is not None
    assert torch.equal(content.pictures.pixels, opened()[1].pictures.pixels)


@pytest.mark.parametrize(("side", "tiles"), [(8, 1), (32, 1), (64, 1), (111, 1), (112, 2), (128, 2), (224, 2)])
def test_large_pictures_are_made_of_four_crops_unless_told_otherwise(side: int, tiles: int) -> None:
    assert Crops().tiles((3, side, side)) == tiles
    assert Crops(factor=3).tiles((3, side, side)) == 3


INFO = DatasetInfo("tiny", 4, (3, 8, 8), 48, MEAN, STD)


@pytest.mark.parametrize(("settings", "ipc", "said"), [
    ({"mipc": 3}, 4, "takes 4 images per class for ipc=4 at 1 x 1 tiles, but chooses among mipc=3; ask for a smaller"),
    ({"factor": 2}, 76, "takes 304 images per class for ipc=76 at 2 x 2 tiles, but chooses among mipc=300"),
    ({"scale": (0.9, 0.1)}, 1, r"given scale=\[0.9, 0.1\]; give the smaller share first"),
    ({"network": "fist"}, 1, "asks network 'fist', which is not in the table 'networks'; did you mean 'first'"),
    ({"factor": 2, "codec": {"format": "png", "tiles": 4}}, 1, "names the 4 real images in each picture"),
])  # fmt: skip
def test_what_cannot_work_is_refused_before_any_work(settings: dict[str, Any], ipc: int, said: str) -> None:
    with pytest.raises(DatastillError, match=said):
        tiny.context(given={}, store=choice("crops", **settings), match=choice("none"), ipc=ipc)
    assert Crops(factor=2).check(tiny.recipe(ipc=75), INFO) == []


def test_an_empty_table_of_networks_is_refused() -> None:
    with pytest.raises(DatastillError, match="store 'crops' asks a network of the recipe, but the table 'networks'"):
        tiny.context(networks={}, store=choice("crops"), match=choice("none"), label=choice("hard"))


def test_a_class_with_too_few_images_is_named_before_a_network_is_asked_for() -> None:
    data = tiny.dataset(per_class=(12, 12, 7, 12))
    with pytest.raises(DatastillError, match=r"class 'class 2' has 7 training images, but .* takes 8 per class"):
        opened(data, given={}, factor=2, ipc=2)
