"""The critical keep-ratio: what is run beside what, what is found, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ttest_1samp

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.measure.critical import Sweep, critical, critical_of
from datastill.recipe import choice
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.comparing import STUDENT, count_students
from reference.ladder import gap_of

DATA: dict[str, Any] = {"classes": 4, "per_class": 16}
COMMON = ("ipc=4", "label=hard", "validation=8", "student.batch=8", "select.epochs=1", "select.runs=1")


def asked(*keeps: float, changes: tuple[str, ...] = COMMON, **options: Any) -> Sweep:
    given: dict[str, Any] = {"method": "random", "steps": 4, "student": STUDENT, "networks": "convnet(width=8)"}
    return Sweep(keeps=keeps, changes=changes, **(given | options))


def run(out: Path, sweep: Sweep) -> dict[str, Any]:
    return critical(tiny.dataset(**DATA), sweep, out=out, device=tiny.device(), reporter=Reporter(), command="it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("critical")


@pytest.fixture(scope="module")
def found(folder: Path, _own_cache: None) -> dict[str, Any]:
    return run(folder, asked(0.3, 1.0, 0.6, 0.1))


def test_shares_go_down_from_one_with_equal_work_and_the_same_seeds(found: dict[str, Any], folder: Path) -> None:
    assert read_json(folder / "results.json") == found
    rows = [found["start"], *found["experiments"][0]["rows"]]
    assert [row["recipe"]["select"]["keep"] for row in rows] == [1.0, 0.6, 0.3]
    assert [row["keep"] for row in found["critical"]["rows"]] == [1.0, 0.6, 0.3]
    assert {row["recipe"]["select"]["kind"] for row in rows} == {"bilp"}
    assert {(row["steps"], tuple(row["seeds"]), row["split"], row["items"]) for row in rows} == {
        (4, (0, 1, 2), "validation", 16)
    }
    assert found["protocol"]["budget"] is None
    (failed,) = found["failures"]
    assert "keep 0.1" in failed["method"]
    assert "'class 0' keeps 1 of its 14" in failed["says"]


def test_where_nothing_is_pruned_the_images_are_those_of_the_method_itself(found: dict[str, Any], folder: Path) -> None:
    base = tiny.distilled(
        None, tiny.dataset(**DATA), method="random", ipc=4, store=choice("pixels"), match=choice("none"),
        label=choice("hard"), validation=8,
    )  # fmt: skip
    sets = [DistilledDataset.load(path) for path in (folder / "sets").iterdir()]
    whole = next(made for made in sets if made.recipe.select.settings["keep"] == 1.0)
    assert whole.content.pictures.ids == base.content.pictures.ids
    assert torch.equal(whole.content.pictures.pixels, base.content.pictures.pixels)


def test_the_same_command_trains_no_student_again(
    found: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_students(monkeypatch)
    again = run(folder, asked(0.3, 1.0, 0.6, 0.1))
    assert not trained
    assert again["critical"] == found["critical"]


def swept(*shares: tuple[float, list[float]]) -> dict[str, Any]:
    """Return results with these points above the start for each share."""
    start = {"top1": {"per_seed": [50.0, 51.0, 52.0], "mean": 51.0, "std": 1.0, "n": 3}, "against_best": None}
    rows = []
    for keep, points in shares:
        scores = [a + b for a, b in zip([50.0, 51.0, 52.0], points, strict=True)]
        row = {"changes": [f"select.keep={keep!r}"], "top1": {"per_seed": scores}}
        rows.append(row | {"against_best": gap_of(row, start)})
    return {"start": start, "experiments": [{"rows": rows}]}


NOISE, LOSS, GAIN = [0.4, -0.6, 0.1], [-3.0, -3.1, -2.9], [1.0, 1.1, 0.9]


@pytest.mark.parametrize(
    ("shares", "ratio", "worse"),
    [
        ([(0.8, NOISE), (0.4, GAIN), (0.2, LOSS)], 0.4, []),
        ([(0.8, LOSS), (0.4, NOISE), (0.2, LOSS)], 0.4, [0.8]),
        ([(0.8, LOSS), (0.2, LOSS)], 1.0, []),
        ([(0.8, NOISE), (0.2, NOISE)], 0.2, []),
        ([], 1.0, []),
    ],
)
def test_the_ratio_is_the_smallest_share_that_is_not_worse(shares: Any, ratio: float, worse: list[float]) -> None:
    found = critical_of(swept(*shares))
    assert (found["ratio"], found["worse"]) == (ratio, worse)


def test_at_worst_is_the_lower_end_of_the_interval_of_paired_differences() -> None:
    _, row = critical_of(swept((0.5, NOISE)))["rows"]
    wanted = ttest_1samp(NOISE, 0.0).confidence_interval(0.95).low
    assert row["low"] == pytest.approx(wanted)
    assert row["gap"] == pytest.approx(sum(NOISE) / 3)


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (asked(1.0), "no share below 1"),
        (asked(0.5, 1.5), "shares above 0 and at most 1"),
        (asked(0.5, 0.0), "shares above 0 and at most 1"),
        (asked(0.5, seeds=2), "give --seeds 3"),
        (asked(0.5, changes=(*COMMON, "select.keep=0.2")), "use --select and --keep"),
        (asked(0.5, changes=(*COMMON, "select=easy")), "use --select and --keep"),
        (asked(0.5, changes=("ipc=4",)), "hold one out: --set validation=COUNT"),
        (asked(0.5, select="easy"), "no setting 'select.keep'"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_work(sweep: Sweep, said: str, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=said):
        run(tmp_path, sweep)
    assert not list(tmp_path.rglob("*.safetensors"))
