"""Pictures in and out: guarded decoding to uint8 planes under stated rules, and lossless encoding."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from datastill.errors import DatastillError

Planes = npt.NDArray[np.uint8]
Codec = Literal["webp", "png"]

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

EXTENSIONS = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm")
    + (".tif", ".tiff", ".webp")
)
SMALLEST = 8
LARGEST_AREA = (1 << 30) // 12  # where Pillow begins to warn of a decompression bomb; here it is refused
_GREY_MODES = frozenset(["1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N"])
_ORIENTATION, _PHOTOMETRIC, _COLOUR = 0x0112, 0x0106, 2
_PNG_WITH_EXIF = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(DatastillError):
    """A picture that cannot be read: the sentence names it and says why."""


@dataclass(frozen=True)
class Facts:
    """What the header of a picture tells: height and width after turning, and what will have to be converted.

    kind: grey | grey16 | rgb | palette | alpha | cmyk | other. plain_webp: a WebP without alpha, which has no grey
    mode, so that only its pixels tell whether it is grey.
    """

    height: int
    width: int
    kind: str
    turned: bool
    animated: bool
    plain_webp: bool


def picture_facts(data: bytes, what: str) -> Facts:
    """Read only the header of a picture.

    Raises: PictureError when it is no picture, is larger than `LARGEST_AREA` pixels, or has a side below 8 pixels.
    """
    image = _open(data, what, LARGEST_AREA)
    orientation = _orientation(image, data)
    width, height = image.size[::-1] if _left_to_us(image, orientation) >= 5 else image.size
    if min(height, width) < SMALLEST:
        raise PictureError(f"the picture '{what}' is {width}x{height} pixels, and {SMALLEST}x{SMALLEST} is the least.")
    return Facts(
        height=height,
        width=width,
        kind=_kind(image),
        turned=orientation != 1,
        animated=bool(getattr(image, "is_animated", False)),
        plain_webp=image.format == "WEBP" and image.mode == "RGB",
    )


def read_planes(data: bytes, what: str, *, channels: int, size: int | None) -> Planes:
    """Decode a picture to exactly `channels` planes.

    EXIF orientation is applied; alpha is laid on white; palettes, CMYK and other colour spaces become RGB; 16-bit grey
    is divided by 257 and rounded. With `size`, the shorter side is brought to `size` (bicubic, antialiased) and the
    centre is cropped; a picture of exactly that size is left as it is.

    Args:
        data: the encoded file.
        what: the picture's name, for errors.
        channels: 1 or 3.
        size: side of the square that is wanted, in pixels; None keeps the picture's own size.

    Returns: uint8[channels, H, W].
    Raises: PictureError, naming the picture.
    """
    image = _load(data, what, LARGEST_AREA)
    image = _grey(image, what) if channels == 1 else _colour(image, what)
    if size is not None and image.size != (size, size):
        image = _square(image, size)
    return _planes(image)


def decode_picture(
    data: bytes,
    what: str,
    *,
    max_pixels: int = LARGEST_AREA,
    formats: Sequence[str] = FORMATS,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
) -> Planes:
    """Decode a picture to its own number of planes, the inverse of `encode_picture`.

    Grey pictures give one plane and all others three, converted as `read_planes` does. WebP knows no grey mode: there,
    three equal planes are a grey picture, unless `encode_picture` noted that they are colour.

    Args:
        data: the encoded file.
        what: the picture's name, for errors.
        max_pixels: H*W above which the picture is refused before its pixels are allocated.
        formats: the only ones that are tried, as Pillow names them.
        channels: 1 or 3 planes whatever the picture is; None takes its own number.
        size: the height and width that the header must tell, before pixels are allocated; None takes any.

    Returns: uint8[1 or 3, H, W].
    Raises: PictureError, naming the picture.
    """
    image = _load(data, what, max_pixels, formats, size)
    if channels is not None:
        return _planes(_grey(image, what) if channels == 1 else _colour(image, what))
    if _kind(image) in ("grey", "grey16"):
        return _planes(_grey(image, what))
    planes = _planes(_colour(image, what))
    if image.format == "WEBP" and image.mode == "RGB" and _all_equal(planes) and not _noted_colour(image):
        return planes[:1]
    return planes


def is_grey_webp(data: bytes, what: str) -> bool:
    """Tell whether a WebP without alpha is a grey picture: three equal planes, and no note that it is colour."""
    image = _load(data, what, LARGEST_AREA)
    return _all_equal(_planes(image)) and not _noted_colour(image)


def encode_picture(pixels: Planes, codec: Codec = "webp") -> bytes:
    """Encode a picture without loss, so that `decode_picture` gives back the same uint8[C, H, W].

    Args:
        pixels: uint8[1 or 3, H, W].
        codec: "webp" (lossless, quality 100, method 4) or "png" (optimised).

    Raises: DatastillError for a codec that there is not.
    """
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 3, pixels.shape
    assert pixels.shape[0] in (1, 3), pixels.shape
    image = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
    out = io.BytesIO()
    if codec == "png":
        image.save(out, "PNG", optimize=True)
    elif codec == "webp":
        note = b""
        if len(pixels) == 3 and _all_equal(pixels):
            # The rare colour picture with three equal planes would otherwise come back as a grey one.
            exif = Image.Exif()
            exif[_PHOTOMETRIC] = _COLOUR
            note = exif.tobytes()
        image.convert("RGB").save(out, "WEBP", lossless=True, quality=100, method=4, exif=note)
    else:
        raise DatastillError(f"there is no lossless codec '{codec}'; there are: png, webp.")
    return out.getvalue()


def _open(data: bytes, what: str, max_pixels: int, formats: Sequence[str] = FORMATS) -> Image.Image:
    if not data:
        raise PictureError(f"the picture '{what}' is empty (0 bytes).")
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"the picture '{what}' is too large to be opened safely: {error}") from error
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"the picture '{what}' is not in a format that can be read.") from error
    except Exception as error:  # decoders raise whatever they stumble over
        raise PictureError(f"the picture '{what}' cannot be read: {_reason(error)}.") from error
    if image.width * image.height > max_pixels:
        raise PictureError(
            f"the picture '{what}' is too large to be opened safely: {image.width}x{image.height} pixels, "
            f"and at most {max_pixels} pixels are allowed."
        )
    return image


def _load(
    data: bytes,
    what: str,
    max_pixels: int,
    formats: Sequence[str] = FORMATS,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """Decode the first frame, turned upright; `format` and `info` stay those of the file."""
    image = _open(data, what, max_pixels, formats)
    if size is not None and image.size != size[::-1]:
        raise PictureError(
            f"the picture '{what}' is {image.width}x{image.height} pixels, but {size[1]}x{size[0]} were declared."
        )
    orientation = _left_to_us(image, _orientation(image, data))
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they stumble over
        raise PictureError(f"the picture '{what}' cannot be read: {_reason(error)}.") from error
    if orientation == 1:
        return image
    upright = image.transpose(_TURNS[orientation])
    upright.format = image.format
    return upright


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _orientation(image: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it is damaged."""
    if image.format == "PNG" and not any(mark in data for mark in _PNG_WITH_EXIF):
        return 1  # asking a PNG for its EXIF data decodes the whole picture
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged tag table says nothing about the pixels
        return 1
    return value if value in _TURNS else 1


