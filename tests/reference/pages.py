"""The pages of the documentation as texts, blocks, inline code and tables, and the data sets that they speak of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datastill import fields as rooms
from datastill.recipe import DatasetInfo, Recipe

ROOT = Path(__file__).parents[2]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.name != "results.md"  # a table of results, made by a command
}
INFOS = {
    "digits": DatasetInfo("digits", 10, (1, 8, 8), 1438, (0.3,), (0.4,)),
    "cifar10": DatasetInfo("cifar10", 10, (3, 32, 32), 50_000, (0.5,) * 3, (0.2,) * 3),
    "cifar100": DatasetInfo("cifar100", 100, (3, 32, 32), 50_000, (0.5,) * 3, (0.2,) * 3),
    "tiny-imagenet": DatasetInfo("tiny-imagenet", 200, (3, 64, 64), 100_000, (0.5,) * 3, (0.2,) * 3),
    "imagenet": DatasetInfo("imagenet", 1000, (3, 224, 224), 1_281_167, (0.5,) * 3, (0.2,) * 3),
}


class Block(NamedTuple):
    """A fenced block of a page; `run` where the line before it says so."""

    language: str
    text: str
    run: bool


def blocks(page: str) -> list[Block]:
    found = re.findall(r"(<!-- run -->\n)?```(\w*)[^\n]*\n(.*?)\n```", PAGES[page], re.DOTALL)
    return [Block(language, text, bool(mark)) for mark, language, text in found]


def codes(page: str) -> list[str]:
    """Return the inline code of a page."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))


def table(page: str, mark: str) -> list[list[str]]:
    """Return the cells below the heading of the table that a comment marks."""
    _, _, text = PAGES[page].partition(f"<!-- {mark} -->\n")
    rows = re.match(r"(?:\|.*\n)+", text)
    assert rows, f"{page} has no table '{mark}'"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


def name_of(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def value_at(made: Recipe, path: str) -> Any:
    """Return a value of a recipe; one that a choice leaves to its default is looked up there."""
    room, _, setting = path.partition(".")
    if room in rooms.ROOMS:
        return getattr(rooms.make_choice(room, getattr(made, room), []), setting)
    if room == "student":
        return getattr(made.student, setting)
    values = [getattr(n.training, setting.removeprefix("*.training.")) for n in made.networks.values()]
    assert values == values[:1] * len(values), path
    return values[0]


def profiled(page: str, sources: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return (method, setting, source, cell) of every cell of a page's table of profiles, whose columns are sources."""
    return [
        (name, path, source, cell)
        for named, setting, *cells in table(page, "profiles")
        for name in name_of(named) for path in name_of(setting)
        for source, cell in zip(sources, cells, strict=True)
    ]  # fmt: skip


def controlled(page: str, methods: Sequence[str]) -> dict[str, set[str]]:
    """Return the controls that a page lists for each of two methods, in a table whose second column says of which."""
    listed: dict[str, set[str]] = {name: set() for name in methods}
    for names, of, *_ in table(page, "controls"):
        for name in methods if of == "both" else name_of(of):
            listed[name] |= set(name_of(names))
    return listed
