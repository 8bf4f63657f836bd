"""The generated part of docs/frontier.md: two charts and a table for each protocol that was measured.

A chart is an SVG file of its own, on white: a picture that a page embeds cannot know whether the page is light or dark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from datastill.measure.ledger import Entry
from datastill.report import plots, tables, words

from . import words as cells
from .ledger import Group, Ledger

PREFIX = "frontier-"  # of the files under docs/assets/
INK, FAINT = "#1f2933", "#9aa5b1"  # on white, as in assets/infer.png
SHAPES = ("o", "^", "s", "D", "v", "P", "X", "*")
HEADINGS = ["arm", "ipc", "top-1, % (n)", "against random, same labels", "labels", "bytes, of the real set",
            "their networks, top-1"]  # fmt: skip

Point = tuple[float, Entry]
Series = Mapping[str, Sequence[Point]]


def frontier_parts(found: Ledger) -> tuple[str, dict[str, str]]:
    """Return what stands between the page's markers, and the figures: name of the file -> SVG."""
    parts: list[str] = []
    figures: dict[str, str] = {}
    for group in found.frontiers:
        networks = [e for e in found.networks if e.run["source"]["fingerprint"] == _fingerprint(group)
                    and e.run["protocol"]["split"] == group.split]  # fmt: skip
        parts.append(f"## {_title(group)}")
        for chart, axis, x in (
            ("bytes", "Equal bytes: everything that a receiver stores", _bytes),
            ("ipc", "Equal raw pixels: images per class, which count neither labels nor networks", _ipc),
        ):
            beside = networks if chart == "bytes" else []
            name = f"{PREFIX}{group.name}-{chart}.svg"
            figures[name] = draw(group, x, chart, beside)
            parts += [f"### {axis}", f"![{alt(group, x, chart, beside)}](assets/{name})"]
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


def _bytes(row: Mapping[str, Any]) -> float:
    return float(row["bytes"]["total"])


def _ipc(row: Mapping[str, Any]) -> float:
    return float(row["ipc"])


def series_of(group: Group, column: str, x: Callable[[Mapping[str, Any]], float]) -> dict[str, list[Point]]:
    """Return the points of a column from left to right, by the name of their line."""
    found: dict[str, list[Point]] = {}
    for entry in group.entries:
        if entry.row["column"] == column and x(entry.row) > 0:
            found.setdefault(line_name(entry.row), []).append((x(entry.row), entry))
    return {name: sorted(points, key=lambda p: (p[0], p[1].name)) for name, points in sorted(found.items())}


def line_name(row: Mapping[str, Any]) -> str:
    """Return the name of the line that a row lies on: its arm without the size that changes along the line."""
    parts = [part for part in row["arm"].split() if not part.removeprefix("ipc").isdigit()]
    return " ".join(parts) or str(row["arm"])


def columns(group: Group) -> list[str]:
    """Return the columns that have rows."""
    return [column for column in words.COLUMNS if any(e.row["column"] == column for e in group.entries)]


def draw(group: Group, x: Callable[[Mapping[str, Any]], float], chart: str, networks: Sequence[Entry]) -> str:
    """Return a chart as a whole SVG file: a panel for each column, never two columns in one."""
    names = sorted({line_name(e.row) for e in group.entries})
    with matplotlib.rc_context(plots.STYLE):
        held = columns(group)
        figure = Figure(figsize=(7.2, 3.1 * len(held)), layout="constrained")
        panels = figure.subplots(len(held), 1, sharex=True, squeeze=False)[:, 0]
        for axes, column in zip(panels, held, strict=True):
            axes.set_title(f"Column {column}: top-1 (%) on the {group.split} split")
            axes.set_axisbelow(True)
            for name, points in series_of(group, column, x).items():
                _line(axes, names.index(name), name, points)
            for entry in networks:  # no set, and so of no column: a mark to hold every panel against
                axes.scatter([entry.row["bytes"]], [entry.row["top1"]], marker="*", s=70, color=plots.OTHERS,
                             label=entry.row["arm"], zorder=3)  # fmt: skip
            _axis(axes, chart)
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        panels[-1].set_xlabel("bytes as stored, labels and networks included" if chart == "bytes" else
                              "images per class (equal raw pixels)")  # fmt: skip
        svg = plots.svg_of(figure, f"{group.name} {chart}")
    return whole_file(svg, figure)


