"""Mosaics of tiles: how they are taken apart, where they begin, what is kept of them, and what they are to a match."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.export import export
from datastill.fields import Content, Context, Items, Labels, registered
from datastill.recipe import choice
from datastill.sources import Dataset
from datastill.store import Synthetic, Tiles
from datastill.store.synthetic import no_pictures
from datastill.store.tiles import stretched, tile_numbers, tile_size, tiles_of
from reference import tiles, tiny

MANY = 24  # images of each class: enough for 2 pictures of 3 x 3 tiles


def many(shape: tuple[int, int, int] = tiny.SHAPE) -> Dataset:
    return tiny.dataset(per_class=MANY, shape=shape)


def opened(data: Dataset | None = None, ipc: int = 2, seed: int = 0, **settings: Any) -> tuple[Context, Tiles, Content]:
    ctx = tiny.context(
        data or many(), given={}, store=choice("tiles", **settings), match=choice("none"), ipc=ipc, seed=seed
    )
    assert isinstance(ctx.fields.store, Tiles)
    return ctx, ctx.fields.store, ctx.fields.store.begin(ctx)


def every(content: Content) -> Tensor:
    return torch.arange(len(content.items))


def seen(store: Tiles, content: Content) -> Tensor:
    return store.decode(content, every(content), open=True)


def noise(shape: Any, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def holding(pixels: Tensor, factor: int) -> Content:
    """Return an open content of one class with these pictures [U, C, H, W]."""
    count = len(pixels)
    items = Items.of(cls=torch.zeros(count * factor**2), unit=torch.arange(count).repeat(factor**2))
    return Content(items, no_pictures(tuple(pixels.shape[1:])), {"pixels": pixels}, ("pixels",))


# --- how a picture is taken apart ---


@pytest.mark.parametrize(
    ("side", "factor", "tile"), [(32, 2, 16), (32, 3, 11), (28, 2, 14), (64, 3, 22), (224, 3, 75), (8, 2, 4)]
)
def test_tiles_have_the_sizes_of_the_paper(side: int, factor: int, tile: int) -> None:
    assert tile_size((side, side), factor) == (tile, tile)


@pytest.mark.parametrize(("size", "factor"), [((32, 32), 2), ((32, 32), 3), ((8, 12), 2), ((28, 28), 3), ((9, 16), 4)])
def test_decoding_is_that_of_the_released_code_tile_by_tile(size: tuple[int, int], factor: int) -> None:
    pixels = noise((3, 2, *size)).double()
    content = holding(pixels, factor)
    x = seen(Tiles(factor=factor), content)
    assert x.shape == (3 * factor**2, 2, *size)
    torch.testing.assert_close(x, tiles.decoded(pixels, factor), rtol=0, atol=1e-12)
    some = torch.tensor([5, 0, 7, 5])
    assert torch.equal(Tiles(factor=factor).decode(content, some, open=True), x[some])


def test_stretching_is_exact_for_whole_numbers() -> None:
    tile = torch.randint(0, 256, (1, 1, 5, 4), generator=torch.Generator().manual_seed(0)).double()
    exact = tiles.plane([[tiles.Fraction(int(v)) for v in row] for row in tile[0, 0]], (13, 7))
    assert stretched(tile, (13, 7))[0, 0].tolist() == [[float(v) for v in row] for row in exact]


def test_decoding_is_linear_where_the_factor_divides_the_side() -> None:
    one, two = noise((2, 3, 8, 8), 0).double(), noise((2, 3, 8, 8), 1).double()
    x, y, both = (seen(Tiles(), holding(pixels, 2)) for pixels in (one, two, one + two))
    torch.testing.assert_close(x + y, both, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("factor", "share"), [(2, 4.0), (3, (32 / 11) ** 2)])
def test_a_stored_pixel_is_seen_as_often_as_it_is_stretched(factor: int, share: float) -> None:
    pixels = torch.zeros(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    seen(Tiles(factor=factor), holding(pixels, factor)).sum().backward()
    assert pixels.grad is not None
    inside = pixels.grad[..., :22, :22] if factor == 3 else pixels.grad
    assert inside.mean().item() == pytest.approx(share, abs=1e-12)
    if factor == 2:
        assert (pixels.grad == 4.0).all()


def test_what_a_tile_lacks_is_grey() -> None:
    x = seen(Tiles(factor=3), holding(torch.zeros(1, 1, 32, 32), 3))
    assert (x[0] == 0).all()
    assert x[8, 0, -1, -1] == 0.5
    assert (x[8, 0, :20, :20] == 0).all()
    assert (x[2, 0, :, -1] == 0.5).all()
    assert (x[6, 0, -1] == 0.5).all()


def test_gradients_through_the_decoding_are_those_of_differences() -> None:
    pixels = noise((2, 2, 6, 6)).double().requires_grad_()
    content = holding(pixels, 4)

    def decode(x: Tensor) -> Tensor:
        content.arrays["pixels"] = x
        return seen(Tiles(factor=4), content)

    assert torch.autograd.gradcheck(decode, (pixels,))


def test_the_number_of_a_tile_follows_from_the_order_of_the_items_of_a_picture() -> None:
    _, _, content = opened(ipc=3, init="noise")
    number = tile_numbers(content.items, 2).view(4, 4, 3)
    assert (number == torch.arange(4).view(1, 4, 1)).all()
    part, _ = content.part(torch.arange(12, 36))
    assert torch.equal(tile_numbers(part.items, 2), number.flatten()[12:36])


def test_bf16_does_not_reach_the_pixels() -> None:
    content = holding(noise((2, 3, 8, 8)), 2)
    plain = seen(Tiles(), content)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(seen(Tiles(), content), plain)


# --- one tile is no tile ---


@pytest.mark.parametrize("init", ["real", "noise"])
@pytest.mark.parametrize("storage", ["uint8", "fp16"])
def test_with_one_tile_it_is_the_store_of_free_pictures_to_the_bit(init: str, storage: str) -> None:
    settings: dict[str, Any] = (
        {"space": "std", "cut": "step"} if init == "noise" else {"space": "pixel", "cut": "round"}
    )
    ctx, store, content = opened(factor=1, init=init, storage=storage, **settings)
    other = Synthetic(**{"init": init, "storage": storage} | settings)
    plain = other.begin(ctx)
    if init == "noise":  # of which each has its own
        plain.arrays["pixels"].copy_(content.arrays["pixels"])
    for made in (content, plain):
        made.arrays["pixels"] += 0.3 * noise(made.arrays["pixels"].shape)
        store.settle(made, "round")
    for column in ("cls", "stage", "set", "maker", "unit", "picture"):
        assert torch.equal(getattr(content.items, column), getattr(plain.items, column))
    for open in (True, False):
        rows = torch.tensor([3, 1, 3])
        assert torch.equal(store.decode(content, rows, open=open), other.decode(plain, rows, open=open))
    one, two = store.seal(content), other.seal(plain)
    assert torch.equal(store.expand(one), other.expand(two))
    assert store.facts(content, ctx) == other.facts(plain, ctx)
    assert store.told(one) == other.told(two)
    assert (one.pictures.ids, one.pictures.codec) == (two.pictures.ids, two.pictures.codec)


# --- where it begins ---


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (12, 3), (16, 4)])
def test_images_of_one_colour_come_back_in_their_order(side: int, factor: int) -> None:
    data = many((3, side, side))
    colour = torch.arange(len(data.train.labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    flat = replace(data, train=replace(data.train, pixels=colour.expand_as(data.train.pixels).contiguous()))
    ctx, store, content = opened(flat, ipc=1, factor=factor)
    rows = ctx.fields.select.start(factor**2, ctx).flatten()
    torch.testing.assert_close(
        seen(store, content), (flat.train.pixels[rows] / 255.0).to(torch.float32), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
@pytest.mark.parametrize("factor", [2, 3])
def test_tiles_begin_as_the_images_of_the_selection_made_smaller(resize: str, factor: int) -> None:
    ctx, _, content = opened(factor=factor, resize=resize)
    rows = ctx.fields.select.start(2 * factor**2, ctx)
    wanted = [tiles.mixed(ctx.real.pictures(mine).pixels / 255.0, factor, resize == "nearest") for mine in rows]
    torch.testing.assert_close(content.arrays["pixels"], torch.cat(wanted), rtol=0, atol=1e-6)
    assert content.items.cls.tolist() == [k for k in range(4) for _ in range(2 * factor**2)]
    assert content.items.unit.tolist() == [2 * k + q for k in range(4) for _ in range(factor**2) for q in range(2)]


def test_tiles_are_cut_where_they_are_read_also_where_the_factor_does_not_divide_the_side() -> None:
    """At 28 / 3 the released code begins with other cuts, so that tiles bleed into each other."""
    data = many((1, 28, 28))
    _, store, content = opened(data, ipc=1, factor=3)
    pixels = content.arrays["pixels"]
    assert tile_size((28, 28), 3) == (10, 10)
    tile = tiles_of(pixels[:1].repeat(9, 1, 1, 1), torch.arange(9), 3)
    assert (tile[4] != 0).any()
    pixels[:1, :, :10, :10] = 7.0  # another first tile changes the first item alone
    before = opened(data, ipc=1, factor=3)[2]
    moved = (seen(store, content) != seen(store, before)).flatten(1).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [0]


def test_the_first_images_of_the_source_are_taken_for_parity() -> None:
    ctx, store, content = opened(pick="first", resize="nearest")
    for k in range(4):
        first = (ctx.real._train.labels == k).nonzero().flatten()[:8]
        wanted = tiles.mixed(ctx.real.pictures(first).pixels / 255.0, 2, True)
        assert torch.equal(content.arrays["pixels"][2 * k : 2 * k + 2], wanted)
    again = opened(pick="first", resize="nearest", seed=1)[2]
    assert torch.equal(again.arrays["pixels"], content.arrays["pixels"])


@pytest.mark.parametrize("factor", [1, 2])
def test_noise_is_that_of_the_paper_cut_to_black_and_white(factor: int) -> None:
    data = tiny.dataset(shape=(3, 32, 32))
    x = opened(data, ipc=4, init="noise", factor=factor)[2].arrays["pixels"]
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert x.mean().item() == pytest.approx(0.5, abs=0.01)
    assert ((x - 0.5).abs() < 0.25).float().mean().item() == pytest.approx(0.6827, abs=0.02)
    more = opened(data, ipc=6, init="noise", factor=factor)[2].arrays["pixels"].view(4, 6, 3, 32, 32)
    assert torch.equal(more[:, :4].flatten(0, 1), x)


@pytest.mark.parametrize("init", ["real", "noise"])
def test_both_units_begin_with_the_same_items(init: str) -> None:
    (_, store, content), (_, other, plain) = (opened(init=init, space=space, factor=3) for space in ("std", "pixel"))
    torch.testing.assert_close(seen(store, content), seen(other, plain), rtol=0, atol=1e-6)


def test_more_tiles_than_images_are_refused_in_a_sentence() -> None:
    said = r"class 'class 0' has 24 images to begin from, but store 'tiles' takes 28 for ipc=7 at 2 x 2 tiles; ask for"
    for pick in ("select", "first"):
        with pytest.raises(DatastillError, match=said):
            opened(ipc=7, pick=pick)
    opened(ipc=6)
    opened(ipc=7, init="noise")
    with pytest.raises(DatastillError, match="was given factor=5, but 8 x 8 pixels have no 5 x 5 tiles of one size"):
        opened(factor=5)


# --- what is kept ---


@pytest.mark.parametrize(("shape", "factor"), [((3, 8, 8), 2), ((1, 8, 12), 3), ((3, 10, 8), 3)])
def test_a_receiver_rebuilds_every_item_from_what_the_data_card_says(
    shape: tuple[int, int, int], factor: int, tmp_path: Path
) -> None:
    made = tiny.distilled(
        tmp_path / "set", many(shape), store=choice("tiles", factor=factor), match=choice("none"),
        label=choice("hard"), ipc=2,
    )  # fmt: skip
    loaded = DistilledDataset.load(tmp_path / "set")
    images = loaded.expand().images
    assert images.dtype == torch.uint8
    assert torch.equal(images, made.expand().images)
    received = tiles.received(tmp_path / "set", factor)[:, : shape[0]]  # a grey picture is stored with three channels
    assert np.array_equal(received, images.numpy())
    text = " ".join((tmp_path / "set" / "README.md").read_text().split())
    height, width = tile_size(shape[1:], factor)
    assert f"mosaic of {factor} x {factor} tiles, and each tile is an item at a lower resolution" in text
    assert "each tile begun from a real image made smaller, which it may still show" in text
    assert f"Tile (i, j) is the {height} x {width} pixels from row {height} * i and column {width} * j on" in text
    assert ("grey of 127.5" in text) == (factor == 3)
    assert "compensator" not in text
    assert "**real images**" not in text


@pytest.mark.parametrize("storage", ["fp16", "fp32"])
@pytest.mark.parametrize("bound", [True, False])
def test_floats_come_back_from_disk_and_are_stretched_without_rounding(
    storage: str, bound: bool, tmp_path: Path
) -> None:
    ctx, store, content = opened(storage=storage, bound=bound, factor=3)
    content.arrays["pixels"] += noise(content.arrays["pixels"].shape)
    store.settle(content, "round")
    sealed = store.seal(content)
    made = DistilledDataset(
        ctx.recipe.patched({"label": "hard"}), ctx.info, ctx.real.classes, sealed, Labels("classes")
    )
    made.save(tmp_path)
    images = DistilledDataset.load(tmp_path).expand().images
    assert (images.dtype, sealed.arrays["pixels"].shape) == (torch.float32, (8, *tiny.SHAPE))
    x = seen(store, content)
    torch.testing.assert_close(images, x.clamp(0, 1) if bound else x, rtol=0, atol=2e-3 if storage == "fp16" else 1e-6)
    assert bool((images < 0).any() and (images > 1).any()) is not bound
    assert torch.equal(store.decode(content, every(content)), images)
    assert "(`unit`)" in (tmp_path / "README.md").read_text()


def test_closed_items_of_an_open_set_are_those_of_the_sealed_one() -> None:
    for settings in ({}, {"factor": 3}, {"space": "std"}, {"rounding": "truncate"}):
        _, store, content = opened(**settings)
        content.arrays["pixels"] += 0.2 * noise(content.arrays["pixels"].shape)
        sealed = store.seal(content)
        assert torch.equal(store.decode(content, every(content)), store.decode(sealed, every(sealed)))
        assert torch.equal(store.expand(store.seal(sealed)), store.expand(sealed))


def test_pixels_are_cut_once_a_round() -> None:
    _, store, content = opened()
    content.arrays["pixels"] += noise(content.arrays["pixels"].shape)
    before = content.arrays["pixels"].clone()
    store.settle(content, "step")
    assert torch.equal(content.arrays["pixels"], before)
    store.settle(content, "round")
    assert torch.equal(content.arrays["pixels"], before.clamp(0, 1))


def test_a_small_set_is_weighed_by_its_pictures_and_counted_by_its_items(tmp_path: Path) -> None:
    codec = {"format": "avif", "quality": 60, "chroma": "444", "tiles": 8}
    kinds: dict[str, dict[str, Any]] = {"plain": {}, "packed": {"codec": codec}, "floats": {"storage": "fp16"}}
    for name, settings in kinds.items():
        made = tiny.distilled(
            tmp_path / name, many(), store=choice("tiles", **settings), match=choice("none"), label=choice("hard"),
            ipc=2,
        )  # fmt: skip
        ledger = made.ledger()
        assert ledger["natural images"] == ledger["compensators"] == 0
        assert ledger["learned images"] > 0
        assert made.facts["counts"] == {"natural": 0, "learned": 8, "items": 32, "tiles": 4, "batches": 2}
        assert len(made) == 32
        assert torch.equal(DistilledDataset.load(tmp_path / name).expand().images, made.expand().images)
    assert "`pictures/` holds **learned pictures**" in (tmp_path / "packed" / "README.md").read_text()


def test_an_export_holds_items(tmp_path: Path) -> None:
    made = tiny.distilled(
        tmp_path / "set", many(), store=choice("tiles"), match=choice("none"), label=choice("hard"), ipc=2
    )
    export(made, "imagefolder", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 32


# --- what it is to a match, and to a selection ---


@pytest.mark.parametrize("name", sorted(registered("match")))
def test_no_part_of_any_match_splits_a_picture_or_turns_the_order_of_its_tiles(name: str) -> None:
    if name == "noise":  # takes compensators alone
        return
    data = many((3, 16, 16))  # some matches want networks of two blocks
    ctx = tiny.context(data, store=choice("tiles", block=3), match=tiny.chosen("match", name), ipc=2)
    content = ctx.fields.store.begin(ctx)
    number = tile_numbers(content.items, 2)
    for part in ctx.fields.match.parts(content.items, ctx.makers):
        units = content.items.unit[part.rows]
        for unit in units.unique():
            assert number[part.rows[units == unit]].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["statistics", "various"])
def test_pictures_are_learned_under_a_match_that_was_made_for_others(name: str) -> None:
    settings: dict[str, Any] = {"store": choice("tiles"), "label": choice("hard"), "ipc": 2}
    made = tiny.distilled(None, many(), match=tiny.chosen("match", name), **settings)
    start = tiny.distilled(None, many(), match=choice("none"), **settings)
    assert made.content.pictures.pixels.shape == start.content.pictures.pixels.shape
    moved = (made.content.pictures.pixels != start.content.pictures.pixels).flatten(1).any(dim=1)
    assert moved.all()


@pytest.mark.parametrize("select", sorted(registered("select")))
def test_it_begins_from_whatever_is_selected(select: str) -> None:
    chosen = choice(select, epochs=1, runs=1) if select in ("el2n", "forgetting", "bilp") else choice(select)
    ctx = tiny.context(many(), select=chosen, store=choice("tiles"), match=choice("none"), ipc=1)
    content = ctx.fields.store.begin(ctx)
    rows = ctx.fields.select.start(4, ctx)
    wanted = [tiles.mixed(ctx.real.pictures(mine).pixels / 255.0, 2, False) for mine in rows]
    torch.testing.assert_close(content.arrays["pixels"], torch.cat(wanted), rtol=0, atol=1e-6)
