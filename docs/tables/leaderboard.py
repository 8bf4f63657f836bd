"""docs/leaderboard.md: our rows beside the papers' numbers, a table for each source, student and column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datastill.measure.ledger import Entry
from datastill.recipe import Paper, methods
from datastill.report import tables, words

from . import words as cells
from .ledger import Group, Ledger

INTRODUCTION = """\
# Leaderboard

Ours beside the papers'. A line is a method at a number of images per class. **Ours** comes from a row file: last step,
test split, controls under the same protocol ([what a number means](what-a-number-means.md)). **The paper's** is what
the paper printed for this very data set, student and column, with the table that it stands in. The two were not
measured in one way, so they are never ranked together. What ours can be compared with is the random real images beside
it.

H, S and D are three different products and have tables of their own. *Waiting for a GPU* means that the command is
ready and stands on [the results page](results.md); *not run yet* means that it is not."""
WAITS, LATER = "waiting for a GPU", "not run yet"
HEADINGS = ["method", "ipc", "ours, top-1 % (n)", "random real images, same labels", "ours against random", "steps",
            "bytes, of the real set", "their networks, top-1",
            f"{cells.PAPERS}, top-1 % (deviation), and where it stands"]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One line: a method at an ipc, as it was measured (entry and group) or not, and what its paper prints."""

    method: str
    ipc: int
    entry: Entry | None
    group: Group | None
    paper: Paper | None

    @property
    def order(self) -> tuple[int, bool, float, str]:
        """By ipc; measured lines first, the best of them on top."""
        measured = self.entry is not None
        return self.ipc, not measured, -self.entry.row["top1"]["mean"] if self.entry else 0.0, self.method


def leaderboard_page(found: Ledger) -> str:
    """Return docs/leaderboard.md."""
    waiting = {(w["source"], w["method"], w["ipc"], w["student"]) for w in found.waiting}
    boards = places(found)
    parts = [INTRODUCTION]
    sources = dict.fromkeys(source for source, _, _ in boards)
    measured = [s for s in sources if any(p.entry for key, lines in boards.items() if key[0] == s for p in lines)]
    for source in [*measured, *(s for s in sources if s not in measured)]:
        parts.append(f"## {tables.escaped(source)}")
        for student in dict.fromkeys(key[1] for key in boards if key[0] == source):
            parts.append(f"### {tables.escaped(source)} with {tables.code(student)}")
            for column in words.COLUMNS:
                lines = boards.get((source, student, column), [])
                if lines:
                    made = [_cells(p, (source, p.method, p.ipc, student) in waiting) for p in sorted(lines, key=_order)]
                    parts += [cells.column_line(column), cells.compact(HEADINGS, made)]
    if not boards:
        parts.append("No row yet, and no paper's number.")
    return cells.page(parts)


def _order(place: Place) -> tuple[int, bool, float, str]:
    return place.order


def places(found: Ledger) -> dict[tuple[str, str, str], list[Place]]:
    """Return the lines of each (source, student, column), by name of the source and the student."""
    printed = {(p.source, p.student, p.column, m.name, p.ipc): p for m in methods().values() for p in m.paper}
    boards: dict[tuple[str, str, str], list[Place]] = {}
    used = set()
    compared = [(group, entry) for group in found.groups for entry in group.entries]
    beside = [(group, entry) for group in found.frontiers for entry in group.entries]
    for pairs in (compared, beside):  # a frontier repeats rows of a comparison under the same protocol
        before = frozenset(used)
        for group, entry in pairs:
            row, key = entry.row, (group.source, entry.row["student"], entry.row["column"])
            place = (*key, row["method"], row["ipc"])
            if row["role"] == "method" and group.split == "test" and place not in before:
                used.add(place)
                boards.setdefault(key, []).append(Place(row["method"], row["ipc"], entry, group, printed.get(place)))
    for place, paper in printed.items():
        if place not in used:
            boards.setdefault(place[:3], []).append(Place(place[3], place[4], None, None, paper))
    return dict(sorted(boards.items()))


def _cells(place: Place, waits: bool) -> list[str]:
    known = methods().get(place.method)
    paper = ""
    if place.paper and known:
        paper = f"{cells.unbroken(cells.paper(place.paper))}<br>{place.paper.where}, {known.cite}"
    title = known.title if known else place.entry.row["title"] if place.entry else ""
    name = [f"{tables.code(place.method)}<br>{tables.escaped(title)}", f"{place.ipc:,}"]
    if place.entry is None or place.group is None:
        return [*name, WAITS if waits else LATER, "", "", "", "", "", paper]
    name[0] += cells.networks_of(place.entry.row)
    return [*name, *_ours(place.entry, place.group), paper]


def _ours(entry: Entry, group: Group) -> list[str]:
    row: Mapping[str, Any] = entry.row
    beside = group.random_beside(entry)
    return [
        cells.linked(cells.accuracy(row, strong=not row["random"]), entry.name),
        cells.linked(cells.accuracy(beside.row), beside.name) if beside else "",
        cells.standing(group.against_random(entry)), cells.steps(row), cells.weight(row, entry.run),
        cells.percent(row["teacher_top1"]),
    ]  # fmt: skip
