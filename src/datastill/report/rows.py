"""The rows of a results file, read and put in order once for every table that shows them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datastill.recipe import method
from datastill.report import words

CODED = "coded_hard"  # the control that fills a method's bytes with coded real images


@dataclass(frozen=True)
class Line:
    """One arm with one student, ready to be shown; `gap` is the method minus this arm, None for the method itself.

    mean, std: top-1 in percent over seeds; std is None for one seed. same_work: whether it had the method's number of
    optimiser steps. seen: how many pictures a step shows, "" for one of each item. paper: the paper's number, where it
    has one.
    """

    arm: str
    says: str
    column: str
    items: int
    pictures: int
    steps: int
    seen: str
    same_work: bool
    bytes: int
    ratio: str
    top1: str
    mean: float
    std: float | None
    per_seed: tuple[float, ...]
    gap: Mapping[str, Any] | None
    paper: str | None

    @property
    def work(self) -> str:
        """Its optimiser steps, marked where they are others, or show other than one picture of each item."""
        return words.work(self.steps, self.same_work, self.seen)

    @property
    def difference(self) -> str:
        """The mean difference in points ("" for the method itself)."""
        return words.signed(self.gap["mean"]) if self.gap else ""

    @property
    def test(self) -> str:
        """t and p of the paired test ("" for the method itself)."""
        return words.paired(self.gap) if self.gap else ""

    @property
    def verdict(self) -> str:
        """How the method stands to this arm, in words ("" for the method itself)."""
        return words.VERDICTS[self.gap["verdict"]] if self.gap else ""


def students(results: Mapping[str, Any]) -> list[str]:
    """Return the students, in the order of the rows."""
    return list(dict.fromkeys(row["student"] for row in results["rows"]))


def rows_of(results: Mapping[str, Any], student: str) -> list[Mapping[str, Any]]:
    """Return a student's rows, the method's first."""
    return [row for row in results["rows"] if row["student"] == student]


def arms(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return one row per arm: what does not depend on the student."""
    return rows_of(results, students(results)[0])


def lines(results: Mapping[str, Any], student: str) -> list[tuple[str, list[Line]]]:
    """Return (column, its lines): the method's column first, the method first in it; columns are never mixed."""
    mine = rows_of(results, student)
    made = [_line(results, row, mine[0]) for row in mine]
    order = dict.fromkeys([made[0].column, *words.COLUMNS])
    return [(column, found) for column in order if (found := [line for line in made if line.column == column])]


def _line(results: Mapping[str, Any], row: Mapping[str, Any], own: Mapping[str, Any]) -> Line:
    papers = {(p["student"], p["column"]): p for p in results["paper"]}
    paper = papers.get((row["student"], row["column"])) if row is own else None
    return Line(
        **line_facts(row, results["real_bytes"]),
        same_work=row["steps"] == own["steps"],
        gap=None if row is own else row["method_minus_this"],
        paper=paper_text(paper) if paper else None,
    )


def line_facts(row: Mapping[str, Any], real_bytes: Mapping[str, int]) -> dict[str, Any]:
    """Return the fields of a line that a row alone decides."""
    return {name: row[name] for name in ("arm", "says", "column", "items", "pictures", "steps")} | {
        "seen": words.seen(row),
        "bytes": row["bytes"]["total"],
        "ratio": words.share(row["bytes"]["total"], real_bytes[words.CODEC]),
        "top1": words.top1(row["top1"]),
        "mean": row["top1"]["mean"],
        "std": row["top1"]["std"],
        "per_seed": tuple(row["top1"]["per_seed"]),
    }


def paper_text(paper: Mapping[str, Any]) -> str:
    """Return a number that a paper printed, with its deviation and its table."""
    spread = f" ({paper['std']:g})" if paper["std"] is not None else ""
    return f"{paper['top1']:.1f}{spread}, {paper['where']}"


def paper_heading(results: Mapping[str, Any], student: str) -> str | None:
    """Return the heading of the paper's column, or None where the paper has no number for this student's rows."""
    found = any(line.paper for _, group in lines(results, student) for line in group)
    return f"the paper's ({method(results['method']).cite})" if found else None


def caption(results: Mapping[str, Any], student: str) -> str:
    """Return what holds for every row of a student's table."""
    return caption_of(rows_of(results, student)[0])


def caption_of(row: Mapping[str, Any]) -> str:
    """Return what a row says of every row of its table: student, split, seeds and batch."""
    seeds = words.listed([str(s) for s in row["seeds"]])
    looked = "test split, looked at once after the last step" if row["split"] == "test" else (
        "VALIDATION split (held-out training images, for choices; no result), after the last step"
    )  # fmt: skip
    named = f"seeds {seeds}" if len(row["seeds"]) > 1 else f"seed {seeds}"
    return f"Student {row['student']}: top-1 in percent on the {looked}; {named}; {row['batch']:,} items in every step."


def standing(results: Mapping[str, Any], student: str) -> str:
    """Return in one sentence which controls of equal work the method beats, and which it does not."""
    found: dict[str, list[str]] = {}
    for line in itertools.chain(*(group for _, group in lines(results, student))):
        if line.gap and line.same_work:
            found.setdefault(line.gap["verdict"], []).append(f"{line.arm} ({line.column})")
    texts = {
        "better": "better than {}",
        "none": "within noise of {}",
        "worse": "worse than {}",
        "unproven": "not told apart, for want of seeds, from {}",
    }
    parts = [text.format(words.listed(found[key])) for key, text in texts.items() if key in found]
    name = rows_of(results, student)[0]["arm"]
    return f"With {student}, {name} is " + "; ".join(parts) + "." if parts else ""


def coded(results: Mapping[str, Any], student: str) -> str:
    """Return in one sentence what the method's bytes buy as coded real images ("" where that control was not run)."""
    own, *others = rows_of(results, student)
    beside = next((row for row in others if row["arm"] == CODED), None)
    if beside is None:
        return ""
    gap = beside["method_minus_this"]
    points, test = f"{abs(gap['mean']):.2f} points", f"(paired, {words.paired(gap)})"
    stands = {
        "better": f"is {points} above {test}",
        "none": f"is within noise of that: {words.signed(gap['mean'])} points {test}",
        "worse": f"is {points} below {test}",
        "unproven": f"is {words.signed(gap['mean'])} points from that, with too few seeds to prove anything",
    }[gap["verdict"]]
    return (
        f"The same bytes as coded real images with hard labels ({beside['bytes']['total']:,} of "
        f"{own['bytes']['total']:,}): {beside['pictures']:,} of them, top-1 {words.top1(beside['top1'])}; {own['arm']} "
        f"({own['column']}) {stands}."
    )


def teachers(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (name, facts) of the networks, the mean of their logits last."""
    return sorted(results["teachers"].items(), key=lambda pair: pair[1]["arch"] == words.ENSEMBLE)


def real_lines(results: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return what the real training images weigh under each way to store them."""
    real = results["real_bytes"]
    return [
        ("real training images, lossless WebP", real[words.CODEC]),
        ("real training images, raw pixels", real["raw"]),
    ]
