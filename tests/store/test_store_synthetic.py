"""Learned pixels: where they begin, in which unit, how they are cut into sets, and what is kept of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.export import sheet
from datastill.fields import Content, Context, Labels
from datastill.recipe import choice
from datastill.report.pictures import class_grid
from datastill.store import Synthetic
from datastill.store.synthetic import Blocks
from reference import squeeze, tiny


def opened(ipc: int = 5, seed: int = 0, **settings: Any) -> tuple[Context, Synthetic, Content]:
    store = choice("synthetic", **settings)
    ctx = tiny.context(given={}, store=store, match=choice("none"), ipc=ipc, seed=seed)
    assert isinstance(ctx.fields.store, Synthetic)
    return ctx, ctx.fields.store, ctx.fields.store.begin(ctx)


def every(content: Content) -> torch.Tensor:
    return torch.arange(len(content.items))


def moved(store: Synthetic, content: Content, by: float = 0.7) -> Content:
    """Move what is learned, far enough that some of it leaves black and white, and let the store project."""
    pixels = content.arrays["pixels"]
    pixels += by * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    store.settle(content)
    return content


def distilled(out: Path, **settings: Any) -> DistilledDataset:
    return tiny.distilled(out, store=choice("synthetic", **settings), match=choice("none"), label=choice("hard"))


# --- where it begins ---


def test_noise_is_standard_in_units_of_the_deviation_and_differs_for_every_picture() -> None:
    _, _, content = opened(ipc=40)
    x = content.arrays["pixels"]
    assert (x.shape, x.dtype, content.learned) == ((160, *tiny.SHAPE), torch.float32, ("pixels",))
    assert x.mean().abs() < 0.02
    assert x.std() == pytest.approx(1.0, abs=0.02)
    assert torch.corrcoef(x.flatten(1)).fill_diagonal_(0.0).abs().max() < 0.4


def test_a_larger_set_begins_like_a_smaller_one() -> None:
    few, many = (opened(ipc=ipc)[2].arrays["pixels"].view(4, ipc, *tiny.SHAPE) for ipc in (3, 5))
    assert torch.equal(many[:, :3], few)


@pytest.mark.parametrize("init", ["noise", "real"])
def test_both_units_begin_with_the_same_picture(init: str) -> None:
    (_, store, content), (_, other, plain) = (opened(init=init, space=space) for space in ("std", "pixel"))
    x, y = store.decode(content, every(content), open=True), other.decode(plain, every(plain), open=True)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    assert torch.equal(y, plain.arrays["pixels"])


def test_real_pictures_are_those_of_the_selection_in_the_order_of_the_classes() -> None:
    ctx, store, content = opened(init="real")
    real = ctx.real.pictures(ctx.fields.select.start(5, ctx).flatten())
    assert content.pictures.ids == real.ids
    assert torch.equal(content.items.cls, real.cls)
    x = store.decode(content, every(content), open=True)
    torch.testing.assert_close(x, real.pixels / 255.0, rtol=0, atol=1e-6)


def test_a_class_with_too_few_real_images_is_refused() -> None:
    with pytest.raises(DatastillError, match="class 'class 0' has 12 training images, but this recipe starts from 13"):
        opened(ipc=13, init="real")
    opened(ipc=13)


# --- what is decoded ---


@pytest.mark.parametrize("space", ["std", "pixel"])
def test_the_gradient_in_the_learned_unit_is_that_at_the_pixels_times_its_size(space: str) -> None:
    ctx, store, content = opened(space=space)
    content.arrays["pixels"].requires_grad_()
    rows = torch.tensor([3, 0, 3])
    dx = torch.randn((3, *tiny.SHAPE), generator=torch.Generator().manual_seed(0))
    store.decode(content, rows, open=True).backward(dx)
    size = torch.tensor(ctx.info.std).view(-1, 1, 1) if space == "std" else 1.0
    wanted = torch.zeros(20, *tiny.SHAPE)
    wanted[0], wanted[3] = dx[1] * size, (dx[0] + dx[2]) * size
    gradient = content.arrays["pixels"].grad
    assert gradient is not None
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("space", ["std", "pixel"])
def test_bound_pixels_are_cut_to_black_and_white_and_others_are_left(space: str) -> None:
    _, store, content = opened(space=space)
    before = store.decode(moved(Synthetic(bound=False), content), every(content), open=True)
    store.settle(content)
    after = store.decode(content, every(content), open=True)
    assert before.min() < -0.1
    assert before.max() > 1.1
    torch.testing.assert_close(after, before.clamp(0, 1), rtol=0, atol=1e-6)


# --- sets ---


@pytest.mark.parametrize("block", [None, 1, 3, 4, 100])
@pytest.mark.parametrize("order", ["across", "class-major"])
def test_sets_are_those_of_the_released_loops(order: str, block: int | None) -> None:
    _, _, content = opened(ipc=5, block=block, order=order)
    plain = {"across": squeeze.sets_across, "class-major": squeeze.sets_class_major}[order](4, 5, block or 4)
    items = content.items
    found = [
        [divmod(int(row), 5) for row in (items.set == number).nonzero().flatten()] for number in items.set.unique()
    ]
    assert sorted(map(sorted, found)) == sorted(map(sorted, plain))


def test_blocks_across_hold_each_class_once() -> None:
    cls, number = torch.arange(7).repeat_interleave(3), torch.arange(3).repeat(7)
    sets = Blocks("across", 4).sets(cls, number, 7)
    assert sets.unique().tolist() == list(range(6))
    for one in sets.unique():
        mine = cls[sets == one].tolist()
        assert sorted(mine) in ([0, 1, 2, 3], [4, 5, 6])


@pytest.mark.parametrize(("ipc", "group", "block"), [(5, 2, 4), (5, 2, 8), (4, 1, 3), (6, 3, 100), (3, 7, 5)])
def test_groups_stand_class_after_class_before_the_next_ones(ipc: int, group: int, block: int) -> None:
    _, _, content = opened(ipc=ipc, block=block, order="class-major", group=group)
    order = [
        (k, j) for first in range(0, ipc, group) for k in range(4) for j in range(first, min(first + group, ipc))
    ]  # fmt: skip
    items = content.items
    for row in range(4 * ipc):
        assert int(items.set[row]) == order.index(divmod(row, ipc)) // block


def test_groups_of_one_image_are_blocks_across_where_these_fit() -> None:
    cls, number = torch.arange(6).repeat_interleave(3), torch.arange(3).repeat(6)
    assert torch.equal(Blocks("class-major", 3, 1).sets(cls, number, 6), Blocks("across", 3).sets(cls, number, 6))
    with pytest.raises(DatastillError, match="was given group=2, which is of class-major order, but order=across"):
        opened(group=2)


# --- what is kept ---


@pytest.mark.parametrize(("rounding", "levels"), [("nearest", torch.round), ("truncate", torch.floor)])
def test_eight_bits_are_rounded_as_asked_and_kept_without_loss(rounding: str, levels: Any) -> None:
    _, store, content = opened(rounding=rounding)
    moved(store, content)
    x = store.decode(content, every(content), open=True).clamp(0, 1)
    sealed = store.seal(content)
    assert torch.equal(store.expand(sealed), levels(x * 255.0).to(torch.uint8))
    assert sealed.pictures.ids == ("",) * 20
    assert (sealed.items.unit == -1).all()
    assert sealed.arrays == {}
    assert torch.equal(store.expand(store.seal(sealed)), store.expand(sealed))


def test_a_lossy_codec_is_applied_at_the_seal() -> None:
    codec = {"format": "jpeg", "quality": 75, "chroma": "420"}
    (_, store, content), (_, plain, same) = opened(codec=codec, rounding="truncate"), opened(rounding="truncate")
    sealed, exact = store.seal(moved(store, content)), plain.seal(moved(plain, same))
    assert sealed.pictures.encoded is not None
    for file, pixels, levels in zip(sealed.pictures.encoded, store.expand(sealed), plain.expand(exact), strict=True):
        back = torch.from_numpy(np.array(Image.open(io.BytesIO(file)))).permute(2, 0, 1)
        assert torch.equal(back, pixels)
        assert not torch.equal(pixels, levels)


@pytest.mark.parametrize(("storage", "dtype"), [("fp16", torch.float16), ("fp32", torch.float32)])
@pytest.mark.parametrize("bound", [True, False])
def test_floats_come_back_from_disk_beyond_black_and_white_where_they_are_free(
    storage: str, dtype: torch.dtype, bound: bool, tmp_path: Path
) -> None:
    ctx, store, content = opened(storage=storage, bound=bound)
    sealed = store.seal(moved(store, content))
    assert sealed.arrays["pixels"].dtype == dtype
    made = DistilledDataset(ctx.recipe.patched({"label": "hard"}), ctx.info, ctx.real.classes, sealed, _hard())
    made.save(tmp_path)
    images = DistilledDataset.load(tmp_path).expand().images
    assert torch.equal(images, store.expand(sealed))
    assert images.dtype == torch.float32
    assert bool((images < 0).any() and (images > 1).any()) is not bound
    x = store.decode(content, every(content), open=True)
    torch.testing.assert_close(images, x.clamp(0, 1) if bound else x, rtol=0, atol=2e-3 if storage == "fp16" else 0)


def _hard() -> Labels:
    return Labels("classes")


def test_a_real_picture_that_did_not_move_is_named_as_the_real_image_that_it_is() -> None:
    _, store, content = opened(init="real")
    content.arrays["pixels"][7] += 0.5
    store.settle(content)
    sealed = store.seal(content)
    wanted = list(content.pictures.ids)
    wanted[7] = ""
    assert sealed.pictures.ids == tuple(wanted)
    assert sealed.pictures.places is not None
    assert content.pictures.places is not None
    assert (sealed.pictures.places == -1).nonzero().flatten().tolist() == [7]
    kept = torch.arange(20) != 7
    assert torch.equal(sealed.pictures.places[kept], content.pictures.places[kept])
    assert torch.equal(sealed.pictures.pixels[kept], content.pictures.pixels[kept])


# --- what is said of it ---


@pytest.mark.parametrize("settings", [{}, {"storage": "fp16"}, {"codec": {"format": "avif", "tiles": 8}}])
def test_bytes_are_those_of_learned_images_and_the_card_names_no_compensator(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    made = distilled(tmp_path / "set", **settings)
    ledger = made.ledger()
    assert ledger["natural images"] == ledger["compensators"] == 0
    assert ledger["learned images"] > 0
    assert ledger["total"] == sum(size for name, size in ledger.items() if name != "total")
    text = (tmp_path / "set" / "README.md").read_text()
    assert "**learned pictures**: made by optimisation, and not real images of the training set." in text
    assert "compensator" not in text
    assert "**real images**" not in text
    assert ("store.pixels" in text) == ("storage" in settings)
    assert made.facts["counts"] == {"natural": 0, "learned": 16, "items": 16, "batches": 4}


def test_the_card_says_that_pictures_began_as_real_ones_and_that_some_still_are(tmp_path: Path) -> None:
    distilled(tmp_path / "set", init="real")
    text = " ".join((tmp_path / "set" / "README.md").read_text().split())
    assert "each begun from a real image, which it may still show" in text
    assert "but for those that `id` or `place` names, which are" in text


def test_pictures_beyond_black_and_white_are_shown_cut(tmp_path: Path) -> None:
    ctx, store, content = opened(storage="fp32", bound=False)
    content.arrays["pixels"][0] = 100.0
    sealed = store.seal(content)
    made = DistilledDataset(ctx.recipe.patched({"label": "hard"}), ctx.info, ctx.real.classes, sealed, _hard())
    assert class_grid(made).compensators is None
    assert np.array(sheet(made))[1:9, 1:9].min() == 255


def test_settings_that_contradict_each_other_are_refused() -> None:
    for settings in ({"codec": {"format": "png"}}, {"rounding": "truncate"}):
        with pytest.raises(DatastillError, match="keeps arrays of floats with storage=fp16; leave its codec and"):
            opened(storage="fp16", **settings)
    with pytest.raises(DatastillError, match="store 'synthetic': lossy WebP has no chroma 444"):
        opened(codec={"format": "webp"})
    with pytest.raises(DatastillError, match="match 'noise' needs compensators, which no other choice here provides"):
        tiny.context(given={}, store=choice("synthetic"), match=choice("noise", norms=[1.0]))
