"""The two charts of a frontier: accuracy against bytes, and against images per class; a panel for each of H, S, D.

A colour is a family of codecs, a shape one codec with one kind of labels; methods have colours of their own and thick
lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from datastill.report import words
from datastill.report.frontier_rows import (
    RANDOM,
    Row,
    codec_and_label,
    columns,
    front,
    line_name,
    place,
    series,
)
from datastill.report.plots import COLOURS, INK, OTHERS, STYLE, Mark, Plot, svg_of

AXES = {"bytes": "bytes as stored, labels and networks included", "ipc": "images per class (equal raw pixels)"}
# Families of codecs; what keeps every pixel is one family, and what a preset stores is grey.
FAMILIES = {
    "avif": COLOURS[0], "webp": COLOURS[4], "jpeg": COLOURS[3], "raw": COLOURS[2], "png": COLOURS[2],
    "webp-lossless": COLOURS[2],
}  # fmt: skip
METHODS = (COLOURS[1], COLOURS[5])
# sign in a legend of the page -> matplotlib's marker, and how it is filled; the second half is hollow
SIGNS = {
    "●": ("o", "full"), "▲": ("^", "full"), "■": ("s", "full"), "◆": ("D", "full"), "▼": ("v", "full"),
    "►": (">", "full"), "◄": ("<", "full"), "○": ("o", "none"), "△": ("^", "none"), "□": ("s", "none"),
    "◇": ("D", "none"), "▽": ("v", "none"), "▻": (">", "none"), "◅": ("<", "none"),
}  # fmt: skip
FRONT = {
    "bytes": "the best random real images in no more bytes",
    "ipc": "the best random real images of no more images per class",
}
SENT = Mark("a network in place of a set", OTHERS, sign="★")


def marks_of(rows: Sequence[Row]) -> dict[tuple[str, str], Mark]:
    """Return a mark for each (column, line), the same in both charts.

    No two lines of a column share one, up to 14 lines of a family of codecs and 28 of methods; beyond, marks repeat.
    """
    made: dict[tuple[str, str], Mark] = {}
    for column in columns(rows):
        taken: dict[str, int] = {}
        mine = series(rows, column, "bytes")
        # Lines of many points first, so that a codec tends to keep its shape from column to column.
        for name in sorted(mine, key=lambda name: (-len(mine[name]), name)):
            family, colours, width = _family(mine[name][0])
            i = taken[family] = taken.get(family, -1) + 1
            sign = list(SIGNS)[i // len(colours) % len(SIGNS)]
            made[column, name] = Mark(name, colours[i % len(colours)], width=width, sign=sign)
    return made


def _family(row: Row) -> tuple[str, tuple[str, ...], float]:
    """Return the family of a line, its colours, and how wide it is drawn."""
    if row["method"] != RANDOM:
        return "", METHODS, 2.5
    colour = FAMILIES.get(codec_and_label(row)[0].partition("/")[0].partition(":")[0], OTHERS)
    return colour, (colour,), 1.0


def frontier_plots(rows: Sequence[Row], chart: str, networks: Sequence[Row]) -> list[Plot]:
    """Return a chart for a page: a figure with its legend for each column.

    Args:
        rows: of one student.
        chart: "bytes" or "ipc", the axis.
        networks: that could be sent in place of a set; none for images per class.
    """
    marks, plots = marks_of(rows), []
    for column in columns(rows):
        svg = frontier_svg(rows, chart, networks, [column], name=f"frontier {chart} {column}")
        alt = f"Top-1 of {rows[0]['student']} against {AXES[chart]}. {described(rows, column, chart)}"
        legend = _legend(rows, column, chart, networks, marks)
        plots.append(Plot(svg, f"{alt} {networks_described(networks)}".strip(), legend))
    return plots


def _legend(
    rows: Sequence[Row], column: str, chart: str, networks: Sequence[Row], marks: Mapping[tuple[str, str], Mark]
) -> tuple[Mark, ...]:
    """Return the marks of a panel: methods, then the families of codecs, then what all of them stand beside."""
    lines = [mark for (held, _), mark in marks.items() if held == column]
    lines.sort(key=lambda mark: (mark.colour not in METHODS, mark.colour, list(SIGNS).index(mark.sign)))
    best = [Mark(FRONT[chart], "currentColor", width=0.8)] if front(rows, column, chart) else []
    return (*lines, *best, *([SENT] if networks else []))


def frontier_svg(
    rows: Sequence[Row], chart: str, networks: Sequence[Row], held: Sequence[str], *, name: str, legend: bool = False
) -> str:
    """Return a panel for each of the columns `held`, one below the other, as an <svg> element in the page's ink.

    name: of the figure; equal names and rows give equal bytes. legend: whether it stands in the figure itself.
    """
    marks = marks_of(rows)
    with matplotlib.rc_context(STYLE):
        told = [_legend(rows, column, chart, networks, marks) for column in held]
        height = max(3.1, 0.6 + 0.165 * max(map(len, told))) if legend else 3.2  # an entry of a legend is 0.165 inches
        figure = Figure(figsize=(7.2 if legend else 4.6, height * len(held)), layout="constrained")
        panels = figure.subplots(len(held), 1, sharex=True, squeeze=False)[:, 0]
        for axes, column, mine in zip(panels, held, told, strict=True):
            axes.set_title(f"Column {column}: top-1 (%) on the {rows[0]['split']} split")
            axes.set_axisbelow(True)
            _panel(axes, rows, column, chart, marks)
            for i, network in enumerate(networks):  # of no column: a mark to hold every panel against
                axes.scatter([network["bytes"]], [network["top1"]], marker="*", s=55, color=SENT.colour, linewidths=0,
                             label=None if i else SENT.name, zorder=3)  # fmt: skip
            if legend:
                drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
                axes.legend([drawn[mark.name] for mark in mine], [mark.name for mark in mine], loc="center left",
                            bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)  # fmt: skip
        _axis(panels[-1], chart)
        return svg_of(figure, name)


def _panel(axes: Axes, rows: Sequence[Row], column: str, chart: str, marks: Mapping[tuple[str, str], Mark]) -> None:
    for name, mine in series(rows, column, chart).items():
        mark = marks[column, name]
        marker, fill = SIGNS[mark.sign]
        own = mine[0]["method"] != RANDOM
        axes.errorbar([place(row, chart) for row in mine], [row["top1"]["mean"] for row in mine],
                      yerr=[row["top1"]["std"] or 0.0 for row in mine], color=mark.colour, linewidth=mark.width,
                      marker=marker, fillstyle=fill, markersize=6 if own else 4, elinewidth=1, label=name,
                      zorder=2.5 if own else 2)  # fmt: skip
    best = front(rows, column, chart)
    if best:
        furthest = max(place(row, chart) for row in rows)
        axes.plot([*(place(row, chart) for row in best), furthest],
                  [*(row["top1"]["mean"] for row in best), best[-1]["top1"]["mean"]], color=INK, linewidth=0.8,
                  drawstyle="steps-post", label=FRONT[chart], zorder=1.5)  # fmt: skip


def _axis(axes: Axes, chart: str) -> None:
    axes.set_xlabel(AXES[chart])
    axes.set_xscale("log")
    axes.margins(y=0.1)
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades <= 2 else (1.0, 3.0) if decades <= 4 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: said_place(value, chart, axis=True)))


def said_place(value: float, chart: str, *, axis: bool = False) -> str:
    """Return a place on a chart's axis in words; on the axis itself without its noun."""
    if chart == "bytes":
        return words.size(value)
    return f"{value:g}" if axis else f"ipc {value:g}"


def described(rows: Sequence[Row], column: str, chart: str) -> str:
    """Return what the panel of a column shows, in words, for those who do not see it."""
    lines = [_described(name, mine, chart) for name, mine in series(rows, column, chart).items()]
    best = front(rows, column, chart)
    if best:
        lines.append(f"{FRONT[chart]}: " + ", ".join(f"{line_name(r)} from {said_place(place(r, chart), chart)}"
                                                     for r in best))  # fmt: skip
    return f"Column {column}: {'; '.join(lines)}."


def _described(name: str, mine: Sequence[Row], chart: str) -> str:
    return f"{name}: " + ", ".join(
        f"{row['top1']['mean']:.1f} % at {said_place(place(row, chart), chart)}" for row in mine
    )


def networks_described(networks: Sequence[Mapping[str, Any]]) -> str:
    """Return the stars of a chart in words."""
    return " ".join(f"{n['arm']}: {n['top1']:.1f} % at {words.size(n['bytes'])}." for n in networks)
