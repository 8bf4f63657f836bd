"""The rows of a comparison, read and put in order once for its page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datastill.measure.scores import PLAIN, labelled_alike
from datastill.measure.stats import Difference, Summary, verdict_sentence
from datastill.report import words
from datastill.report.parts import TONES
from datastill.report.rows import Line, line_facts, paper_text

CONTROL = "random real images with the same kind of labels"
CANDIDATES = ("method", "hard")  # roles; what else stands in a column is a control
ALWAYS = "infer"
WHOLE = "whole"  # the role of the real training set
SCORES = {
    "hlr": "HLR: hard label recovery, the whole real set minus its images, both with hard labels. Less is better.",
    "ior": "IOR: improvement over random real images with the same kind of labels. More is better.",
    "lrs": "LRS: label-robust score, of HLR and IOR, from 0 to 1. More is better.",
    "ars": "ARS: augmentation-robust score, of IOR with and without augmentation, from 0 to 1. More is better.",
}


@dataclass(frozen=True)
class Compared(Line):
    """One arm of a comparison with one student. gap: this arm minus random real images with the same kind of labels,
    None for these themselves. teachers: top-1 of the networks behind its labels, in percent, None for hard labels.
    printed, cite: the accuracy that a paper printed, and which paper it is.
    """

    title: str
    ipc: int
    student: str
    random: bool
    role: str
    label_kind: str
    label_bytes: int
    teachers: float | None
    printed: float | None
    cite: str | None


@dataclass(frozen=True)
class Verdict:
    """One sentence of the head of the page. what: why this arm is named, "" for one alone. tone: good, bad or open."""

    column: str
    what: str
    tone: str
    sentence: str


@dataclass(frozen=True)
class Matrix:
    """Accuracies of one ipc and column. rows: (arm, says, a line per student or None where it was not measured)."""

    ipc: int
    column: str
    students: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Compared | None, ...]], ...]


def ipcs(results: Mapping[str, Any]) -> list[int]:
    """Return the images per class, in the order of the rows."""
    return list(dict.fromkeys(row["ipc"] for row in results["rows"]))


def rows_at(results: Mapping[str, Any], ipc: int, student: str | None = None) -> list[Mapping[str, Any]]:
    """Return the rows of an ipc and a student; of any student with None."""
    return [row for row in results["rows"] if row["ipc"] == ipc and student in (None, row["student"])]


def arms_at(results: Mapping[str, Any], ipc: int) -> list[Mapping[str, Any]]:
    """Return one row per arm of an ipc: what does not depend on the student."""
    return list({row["arm"]: row for row in reversed(rows_at(results, ipc))}.values())[::-1]


def groups(results: Mapping[str, Any], ipc: int, student: str) -> list[tuple[str, list[Compared]]]:
    """Return (column, its lines) in the order H, S, D; columns are never mixed."""
    made = [_line(results, row) for row in rows_at(results, ipc, student)]
    return [(column, found) for column in words.COLUMNS if (found := [line for line in made if line.column == column])]


def _line(results: Mapping[str, Any], row: Mapping[str, Any]) -> Compared:
    paper = _paper(results, row)
    bare = ", trained without augmentation" if row["arm"].endswith(PLAIN) else ""
    return Compared(
        **line_facts(row, results["real_bytes"]) | {"says": row["says"] + bare},
        same_work=row["same_work"],
        gap=row["against_random"],
        paper=paper_text(paper) if paper else None,
        cite=paper["cite"] if paper else None,
        title=row["title"],
        ipc=row["ipc"],
        student=row["student"],
        random=row["random"],
        role=row["role"],
        label_kind=row["recipe"]["label"]["kind"],
        label_bytes=row["label_bytes"],
        teachers=row["teacher_top1"],
        printed=paper["top1"] if paper else None,
    )


def _paper(results: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a method's paper printed for this very row; its controls are not the paper's."""
    keys = ("method", "ipc", "student", "column")
    found = [p for p in results["paper"] if row["role"] == "method" and all(p[k] == row[k] for k in keys)]
    return found[0] if found else None


def verdicts(results: Mapping[str, Any], ipc: int, student: str) -> list[Verdict]:
    """Return, for the best of each column and for INFER, how far it is above its control, whatever the sign."""
    return [verdict for column in words.COLUMNS for verdict in _of_column(rows_at(results, ipc, student), column)]


