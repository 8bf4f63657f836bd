"""Decoding rules picture by picture, and lossless round trips."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datastill.errors import DatastillError
from datastill.sources.pictures import (
    PictureError,
    Planes,
    decode_picture,
    encode_picture,
    is_grey_webp,
    picture_facts,
    read_planes,
)


def noise(*shape: int, seed: int = 0) -> Planes:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("codec", ["webp", "png"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 9, 31), (3, 31, 9)])
def test_a_lossless_round_trip_is_bit_equal(codec, shape):
    pixels = noise(*shape)
    again = decode_picture(encode_picture(pixels, codec), "x")
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, pixels)


@pytest.mark.parametrize("codec", ["webp", "png"])
@pytest.mark.parametrize("value", [None, 0, 255])
def test_a_colour_picture_that_looks_grey_keeps_its_three_planes(codec, value):
    plane = noise(1, 12, 12) if value is None else np.full((1, 12, 12), value, np.uint8)
    pixels = plane.repeat(3, 0)
    np.testing.assert_array_equal(decode_picture(encode_picture(pixels, codec), "x"), pixels)
    np.testing.assert_array_equal(decode_picture(encode_picture(plane, codec), "x"), plane)


def test_a_grey_webp_is_told_from_a_colour_one():
    grey = noise(1, 8, 8)
    assert is_grey_webp(encode_picture(grey), "x")
    assert not is_grey_webp(encode_picture(grey.repeat(3, 0)), "x")
    assert not is_grey_webp(encode_picture(noise(3, 8, 8)), "x")


def test_encoding_is_deterministic_and_smaller_than_raw():
    ramp = np.arange(32 * 32, dtype=np.uint8).reshape(1, 32, 32)
    assert encode_picture(ramp) == encode_picture(ramp)
    assert len(encode_picture(ramp)) < ramp.size


def test_an_unknown_codec_is_refused():
    with pytest.raises(DatastillError, match="no lossless codec 'jpeg'; there are: png, webp"):
        encode_picture(noise(1, 8, 8), "jpeg")  # type: ignore[arg-type]  # on purpose


def test_sixteen_bit_grey_is_divided_by_257_and_rounded():
    values = np.array([[0, 128, 129, 257], [385, 386, 32768, 65535]], np.uint16).repeat(4, 0).repeat(2, 1)
    data = encoded(Image.fromarray(values))
    assert picture_facts(data, "x").kind == "grey16"
    want = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_picture(data, "x"), want[None])
    np.testing.assert_array_equal(read_planes(data, "x", channels=3, size=None), want[None].repeat(3, 0))


def test_one_bit_pictures_become_black_and_white():
    bits = noise(8, 8) > 127
    data = encoded(Image.fromarray(bits))
    np.testing.assert_array_equal(decode_picture(data, "x"), bits[None] * np.uint8(255))


def test_alpha_is_laid_on_white():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:4, :, 3] = 255
    rgba[6:, :, 3] = 102
    planes = decode_picture(encoded(Image.fromarray(rgba)), "x")
    assert planes.shape == (3, 8, 8)
    assert planes[:, 0, 0].tolist() == [200, 0, 0]
    assert planes[:, 5, 0].tolist() == [255, 255, 255]
    assert planes[:, 7, 0].tolist() == [233, 153, 153]


def test_a_palette_with_a_transparent_colour_is_laid_on_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    opaque, holed = encoded(image), encoded(image, transparency=1)
    assert picture_facts(opaque, "x").kind == "palette"
    assert picture_facts(holed, "x").kind == "alpha"
    assert decode_picture(opaque, "x")[:, 0, 0].tolist() == [40, 50, 60]
    assert decode_picture(holed, "x")[:, 0, 0].tolist() == [255, 255, 255]
    assert decode_picture(holed, "x")[:, 1, 1].tolist() == [10, 20, 30]


def test_cmyk_becomes_rgb():
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert picture_facts(data, "x").kind == "cmyk"
    red, green, blue = decode_picture(data, "x")[:, 4, 4]
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form, orientation):
    picture = noise(9, 13, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    turn = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: picture.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(picture),
    }[orientation]
    facts = picture_facts(data, "x")
    assert (facts.height, facts.width) == turn.shape[:2]
    assert facts.turned == (orientation != 1)
    np.testing.assert_array_equal(decode_picture(data, "x"), turn.transpose(2, 0, 1))


def test_the_first_of_several_frames_is_taken():
    first, second = Image.new("L", (8, 8), 7), Image.new("L", (8, 8), 200)
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert picture_facts(data, "x").animated
    assert set(np.unique(read_planes(data, "x", channels=3, size=None))) == {7}


def test_resizing_takes_the_central_square_of_the_shorter_side():
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = noise(16, 16, 3)
    planes = read_planes(encoded(Image.fromarray(wide)), "x", channels=3, size=16)
    np.testing.assert_array_equal(planes, wide[:, 16:32].transpose(2, 0, 1))


def test_shrinking_is_antialiased():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    planes = read_planes(encoded(Image.fromarray(checks)), "x", channels=1, size=16)
    assert planes.shape == (1, 16, 16)
    assert np.abs(planes[:, 2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_resizing_agrees_with_scaling_the_whole_and_cropping():
    picture = Image.fromarray(noise(40, 60, 3))
    whole = np.asarray(picture.resize((30, 20), Image.Resampling.BICUBIC))[:, 5:25]
    planes = read_planes(encoded(picture), "x", channels=3, size=20)
    np.testing.assert_array_equal(planes, whole.transpose(2, 0, 1))


def test_a_very_long_picture_costs_no_more_than_a_square_one():
    data = encoded(Image.new("L", (100_000, 8), 9))
    assert read_planes(data, "x", channels=1, size=512).shape == (1, 512, 512)


def truncated_jpeg() -> bytes:
    return encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")[:-900]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"no picture at all", "not in a format that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not in a format that can be read"),
        (truncated_jpeg(), "truncated"),
        (encoded(Image.fromarray(noise(16, 16, 3)))[:60], "cannot be read"),
        (encoded(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "outside 0 to 65535"),
        (encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "floating point"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(data, reason):
    with pytest.raises(PictureError, match=f"the picture 'cat/7.png' .*{reason}"):
        decode_picture(data, "cat/7.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd tags before it gives up
def test_cut_and_damaged_copies_of_a_picture_decode_or_give_our_sentence(form):
    random = np.random.default_rng(0)
    whole = encoded(Image.fromarray(noise(12, 12, 3)), form)
    broken = [whole[:end] for end in range(0, len(whole), 29)]
    for _ in range(60):
        copy = bytearray(whole)
        copy[random.integers(len(copy))] = random.integers(256)
        broken.append(bytes(copy))
    refused = 0
    for data in broken:
        try:
            decode_picture(data, "x")
        except PictureError:
            refused += 1
    assert 0 < refused < len(broken)


def test_a_picture_below_eight_pixels_is_refused():
    with pytest.raises(PictureError, match="'x' is 30x7 pixels, and 8x8 is the least"):
        picture_facts(encoded(Image.new("L", (30, 7))), "x")


def test_a_picture_larger_than_declared_is_refused_before_it_is_decoded():
    data = encoded(Image.new("L", (20, 20)))
    with pytest.raises(PictureError, match="too large to be opened safely: 20x20 pixels, and at most 100 pixels"):
        decode_picture(data, "x", max_pixels=100)
    assert decode_picture(data, "x", max_pixels=400).shape == (1, 20, 20)


@pytest.mark.parametrize("limit", [300, 150])
def test_pillows_own_guard_gives_our_sentence(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 400 pixels: a warning above 300, an error above 2 * 150
    with pytest.raises(PictureError, match="'x' is too large to be opened safely"):
        picture_facts(encoded(Image.new("L", (20, 20))), "x")


def test_only_the_formats_that_are_named_are_tried():
    pixels = np.zeros((3, 8, 8), np.uint8)
    data = encode_picture(pixels, "png")
    assert np.array_equal(decode_picture(data, "it", formats=["PNG"]), pixels)
    with pytest.raises(PictureError, match="'it' is not in a format that can be read"):
        decode_picture(data, "it", formats=["WEBP"])
