"""The generated part of docs/frontier.md: two charts and a table for each protocol that was measured.

A chart is an SVG file of its own, on white: a picture that a page embeds cannot know whether the page is light or dark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from datastill.measure.ledger import Entry
from datastill.report import frontier_plots, tables, words
from datastill.report.frontier_rows import Row, columns

from . import words as cells
from .ledger import Group, Ledger

PREFIX = "frontier-"  # of the files under docs/assets/
INK, FAINT = "#1f2933", "#9aa5b1"  # on white, as in assets/infer.png
PIXELS = 96 / 72  # of a screen, in a point of a figure
HEADINGS = ["arm", "ipc", "top-1, % (n)", "against random, same labels", "labels", "bytes, of the real set",
            "their networks, top-1"]  # fmt: skip
CHARTS = {
    "bytes": "Equal bytes: everything that a receiver stores",
    "ipc": "Equal raw pixels: images per class, which count neither labels nor networks",
}


def frontier_parts(found: Ledger) -> tuple[str, dict[str, str]]:
    """Return what stands between the page's markers, and the figures: name of the file -> SVG."""
    parts: list[str] = []
    figures: dict[str, str] = {}
    for group in found.frontiers:
        networks = [e for e in found.networks if e.run["source"]["fingerprint"] == _fingerprint(group)
                    and e.run["protocol"]["split"] == group.split]  # fmt: skip
        parts.append(f"## {_title(group)}")
        rows = [entry.row for entry in group.entries]
        for chart, axis in CHARTS.items():
            beside = [entry.row for entry in networks] if chart == "bytes" else []
            name = f"{PREFIX}{group.name}-{chart}.svg"
            drawn = frontier_plots.frontier_svg(rows, chart, beside, columns(rows), name=f"{group.name} {chart}",
                                                legend=True)  # fmt: skip
            figures[name] = whole_file(drawn)
            parts += [f"### {axis}", f"![{alt(group, chart, beside)}](assets/{name})"]
        parts += ["### The rows", *_tables(group)]
        if networks:
            parts += ["Sending a network in place of a set:", _networks(networks)]
    return "\n\n".join(parts) or "No row yet.", figures


def _fingerprint(group: Group) -> Any:
    return group.entries[0].run["source"]["fingerprint"]


def _title(group: Group) -> str:
    split = ", on validation images" if group.split == "validation" else ""
    return (
        f"{tables.escaped(group.source)}: student {tables.code(group.student)}, {group.steps:,} steps of "
        f"{group.batch:,} items{split}"
    )


def whole_file(svg: str) -> str:
    """Return an inline figure as a file of its own, with its size and colours, on white."""
    sides = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert sides is not None, "figures are drawn from their corner"
    width, height = (round(float(side) * PIXELS) for side in sides.groups())
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    made = svg.replace("<svg ", head, 1).replace("currentColor", INK).replace("var(--faint)", FAINT)
    opening, _, rest = made.partition(">")
    return f'{opening}>\n <rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'


def alt(group: Group, chart: str, networks: Sequence[Row]) -> str:
    """Return what a chart shows, in words, for those who do not see it."""
    rows = [entry.row for entry in group.entries]
    said = [f"Top-1 of {group.student} on {group.source} against {frontier_plots.AXES[chart]}."]
    said += [frontier_plots.described(rows, column, chart) for column in columns(rows)]
    return tables.escaped(" ".join([*said, frontier_plots.networks_described(networks)]).strip())


def _tables(group: Group) -> list[str]:
    parts = []
    for column in columns([entry.row for entry in group.entries]):
        mine = sorted((e for e in group.entries if e.row["column"] == column),
                      key=lambda e: (e.row["bytes"]["total"], e.name))  # fmt: skip
        parts += [cells.column_line(column), cells.compact(HEADINGS, [_cells(group, e) for e in mine])]
    return parts


def _cells(group: Group, entry: Entry) -> list[str]:
    row = entry.row
    return [
        f"{tables.code(row['arm'])}<br>{tables.escaped(row['says'])}", f"{row['ipc']:,}" if row["ipc"] else "",
        cells.linked(cells.accuracy(row), entry.name), cells.standing(group.against_random(entry)), cells.labels(row),
        cells.weight(row, entry.run), cells.percent(row["teacher_top1"]),
    ]  # fmt: skip


def _networks(networks: Sequence[Entry]) -> str:
    made = [[tables.code(e.row["arm"]), cells.linked(f"{e.row['top1']:.2f}", e.name), words.size(e.row["bytes"]),
             words.share(e.row["bytes"], e.run["real_bytes"][words.CODEC])]
            for e in sorted(networks, key=lambda e: (e.row["bytes"], e.name))]  # fmt: skip
    return tables.markdown_table(["what is sent", "top-1, %", "bytes", "of the real set"], made)
