"""Decode a listing once, in parallel, and keep the result: memory-mapped pixels under the cache folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from datastill.errors import DatastillError
from datastill.runtime.cache import cache_dir, locked
from datastill.runtime.files import digest_of, read_json, write_atomic, write_json
from datastill.sources.content import channel_moments, checksum, content_hash
from datastill.sources.listing import Listing, Opener, check_classes
from datastill.sources.pictures import Facts, PictureError, Planes, is_grey_webp, picture_facts, read_planes
from datastill.sources.splits import split_note, stratified_test

FORMAT = 1
"""Version of what decoding gives and of how it is kept; a change makes every cache entry anew."""

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What changes the decoded result: side in pixels, leniency, and how a missing test split is made."""

    size: int | None
    skip_bad: bool
    split_seed: int
    test_fraction: float


@dataclass(frozen=True)
class Decoded:
    """Pixels uint8[N, C, H, W], training rows first, with ids and labels in the same order.

    trained: number of training rows. split: whether the test split is ours. fingerprint: hash of the content. mean,
    std: of the training rows. checksum: CRC-32 of the pixels.
    """

    pixels: Planes
    labels: list[int]
    ids: list[str]
    trained: int
    split: bool
    bad: list[str]
    notes: list[str]
    fingerprint: str
    mean: list[float]
    std: list[float]
    checksum: int


@dataclass(frozen=True)
class _Plan:
    """rows: listing rows in the order of the result. channels, size: as for `read_planes`. height, width: of all."""

    rows: npt.NDArray[np.int64]
    trained: int
    channels: int
    size: int | None
    height: int
    width: int
    notes: list[str]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), self.channels, self.height, self.width


def decode(listing: Listing, options: Options) -> Decoded:
    """Decode every picture of a listing, or take the result of an earlier time from the cache.

    Several processes may ask at once: one decodes and the others wait. An entry that is damaged is made anew.
    """
    if listing.key is None:
        return _made(listing, options, None)
    key = digest_of([FORMAT, listing.key, listing.name, listing.classes, asdict(options)])
    folder = cache_dir() / "decoded" / key
    try:
        with locked(folder):
            kept = _kept(folder)
            return kept if kept is not None else _made(listing, options, folder)
    except OSError as error:
        raise DatastillError(
            f"the cache folder '{cache_dir()}' cannot be used: {error.strerror or error}; set DATASTILL_CACHE to one "
            "that can be written."
        ) from error


def _kept(folder: Path) -> Decoded | None:
    """Return a cache entry; None where it is missing, unfinished or damaged."""
    try:
        meta = read_json(folder / "meta.json")
        # Copy on write: a tensor may be made of it, and the file stays as it is.
        pixels = np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False)
        decoded = Decoded(pixels=pixels, **meta)
        sound = pixels.dtype == np.uint8 and len(pixels) == len(decoded.ids) == len(decoded.labels)
        return decoded if sound and checksum(pixels) == decoded.checksum else None
    except (DatastillError, OSError, EOFError, TypeError, ValueError):
        return None


def _made(listing: Listing, options: Options, folder: Path | None) -> Decoded:
    """Decode until a pass meets no picture that turns out to be unreadable: a plan must hold for good ones only."""
    workers = min(8, os.cpu_count() or 1)
    Image.init()  # plugins are registered once, before threads ask for them
    with ThreadPoolExecutor(workers, thread_name_prefix="datastill-decode") as pool:
        everything = np.arange(len(listing.ids))
        facts = dict(_each(pool, listing, everything, picture_facts, options))
        while True:
            good = {row: fact for row, fact in facts.items() if not isinstance(fact, PictureError)}
            plan = _plan(pool, listing, options, good)
            pixels, bad = _filled(pool, listing, options, plan, folder)
            if not bad:
                break
            facts |= bad
    skipped = [listing.ids[row] for row in sorted(facts.keys() - good.keys())]
    labels, ids = [int(listing.labels[row]) for row in plan.rows], [listing.ids[row] for row in plan.rows]
    mean, std = channel_moments(pixels[: plan.trained])
    decoded = Decoded(
        pixels=pixels,
        labels=labels,
        ids=ids,
        trained=plan.trained,
        split=listing.testing is None,
        bad=skipped,
        notes=[*plan.notes, *([_skip_note(skipped)] if skipped else [])],
        fingerprint=content_hash(listing.classes, ids, labels, pixels, plan.trained),
        mean=mean,
        std=std,
        checksum=checksum(pixels),
    )
    if folder is not None:
        write_json(folder / "meta.json", {k: v for k, v in vars(decoded).items() if k != "pixels"})
    return decoded


def _filled(
    pool: ThreadPoolExecutor, listing: Listing, options: Options, plan: _Plan, folder: Path | None
) -> tuple[Planes, dict[int, PictureError]]:
    """Decode the rows of a plan into memory, or into the cache file and map it."""
    place = {int(row): at for at, row in enumerate(plan.rows)}
    bad: dict[int, PictureError] = {}

    def read(data: bytes, what: str) -> Planes:
        return read_planes(data, what, channels=plan.channels, size=plan.size)

    def fill(pixels: Planes) -> None:
        for row, planes in _each(pool, listing, plan.rows, read, options):
            if isinstance(planes, PictureError):
                bad[row] = planes
            else:
                pixels[place[row]] = planes

    def write(part: Path) -> None:
        pixels = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=plan.shape)
        fill(pixels)
        pixels.flush()

    if folder is None:
        pixels = np.empty(plan.shape, np.uint8)
        fill(pixels)
        return pixels, bad
    write_atomic(folder / "pixels.npy", write)
    return np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False), bad


