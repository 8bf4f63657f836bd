"""Values that every room speaks in: what is stored, and what a student sees.

N items, K classes, C channels, H x W pixels, P pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from datastill.codecs import LabelCodec, PictureCodec, decode_labels, encode_labels, label_error

COLUMNS = ("cls", "stage", "set", "maker", "unit", "picture")


@dataclass(frozen=True)
class Items:
    """What a student sees, as columns long[N].

    cls: class. stage: the stage that opened it. set: images that must stay one batch. maker: index of the network it
    was made with, -1 none. unit: its row in the learned arrays, -1 nothing learned. picture: its row in the stored
    pictures, -1 none.
    """

    cls: Tensor
    stage: Tensor
    set: Tensor
    maker: Tensor
    unit: Tensor
    picture: Tensor

    @classmethod
    def of(cls_, **columns: Tensor) -> Items:
        """Make items; `cls` is required, the other columns default to 0 (stage, set) or -1."""
        like = columns["cls"]
        defaults = {"stage": 0, "set": 0, "maker": -1, "unit": -1, "picture": -1}
        return cls_(**{n: columns.get(n, torch.full_like(like, defaults.get(n, 0))).long() for n in COLUMNS})

    def __len__(self) -> int:
        return len(self.cls)

    def __getitem__(self, rows: Tensor) -> Items:
        return Items(**{name: getattr(self, name)[rows] for name in COLUMNS})


@dataclass(frozen=True)
class Pictures:
    """Pictures that a store keeps: pixels uint8[P, C, H, W] as a receiver decodes them, and their classes long[P].

    Real images are named by `ids` in the source ("" for a picture that is none), and by `places`, long[P]: rows of the
    training split after a stable sort by class (-1 for a picture that is none). Under a codec that packs, only places
    are stored: sorted, they cost half a byte. `encoded` holds the files themselves where the codec loses
    something, or is part of the method.
    """

    pixels: Tensor
    cls: Tensor
    ids: tuple[str, ...]
    codec: PictureCodec = PictureCodec()
    encoded: tuple[bytes, ...] | None = None
    places: Tensor | None = None


@dataclass
class Content:
    """What a store holds: items, pictures, and arrays, some of them learned. Open while distilled, sealed after."""

    items: Items
    pictures: Pictures
    arrays: dict[str, Tensor] = field(default_factory=dict)
    learned: tuple[str, ...] = ()

    def part(self, rows: Tensor) -> tuple[Content, Tensor]:
        """Return a copy that holds only these items, units renumbered, and the units' old numbers long[U]."""
        items = self.items[rows]
        units, unit = _renumbered(items.unit)
        pictures, picture = _renumbered(items.picture)
        kept = Pictures(self.pictures.pixels[pictures], self.pictures.cls[pictures], ())
        arrays = {k: v[units].clone() if k in self.learned else v for k, v in self.arrays.items()}
        items = dataclasses.replace(items, unit=unit, picture=picture)
        return Content(items, kept, arrays, self.learned), units


def _renumbered(column: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers in a column, ascending, and the place of each row's among them, long[B]; -1, none, stays."""
    numbers = column[column >= 0].unique()
    return numbers, torch.where(column >= 0, torch.searchsorted(numbers, column), -1)


@dataclass(frozen=True)
class SeededViews:
    """The views of every item that labels belong to: whole-pixel crops and flips that a seed names. None is stored.

    count: V, views per item. seed: the recipe's. crop: pixels of black border. flip: whether half of them are mirrored.
    """

    count: int
    seed: int
    crop: int
    flip: bool


@dataclass(frozen=True)
class FixedBoxes:
    """The boxes of every item that labels belong to, the same for all items: `grid` in a row and in a column.

    ratio: what a box keeps of a side, or (ratio_of: "area") of the area. whole: whether the label of the whole item
    stands before those of its boxes. None of it is stored with the labels: see `datastill.training.boxes`.
    """

    grid: int
    ratio: float
    ratio_of: Literal["side", "area"]
    whole: bool

    @property
    def count(self) -> int:
        """Labels per item."""
        return self.grid**2 + self.whole


@dataclass(frozen=True)
class Recording:
    """Which batches were recorded: `count` batches of `batch` items, as a recipe's student draws them.

    crop: pixels of black border that crops are cut from. cutout: side of the black square in pixels. 0: none.
    """

    count: int
    batch: int
    crop: int = 0
    cutout: int = 0


@dataclass(frozen=True)
class Records:
    """Recorded batches: rows, views and labels of each, whole batches in every file, `per_file` but for the last.

    files: arrays by name, as they are stored. "view.*" say which items a batch shows and how (see
    `datastill.training.records`); "label.*" are the logits [n * B, K] of the n batches of the file, under the codec.
    """

    recording: Recording
    per_file: int
    files: tuple[Mapping[str, Tensor], ...]

    def part(self, number: int, prefix: str) -> dict[str, Tensor]:
        """Return the arrays of a file whose names begin with `prefix`, without it."""
        return {n.removeprefix(prefix): a for n, a in self.files[number].items() if n.startswith(prefix)}

    def batches(self, number: int) -> int:
        """Return how many batches a file holds."""
        return min(self.per_file, self.recording.count - number * self.per_file)

    def logits(self, number: int, classes: int, codec: LabelCodec, what: str = "the labels") -> Tensor:
        """Return the logits float32[n, B, K] of a file. Raises: DatastillError for arrays that are none of these."""
        n, size = self.batches(number), self.recording.batch
        return decode_labels(self.part(number, "label."), n * size, classes, codec, what).view(n, size, classes)


@dataclass(frozen=True)
class Labels:
    """What students are told: nothing beyond the class ("classes"), logits float32[N, K] ("logits"), the names of the
    networks that answer in the loop ("teachers"), or logits of recorded batches ("replayed").

    Logits are those that a receiver decodes; `arrays` holds what is stored of them under the codec, `facts` what that
    lost (see `label_error`). With `views`, logits are float32[N * V, K]: row i * V + v belongs to view v of item i, or
    to the whole item and its boxes in turn. `tells` holds what was measured of the labels themselves, plain data.
    """

    kind: Literal["classes", "logits", "teachers", "replayed"]
    values: Tensor | None = None
    teachers: tuple[str, ...] = ()
    codec: LabelCodec = LabelCodec()
    arrays: dict[str, Tensor] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    views: SeededViews | FixedBoxes | None = None
    records: Records | None = None
    tells: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def coded(cls, logits: Tensor, codec: LabelCodec, views: SeededViews | FixedBoxes | None = None) -> Labels:
        """Return float[N, K] logits, or float[N * V, K] of views, under a codec, with what it lost."""
        items, classes = logits.shape
        arrays = encode_labels(logits, codec)
        values = decode_labels(arrays, items, classes, codec)
        return cls("logits", values, (), codec, arrays, label_error(logits, values), views)


@dataclass(frozen=True)
class Expanded:
    """The set as a student sees it: images uint8 or float[N, C, H, W] in [0, 1], classes long[N], and labels.

    scale: float[2, C], mean and deviation of each channel of the real set, for students that augment network inputs.
    """

    images: Tensor
    cls: Tensor
    labels: Labels
    classes: int
    scale: Tensor | None = None


@dataclass(frozen=True)
class Weighing:
    """How a match says what each image of a real batch does to the pull on synthetic ones.

    estimate: by leaving it out (exact), to first order (taylor), or to first order along `sketches` random directions
    alone (sketch).
    """

    estimate: Literal["exact", "taylor", "sketch"]
    sketches: int
