"""Tables of a results file for pages (Markdown) and terminals, and the reduced form in which results are committed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from rich.table import Table
from rich.text import Text

from datastill.measure.ledger import thinned
from datastill.measure.ledger import without_paths as without_paths
from datastill.report import ablation_rows, compared, words
from datastill.report import rows as read

POINTS = 40  # of a committed loss curve
COLOURS = {"better": "green", "worse": "red", "none": "yellow", "unproven": "yellow"}


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells are Markdown already, all but the first column are set to the right."""
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [headings, rule, *rows])


def escaped(text: str) -> str:
    """Return a stranger's text as Markdown that shows it and does nothing else."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", plain)


def code(text: str) -> str:
    """Return a stranger's text as inline code that is safe in a table."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def _whole(text: str) -> str:
    """Return a text that a narrow column does not break."""
    return text.replace(" ", "\u00a0")


def accuracy_tables(results: Mapping[str, Any], student: str) -> str:
    """Return a student's accuracies: its caption, then a table for each column (H, S, D), never one for all."""
    heading = read.paper_heading(results, student)
    headings = ["arm", "top-1, % (n)", "method minus this", "verdict", *([heading] if heading else []), "items",
                "pictures", "steps", "bytes, of the real set"]  # fmt: skip
    parts = [escaped(read.caption(results, student))]
    for column, lines in read.lines(results, student):
        cells = [
            [f"{code(line.arm)}<br>{escaped(line.says)}", _whole(line.top1) if line.gap else f"**{_whole(line.top1)}**",
             f"{line.difference}<br>{_whole(line.test)}" if line.gap else "", line.verdict,
             *([_whole(line.paper or "")] if heading else []), f"{line.items:,}", f"{line.pictures:,}",
             line.work, f"{_whole(words.size(line.bytes))}<br>{_whole(line.ratio)}"]
            for line in lines
        ]  # fmt: skip
        parts.append(f"Column {column} ({words.COLUMNS[column]}):")
        parts.append(markdown_table(headings, cells))
    return "\n\n".join(parts)


def teachers_table(results: Mapping[str, Any]) -> str:
    """Return the networks' own accuracies and bytes, and the bytes of one shipped in fp16 instead of the set."""
    real = results["real_bytes"][words.CODEC]
    cells = []
    for name, found in read.teachers(results):
        together = found["arch"] == words.ENSEMBLE
        half = found["bytes"] // 2
        cells.append(
            [code(name), f"{found['top1']:.2f}", "" if together else f"{found['steps']:,}", words.size(found["bytes"]),
             words.size(half), words.share(half, real)]
        )  # fmt: skip
    headings = ["network", "top-1, %", "steps", "bytes", "bytes in fp16", "fp16, of the real set"]
    return markdown_table(headings, cells)


def bytes_table(results: Mapping[str, Any]) -> str:
    """Return the exact bytes of every arm by what they are for, beside the real training images."""
    arms = read.arms(results)
    kinds = (*words.byte_kinds(arms), "total")
    cells = [[code(row["arm"]), *(f"{row['bytes'].get(kind, 0):,}" for kind in kinds)] for row in arms]
    blank = [""] * (len(kinds) - 1)
    cells += [[says, *blank, f"{count:,}"] for says, count in read.real_lines(results)]
    return markdown_table(["arm", *kinds], cells)


def times_table(results: Mapping[str, Any]) -> str:
    """Return the time of each phase."""
    cells = [[escaped(phase), words.duration(seconds)] for phase, seconds in words.times(results)]
    return markdown_table(["phase", "time"], cells)


def rich_table(results: Mapping[str, Any], student: str) -> Table:
    """Return a student's accuracies for a terminal, a section for each of the columns H, S and D."""
    table = Table(title=Text(read.caption(results, student)), title_justify="left")
    for heading in ("arm", "column"):
        table.add_column(heading)
    for heading in ("items", "steps", "bytes", "top-1, % (n)", "method minus this"):
        table.add_column(heading, justify="right")
    for column, lines in read.lines(results, student):
        for line in lines:
            said = Text(f"{line.difference} {line.verdict}", COLOURS[line.gap["verdict"]]) if line.gap else Text("")
            table.add_row(
                Text(line.arm, "" if line.gap else "bold"), column, f"{line.items:,}",
                line.work, words.size(line.bytes),
                Text(line.top1, "" if line.gap else "bold"), said,
            )  # fmt: skip
        table.add_section()
    return table


def rich_comparison(results: Mapping[str, Any], ipc: int, student: str) -> Table:
    """Return one ipc and student of a comparison for a terminal, a section for each of the columns H, S and D."""
    own = compared.rows_at(results, ipc, student)
    table = Table(title=Text(f"{ipc} images per class. {read.caption_of(own[0])}"), title_justify="left")
    for heading in ("arm", "column"):
        table.add_column(heading)
    for heading in ("items", "steps", "bytes", "top-1, % (n)", "minus random"):
        table.add_column(heading, justify="right")
    for column, lines in compared.groups(results, ipc, student):
        for line in lines:
            said = Text(f"{line.difference} {line.verdict}", COLOURS[line.gap["verdict"]]) if line.gap else Text("")
            table.add_row(
                Text(line.arm, "bold" if line.role == "method" else ""), column, f"{line.items:,}",
                line.work, words.size(line.bytes), line.top1, said,
            )  # fmt: skip
        table.add_section()
    return table


def rich_ablation(results: Mapping[str, Any]) -> Table:
    """Return the ladder of an ablation for a terminal: where it begins, then a section for each experiment."""
    caption = f"{ablation_rows.ladder_title(results)}. {read.caption_of(results['start'])}"
    table = Table(title=Text(caption), title_justify="left")
    for heading in ("experiment", "variant", "labels"):
        table.add_column(heading)
    for heading in ("items", "bytes", "top-1, % (n)", "against the best so far"):
        table.add_column(heading, justify="right")
    table.add_column("decision")
    _add_trial(table, "", results["start"], "the start")
    for experiment, _ in ablation_rows.climbed(results):
        table.add_section()
        for i, row in enumerate(experiment["rows"]):
            told = ablation_rows.decision(row, experiment, results["protocol"]["rule"])
            _add_trial(table, "" if i else experiment["name"], row, told)
    return table


def _add_trial(table: Table, experiment: str, row: Mapping[str, Any], decision: str) -> None:
    gap = row["against_best"]
    style = "green" if decision == ablation_rows.KEPT else ""
    table.add_row(
        Text(experiment), Text(row["variant"], style), row["column"], f"{row['items']:,}",
        words.size(row["bytes"]["total"]), Text(words.top1(row["top1"]), style),
        f"{words.signed(gap['mean'])} (sd {gap['sd']:.2f})" if gap else "", Text(words.minus(decision), style),
    )  # fmt: skip


def reduce_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results as they are committed: no embeddings, thinner curves, no path of the machine.

    Numbers, counts, bytes, recipe and versions stay as they are; reducing twice changes nothing more.
    """
    rows = [_reduced(row) for row in results["rows"]]
    teachers = {name: _reduced(found) for name, found in results["teachers"].items()}
    source = dict(results["source"])
    for key in ("asked", "name"):
        source[key] = without_paths(source[key])
    for key in ("notes", "skipped"):
        source[key] = [without_paths(text) for text in source[key]]
    return dict(results) | {
        "rows": rows,
        "teachers": teachers,
        "source": source,
        "commands": [without_paths(command) for command in results["commands"]],
        "distilled": PureWindowsPath(results["distilled"]).name,
    }


def _reduced(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: thinned(v, POINTS) if k == "losses" else v for k, v in row.items() if k != "embedding"}