def _of_column(rows: Sequence[Mapping[str, Any]], column: str) -> Iterator[Verdict]:
    mine = [row for row in rows if row["column"] == column]
    asked = [row for row in mine if row["role"] in CANDIDATES and not row["random"]]
    if not asked:
        return
    best = max(asked, key=lambda row: row["top1"]["mean"])
    yield _verdict(best, _control(best, mine), f"highest mean of {len(asked)}" if len(asked) > 1 else "")
    for row in asked:
        if row is not best and row["method"] == ALWAYS and row["role"] == "method":
            yield _verdict(row, _control(row, mine), "always named")


def _control(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the random real images that a row stands beside."""
    return next((other for other in rows if other["random"] and labelled_alike(other, row)), None)


def _verdict(row: Mapping[str, Any], control: Mapping[str, Any] | None, what: str) -> Verdict:
    ours, found = _summary(row), row["against_random"]
    if control is None or found is None:
        said = (
            f"{row['arm']} reaches {ours} with {row['student']}; {CONTROL} were not measured beside it, so this says "
            "nothing about the method."
        )
        return Verdict(row["column"], what, "open", said)
    gap = Difference(found["mean"], found["t"], found["p"], found["n"])
    said = verdict_sentence(row["arm"], CONTROL, row["student"], ours, _summary(control), gap)
    return Verdict(row["column"], what, TONES[found["verdict"]], said)


def _summary(row: Mapping[str, Any]) -> Summary:
    found = row["top1"]
    return Summary(tuple(found["per_seed"]), found["mean"], found["std"], found["n"])


def failures(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence for whatever was left out."""
    return [f"{f['method']} at ipc {f['ipc']} was left out: {f['says'].rstrip('.')}." for f in results["failures"]]


def matrices(results: Mapping[str, Any], students: Sequence[str]) -> list[Matrix]:
    """Return arms by students, one for each ipc and column; none for a single student."""
    if len(students) < 2:
        return []
    made = []
    for ipc in ipcs(results):
        by_student = {name: dict(groups(results, ipc, name)) for name in students}
        for column in words.COLUMNS:
            lines = {(n, line.arm): line for n, found in by_student.items() for line in found.get(column, [])}
            arms = {line.arm: line.says for line in lines.values()}
            rows = tuple((arm, says, tuple(lines.get((n, arm)) for n in students)) for arm, says in arms.items())
            if rows:
                made.append(Matrix(ipc, column, tuple(students), rows))
    return made


def scores(results: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (column, the robust scores of its methods as they are shown); none where none were asked for.

    Each is a dict of `ipc`, `student`, `method`, and `cells`: (text, value to sort by or None, note), in the order of
    `SCORES`.
    """
    made: dict[str, list[dict[str, Any]]] = {}
    for found in results.get("scores", []):
        cells = [_score(found[score], found["missing"].get(score, "")) for score in SCORES]
        named = {name: found[name] for name in ("ipc", "student", "method")}
        made.setdefault(found["column"], []).append(named | {"cells": cells})
    return [(column, made[column]) for column in words.COLUMNS if column in made]


def missing_scores(results: Mapping[str, Any]) -> list[str]:
    """Return, for readers who cannot hover, why a score is a dash: each reason once for a method."""
    said = {
        f"{score.upper()} of {found['method']}: {reason}": None
        for found in results.get("scores", [])
        for score, reason in found["missing"].items()
    }
    return list(said)


def _score(found: Mapping[str, Any] | None, missing: str) -> tuple[str, float | None, str]:
    if found is None:
        return "–", None, missing
    spread = f" ± {found['std']:.3f}" if found["std"] is not None else ""
    note = "" if found["same_work"] else "its rows had other numbers of steps"
    return words.minus(f"{found['mean']:.3f}{spread} (n={found['n']})"), found["mean"], note


def reproduction_sentence(found: Mapping[str, Any]) -> str:
    """Return how a reproduced number stands to its paper's, and to random real images."""
    top1, spread = found["ours"], f" ± {found['paper_std']:g}" if found["paper_std"] is not None else ""
    ours = str(Summary(tuple(top1["per_seed"]), top1["mean"], top1["std"], top1["n"]))
    errors = found["standard_errors"]
    apart = "one seed, so no standard error" if errors is None else f"{errors:+.1f} of our standard errors"
    beside = found["against_random"]
    control = (
        "" if beside is None else f" Against random real images with the same labels: {beside['mean']:+.2f} points."
    )
    return words.minus(
        f"{found['arm']}: the paper's {found['paper']:g}{spread} ({found['where']}), ours {ours}: "
        f"{found['difference']:+.2f} points, {apart}; {found['steps']:,} steps, {words.duration(found['seconds'])}."
        f"{control}"
    )
