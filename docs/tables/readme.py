"""What stands between the markers of the README: a method's margin over random real images, whatever its sign."""

from __future__ import annotations

from collections.abc import Sequence

from datastill.report import tables

from . import words as cells
from .ledger import Group
from .results import caption, said, title, verdict

HEADINGS = ["method", "top-1, % (n)", "random real images, same labels, same steps", "margin", "verdict", "steps",
            "labels", "bytes, of the real set", "their networks, top-1"]  # fmt: skip
MORE = "More rows, and what a number means, are in [docs/results.md](docs/results.md)."


def readme_table(group: Group, named: Sequence[str]) -> str:
    """Return the margins of the named methods in a group, of their runs with the best networks; then how it came about.

    Runs with other networks stand on the results page.
    """
    every = [e for block in group.blocks for e in block if e.row["role"] == "method" and e.row["method"] in named]
    first = {e.row["method"]: e.run for e in reversed(every)}
    mine = [e for e in every if e.run == first[e.row["method"]]]
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
    parts += [cells.commands(mine[0].run)] if mine else []
    return "\n\n".join([*parts, MORE])
