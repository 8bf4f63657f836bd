"""What stands between the markers of the README: a method's margin over random real images, whatever its sign."""

from __future__ import annotations

from collections.abc import Sequence

from datastill.report import tables

from . import words as cells
from .ledger import Entry, Group
from .results import caption, said, title, verdict

HEADINGS = ["method", "top-1, % (n)", "random real images, same labels, same steps", "margin", "verdict", "steps",
            "labels", "bytes, of the real set", "their networks, top-1"]  # fmt: skip
MORE = "More rows, and what a number means, are in [docs/results.md](docs/results.md)."


def readme_tables(shown: Sequence[tuple[Group, Sequence[str]]]) -> str:
    """Return the tables of the groups with the named methods, one after another, and then how they came about."""
    made = [(group, named, _shown(group, named)) for group, named in shown]
    commands = dict.fromkeys(cells.commands(entry.run) for _, _, mine in made for entry in mine)
    return "\n\n".join([*(_table(*each) for each in made), *commands, MORE])


def _shown(group: Group, named: Sequence[str]) -> list[Entry]:
    """Return the rows of the named methods, of their runs with the best networks."""
    every = [e for block in group.blocks for e in block if e.row["role"] == "method" and e.row["method"] in named]
    first = {e.row["method"]: e.run for e in reversed(every)}
    return [e for e in every if e.run == first[e.row["method"]]]


def _table(group: Group, named: Sequence[str], mine: Sequence[Entry]) -> str:
    """Return the margins of these rows of a group; runs with other networks stand on the results page."""
    parts = [f"**{title(group)}**"]
    parts += [f"**{tables.escaped(verdict(group, entry))}**" for entry in mine]
    parts += [caption(row) for row in [entry.row for entry in mine][:1]]
    for column in "HSD":
        lines = []
        for entry in (e for e in mine if e.row["column"] == column):
            row, beside = entry.row, group.random_beside(entry)
            lines.append([
                f"{tables.code(row['arm'])}<br>{tables.escaped(row['title'])}{cells.networks_of(row)}",
                cells.accuracy(row, strong=True), cells.accuracy(beside.row) if beside else "not run",
                cells.gap(group.against_random(entry)), cells.verdict(group.against_random(entry)), cells.steps(row),
                cells.labels(row), cells.weight(row, entry.run), cells.percent(row["teacher_top1"]),
            ])  # fmt: skip
        if lines:
            parts += [cells.column_line(column), cells.compact(HEADINGS, lines)]
    block = next((b for b in group.blocks if mine and mine[0] in b), [])
    spoken = said(group, block)
    others = {e.row["method"] for e in block} - set(named)  # a sentence is of one method, and these are not shown
    parts += [
        s for s in spoken if not s.startswith("**") and not any(f", {tables.escaped(o)} is " in s for o in others)
    ]
    return "\n\n".join(parts)
