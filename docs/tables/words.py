"""What every page is written with: the notice, markers, commands, and cells of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datastill.report import tables, words

NOTICE = "<!-- Written by `make tables` from docs/results/. A change here would be lost; change the rows. -->"
WIDE = "---\nhide:\n  - toc\n---\n\n"
RANDOM = "random real images with the same kind of labels"
PAPERS = "the paper's"


def between(text: str, name: str, body: str) -> str | None:
    """Return a text with `body` between its markers `<!-- name -->` and `<!-- /name -->`; None where it has none."""
    before, first, rest = text.partition(f"<!-- {name} -->")
    _, second, after = rest.partition(f"<!-- /{name} -->")
    return f"{before}{first}\n{NOTICE}\n\n{body}\n{second}{after}" if first and second else None


def shell(commands: Sequence[str]) -> str:
    """Return commands as a block."""
    return "```sh\n" + "\n".join(command.strip("\n") for command in commands) + "\n```"


def commands(run: Mapping[str, Any]) -> str:
    """Return the commands that made a run."""
    typed = [command for command in run["commands"] if command]
    return shell(typed) if typed else "Run from Python; the row files hold the recipes."


def page(parts: Sequence[str]) -> str:
    """Return a whole page, without a list of contents beside it: its tables are wide."""
    return WIDE + "\n\n".join(part.strip("\n") for part in [NOTICE, *parts]) + "\n"


def unbroken(text: str) -> str:
    """Return a text that a narrow column does not break."""
    return text.replace(" ", "\u00a0")


def accuracy(row: Mapping[str, Any], strong: bool = False) -> str:
    """Return `mean ± std (n=...)` of a row, as a cell."""
    said = unbroken(words.top1(row["top1"]))
    return f"**{said}**" if strong else said


def gap(found: Mapping[str, Any] | None) -> str:
    """Return a paired difference with its test, as a cell."""
    return f"{words.signed(found['mean'])}<br>{unbroken(words.paired(found))}" if found else ""


def verdict(found: Mapping[str, Any] | None) -> str:
    """Return what a paired difference proves, as a cell."""
    return words.VERDICTS[found["verdict"]] if found else ""


def standing(found: Mapping[str, Any] | None) -> str:
    """Return a paired difference with its verdict first, as one cell."""
    return f"{verdict(found)}<br>{gap(found)}" if found else ""


def linked(text: str, name: str) -> str:
    """Return a number as a link to the row file that it comes from."""
    return f"[{text}](results/{name})"


def labels(row: Mapping[str, Any]) -> str:
    """Return the kind of a row's labels and their bytes, as a cell."""
    if row["column"] == "H":
        return "hard"
    if row["column"] == "S":
        return f"soft, {unbroken(words.size(row['label_bytes']))}"
    return f"networks, {unbroken(words.size(row['bytes'].get('teachers', 0)))}"


def weight(row: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return a row's bytes and their share of the real training images, as a cell."""
    total, real = row["bytes"]["total"], run["real_bytes"][words.CODEC]
    return f"{unbroken(words.size(total))}<br>{unbroken(words.share(total, real))}"


def steps(row: Mapping[str, Any]) -> str:
    """Return a row's optimiser steps, marked where they are not those of the comparison or show more pictures."""
    return words.work(row["steps"], row["same_work"], words.seen(row))


def percent(value: float | None) -> str:
    """Return an accuracy without deviation, as a cell."""
    return "" if value is None else f"{value:.2f}"


def paper(found: Any) -> str:
    """Return the number of a `Paper` with its deviation."""
    return f"{found.top1:.1f}" + (f" ({found.std:g})" if found.std is not None else "")


def column_line(column: str) -> str:
    """Return the line above the table of a column."""
    return f"Column {column} ({words.COLUMNS[column]}):"


def compact(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table without the columns in which nothing stands."""
    kept = [i for i in range(len(headings)) if i == 0 or any(row[i] for row in rows)]
    return tables.markdown_table([headings[i] for i in kept], [[row[i] for i in kept] for row in rows])


def networks_of(row: Mapping[str, Any]) -> str:
    """Return the networks behind a row's labels, on a line of their own, or nothing where none are known."""
    names = [tables.code(name) for name in (row["recipe"] or {}).get("networks", ())]
    return f"<br>networks {', '.join(names)}" if names else ""
