"""The report of a run: one HTML file that asks nothing of any other place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.measure.evaluate import RESULTS
from datastill.recipe import method
from datastill.report import rows as read
from datastill.report import words
from datastill.report.page import rendered, whole
from datastill.report.parts import REPORT, TONES, byte_bars, byte_kinds, networks, span_of
from datastill.report.pictures import Grid, chosen_classes, class_grid
from datastill.report.plots import Plot, curves, embedding, teacher_curves
from datastill.runtime.files import read_json, write_bytes


@dataclass(frozen=True)
class Student:
    """All that the report shows of one student."""

    name: str
    caption: str
    groups: list[tuple[str, list[read.Line]]]
    paper: str | None
    standing: str
    curves: list[Plot]
    embedding: Plot | None
    span: tuple[float, float]


def write_report(run: Path) -> Path:
    """Write the report of a run beside its results.

    Args:
        run: the folder that `evaluate` wrote; its results name the folder of the distilled set.

    Returns: the path of the page.
    Raises: DatastillError when results or set are missing, damaged or not of each other.
    """
    results = read_json(run / RESULTS)
    with whole(run / RESULTS, "datastill evaluate"):
        page = render(results, _measured(results, run))
    write_bytes(run / REPORT, page.encode())
    return run / REPORT


def _measured(results: Mapping[str, Any], run: Path) -> DistilledDataset:
    distilled = DistilledDataset.load(results["distilled"])
    if distilled.ledger() != results["bytes"] or distilled.recipe.plain() != results["recipe"]:
        raise DatastillError(
            f"'{results['distilled']}' is not the set that '{run / RESULTS}' measured: its recipe or its bytes differ; "
            "run datastill evaluate again."
        )
    return distilled


def render(results: Mapping[str, Any], distilled: DistilledDataset) -> str:
    """Return the page of results and the set that they measured; every text in it is escaped but our own figures."""
    shown = chosen_classes(len(results["classes"]))
    return rendered(
        "report.html.j2",
        version=results["versions"]["datastill"],
        results=results,
        title=title(results),
        shape=" × ".join(map(str, distilled.info.shape)),
        train_images=distilled.info.train_images,
        verdicts=_verdicts(results),
        meanings=words.what_numbers_mean(),
        columns=words.COLUMNS,
        students=[_student(results, name, shown) for name in read.students(results)],
        shipping=words.SHIPPING,
        teachers=networks(results),
        teacher_curves=teacher_curves(results),
        kinds=byte_kinds(read.arms(results)),
        bars=byte_bars([(row["arm"], row["bytes"]) for row in read.arms(results)], read.real_lines(results)),
        arms=read.arms(results),
        real=read.real_lines(results),
        ratio=words.share(results["bytes"]["total"], results["real_bytes"][words.CODEC]),
        raw_ratio=words.share(results["bytes"]["total"], results["real_bytes"]["raw"]),
        grid=_grid(results, distilled),
        budget=words.budget(results),
        losses=words.losses_before_and_after(results),
        times=words.times(results),
        recipe=distilled.recipe.to_yaml(),
    )


def title(results: Mapping[str, Any]) -> str:
    """Return the heading of a report."""
    known = method(results["method"])
    return f"{results['source']['name']} at {results['ipc']} images per class, distilled with {known.title}"


def _verdicts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (sentence, tone) per student: the tone follows the paired test against the nearest control."""
    tones = []
    for student in read.students(results):
        gap = read.rows_of(results, student)[0]["against_random"]
        tones.append("open" if gap is None else TONES[gap["verdict"]])
    return list(zip(results["verdict"], tones, strict=True))


def _student(results: Mapping[str, Any], name: str, shown: list[int]) -> Student:
    own = read.rows_of(results, name)[0]
    return Student(
        name=name,
        caption=read.caption(results, name),
        groups=read.lines(results, name),
        paper=read.paper_heading(results, name),
        standing=read.standing(results, name),
        curves=curves(results, name),
        embedding=embedding(own, results["classes"], shown),
        span=span_of(read.rows_of(results, name)),
    )


def _grid(results: Mapping[str, Any], distilled: DistilledDataset) -> tuple[Grid, list[str]]:
    """Return the grid, and for each of its classes the method's accuracy on it with the first student."""
    per_class = results["rows"][0]["per_class"]
    shown = chosen_classes(len(distilled.classes))
    said = ["no test images" if per_class[k] is None else f"{per_class[k]:.0f} % right" for k in shown]
    return class_grid(distilled), said
