"""One tiny distilled set for all tests of reports, and fresh results of it for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datastill.artifact import DistilledDataset
from datastill.report.html import write_report
from datastill.runtime.files import write_json
from report.samples import WORSE, results_of, small_set


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> DistilledDataset:
    """A saved set of four classes with difficult names."""
    made = small_set()
    made.save(tmp_path_factory.mktemp("report") / "set")
    return made


@pytest.fixture
def results(distilled: DistilledDataset) -> dict[str, Any]:
    """Results of that set: one student, three seeds, arms in all columns; the method is worse than its control."""
    return results_of(distilled, {"resnet18": WORSE})


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write results into a run folder, and return the folder."""

    def write(results: dict[str, Any]) -> Path:
        write_json(tmp_path / "run" / "results.json", results)
        return tmp_path / "run"

    return write


@pytest.fixture(scope="session")
def page(distilled: DistilledDataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of those results."""
    run = tmp_path_factory.mktemp("run")
    write_json(run / "results.json", results_of(distilled, {"resnet18": WORSE}))
    return write_report(run).read_text(encoding="utf-8")
