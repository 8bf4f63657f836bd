"""Scores and the critical keep-ratio from the command line: files, sentences and exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from datastill.cli import main

FEW = ("--classes", "0,1", "--device", "cpu", "--set", "select.epochs=1", "--set", "select.runs=1",
       "--teachers", "convnet(width=8)")  # fmt: skip


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def test_scores_are_written_for_the_images_that_are_not_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    words = ("scores", "digits", "--score", "loss_early,el2n", "--out", str(out), "--set", "validation=40", *FEW)
    assert run(*words) == 0
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["row", "id", "class", "loss_early", "el2n"]
    assert f"{len(lines)} training images: {out}" in capsys.readouterr().out
    assert {line["class"] for line in lines} == {"0", "1"}


def test_a_table_of_no_known_form_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scores", "nowhere", "--out", str(tmp_path / "scores.txt")) == 2
    assert "names no form of a table; end it in .parquet or .csv" in capsys.readouterr().err


def test_a_sweep_prints_its_table_and_writes_its_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ("critical", "digits", "--method", "random", "--keep", "0.5", "--ipc", "2", "--steps", "2", "--student",
             "convnet(width=8)", "--out", str(out), "--set", "validation=40", "--set", "label=hard", "--jobs", "1",
             "--set", "student.batch=8", *FEW)  # fmt: skip
    assert run(*words) == 0
    said = " ".join(capsys.readouterr().out.split())
    results = json.loads((out / "results.json").read_text())
    assert [row["keep"] for row in results["critical"]["rows"]] == [1.0, 0.5]
    assert results["start"]["recipe"]["select"] == {"kind": "bilp", "epochs": 1, "runs": 1, "keep": 1.0}
    assert "against keep 1" in said
    assert "held-out training images" in said
    assert "critical.html; all numbers:" in said
    pages = [out / name for name in ("critical.html", "report.html")]
    for page in pages:
        page.unlink()
    assert run("report", str(out)) == 0
    assert all(page.exists() for page in pages)


def test_shares_that_are_no_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("critical", "digits", "--keep", "half", "--steps", "2", "--out", str(tmp_path / "run"), *FEW) == 2
    assert "--keep wants numbers with commas between, not 'half'" in capsys.readouterr().err
