"""Values that every room speaks in: what is stored, and what a student sees.

N items, K classes, C channels, H x W pixels, P pictures.
"""

from __future__ import annotations

import dataclasses
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
        units, unit = items.unit.unique(return_inverse=True)
        pictures, picture = items.picture.unique(return_inverse=True)
        kept = Pictures(self.pictures.pixels[pictures], self.pictures.cls[pictures], ())
        arrays = {k: v[units].clone() if k in self.learned else v for k, v in self.arrays.items()}
        items = dataclasses.replace(items, unit=unit, picture=picture)
        return Content(items, kept, arrays, self.learned), units


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
class Labels:
    """What students are told: nothing beyond the class ("classes"), logits float32[N, K] ("logits"), or the names of
    the networks that answer in the loop ("teachers").

    Logits are those that a receiver decodes; `arrays` holds what is stored of them under the codec, `facts` what that
    lost (see `label_error`). With `views`, logits are float32[N * V, K]: row i * V + v belongs to view v of item i.
    """

    kind: Literal["classes", "logits", "teachers"]
    values: Tensor | None = None
    teachers: tuple[str, ...] = ()
    codec: LabelCodec = LabelCodec()
    arrays: dict[str, Tensor] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    views: SeededViews | None = None

    @classmethod
    def coded(cls, logits: Tensor, codec: LabelCodec, views: SeededViews | None = None) -> Labels:
        """Return float[N, K] logits, or float[N * V, K] of views, under a codec, with what it lost."""
        items, classes = logits.shape
        arrays = encode_labels(logits, codec)
        values = decode_labels(arrays, items, classes, codec)
        return cls("logits", values, (), codec, arrays, label_error(logits, values), views)


@dataclass(frozen=True)
class Expanded:
    """The set as a student sees it: images uint8 or float[N, C, H, W] in [0, 1], classes long[N], and labels."""

    images: Tensor
    cls: Tensor
    labels: Labels
    classes: int
