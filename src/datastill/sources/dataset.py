"""Data sets: uint8 images decoded once, integer labels, class names and a content hash; and the one door to them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch
from torch import Tensor

from datastill.errors import DatastillError, suggestion
from datastill.recipe import DatasetInfo
from datastill.runtime.cache import cache_dir, locked
from datastill.runtime.files import digest_of, read_json, write_json
from datastill.sources.builtin import DIGITS, HUB, NORMS, list_digits
from datastill.sources.decoding import Decoded, Options, decode
from datastill.sources.folder import list_folder
from datastill.sources.hub import INSTALL, hub_installed, list_hub
from datastill.sources.listing import Listing, check_classes, choose_classes
from datastill.sources.parquet import list_parquet, parquet_files
from datastill.sources.pictures import Codec, encode_picture


@dataclass(frozen=True, eq=False)
class Images:
    """One split. pixels: uint8[N, C, H, W]. labels: int64[N], 0..K-1. ids: N names, each image's inside its source."""

    pixels: Tensor
    labels: Tensor
    ids: tuple[str, ...]

    def batch(self, rows: Tensor) -> Tensor:
        """Return the images of `rows` (int64[B]) as uint8[B, C, H, W], a copy."""
        return self.pixels[rows]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification set with its two splits.

    name: as asked for. origin: how to load it again. classes: K names. fingerprint: hash of pixels, labels, class names
    and ids of both splits, equal on every machine. mean, std: per channel, for pixels in [0, 1]; the literature's where
    it has settled on some, else those of the training split, rounded to four digits. notes: sentences on what was
    converted, resized, split and skipped. bad: names of skipped files. raw_train_bytes: N*C*H*W of the training split.
    """

    name: str
    origin: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    bad: tuple[str, ...]
    raw_train_bytes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    @property
    def info(self) -> DatasetInfo:
        """What a preset may know of the set."""
        return DatasetInfo(self.name, len(self.classes), self.shape, len(self.train), self.mean, self.std)


@dataclass(frozen=True)
class SourceInfo:
    """A data set that can be asked for by name. where: the place it would come from, or what it needs first."""

    name: str
    about: str
    at_hand: bool
    where: str


def load(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    size: int | None = None,
    skip_bad: bool = False,
    split_seed: int = 0,
    test_fraction: float = 0.2,
) -> Dataset:
    """Load a data set.

    Args:
        source: the first of these that fits: NAME where `DATASTILL_DATA` holds NAME/*.parquet; a built-in name (see
            `list_sources`); a folder with a subfolder of images per class, with train/ and test/ above or not, or with
            Parquet files; a Parquet file; hf:OWNER/NAME or hf:OWNER/NAME@REVISION. A `Path` is never taken for a name.
        classes: keep only these classes, numbered in this order; None for all.
        size: side of the square images, 8 to 512 pixels; None keeps squares that are all alike and at most 64 pixels
            wide, and resizes all others to 64, or to 32 where the median of the shorter sides is below 64.
        skip_bad: leave unreadable images out, and list them, in place of refusing the set.
        split_seed: seed of the test split, where the source has none.
        test_fraction: share of each class in that split, between 0 and 1; one image per class stays on either side.

    Raises: DatastillError, in one sentence that says what would do.

    Example:
        >>> load("digits").shape
        (1, 8, 8)
    """
    if size is not None and not 8 <= size <= 512:
        raise DatastillError(f"images of {size}x{size} pixels are not supported; ask for a size from 8 to 512.")
    if not 0 < test_fraction < 1:
        raise DatastillError(f"a test fraction of {test_fraction} leaves one split empty; ask for one between 0 and 1.")
    listing = _list(source)
    if classes is not None:
        listing = choose_classes(listing, tuple(classes))
    check_classes(listing)
    return _dataset(listing, decode(listing, Options(size, skip_bad, split_seed, test_fraction)))


def list_sources() -> list[SourceInfo]:
    """Return what can be asked for by name: the built-in sets and those that `DATASTILL_DATA` holds."""
    known = {"digits": DIGITS} | {name: entry.about for name, entry in HUB.items()}
    given = _given_names()
    found = []
    for name in sorted(known.keys() | set(given)):
        about = known.get(name, "Parquet files")
        if name in given:
            found.append(SourceInfo(name, about, True, "DATASTILL_DATA"))
        elif name == "digits":
            found.append(SourceInfo(name, about, True, "scikit-learn"))
        elif hub_installed():
            found.append(
                SourceInfo(name, about, False, f"downloaded from {HUB[name].repository} on the Hugging Face Hub")
            )
        else:
            found.append(SourceInfo(name, about, False, f"needs {INSTALL}, or {name}/train.parquet in DATASTILL_DATA"))
    return found


def encoded_train_bytes(dataset: Dataset, codec: Codec = "webp") -> int:
    """Return the bytes of the training images under a lossless codec, each encoded as `encode_picture` does.

    Measured once for a data set, codec and Pillow version, and kept in the cache folder.
    """
    key = digest_of([dataset.fingerprint, codec, PIL.__version__])
    path = cache_dir() / "encoded" / f"{key}.json"
    with locked(path):
        try:
            return int(read_json(path)["bytes"])
        except (DatastillError, KeyError, TypeError, ValueError):
            pass
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="datastill-encode") as pool:
            total = sum(pool.map(lambda image: len(encode_picture(image.numpy(), codec)), dataset.train.pixels))
        write_json(path, {"bytes": total, "codec": codec, "name": dataset.name, "pillow": PIL.__version__})
    return total


def _list(source: str | Path) -> Listing:
    """Find what a source means; see `load` for the order."""
    text = str(source)
    path = Path(source).expanduser()
    named = isinstance(source, str)
    if named and text in (given := _given_names()):
        return list_parquet(given[text], text, text)
    if named and text == "digits":
        return list_digits()
    if named and text in HUB:
        entry = HUB[text]
        return list_hub(entry.repository, text, text, config=entry.config, label=entry.label)
    if named and text.startswith("hf:"):
        repository, _, revision = text.removeprefix("hf:").partition("@")
        if repository.count("/") != 1:
            raise DatastillError(
                f"'{text}' names no data set of the Hub; write hf:OWNER/NAME or hf:OWNER/NAME@REVISION."
            )
        return list_hub(repository, repository, text, revision=revision or None)
    try:
        return _list_path(path, text)
    except OSError as error:
        raise DatastillError(f"'{text}' cannot be read: {error.strerror or error}.") from error


def _list_path(path: Path, text: str) -> Listing:
    if path.is_dir():
        real = path.resolve()
        files = parquet_files(real)
        return list_parquet(files, real.name, str(real)) if files else list_folder(real, real.name)
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise DatastillError(f"'{text}' is neither a folder nor a Parquet file; unpack or convert it first.")
        return list_parquet([path], path.stem, str(path.resolve()))
    names = ["digits", *HUB, *_given_names()]
    raise DatastillError(
        f"'{text}' is neither a data set that is known by name, nor a folder or Parquet file that is there"
        f"{suggestion(text, names)}"
    )


def _given_names() -> dict[str, list[Path]]:
    """Return the data sets in `DATASTILL_DATA`, with their files."""
    folder = os.environ.get("DATASTILL_DATA")
    if not folder:
        return {}
    try:
        found = {sub.name: sorted(sub.glob("*.parquet")) for sub in Path(folder).iterdir() if sub.is_dir()}
    except OSError as error:
        raise DatastillError(f"DATASTILL_DATA is '{folder}', which cannot be read: {error.strerror}.") from error
    return {name: files for name, files in found.items() if files}


def _dataset(listing: Listing, decoded: Decoded) -> Dataset:
    pixels, labels, n = torch.from_numpy(decoded.pixels), torch.tensor(decoded.labels), decoded.trained
    train = Images(pixels[:n], labels[:n], tuple(decoded.ids[:n]))
    test = Images(pixels[n:], labels[n:], tuple(decoded.ids[n:]))
    mean, std = _norm(listing, decoded)
    dataset = Dataset(
        name=listing.name,
        origin=listing.origin,
        classes=listing.classes,
        train=train,
        test=test,
        fingerprint=decoded.fingerprint,
        mean=mean,
        std=std,
        notes=(*listing.notes, *decoded.notes),
        bad=tuple(decoded.bad),
        raw_train_bytes=train.pixels.numel(),
    )
    if decoded.split:
        _record_split(dataset)
    return dataset


def _record_split(dataset: Dataset) -> None:
    """Write down which images are on which side of a split that the source did not make itself."""
    path = cache_dir() / "splits" / f"{dataset.fingerprint}.json"
    if not path.exists():
        write_json(path, {"name": dataset.name, "train": dataset.train.ids, "test": dataset.test.ids})


def _norm(listing: Listing, decoded: Decoded) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the literature's means and deviations of a whole set that has some, else the training split's."""
    known = NORMS.get(listing.name)
    whole = known and listing.origin == listing.name and known.classes == len(listing.classes)
    if known and whole and len(decoded.mean) == 3:
        return known.mean, known.std
    return tuple(decoded.mean), tuple(decoded.std)
