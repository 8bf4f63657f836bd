"""The benchmark's two sides compute the same, and its command measures them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TINY = "convnet(width=8)"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks stand beside the package, in the repository's root."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.global_random  # a plain loader shuffles from the global state, as typical research code does
@pytest.mark.parametrize(
    "phase", ["teacher", "recovery", "pictures", "matching", "features", "labelling", "boxes", "scoring", "student"]
)
def test_reference_and_product_compute_the_same_numbers(phase: str) -> None:
    from benchmarks.cases import Case, Sizes
    from benchmarks.compare import TOLERANCE, difference
    from benchmarks.sides import ready

    sizes = Sizes(pixels=16, classes=3, teacher_batch=16, student_batch=16, labelled=70, parts=2, steps=2)
    reference = Case(phase, TINY, "float32", "reference", sizes)
    product = replace(reference, side="product")
    theirs, mine = ready(reference).first(), ready(product).first()
    assert theirs.keys() == mine.keys()
    assert 0 <= difference(theirs, mine, ["outcome"]) < TOLERANCE
    theirs, mine = ready(reference.exact).first(), ready(product.exact).first()
    assert theirs.keys() == mine.keys()
    assert 0 <= difference(theirs, mine, sorted(theirs)) < TOLERANCE


def test_a_difference_is_relative_to_the_largest_value_of_its_array() -> None:
    from benchmarks.compare import difference

    theirs = {"a": torch.tensor([10.0, -20.0]), "b": torch.tensor(1.0)}
    mine = {"a": torch.tensor([10.0, -20.2]), "b": torch.tensor(3.0)}
    assert difference(theirs, mine, ["a"]) == pytest.approx(0.01, rel=1e-5)
    assert difference(theirs, mine, ["a", "b"]) == pytest.approx(2.0, rel=1e-5)


def test_what_rded_needs_for_cifar_is_worked_out_of_the_scoring_rows_alone() -> None:
    from benchmarks.__main__ import says

    row = {"phase": "scoring", "network": "resnet18", "precision": "bf16", "items": 256, "product_s": 0.512}
    (told,) = says([row, row | {"phase": "boxes"}], 1)
    assert told == (
        "At 500 crops a second a trained resnet18 scores the 150,000 crops that RDED looks at on CIFAR-100, whatever "
        "the images per class, in 5 min 00 s of 1 thread (bf16)."
    )


@pytest.mark.slow
def test_the_command_writes_a_row_per_precision_and_names_what_it_does_not_know(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--networks", TINY, "--out", str(tmp_path / "rows.json")]
    run = subprocess.run([*command, "--phases", "recovery"], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr
    written = json.loads((tmp_path / "rows.json").read_text())
    assert {"machine", "versions", "threads", "classes", "rounds", "rows"} <= written.keys()
    assert [row["precision"] for row in written["rows"]] == ["float32", "bf16"]
    for row in written["rows"]:
        assert (row["phase"], row["network"]) == ("recovery", TINY)
        assert row["reference_s"] > 0
        assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["max_relative_difference_float64"] < 1e-4
        assert row["product_peak_bytes"] > 0
    run = subprocess.run([*command, "--phases", "recover"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "recovery" in run.stderr