def _line(axes: Axes, place: int, name: str, points: Sequence[Point]) -> None:
    rows = [entry.row for _, entry in points]
    mark = plots.line_mark(name, place, 1.5)
    axes.errorbar([at for at, _ in points], [row["top1"]["mean"] for row in rows],
                  yerr=[row["top1"]["std"] or 0.0 for row in rows], color=mark.colour, linewidth=mark.width,
                  linestyle=plots.line_style(mark), marker=SHAPES[place % len(SHAPES)], markersize=5, elinewidth=1,
                  capsize=2, label=name)  # fmt: skip


def _axis(axes: Axes, chart: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: words.size(v) if chart == "bytes" else f"{v:g}"))
    axes.margins(y=0.15)


def whole_file(svg: str, figure: Figure) -> str:
    """Return an inline figure as a file of its own, with its size and colours, on white."""
    width, height = (round(float(side) * 96) for side in figure.get_size_inches())
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    made = svg.replace("<svg ", head, 1).replace("currentColor", INK).replace("var(--faint)", FAINT)
    opening, _, rest = made.partition(">")
    return f'{opening}>\n <rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'


def alt(group: Group, x: Callable[[Mapping[str, Any]], float], chart: str, networks: Sequence[Entry]) -> str:
    """Return what a chart shows, in words, for those who do not see it."""
    axis = "total bytes, on a logarithmic axis" if chart == "bytes" else "images per class"
    said = [f"Top-1 of {group.student} on {group.source} against {axis}."]
    for column in columns(group):
        lines = [
            f"{name}: " + ", ".join(f"{p[1].row['top1']['mean']:.1f} % at {_at(p[0], chart)}" for p in points)
            for name, points in series_of(group, column, x).items()
        ]
        said.append(f"Column {column}: {'; '.join(lines)}.")
    said += [f"{e.row['arm']}: {e.row['top1']:.1f} % at {_at(e.row['bytes'], chart)}." for e in networks]
    return tables.escaped(" ".join(said))


def _at(value: float, chart: str) -> str:
    return words.size(value) if chart == "bytes" else f"ipc {value:g}"


def _tables(group: Group) -> list[str]:
    parts = []
    for column in columns(group):
        mine = sorted((e for e in group.entries if e.row["column"] == column),
                      key=lambda e: (e.row["bytes"]["total"], e.name))  # fmt: skip
        parts += [cells.column_line(column), cells.compact(HEADINGS, [_cells(e) for e in mine])]
    return parts


def _cells(entry: Entry) -> list[str]:
    row = entry.row
    return [
        f"{tables.code(row['arm'])}<br>{tables.escaped(row['says'])}", f"{row['ipc']:,}" if row["ipc"] else "",
        cells.linked(cells.accuracy(row), entry.name), cells.standing(row["against_random"]), cells.labels(row),
        cells.weight(row, entry.run), cells.percent(row["teacher_top1"]),
    ]  # fmt: skip


def _networks(networks: Sequence[Entry]) -> str:
    made = [[tables.code(e.row["arm"]), cells.linked(f"{e.row['top1']:.2f}", e.name), words.size(e.row["bytes"]),
             words.share(e.row["bytes"], e.run["real_bytes"][words.CODEC])]
            for e in sorted(networks, key=lambda e: (e.row["bytes"], e.name))]  # fmt: skip
    return tables.markdown_table(["what is sent", "top-1, %", "bytes", "of the real set"], made)
