"""Figures of a comparison: accuracies by arm, and against images per class; each of the columns H, S, D by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from datastill.report import words
from datastill.report.compared import WHOLE, Compared, groups, ipcs
from datastill.report.plots import INK, STYLE, Mark, Plot, line_mark, line_style, svg_of


def marks_of(results: Mapping[str, Any]) -> dict[str, Mark]:
    """Return a mark per arm, the same in every figure of a comparison."""
    names = dict.fromkeys(row["arm"] for row in results["rows"])
    return {name: line_mark(name, i, 1.5) for i, name in enumerate(names)}


def by_arm(column: str, lines: Sequence[Compared], marks: Mapping[str, Mark], span: tuple[float, float]) -> Plot:
    """Return the accuracies of one column, an arm in each line: all seeds, their mean, and one deviation.

    Args:
        column: H, S or D.
        lines: of one ipc and student; the first is drawn at the top.
        marks: the colour of each arm.
        span: ends of the axis in percent, the same for all columns of a student.
    """
    title = f"Column {column}, top-1 (%)"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 0.8 + 0.32 * len(lines)), layout="constrained")
        axes = figure.add_subplot(title=title)
        axes.set_axisbelow(True)
        axes.grid(visible=False, axis="y")
        for place, line in enumerate(lines):
            _spread(axes, place, line, marks[line.arm].colour)
        control = next((line for line in lines if line.random and line.gap is None), None)
        if control:
            axes.axvline(control.mean, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=0.5)
        axes.set_yticks(range(len(lines)), [line.arm for line in lines])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=span, ylim=(len(lines) - 0.4, -0.6))
        svg = svg_of(figure, title)
    said = "; ".join(f"{line.arm} {line.top1}" for line in lines)
    return Plot(svg, f"Accuracies of column {column} with {lines[0].student} at ipc {lines[0].ipc}: {said}")


def _spread(axes: Axes, place: int, line: Compared, colour: str) -> None:
    axes.scatter(line.per_seed, [place + 0.27] * len(line.per_seed), s=14, c=colour, linewidths=0, alpha=0.55)
    axes.errorbar([line.mean], [place], xerr=None if line.std is None else [line.std], color=colour, marker="|",
                  markersize=8, markeredgewidth=2, elinewidth=1.5, capsize=3)  # fmt: skip


def against_ipc(results: Mapping[str, Any], student: str, marks: Mapping[str, Mark]) -> list[Plot]:
    """Return accuracies against images per class, a figure for each of the columns; none for a single ipc."""
    asked = ipcs(results)
    if len(asked) < 2:
        return []
    found = [(ipc, column, line) for ipc in asked for column, lines in groups(results, ipc, student) for line in lines]
    plots = []
    for column in words.COLUMNS:
        series: dict[str, list[Compared]] = {}
        for _, name, line in found:
            if name == column and line.role != WHOLE:  # the whole set has no images per class
                series.setdefault(line.arm, []).append(line)
        if series:
            title = f"Top-1 (%) against images per class, column {column}"
            alt = f"{title}: one line per arm of {student}, with one deviation"
            plots.append(Plot(_lines(title, series, marks, asked), alt, tuple(marks[arm] for arm in series)))
    return plots


def _lines(title: str, series: Mapping[str, Sequence[Compared]], marks: Mapping[str, Mark], asked: list[int]) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel="images per class")
        axes.set_axisbelow(True)
        for arm, lines in series.items():
            mark = marks[arm]
            axes.errorbar([line.ipc for line in lines], [line.mean for line in lines],
                          yerr=[line.std or 0.0 for line in lines], color=mark.colour, linewidth=mark.width,
                          linestyle=line_style(mark), marker="o", markersize=3.5, elinewidth=1, capsize=2)  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(asked))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{ipc:,}" for ipc in asked]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(6))
        return svg_of(figure, title)
