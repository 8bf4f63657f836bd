"""Real images under a lossy codec: what is looked at is what a receiver decodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datastill.codecs import PictureCodec, decode_pictures
from datastill.engine import build_content
from datastill.errors import DatastillError
from datastill.fields import Content, Context
from datastill.recipe import Choice, choice
from datastill.store import Coded, Compensated, Pixels
from datastill.store.naturals import coded
from reference import tiny

SMALL = {"format": "avif", "quality": 40, "tiles": 5}


def opened(store: Choice, data: Any = None, **changes: Any) -> tuple[Context, Content]:
    ctx = tiny.context(data, given={}, store=store, match=choice("none"), **changes)
    return ctx, ctx.fields.store.begin(ctx)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).square().mean().sqrt())


def test_the_default_is_packed_avif_of_full_chroma() -> None:
    assert Coded().codec == PictureCodec(format="avif", quality=60, chroma="444", tiles=1024)
    assert Pixels().codec == Compensated().codec == PictureCodec()


@pytest.mark.parametrize("kind", ["coded", "pixels"])
def test_sealed_pictures_are_what_their_files_decode_to(kind: str) -> None:
    ctx, content = opened(choice(kind, per_class=3, codec=SMALL))
    sealed = ctx.fields.store.seal(content)
    assert sealed.pictures.encoded is not None
    assert len(sealed.pictures.encoded) == 3  # 12 pictures, five a file
    found = decode_pictures(sealed.pictures.encoded, sealed.pictures.codec, 12, tiny.SHAPE)
    assert torch.equal(sealed.pictures.pixels, found)
    assert torch.equal(ctx.fields.store.expand(sealed), found)
    assert 0 < error(found, content.pictures.pixels) < 40


def test_sealing_twice_loses_no_more_than_once() -> None:
    ctx, content = opened(choice("coded", codec=SMALL))
    once = ctx.fields.store.seal(content)
    twice = ctx.fields.store.seal(once)
    assert torch.equal(once.pictures.pixels, twice.pictures.pixels)
    assert once.pictures.encoded == twice.pictures.encoded


def test_a_lossless_codec_keeps_the_pixels_and_only_its_name_is_new() -> None:
    ctx, content = opened(choice("pixels", codec={"format": "png", "tiles": 4}))
    sealed = ctx.fields.store.seal(content)
    assert torch.equal(sealed.pictures.pixels, content.pictures.pixels)
    assert sealed.pictures.codec == PictureCodec(format="png", tiles=4)
    assert sealed.pictures.encoded is None


def test_packed_pictures_are_the_same_images_sorted_by_place_within_their_class() -> None:
    plain, packed = (opened(choice("pixels", total=18, codec={"tiles": t}))[1].pictures for t in (1, 5))
    assert sorted(plain.ids) == sorted(packed.ids)
    assert plain.ids != packed.ids
    assert torch.equal(plain.cls, packed.cls)
    assert packed.places is not None
    assert (packed.places.diff() > 0).all()  # over all classes: differences are small, and cost little


def test_a_place_leads_back_to_the_image_by_numpy_alone() -> None:
    train = tiny.dataset().train
    pictures = opened(choice("pixels"))[1].pictures
    assert pictures.places is not None
    rows = train.labels.numpy().argsort(kind="stable")[pictures.places.numpy()]
    assert tuple(train.ids[row] for row in rows) == pictures.ids
    assert torch.equal(train.pixels[torch.from_numpy(rows)], pictures.pixels)


def test_compensators_are_opened_on_decoded_pictures() -> None:
    ctx, content = opened(choice("compensated", codec=SMALL))
    _, plain = opened(choice("compensated", codec={"tiles": 5}))
    assert content.pictures.encoded is not None
    assert content.pictures.ids == plain.pictures.ids
    assert error(content.pictures.pixels, plain.pictures.pixels) > 0
    x = ctx.fields.store.decode(content, torch.arange(len(content.items)))
    assert torch.equal((x * 255).round().to(torch.uint8), content.pictures.pixels[content.items.picture])
    sealed = ctx.fields.store.seal(content)
    assert torch.equal(sealed.pictures.pixels, content.pictures.pixels)
    assert sealed.pictures.encoded == content.pictures.encoded


def test_a_run_learns_compensators_for_the_decoded_pictures() -> None:
    stores = [choice("compensated", codec=codec) for codec in (SMALL, {})]
    lossy, plain = (build_content(tiny.context(store=store)) for store in stores)
    assert lossy.arrays["compensators"].abs().max() > 0
    assert not torch.equal(lossy.arrays["compensators"], plain.arrays["compensators"])


def test_leftover_images_are_coded_with_the_others() -> None:
    ctx, content = opened(choice("compensated", codec=SMALL, leftover="natural"), ipc=5)
    assert len(content.pictures.cls) == len(content.pictures.pixels) > 12
    assert torch.equal(content.pictures.cls[content.items.picture], content.items.cls)


def test_a_codec_may_be_given_in_part_and_the_rest_is_the_stores_own() -> None:
    ctx = tiny.context(given={}, store=choice("coded", codec={"quality": 33}), match=choice("none"))
    store = ctx.fields.store
    assert isinstance(store, Coded)
    assert store.codec == PictureCodec(format="avif", quality=33, chroma="444", tiles=1024)


@pytest.mark.parametrize("kind", ["coded", "pixels", "compensated"])
def test_settings_of_a_codec_are_set_by_path(kind: str) -> None:
    made = tiny.recipe(store=choice(kind)).changed(["store.codec.format=jpeg", "store.codec.chroma=420"])
    ctx = tiny.context(given={}, store=made.store, match=choice("none"))
    codec: PictureCodec = ctx.fields.store.codec  # type: ignore[attr-defined]  # of these stores
    assert (codec.format, codec.chroma) == ("jpeg", "420")
    assert codec.tiles == (1024 if kind == "coded" else 1)


@pytest.mark.parametrize("kind", ["coded", "pixels", "compensated"])
def test_codecs_that_cannot_be_are_refused_before_any_work(kind: str) -> None:
    def refused(codec: dict[str, Any], said: str) -> None:
        with pytest.raises(DatastillError, match=said):
            tiny.context(given={}, store=choice(kind, codec=codec), match=choice("none"))

    refused({"format": "webp", "chroma": "444"}, f"store '{kind}': lossy WebP has no chroma 444")
    refused({"format": "gif"}, r"'store\.codec\.format' is 'gif'")
    refused({"quality": 101}, r"'store\.codec\.quality' must be between 0 and 100")
    refused({"fromat": "avif"}, r"there is no setting 'store\.codec\.fromat'; did you mean 'store\.codec\.format'")


def test_the_released_habit_keeps_its_own_codec() -> None:
    with pytest.raises(DatastillError, match="leave its codec alone"):
        tiny.context(given={}, store=choice("compensated", storage="jpeg75", codec=SMALL))


def test_grey_pictures_stay_grey() -> None:
    data = tiny.dataset(shape=(1, 8, 8))
    ctx, content = opened(choice("coded", codec=SMALL), data)
    assert ctx.fields.store.expand(ctx.fields.store.seal(content)).shape == (16, 1, 8, 8)


def test_coding_pictures_again_under_another_codec_codes_them() -> None:
    _, content = opened(choice("pixels"))
    once = coded(content.pictures, PictureCodec(format="jpeg", quality=30))
    other = coded(once, PictureCodec(format="jpeg", quality=90))
    assert once.encoded != other.encoded
    assert other.codec.quality == 90
