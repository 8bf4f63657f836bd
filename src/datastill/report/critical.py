"""The critical keep-ratio of a sweep: in sentences, as a table, as a figure, and on a page of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from rich.table import Table
from rich.text import Text

from datastill.errors import DatastillError
from datastill.measure.evaluate import RESULTS
from datastill.report import words
from datastill.report.ablation_rows import ablation_failures
from datastill.report.page import rendered, whole
from datastill.report.plots import COLOURS, INK, STYLE, Mark, Plot, svg_of
from datastill.report.rows import caption_of
from datastill.runtime.files import read_json, write_bytes

PAGE, COMMAND = "critical.html", "datastill critical"
FATES = {"worse": ("worse than all images, beyond noise", COLOURS[1], "v", "▼"),
         "not worse": ("not worse beyond noise", COLOURS[0], "o", "●")}  # fmt: skip
LUCK = "One set was made at each share, so the luck of its random images is not in these numbers."
Row = Mapping[str, Any]


def critical_sentences(results: Mapping[str, Any]) -> list[str]:
    """Return the finding, what it leaves open, and what was left out, a sentence each."""
    found, rows = results["critical"], results["critical"]["rows"]
    left_out = ablation_failures(results)
    if len(rows) == 1:
        return ["No share below 1 could be measured.", *left_out]
    said = [_finding(found["ratio"], rows)]
    if found["worse"]:
        said.append(f"Larger shares are worse all the same: {words.listed([f'{k:g}' for k in found['worse']])}.")
    return [*said, LUCK, *left_out]


def _finding(ratio: float, rows: list[Row]) -> str:
    where = "on held-out training images"
    if ratio == 1.0:
        return f"No pruning is free: {where}, students are worse at every share below 1, beyond noise."
    row = next(row for row in rows if row["keep"] == ratio)
    smaller = any(row["keep"] < ratio for row in rows)
    gap = f"({words.signed(row['gap'])} points, n={row['top1']['n']})"
    stand = "are better than" if row["verdict"] == "better" else "do not differ beyond noise from"
    last = "at every smaller one they are worse" if smaller else "no smaller one was tried"
    unseen = "" if row["low"] >= 0 else f" A loss of up to {-row['low']:.2f} points may still be there, unseen."
    return (
        f"The critical keep-ratio is {ratio:g}: {where}, students of this share {stand} those of all images {gap}, and "
        f"{last}.{unseen}"
    )


def rich_critical(results: Mapping[str, Any]) -> Table:
    """Return a sweep for a terminal, a line for each share from 1 down."""
    table = Table(title=Text(caption_of(results["start"])), title_justify="left")
    for heading in ("keep", "top-1, % (n)", "against keep 1", "at worst", "verdict"):
        table.add_column(heading, justify="right")
    for row in results["critical"]["rows"]:
        style = "green" if row["keep"] == results["critical"]["ratio"] else ""
        table.add_row(*(Text(cell, style) for cell in _cells(row)))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    top1 = words.top1(row["top1"])
    if row["verdict"] is None:
        return f"{row['keep']:g}", top1, "", "", ""
    return f"{row['keep']:g}", top1, words.signed(row["gap"]), words.signed(row["low"]), words.VERDICTS[row["verdict"]]


def chart(results: Mapping[str, Any]) -> Plot:
    """Return top-1 against the share that is kept, with one deviation over seeds; a line where nothing is pruned."""
    rows, said = results["critical"]["rows"], []
    drawn: dict[str, Mark] = {}
    title = f"Top-1 (%) on the {results['protocol']['split']} split"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel="share of real images kept")
        axes.set_axisbelow(True)
        axes.axhline(rows[0]["top1"]["mean"], color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=0.5)
        axes.plot([row["keep"] for row in rows], [row["top1"]["mean"] for row in rows], color=INK, linewidth=0.6)
        for row in rows:
            fate = "worse" if row["verdict"] == "worse" else "not worse"
            name, colour, marker, sign = FATES[fate]
            drawn[fate] = Mark(name, colour, sign=sign)
            axes.errorbar([row["keep"]], [row["top1"]["mean"]], yerr=[row["top1"]["std"] or 0.0], color=colour,
                          marker=marker, markersize=6, elinewidth=1, capsize=2, linestyle="none")  # fmt: skip
            said.append(f"{row['keep']:g}: {words.top1(row['top1'])}")
        axes.xaxis.set_major_locator(FixedLocator([row["keep"] for row in rows]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(1.04, min(row["keep"] for row in rows) - 0.04)
        svg = svg_of(figure, "critical")
    return Plot(svg, words.minus(f"{title} by the share that is kept: {'; '.join(said)}"), tuple(drawn.values()))


def write_critical(run: Path) -> Path:
    """Write the page of a sweep beside its results; returns its path.

    Raises: DatastillError when results are missing, damaged, or not those of a sweep.
    """
    results = read_json(run / RESULTS)
    if not isinstance(results, dict) or "critical" not in results:
        raise DatastillError(f"'{run / RESULTS}' holds no sweep of keep-ratios; {COMMAND} writes them.")
    with whole(run / RESULTS, COMMAND):
        page = rendered(
            "critical.html.j2",
            version=results["versions"]["datastill"],
            results=results,
            sentences=critical_sentences(results),
            caption=caption_of(results["start"]),
            rows=[(_cells(row), row["keep"] == results["critical"]["ratio"]) for row in results["critical"]["rows"]],
            chart=chart(results),
        )
    write_bytes(run / PAGE, page.encode())
    return run / PAGE
