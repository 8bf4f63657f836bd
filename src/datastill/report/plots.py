"""Figures as inline SVG that takes its ink from the page, so that it reads on light and on dark.

Texts that strangers wrote (class names) never enter a figure: legends are part of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from datastill.measure.ledger import thinned
from datastill.report import words
from datastill.report.rows import lines, rows_of, teachers

# Paul Tol's "bright" scheme without its grey: told apart under the common kinds of colour blindness, on light and dark.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
DASHES: tuple[tuple[float, ...], ...] = ((), (4.0, 2.0), (1.0, 1.5))
MARKERS = (("o", "●"), ("^", "▲"), ("s", "■"))
OTHERS = "#999999"
POINTS = 50  # of a loss curve: enough for its course, few enough to tell curves apart
# Placeholders: matplotlib wants colours, the page's own ink is known to the browser alone.
INK, FAINT = "#0a0b0c", "#0d0e0f"
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Mark:
    """How one line or one group of points is drawn, for the legend of the page. dash: SVG's stroke-dasharray."""

    name: str
    colour: str
    dash: str = ""
    width: float = 1.5
    sign: str = ""


@dataclass(frozen=True)
class Plot:
    """A figure: inline SVG, what it shows in words for those who do not see it, and its legend."""

    svg: str
    alt: str
    legend: tuple[Mark, ...] = ()


def arm_marks(results: Mapping[str, Any], student: str) -> dict[str, Mark]:
    """Return a mark per arm, the same in every figure; the method's line is the thick one."""
    return {
        row["arm"]: line_mark(row["arm"], i, 2.5 if i == 0 else 1.25) for i, row in enumerate(rows_of(results, student))
    }


def line_mark(name: str, index: int, width: float = 1.25) -> Mark:
    """Return the mark of the line with this place among its neighbours."""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return Mark(name, COLOURS[index % len(COLOURS)], " ".join(f"{d * width:g}" for d in dash), width)


def line_style(mark: Mark) -> Any:
    """Return a mark's dashes as matplotlib wants them: in widths of the line."""
    dashes = tuple(float(d) / mark.width for d in mark.dash.split())
    return (0, dashes) if dashes else "-"


def curves(results: Mapping[str, Any], student: str) -> list[Plot]:
    """Return training loss and accuracy on the items themselves, a pair of figures for each of the columns H, S, D."""
    marks, plots = arm_marks(results, student), []
    for column, _ in lines(results, student):
        mine = [row for row in rows_of(results, student) if row["column"] == column]
        legend = tuple(marks[row["arm"]] for row in mine)
        losses = [_loss_curve(row) for row in mine]
        title = f"Training loss, column {column}"
        plots.append(Plot(_lines(title, "optimiser step", losses, legend, logarithmic=True),
                          f"{title}: one line per arm of {student}", legend))  # fmt: skip
        found = [
            ([step for step, _ in row["item_accuracy"]], [top1 for _, top1 in row["item_accuracy"]]) for row in mine
        ]
        title = f"Accuracy on the items themselves (%), column {column}"
        plots.append(Plot(_lines(title, "optimiser step", found, legend, top=100.0),
                          f"{title}: one line per arm of {student}", legend))  # fmt: skip
    return plots


def teacher_curves(results: Mapping[str, Any]) -> Plot | None:
    """Return the networks' training losses, or None where a recipe has no networks."""
    found = [(name, facts) for name, facts in teachers(results) if facts["arch"] != words.ENSEMBLE]
    if not found:
        return None
    legend = tuple(line_mark(name, i, 1.5) for i, (name, _) in enumerate(found))
    series = [_loss_curve(facts) for _, facts in found]
    title = "Training loss of the networks"
    svg = _lines(title, "optimiser step", series, legend, logarithmic=True)
    return Plot(svg, f"{title}: one line per network", legend)


def embedding(row: Mapping[str, Any], classes: Sequence[str], shown: Sequence[int]) -> Plot | None:
    """Return a row's test features in two dimensions, `shown` classes coloured, the others grey; None without any."""
    spots = row["embedding"]
    if spots is None:
        return None
    marks = tuple(
        Mark(classes[k], COLOURS[i % len(COLOURS)], sign=MARKERS[i // len(COLOURS) % len(MARKERS)][1])
        for i, k in enumerate(shown)
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        _spots(axes, spots, set(spots["cls"]) - set(shown), OTHERS, "o", 4)
        for i, k in enumerate(shown):
            _spots(axes, spots, {k}, marks[i].colour, MARKERS[i // len(COLOURS) % len(MARKERS)][0], 12)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        svg = svg_of(figure, "embedding")
    others = (Mark("other classes", OTHERS, sign="●"),) if len(classes) > len(shown) else ()
    return Plot(svg, f"t-SNE of the test features of {row['arm']} with {row['student']}, by class", (*marks, *others))


def _spots(axes: Axes, spots: Mapping[str, Any], wanted: set[int], colour: str, marker: str, area: float) -> None:
    rows = [i for i, k in enumerate(spots["cls"]) if k in wanted]
    xs, ys = [spots["x"][i] for i in rows], [spots["y"][i] for i in rows]
    axes.scatter(xs, ys, s=area, c=colour, marker=marker, linewidths=0, alpha=0.85)


def _loss_curve(found: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return (steps, losses): means over even stretches, each at the middle of its stretch."""
    losses = thinned(found["losses"], POINTS)
    return [(i + 0.5) * found["steps"] / len(losses) for i in range(len(losses))], losses


def _lines(
    title: str, x_label: str, series: Iterable[tuple[Sequence[float], Sequence[float]]], marks: Sequence[Mark], *,
    logarithmic: bool = False, top: float | None = None,
) -> str:  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=x_label)
        axes.set_axisbelow(True)
        drawn: list[float] = []
        for (xs, ys), mark in zip(series, marks, strict=True):
            axes.plot(xs, ys, color=mark.colour, linewidth=mark.width, linestyle=line_style(mark),
                      marker="." if len(xs) == 1 else "")  # fmt: skip
            drawn += ys
        if logarithmic and drawn and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif top is not None:
            axes.set_ylim(0.0, top)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        return svg_of(figure, title)


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as an <svg> element alone: no declaration, metadata, addresses, size or dates."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", text)
    text = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', text)
    return text.replace(INK, "currentColor").replace(FAINT, "var(--faint)").replace("xlink:href", "href").strip()
