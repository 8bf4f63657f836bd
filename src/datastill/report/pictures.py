"""What is in a distilled set, as small pictures: natural images, compensators and items, by class."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from datastill.artifact import DistilledDataset
from datastill.fields import Items
from datastill.sources import encode_picture

CLASSES, COLUMNS = 10, 10
LARGEST = 112  # pixels of a thumbnail's longer side; smaller pictures are kept to the pixel
STRONGEST = 16  # times that a compensator is amplified at most


@dataclass(frozen=True)
class Picture:
    """A picture for the page: a data URI, and what it is in words."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Grid:
    """Pictures by class. headings: one per column. groups: (heading, columns below it), empty without natural sets.

    compensators: those that the columns add, None where a column adds nothing; None alone where none are stored.
    rows: (class name, a picture per column; None where a class has fewer items). factor: how many times compensators
    are amplified around grey, None without any. tiny: whether pixels should stay visible when shown larger.
    """

    headings: tuple[str, ...]
    groups: tuple[tuple[str, int], ...]
    compensators: tuple[Picture | None, ...] | None
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]
    factor: int | None
    tiny: bool

    @property
    def starts(self) -> set[int]:
        """The columns at which a group begins, but for the first."""
        return set(itertools.accumulate(span for _, span in self.groups[:-1]))


def chosen_classes(classes: int) -> list[int]:
    """Return at most ten classes, evenly spread."""
    return torch.linspace(0, classes - 1, min(CLASSES, classes)).round().long().tolist()


def class_grid(distilled: DistilledDataset) -> Grid:
    """Return the grid of a sealed set: columns are natural sets and their networks where there are any, else items."""
    items, shown = distilled.content.items, chosen_classes(len(distilled.classes))
    makers = sorted(set(items.maker.tolist()))
    if makers == [-1]:
        places = [items_of(items, k)[:COLUMNS] for k in shown]
        width = max(map(len, places))
        headings = tuple(f"image {i + 1}" for i in range(width))
        return Grid(headings, (), None, _rows(distilled, shown, places, headings), None, _tiny(distilled))
    sets = sorted(set(items.set[items.maker >= 0].tolist()))[: max(1, COLUMNS // len(makers))]
    columns = [(number, maker) for number in sets for maker in makers]
    names = ("natural", *(f"+\u00a0{name}" for name in distilled.recipe.networks))
    headings = tuple(names[maker + 1] for _, maker in columns)
    groups = tuple((f"natural set {number + 1}", len(makers)) for number in sets)
    places = [[_place(items, k, number, maker) for number, maker in columns] for k in shown]
    units = [int(items.unit[place]) if place >= 0 else -1 for place in places[0]]
    factor, compensators = _compensators(distilled, units, headings)
    return Grid(headings, groups, compensators, _rows(distilled, shown, places, headings), factor, _tiny(distilled))


def items_of(items: Items, k: int) -> list[int]:
    """Return the places of a class's items."""
    return (items.cls == k).nonzero().flatten().tolist()


def _place(items: Items, k: int, number: int, maker: int) -> int:
    found = ((items.cls == k) & (items.set == number) & (items.maker == maker)).nonzero().flatten()
    return int(found[0]) if len(found) else -1


def _rows(
    distilled: DistilledDataset, shown: list[int], places: list[list[int]], headings: tuple[str, ...]
) -> tuple[tuple[str, tuple[Picture | None, ...]], ...]:
    wanted = torch.tensor([place for row in places for place in row if place >= 0])
    pixels = iter(distilled.fields.store.decode(distilled.content, wanted))
    made = []
    for k, row in zip(shown, places, strict=True):
        name = distilled.classes[k]
        cells = [_picture(next(pixels), f"{name}: {heading}") if place >= 0 else None
                 for place, heading in zip(row, headings, strict=False)]  # fmt: skip
        made.append((name, tuple(cells + [None] * (len(headings) - len(cells)))))
    return tuple(made)


def _compensators(
    distilled: DistilledDataset, units: list[int], headings: tuple[str, ...]
) -> tuple[int | None, tuple[Picture | None, ...] | None]:
    """Return the factor and the pictures of compensators, grey where they add nothing; (None, None) without any."""
    stored = distilled.content.arrays.get("compensators")
    if stored is None:
        return None, None
    u = stored.float() / 127.0 if stored.dtype == torch.int8 else stored.float()
    factor = amplification(u[[unit for unit in units if unit >= 0]])
    pictures = [
        _picture((0.5 + factor * u[unit]).clamp(0.0, 1.0), f"compensator: {heading}, amplified {factor} times")
        if unit >= 0 else None
        for unit, heading in zip(units, headings, strict=True)
    ]  # fmt: skip
    return factor, tuple(pictures)


def amplification(u: Tensor) -> int:
    """Return the whole factor, 1 to 16, under which the largest hundredth of the values reaches black or white."""
    large = float(u.abs().flatten().kthvalue(max(1, round(0.99 * u.numel()))).values)
    return int(min(max(1.0, 0.5 / max(large, 1e-6)), STRONGEST))


def _picture(x: Tensor, alt: str) -> Picture:
    """Return float[C, H, W] in [0, 1] as a PNG in a data URI, made smaller where it is large."""
    side = max(x.shape[1:])
    if side > LARGEST:
        size = tuple(max(1, round(n * LARGEST / side)) for n in x.shape[1:])
        x = functional.interpolate(x[None], size, mode="bilinear", antialias=True)[0].clamp(0.0, 1.0)
    data = encode_picture((x.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy(), "png")
    return Picture("data:image/png;base64," + base64.b64encode(data).decode(), alt)


def _tiny(distilled: DistilledDataset) -> bool:
    return max(distilled.info.shape[1:]) <= 64