def _left_to_us(image: Image.Image, orientation: int) -> int:
    return 1 if image.format == "TIFF" else orientation  # Pillow turns a TIFF itself, and says the turned size


def _transparent(image: Image.Image) -> bool:
    return image.has_transparency_data and not image.mode.startswith("I")  # 16-bit grey has no form with alpha


def _kind(image: Image.Image) -> str:
    if _transparent(image):
        return "alpha"
    if image.mode in _GREY_MODES:
        return "grey16" if image.mode.startswith("I") else "grey"
    return {"RGB": "rgb", "P": "palette", "CMYK": "cmyk"}.get(image.mode, "other")


def _grey(image: Image.Image, what: str) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError(f"the picture '{what}' has grey values outside 0 to 65535, which have no 8-bit form.")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return image.convert("L")


def _colour(image: Image.Image, what: str) -> Image.Image:
    if _transparent(image):
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, opaque).convert("RGB")
    if image.mode in _GREY_MODES:
        return _grey(image, what).convert("RGB")
    if image.mode == "F":
        raise PictureError(f"the picture '{what}' has floating point pixels, which have no stated 8-bit form.")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise PictureError(f"the picture '{what}' has mode '{image.mode}', which cannot be made RGB.") from error


def _square(image: Image.Image, size: int) -> Image.Image:
    """Scale so that the shorter side is `size` and take the centre, in one resampling of the central square.

    Only the square is computed, so a very long picture costs no more than a square one.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _planes(image: Image.Image) -> Planes:
    array = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _all_equal(planes: Planes) -> bool:
    return np.array_equal(planes[0], planes[1]) and np.array_equal(planes[0], planes[2])


def _noted_colour(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get(_PHOTOMETRIC) == _COLOUR)
    except Exception:  # a damaged tag table notes nothing
        return False