def _each(
    pool: ThreadPoolExecutor,
    listing: Listing,
    rows: npt.NDArray[np.int64],
    work: Callable[[bytes, str], T],
    options: Options,
) -> Iterator[tuple[int, T | PictureError]]:
    """Yield (row, result) in listing order; an unreadable picture's result is its error, if such are to be skipped."""
    wanted = np.zeros(len(listing.ids), bool)
    wanted[rows] = True

    def attempt(item: tuple[int, Opener]) -> tuple[int, T | PictureError]:
        row, opener = item
        try:
            return row, work(_bytes(opener, listing.ids[row]), listing.ids[row])
        except PictureError as error:
            if options.skip_bad:
                return row, error
            raise DatastillError(
                f"in '{listing.name}', {str(error).rstrip('.')}; mend or remove it, or skip such files with --skip-bad."
            ) from error

    items = ((row, opener) for row, opener in enumerate(listing.stream()) if wanted[row])
    while block := list(islice(items, 1024)):  # few at a time: a stream may hold its bytes in memory
        yield from pool.map(attempt, block)


def _bytes(opener: Opener, what: str) -> bytes:
    try:
        return opener()
    except OSError as error:
        raise PictureError(f"the picture '{what}' cannot be read: {error.strerror or error}.") from error


def _plan(pool: ThreadPoolExecutor, listing: Listing, options: Options, good: Mapping[int, Any]) -> _Plan:
    """Decide split, channels and size from the headers of the readable pictures."""
    rows = np.array(sorted(good), np.int64)
    facts: list[Facts] = [good[int(row)] for row in rows]
    labels = listing.labels[rows]
    check_classes(replace(listing, labels=labels, testing=None if listing.testing is None else listing.testing[rows]))
    if listing.testing is None:
        testing = stratified_test(labels, listing.classes, seed=options.split_seed, fraction=options.test_fraction)
        notes = [split_note(options.test_fraction, options.split_seed, int((~testing).sum()), int(testing.sum()))]
    else:
        testing = listing.testing[rows]
        notes = [f"Class '{name}' has no test image." for name in _untested(listing, labels[testing])]
    if not testing.any():
        raise DatastillError(f"'{listing.name}' has no readable test image; mend the test split, or remove it.")
    channels = 1 if _all_grey(pool, listing, options, rows, facts) else 3
    height, width, size = _size(options.size, facts)
    notes += _conversions(facts, channels)
    if size is not None:
        notes.append(_size_note(size, facts))
    order = np.concatenate([rows[~testing], rows[testing]])
    return _Plan(order, int((~testing).sum()), channels, size, height, width, notes)


def _untested(listing: Listing, labels: npt.NDArray[np.int64]) -> list[str]:
    counts = np.bincount(labels, minlength=len(listing.classes))
    return [name for name, count in zip(listing.classes, counts, strict=True) if not count]


def _all_grey(
    pool: ThreadPoolExecutor,
    listing: Listing,
    options: Options,
    rows: npt.NDArray[np.int64],
    facts: list[Facts],
) -> bool:
    """Tell whether all pictures are grey; a WebP has no grey mode, so its pixels are asked, until one says no."""
    webp = np.array([fact.plain_webp for fact in facts])
    if any(fact.kind not in ("grey", "grey16") for fact in facts if not fact.plain_webp):
        return False
    checks = _each(pool, listing, rows[webp], is_grey_webp, options)
    return all(result is not False for _, result in checks)


def _size(asked: int | None, facts: list[Facts]) -> tuple[int, int, int | None]:
    """Return height, width and the side to resize to; None keeps small squares that are all alike."""
    sizes = {(fact.height, fact.width) for fact in facts}
    height, width = facts[0].height, facts[0].width
    if len(sizes) == 1 and height == width and (height <= 64 if asked is None else height == asked):
        return height, width, None
    median = float(np.median([min(fact.height, fact.width) for fact in facts]))
    side = asked or (64 if median >= 64 else 32)
    return side, side, side


def _size_note(size: int, facts: list[Facts]) -> str:
    changed = sum((fact.height, fact.width) != (size, size) for fact in facts)
    return (
        f"{_count(changed, 'image was', 'images were')} resized so that the shorter side is {size} pixels (bicubic, "
        f"antialiased) and cropped at the centre to {size}x{size}."
    )


def _conversions(facts: list[Facts], channels: int) -> list[str]:
    kinds = Counter(fact.kind for fact in facts)
    grey = sum(fact.kind == "grey" for fact in facts) if channels == 3 else 0
    told = (
        (grey, "grey image was", "grey images were", "made RGB, because the set has colour images"),
        (kinds["grey16"], "16-bit grey image was", "16-bit grey images were", "brought to 8 bits (v / 257, rounded)"),
        (kinds["palette"], "palette image was", "palette images were", "made RGB"),
        (kinds["alpha"], "image with transparency was", "images with transparency were", "laid on white"),
        (kinds["cmyk"], "CMYK image was", "CMYK images were", "made RGB"),
        (kinds["other"], "image in another colour space was", "images in other colour spaces were", "made RGB"),
        (sum(f.turned for f in facts), "image was", "images were", "turned upright as the EXIF orientation says"),
        (sum(f.animated for f in facts), "image has", "images have", "several frames, of which the first was taken"),
    )
    return [f"{_count(number, one, many)} {what}." for number, one, many, what in told if number]


def _skip_note(skipped: list[str]) -> str:
    shown = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
    return f"{_count(len(skipped), 'unreadable file was', 'unreadable files were')} skipped: {shown}."


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
