"""A comparison of a few seconds: two networks of four steps behind the labels, students of width 8 and four steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datastill.measure import student as students
from datastill.measure.compare import Comparison, compare
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset
from reference import tiny

STUDENT = "convnet(width=8)"
NETWORKS = "convnet(width=8),convnet(width=10)"
TEACHING = ("networks.*.training.steps=4", "networks.*.training.batch=16")
CHANGES = ("student.batch=8", "student.epochs=1", "infer:match.rounds=2", *TEACHING)


def asked(*methods: str, changes: tuple[str, ...] = (), **options: Any) -> Comparison:
    """Return a comparison at ipc 4, of one student, three seeds and four steps unless told otherwise."""
    given: dict[str, Any] = {"ipcs": (4,), "students": (STUDENT,), "steps": 4, "networks": NETWORKS} | options
    return Comparison(methods=methods, changes=(*CHANGES, *changes), **given)


def compared(
    out: Path,
    *methods: str,
    data: Dataset | None = None,
    jobs: int = 1,
    reporter: Reporter | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run `asked(*methods, **options)` into a folder."""
    return compare(
        data or tiny.dataset(), asked(*methods, **options), out=out, device=tiny.device(),
        reporter=reporter or Reporter(), jobs=jobs, command="it",
    )  # fmt: skip


def count_students(monkeypatch: pytest.MonkeyPatch, after: Callable[[int], None] | None = None) -> list[Path]:
    """Return a list that the file of every student trained from now on is added to.

    after: called with how many there are already, before each; it may raise.
    """
    trained: list[Path] = []
    plain = vars(students)["run_student"]

    def counted(*args: Any, **options: Any) -> Any:
        if after:
            after(len(trained))
        trained.append(options["path"])
        return plain(*args, **options)

    monkeypatch.setattr(students, "run_student", counted)
    return trained


def without_times(value: Any) -> Any:
    """Return plain data without seconds, at any depth: no two runs take equally long."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in ("seconds", "set_seconds", "peak_bytes")}
    return [without_times(v) for v in value] if isinstance(value, list) else value
