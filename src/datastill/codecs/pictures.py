"""Codecs of stored pictures: one file per picture, or atlases that pack many small pictures into one.

P pictures of C channels (1 or 3) and H x W pixels. A file of one 32-pixel picture is mostly headers and tables; packed,
an AVIF costs about 350 bytes less per picture (measured on CIFAR-100).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch import Tensor

from datastill.errors import DatastillError
from datastill.settings import setting
from datastill.sources.pictures import LARGEST_AREA, Planes, decode_picture, encode_picture

Format = Literal["raw", "webp-lossless", "png", "jpeg", "webp", "avif"]
Shape = tuple[int, int, int]

FILL = 128  # what stands in the places of an atlas that no picture takes
# Of AVIF: one thread and no tiling by the count of cores, so that every machine writes the same bytes. At speed 4 files
# are 6 % smaller at equal error, and take five times as long.
AVIF: dict[str, Any] = {"speed": 6, "max_threads": 1, "autotiling": False}


@dataclass(frozen=True)
class _Kind:
    """A format as Pillow knows it: its name, the file's ending, the library behind it and its longest side."""

    pillow: str
    ending: str
    lossless: bool
    backend: str | None = None
    side: int = 65535

    def opens(self) -> bool:
        """Tell whether this Pillow reads and writes it."""
        Image.init()
        built = self.backend is None or bool(features.check(self.backend))
        return built and self.pillow in Image.SAVE and self.pillow in Image.OPEN


KINDS: dict[str, _Kind] = {
    "raw": _Kind("PPM", "ppm", True),
    "webp-lossless": _Kind("WEBP", "webp", True, "webp", 16383),
    "png": _Kind("PNG", "png", True, "zlib"),
    "jpeg": _Kind("JPEG", "jpg", False, "jpg", 65500),
    "webp": _Kind("WEBP", "webp", False, "webp", 16383),
    "avif": _Kind("AVIF", "avif", False, "avif"),
}


