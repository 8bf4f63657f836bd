"""A data set before anything is decoded: names, labels and a stream of encoded pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datastill.errors import DatastillError, suggestion, unknown

Opener = Callable[[], bytes]
"""Reads one encoded picture; called on any thread; empty bytes where the source holds none."""


@dataclass(frozen=True)
class Listing:
    """What a source holds, one row a picture.

    name: as shown. origin: how to load it again. classes: K class names. ids: N names. labels: int64[N], 0..K-1.
    testing: bool[N], rows of the test split; None where the source gives no test split. stream: yields the N openers
    in row order, any number of times. key: plain data that changes whenever the pictures do; None where decoding is
    not worth a cache. notes: sentences on what was found.
    """

    name: str
    origin: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    testing: npt.NDArray[np.bool_] | None
    stream: Callable[[], Iterator[Opener]]
    key: Any
    notes: tuple[str, ...] = ()


def choose_classes(listing: Listing, wanted: Sequence[str]) -> Listing:
    """Keep only the wanted classes, numbered in the order in which they are asked for.

    Raises: DatastillError for a class that is unknown, ambiguous or asked for twice.
    """
    for name in wanted:
        if name not in listing.classes:
            raise unknown(f"class of '{listing.name}' called", name, listing.classes)
        if listing.classes.count(name) > 1:
            raise DatastillError(f"'{listing.name}' has more than one class called '{name}', so it cannot be chosen.")
    if len(set(wanted)) < len(wanted):
        raise DatastillError(f"a class is asked for twice in {', '.join(wanted)}; name each class once.")
    to = np.full(len(listing.classes), -1, np.int64)
    for new, name in enumerate(wanted):
        to[listing.classes.index(name)] = new
    labels = to[listing.labels]
    keep = labels >= 0

    def stream() -> Iterator[Opener]:
        return (opener for opener, kept in zip(listing.stream(), keep, strict=True) if kept)

    return dataclasses.replace(
        listing,
        classes=tuple(wanted),
        ids=tuple(name for name, kept in zip(listing.ids, keep, strict=True) if kept),
        labels=labels[keep],
        testing=None if listing.testing is None else listing.testing[keep],
        stream=stream,
        notes=(*listing.notes, f"Kept {len(wanted)} of {len(listing.classes)} classes."),
    )


def check_classes(listing: Listing) -> None:
    """Refuse fewer than two classes, and a class without any picture to train on."""
    if len(listing.classes) < 2:
        found = f"only '{listing.classes[0]}'" if listing.classes else "none"
        raise DatastillError(f"'{listing.name}' needs at least two classes and has {found}.")
    rows = listing.labels if listing.testing is None else listing.labels[~listing.testing]
    counts = np.bincount(rows, minlength=len(listing.classes))
    if not counts.all():
        name = listing.classes[int(counts.argmin())]
        raise DatastillError(
            f"class '{name}' of '{listing.name}' has no readable image to train on; add some, or name the "
            "classes to keep with --classes."
        )


def class_index(values: Sequence[str], names: Sequence[str], what: str) -> npt.NDArray[np.int64]:
    """Return the label of each class name. Raises: DatastillError for a name outside `names`."""
    index = {name: label for label, name in enumerate(names)}
    for value in values:
        if value not in index:
            raise DatastillError(
                f"{what} has the class '{value}', which the training split lacks{suggestion(value, names)}"
            )
    return np.array([index[value] for value in values], np.int64)
