"""The page of a frontier: accuracy against bytes, in two charts that are named apart, and every point in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datastill.report import rows as read
from datastill.report import words
from datastill.report.compared import Verdict, failures
from datastill.report.frontier_plots import frontier_plots
from datastill.report.frontier_rows import (
    RANDOM,
    Row,
    columns,
    front,
    frontier_verdicts,
    label_words,
)
from datastill.report.page import rendered, write_page
from datastill.report.parts import byte_kinds
from datastill.report.plots import Plot, teacher_curves

KIND = "frontier"


@dataclass(frozen=True)
class Point:
    """A row as its table shows it. own: a method's row. best: whether it lies on the front of random real images."""

    row: Row
    own: bool
    best: bool
    label: str
    top1: str
    ratio: str
    per_image: float


@dataclass(frozen=True)
class Block:
    """All that the page shows of one student. tables: (column, its points by bytes)."""

    student: str
    caption: str
    verdicts: list[Verdict]
    by_bytes: list[Plot]
    by_ipc: list[Plot]
    tables: list[tuple[str, list[Point]]]


def write_frontier(run: Path) -> Path:
    """Write the page of a frontier beside its results.

    Args:
        run: the folder that `frontier` wrote.

    Returns: the path of the page.
    Raises: DatastillError when the results are missing, damaged, or not those of a frontier.
    """
    return write_page(run, KIND, "datastill frontier", render)


def render(results: Mapping[str, Any]) -> str:
    """Return the page of a frontier; every text in it is escaped but our own figures."""
    students = read.students(results)
    return rendered(
        "frontier.html.j2",
        version=results["versions"]["datastill"],
        results=results,
        title=title(results),
        shape=" × ".join(map(str, results["shape"])),
        students=students,
        blocks=[_block(results, name) for name in students],
        networks=_networks(results),
        arms=read.arms(results),
        failures=failures(results),
        validation=results["protocol"]["split"] != "test",
        meanings=words.what_numbers_mean("A difference"),
        columns=words.COLUMNS,
        network_curves=teacher_curves(results),
        kinds=byte_kinds(read.arms(results)),
        real=read.real_lines(results),
        recipe=yaml.safe_dump(results["protocol"]["student"], sort_keys=False),
        times=words.times(results),
    )


def title(results: Mapping[str, Any]) -> str:
    """Return the heading of the page."""
    sets, sent = len({row["arm"] for row in results["rows"]}), len(results["networks"])
    return f"{results['source']['name']}: accuracy against bytes, {_count(sets, 'set')} and {_count(sent, 'network')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _block(results: Mapping[str, Any], student: str) -> Block:
    rows = read.rows_of(results, student)
    return Block(
        student=student,
        caption=read.caption_of(rows[0]),
        verdicts=frontier_verdicts(results, student),
        by_bytes=frontier_plots(rows, "bytes", results["networks"]),
        by_ipc=frontier_plots(rows, "ipc", []),
        tables=[(column, _points(rows, column, results["real_bytes"])) for column in columns(rows)],
    )


def _points(rows: Sequence[Row], column: str, real_bytes: Mapping[str, int]) -> list[Point]:
    best = {row["arm"] for row in front(rows, column, "bytes")}
    mine = sorted((r for r in rows if r["column"] == column), key=lambda r: (r["bytes"]["total"], r["arm"]))
    return [
        Point(
            row=row,
            own=row["method"] != RANDOM,
            best=row["arm"] in best,
            label=label_words(row),
            top1=words.top1(row["top1"]),
            ratio=words.share(row["bytes"]["total"], real_bytes[words.CODEC]),
            per_image=row["bytes"]["total"] / row["items"],
        )
        for row in mine
    ]


def _networks(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    real = results["real_bytes"][words.CODEC]
    found = [dict(network) | {"ratio": words.share(network["bytes"], real)} for network in results["networks"]]
    return sorted(found, key=lambda network: (network["bytes"], network["arm"]))
