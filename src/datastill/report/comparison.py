"""The report of a comparison: many methods, one protocol, one HTML file that asks nothing of any other place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datastill.report import compared, words
from datastill.report import rows as read
from datastill.report.accuracy_plots import against_ipc, by_arm, marks_of
from datastill.report.compared import WHOLE
from datastill.report.page import rendered, write_page
from datastill.report.parts import byte_bars, byte_kinds, networks, span_of
from datastill.report.plots import Plot, teacher_curves

KIND = "comparison"


@dataclass(frozen=True)
class Block:
    """All that the page shows of one student at one ipc. papers: whether a paper printed a number for one of its rows.
    span: ends of the strips of seeds, in percent. whole: the whole real set, which is far off that scale.
    """

    student: str
    caption: str
    verdicts: list[compared.Verdict]
    groups: list[tuple[str, list[compared.Compared]]]
    papers: bool
    span: tuple[float, float]
    whole: list[compared.Compared]
    plots: list[Plot]


@dataclass(frozen=True)
class Stage:
    """One ipc: its students, the bytes of its sets, and what each took to make."""

    ipc: int
    blocks: list[Block]
    arms: list[Mapping[str, Any]]
    bars: list[tuple[str, Any]]


def write_comparison(run: Path) -> Path:
    """Write the report of a comparison beside its results.

    Args:
        run: the folder that `compare` wrote.

    Returns: the path of the page.
    Raises: DatastillError when the results are missing, damaged, or not those of a comparison.
    """
    return write_page(run, KIND, "datastill compare", render)


def render(results: Mapping[str, Any]) -> str:
    """Return the page of a comparison; every text in it is escaped but our own figures."""
    students, marks = read.students(results), marks_of(results)
    return rendered(
        "comparison.html.j2",
        version=results["versions"]["datastill"],
        results=results,
        title=title(results),
        shape=" × ".join(map(str, results["shape"])),
        methods=methods(results),
        students=students,
        stages=[_stage(results, ipc) for ipc in compared.ipcs(results)],
        failures=compared.failures(results),
        validation=results["protocol"]["split"] != "test",
        meanings=words.what_numbers_mean("Minus random"),
        columns=words.COLUMNS,
        matrices=compared.matrices(results, students),
        courses=[(name, found) for name in students if (found := against_ipc(results, name, marks))],
        scores=compared.scores(results),
        missing_scores=compared.missing_scores(results),
        score_words=compared.SCORES,
        shipping=words.SHIPPING,
        networks=networks(results),
        network_curves=teacher_curves(results),
        kinds=byte_kinds(results["rows"]),
        real=read.real_lines(results),
        recipe=yaml.safe_dump(results["protocol"]["student"], sort_keys=False),
        times=words.times(results),
    )


def methods(results: Mapping[str, Any]) -> list[str]:
    """Return the methods that have rows of their own, in the order of the rows."""
    return list(dict.fromkeys(row["method"] for row in results["rows"] if row["role"] == "method"))


def title(results: Mapping[str, Any]) -> str:
    """Return the heading of the page."""
    ipcs, count = [f"{ipc:,}" for ipc in compared.ipcs(results)], len(methods(results))
    named = "1 method" if count == 1 else f"{count} methods"
    noun = "image" if ipcs == ["1"] else "images"
    return f"{results['source']['name']}: {named} at {words.listed(ipcs)} {noun} per class"


def _stage(results: Mapping[str, Any], ipc: int) -> Stage:
    names = dict.fromkeys(row["student"] for row in compared.rows_at(results, ipc))
    arms = compared.arms_at(results, ipc)
    shown = [(row["arm"], row["bytes"]) for row in arms if row["role"] != WHOLE]
    bars = byte_bars(shown, read.real_lines(results)) if shown else []
    return Stage(ipc, [_block(results, ipc, name) for name in names], arms, bars)


def _block(results: Mapping[str, Any], ipc: int, student: str) -> Block:
    rows, groups = compared.rows_at(results, ipc, student), compared.groups(results, ipc, student)
    marks, on_scale = marks_of(results), [row for row in rows if row["role"] != WHOLE] or rows
    span = span_of(on_scale)
    drawn = [(column, [line for line in lines if line.role != WHOLE]) for column, lines in groups]
    return Block(
        student=student,
        caption=read.caption_of(rows[0]),
        verdicts=compared.verdicts(results, ipc, student),
        groups=groups,
        papers=any(line.paper for _, lines in groups for line in lines),
        span=span,
        whole=[line for _, lines in groups for line in lines if line.role == WHOLE],
        plots=[by_arm(column, lines, marks, span) for column, lines in drawn if lines],
    )