@dataclass(frozen=True, kw_only=True)
class PictureCodec:
    """How pictures are stored. Lossless formats ignore `quality` and `chroma`; "raw" is PPM, uncompressed.

    With `tiles` above 1, up to that many pictures share one file: an atlas of `columns(n)` tiles a row, row by row.
    """

    format: Format = setting("webp-lossless")
    quality: int = setting(60, low=0, high=100, help="of lossy formats")
    chroma: Literal["444", "420"] = setting("444", help="colour at full or at half resolution")
    tiles: int = setting(1, low=1, high=1 << 20, help="most pictures per file; above 1, they are packed into atlases")

    @property
    def lossless(self) -> bool:
        """Whether every pixel comes back."""
        return KINDS[self.format].lossless

    @property
    def packed(self) -> bool:
        """Whether a file holds many pictures."""
        return self.tiles > 1

    @property
    def ending(self) -> str:
        """What the names of files end in, without the dot."""
        return KINDS[self.format].ending

    def files(self, count: int) -> int:
        """Return how many files `count` pictures take."""
        return -(-count // self.tiles)


def columns(tiles: int) -> int:
    """Return how many tiles stand in a row of an atlas of so many: as square as can be."""
    return math.isqrt(max(tiles, 1) - 1) + 1


def atlas_size(tiles: int, shape: Shape) -> tuple[int, int]:
    """Return height and width in pixels of an atlas of so many tiles of `shape` (C, H, W)."""
    wide = columns(tiles)
    return -(-tiles // wide) * shape[1], wide * shape[2]


def problems(codec: PictureCodec, shape: Shape) -> list[str]:
    """Return one sentence for each reason why pictures of `shape` (C, H, W) cannot be stored so."""
    kind, found = KINDS[codec.format], []
    if not kind.opens():
        found.append(
            f"pictures in format '{codec.format}' need a Pillow that was built with {kind.pillow}, and the one here "
            f"({PIL.__version__}) was not; install a wheel of Pillow, or choose another format, such as webp-lossless."
        )
    if codec.format == "webp" and codec.chroma == "444" and shape[0] == 3:
        found.append("lossy WebP has no chroma 444, it always halves colour; ask for chroma=420, or for format=avif.")
    height, width = atlas_size(codec.tiles, shape)
    if max(height, width) > kind.side or height * width > LARGEST_AREA:
        found.append(
            f"an atlas of {codec.tiles} pictures would be {width}x{height} pixels, and {codec.format} takes at most "
            f"{kind.side} a side and {LARGEST_AREA} in all; ask for fewer tiles."
        )
    return found


def encode(pixels: Tensor, codec: PictureCodec) -> list[bytes]:
    """Encode pictures uint8[P, C, H, W] to files, `codec.files(P)` of them, in order; the same bytes every time.

    Raises: DatastillError for a codec that cannot hold them (see `problems`).
    """
    _refuse(problems(codec, _shape(pixels)))
    parts = [pixels.numpy()[i : i + codec.tiles] for i in range(0, len(pixels), codec.tiles)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="datastill-encode") as pool:
        return list(pool.map(lambda part: _encode(_packed(part), codec), parts))


def decode(files: Sequence[bytes], codec: PictureCodec, count: int, shape: Shape, what: str = "the pictures") -> Tensor:
    """Decode files to uint8[count, C, H, W], the inverse of `encode`.

    Nothing is decoded that is larger than count, tiles and shape imply.

    Args:
        files: as `encode` returned them.
        codec: what they were encoded with.
        count: P.
        shape: C, H, W.
        what: where they stand, for errors.

    Raises: DatastillError, naming the file, for one that is damaged, of another format or of another size.
    """
    _refuse(problems(codec, shape))
    if len(files) != codec.files(count):
        raise DatastillError(f"'{what}' has {len(files)} files, but {count} pictures take {codec.files(count)}.")
    pixels = torch.empty((count, *shape), dtype=torch.uint8)
    for i, data in enumerate(files):
        first = i * codec.tiles
        here = min(codec.tiles, count - first)
        planes = _decode(data, codec, here, shape, f"{what}: {'atlas' if codec.packed else 'picture'} {i}")
        height, width = atlas_size(here, shape)
        if planes.shape != (shape[0], height, width):
            raise DatastillError(
                f"'{what}': {'atlas' if codec.packed else 'picture'} {i} is {planes.shape}, but the manifest says "
                f"{(shape[0], height, width)}."
            )
        pixels[first : first + here] = torch.tensor(_unpacked(planes, shape)[:here])
    return pixels


def decoder(codec: PictureCodec) -> dict[str, str]:
    """Return the versions that decoded pixels may depend on: of Pillow, and of the library behind the format."""
    named = {"jpeg": ("libjpeg-turbo", "libjpeg_turbo"), "avif": ("libavif", "avif")}
    name, feature = named.get(codec.format, ("libwebp", "webp"))
    found = {"pillow": PIL.__version__}
    if KINDS[codec.format].pillow in ("JPEG", "AVIF", "WEBP"):
        found[name] = str(features.version(feature) or features.version(KINDS[codec.format].backend or ""))
    return found


def _shape(pixels: Tensor) -> Shape:
    channels, height, width = pixels.shape[1:]
    return channels, height, width


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise DatastillError(" ".join(mistakes))


def _packed(part: Planes) -> Planes:
    """Return uint8[n, C, H, W] as one picture uint8[C, rows * H, columns * W]."""
    n, channels, height, width = part.shape
    wide = columns(n)
    whole = np.full((-(-n // wide) * wide, channels, height, width), FILL, np.uint8)
    whole[:n] = part
    grid = whole.reshape(-1, wide, channels, height, width).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(grid.reshape(channels, -1, wide * width))


def _unpacked(planes: Planes, shape: Shape) -> Planes:
    """Return the tiles of an atlas uint8[C, h, w] as uint8[n, C, H, W]."""
    channels, height, width = shape
    grid = planes.reshape(channels, planes.shape[1] // height, height, planes.shape[2] // width, width)
    return np.ascontiguousarray(grid.transpose(1, 3, 0, 2, 4).reshape(-1, channels, height, width))


def _encode(planes: Planes, codec: PictureCodec) -> bytes:
    if codec.format in ("webp-lossless", "png"):
        return encode_picture(planes, "png" if codec.format == "png" else "webp")
    grey = len(planes) == 1
    image = Image.fromarray(np.ascontiguousarray(planes[0] if grey else planes.transpose(1, 2, 0)))
    out, chroma = io.BytesIO(), f"{codec.chroma[0]}:{codec.chroma[1]}:{codec.chroma[2]}"
    if codec.format == "raw":
        image.save(out, "PPM")
    elif codec.format == "jpeg":
        image.save(out, "JPEG", quality=codec.quality, subsampling=chroma, optimize=True)
    elif codec.format == "webp":
        image.convert("RGB").save(out, "WEBP", quality=codec.quality, method=6)
    else:
        image.save(out, "AVIF", quality=codec.quality, subsampling="4:0:0" if grey else chroma, **AVIF)
    return out.getvalue()


def _decode(data: bytes, codec: PictureCodec, tiles: int, shape: Shape, what: str) -> Planes:
    height, width = atlas_size(tiles, shape)
    return decode_picture(
        data,
        what,
        max_pixels=height * width,
        formats=[KINDS[codec.format].pillow],
        # Lossy WebP and AVIF come back as colour whatever they hold; the others know, or noted, what they are.
        channels=shape[0] if codec.format in ("webp", "avif") else None,
        size=(height, width) if codec.packed else None,
    )
