"""Codecs of pictures: lossless ones give back every pixel, lossy ones nearly, and neither is trusted blindly."""

from __future__ import annotations

import dataclasses
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import Tensor

from datastill.codecs import PictureCodec, decode_pictures, decoder, encode_pictures, picture_problems
from datastill.codecs.pictures import KINDS, atlas_size, columns
from datastill.errors import DatastillError
from datastill.settings import build

LOSSLESS = [name for name, kind in KINDS.items() if kind.lossless]
LOSSY = [name for name, kind in KINDS.items() if not kind.lossless]
COUNT = 11


def noise(channels: int, side: int = 8, count: int = COUNT) -> Tensor:
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def smooth(channels: int, side: int = 16, count: int = COUNT) -> Tensor:
    coarse = torch.rand((count, channels, 3, 3), generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
    return (fine * 255).to(torch.uint8)


def codec(name: str, tiles: int = 1, quality: int = 80) -> PictureCodec:
    known: Any = name
    return PictureCodec(format=known, tiles=tiles, quality=quality, chroma="420" if name == "webp" else "444")


def shape(pixels: Tensor) -> tuple[int, int, int]:
    channels, height, width = pixels.shape[1:]
    return channels, height, width


def back(pixels: Tensor, how: PictureCodec) -> Tensor:
    return decode_pictures(encode_pictures(pixels, how), how, len(pixels), shape(pixels))


def by_hand(pixels: Tensor, tiles: int) -> list[np.ndarray]:
    """Slow and plain: place every tile by its row and column."""
    count, channels, height, width = pixels.shape
    made = []
    for first in range(0, count, tiles):
        here = min(tiles, count - first)
        wide = next(w for w in range(1, here + 1) if w * w >= here)
        atlas = np.full((channels, -(-here // wide) * height, wide * width), 128, np.uint8)
        for i in range(here):
            top, left = i // wide * height, i % wide * width
            atlas[:, top : top + height, left : left + width] = pixels[first + i].numpy()
        made.append(atlas)
    return made


@pytest.mark.parametrize(("name", "channels", "tiles"), list(itertools.product(LOSSLESS, [1, 3], [1, 4, 9, 100])))
def test_lossless_codecs_give_back_every_pixel_in_its_place(name: str, channels: int, tiles: int) -> None:
    pixels = noise(channels)
    assert torch.equal(back(pixels, codec(name, tiles)), pixels)


@pytest.mark.parametrize("name", LOSSLESS)
def test_colour_pictures_whose_planes_are_equal_stay_colour_pictures(name: str) -> None:
    pixels = noise(1).expand(-1, 3, -1, -1).contiguous()
    for tiles in (1, 4):
        assert torch.equal(back(pixels, codec(name, tiles)), pixels)


@pytest.mark.parametrize(("channels", "tiles"), list(itertools.product([1, 3], [2, 4, 7, 11, 12])))
def test_an_atlas_is_the_grid_that_the_page_describes(channels: int, tiles: int) -> None:
    pixels = noise(channels)
    for data, wanted in zip(encode_pictures(pixels, codec("png", tiles)), by_hand(pixels, tiles), strict=True):
        with Image.open(io.BytesIO(data)) as image:
            found = np.asarray(image)
        assert np.array_equal(
            found if channels == 1 else found.transpose(2, 0, 1), wanted if channels == 3 else wanted[0]
        )


@pytest.mark.parametrize(("name", "channels", "tiles"), list(itertools.product(LOSSY, [1, 3], [1, 4, 100])))
def test_lossy_codecs_come_near_keep_the_number_of_channels_and_write_the_same_bytes(
    name: str, channels: int, tiles: int
) -> None:
    pixels, how = smooth(channels), codec(name, tiles, quality=90)
    files = encode_pictures(pixels, how)
    assert files == encode_pictures(pixels, how)
    assert len(files) == how.files(COUNT) == -(-COUNT // tiles)
    found = decode_pictures(files, how, COUNT, shape(pixels))
    assert found.dtype == torch.uint8
    assert found.shape == pixels.shape
    assert (found.float() - pixels.float()).square().mean().sqrt() < (20 if name == "webp" else 6)
    assert not torch.equal(found, pixels)


@pytest.mark.parametrize("name", LOSSY)
def test_more_quality_means_more_bytes_and_less_error(name: str) -> None:
    pixels = noise(3, 16)
    bytes_, errors = [], []
    for quality in (10, 50, 95):
        how = codec(name, 100, quality)
        bytes_.append(sum(map(len, encode_pictures(pixels, how))))
        errors.append(float((back(pixels, how).float() - pixels.float()).square().mean()))
    assert bytes_ == sorted(bytes_)
    assert errors == sorted(errors, reverse=True)


def test_packing_saves_what_headers_cost() -> None:
    pixels = smooth(3)
    alone, packed = (sum(map(len, encode_pictures(pixels, codec("avif", tiles)))) for tiles in (1, 100))
    assert packed < alone / 3


@pytest.mark.parametrize("name", LOSSY)
def test_a_neighbour_in_the_atlas_changes_only_pixels_near_its_border(name: str) -> None:
    """A black tile beside a white one: what leaks over the border is at most three pixels wide."""
    pixels = torch.zeros((4, 3, 32, 32), dtype=torch.uint8)
    pixels[1:] = 255
    found = back(pixels, codec(name, 4, quality=60)).int()
    wrong = (found - pixels.int()).abs().amax(dim=1) > 8
    assert not wrong[:, 3:-3, 3:-3].any()


def test_full_chroma_keeps_colour_edges_that_half_chroma_loses() -> None:
    pixels = noise(3, 16)
    for name in ("jpeg", "avif"):
        full, half = (
            (back(pixels, dataclasses.replace(codec(name, 16), chroma=chroma)).float() - pixels).square().mean()
            for chroma in ("444", "420")
        )
        assert full < half


@pytest.mark.parametrize("tiles", range(1, 60))
def test_a_grid_is_as_square_as_can_be_and_holds_every_tile(tiles: int) -> None:
    wide = columns(tiles)
    assert (wide - 1) ** 2 < tiles <= wide**2
    height, width = atlas_size(tiles, (3, 5, 7))
    assert width == 7 * wide
    assert 0 <= height // 5 * wide - tiles < wide


def test_no_pictures_take_no_files() -> None:
    for tiles in (1, 4):
        how = codec("png", tiles)
        assert encode_pictures(noise(3)[:0], how) == []
        assert decode_pictures([], how, 0, (3, 8, 8)).shape == (0, 3, 8, 8)


# --- refusals ---


def refused(files: list[bytes], how: PictureCodec, count: int, sentence: str, side: int = 8) -> None:
    with pytest.raises(DatastillError, match=sentence) as error:
        decode_pictures(files, how, count, (3, side, side), "a set")
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(("name", "library"), [("avif", "avif"), ("webp", "webp"), ("webp-lossless", "webp")])
def test_a_codec_that_pillow_lacks_is_refused_in_a_sentence(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, files = codec(name, 4), encode_pictures(noise(3), codec(name, 4))
    monkeypatch.setattr(features, "check", lambda feature: feature != library)
    (said,) = picture_problems(how, (3, 8, 8))
    assert "a Pillow that was built with" in said
    with pytest.raises(DatastillError, match="install a wheel of Pillow, or choose another format"):
        encode_pictures(noise(3), how)
    refused(files, how, COUNT, f"pictures in format '{name}' need a Pillow")


def test_a_codec_whose_plugin_did_not_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF")
    assert "need a Pillow" in picture_problems(codec("avif"), (3, 8, 8))[0]


def test_lossy_webp_has_no_full_chroma_but_grey_sets_do_not_mind() -> None:
    how = PictureCodec(format="webp")
    assert "no chroma 444" in picture_problems(how, (3, 8, 8))[0]
    assert not picture_problems(how, (1, 8, 8))


@pytest.mark.parametrize(("name", "tiles"), [("webp-lossless", 1 << 20), ("avif", 1 << 20), ("jpeg", 1 << 20)])
def test_atlases_larger_than_a_format_or_memory_bears_are_refused(name: str, tiles: int) -> None:
    assert "ask for fewer tiles" in picture_problems(codec(name, tiles), (3, 32, 32))[0]
    assert not picture_problems(codec(name, 1024), (3, 32, 32))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"quality": 101}, "'codec.quality' must be between 0 and 100"), ({"quality": -1}, "between 0 and 100"),
     ({"tiles": 0}, "'codec.tiles' must be between 1"), ({"format": "gif"}, "'codec.format' is 'gif'"),
     ({"chroma": "422"}, "'codec.chroma' is '422'"), ({"speed": 1}, "there is no setting 'codec.speed'")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(given: dict[str, object], said: str) -> None:
    mistakes: list[str] = []
    assert build(PictureCodec, given, "codec", mistakes) is None
    assert said in mistakes[0]


def test_chroma_may_be_a_number_as_yaml_reads_it() -> None:
    mistakes: list[str] = []
    assert build(PictureCodec, {"chroma": 420}, "codec", mistakes) == PictureCodec(chroma="420")
    assert not mistakes


@pytest.mark.parametrize("name", ["avif", "png", "webp", "jpeg", "raw"])
def test_an_atlas_of_another_size_is_refused_before_it_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how = codec(name, 4)
    files = encode_pictures(noise(3), how)
    larger = encode_pictures(noise(3, 16), how)
    flat = encode_pictures(noise(3, 8, 2), how)  # two tiles side by side
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    refused(
        [larger[0], *files[1:]], how, COUNT, "atlas 0' is too large to be opened safely: 32x32 pixels, and at most 256"
    )
    refused([flat[0], *files[1:]], how, COUNT, "a set: atlas 0' is 16x8 pixels, but 16x16 were declared")


def test_another_number_of_files_is_refused() -> None:
    how = codec("png", 4)
    files = encode_pictures(noise(3), how)
    refused(files[:2], how, COUNT, "has 2 files, but 11 pictures take 3")
    refused(files, how, 7, "has 3 files, but 7 pictures take 2")


@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_atlas_is_refused(name: str) -> None:
    how = codec(name, 16)
    (whole,) = encode_pictures(noise(3), how)
    refused([whole[: len(whole) // 2]], how, COUNT, "atlas 0")
    refused([b""], how, COUNT, "atlas 0' is empty")


def test_an_atlas_of_another_format_is_not_decoded() -> None:
    files = encode_pictures(noise(3), codec("png", 16))
    refused(files, codec("avif", 16), COUNT, "not in a format that can be read")


@pytest.mark.parametrize(("name", "library"), [("avif", "libavif"), ("webp", "libwebp"), ("webp-lossless", "libwebp"),
                                               ("jpeg", "libjpeg-turbo")])  # fmt: skip
def test_the_decoder_is_named_with_its_version(name: str, library: str) -> None:
    found = decoder(codec(name))
    assert list(found) == ["pillow", library]
    assert all(version[0].isdigit() for version in found.values())


def test_formats_without_a_library_of_their_own_name_pillow_alone() -> None:
    assert list(decoder(codec("png"))) == list(decoder(codec("raw"))) == ["pillow"]
