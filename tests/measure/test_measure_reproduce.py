"""A paper's number beside ours: the very cell, the difference, what it costs, and a part of it under another name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datastill import recipe as recipes
from datastill.errors import DatastillError
from datastill.measure import reproduce as measured
from datastill.measure.costs import Cost
from datastill.measure.ledger import read_rows, row_files
from datastill.measure.reproduce import COMMON, PAPERS, Reproduction, reproduce, scaled
from datastill.measure.rows import paired
from datastill.recipe import DatasetInfo, Paper, Recipe, method
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from reference import tiny
from reference.comparing import NETWORKS, STUDENT, TEACHING, count_students, without_times

OTHER = "convnet(width=9)"
NUMBERS = (
    Paper("tiny", 4, STUDENT, "S", 70.0, 1.5, "Table 7"),
    Paper("tiny", 5, OTHER, "S", 60.0, None, "Table 8"),
    Paper("tinier", 4, STUDENT, "S", 50.0, None, "Table 9"),
)
CHANGES = (*TEACHING, "match.rounds=4", "student.batch=8", "student.epochs=2", "student.lr=0.01")
Found = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _papers() -> Iterator[None]:
    """Numbers that INFER's paper is made to have printed for the tiny set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes._METHODS, "infer", replace(method("infer"), paper=NUMBERS))
        yield


def asked(**options: Any) -> Reproduction:
    return Reproduction(**({"method": "infer", "changes": CHANGES, "networks": NETWORKS} | options))


def reproduced(out: Path, **options: Any) -> Found:
    return reproduce(tiny.dataset(), asked(**options), out=out, device=tiny.device(), reporter=Reporter(), command="it")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce") / "run"


@pytest.fixture(scope="module")
def found(run: Path, _own_cache: None, _papers: None) -> Found:
    return reproduced(run)


def test_the_preset_and_random_images_are_measured_under_both_protocols(found: Found) -> None:
    rows = found["rows"]
    names = [f"{arm}, {p}, changed" for p in (PAPERS, COMMON) for arm in ("infer", "random")]
    assert [row["arm"] for row in rows] == names  # the recipe was changed, and is not the paper's as it stands
    assert {(row["student"], row["ipc"], row["column"], row["split"]) for row in rows} == {(STUDENT, 4, "S", "test")}
    assert {row["steps"] for row in rows} == {6}  # 24 items in batches of 8, for two epochs
    assert [row["batch"] for row in rows] == [8, 8, 64, 64]  # the common one is the student of `random` for a small set
    for own, random in (rows[:2], rows[2:]):
        assert own["against_random"] == paired(own, random)
        assert random["against_random"] is None
    assert found["protocol"]["student"] == plain(rows[0]["recipe"]["student"])


def test_the_papers_number_ours_and_the_difference_are_put_side_by_side(found: Found) -> None:
    assert [line["arm"] for line in found["reproduction"]] == [f"infer, {p}, changed" for p in (PAPERS, COMMON)]
    for line, row in zip(found["reproduction"], found["rows"][::2], strict=True):
        scores = row["top1"]["per_seed"]
        mean = sum(scores) / 3
        error = math.sqrt(sum((score - mean) ** 2 for score in scores) / 2) / math.sqrt(3)
        assert (line["paper"], line["paper_std"], line["where"]) == (70.0, 1.5, "Table 7")
        assert line["ours"] == row["top1"]
        assert line["difference"] == pytest.approx(mean - 70.0)
        wanted = None if error == 0 else pytest.approx((mean - 70.0) / error)
        assert line["standard_errors"] == wanted
        assert line["seconds"] == pytest.approx(sum(row["seconds"]) + row["set_seconds"])
        assert (line["scale"], line["steps"], line["against_random"]) == (1.0, 6, row["against_random"])
    assert found["paper"] == []


def test_the_preset_as_it_stands_claims_the_papers_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
        return tiny.recipe(ipc=ipc, faithful=faithful)

    monkeypatch.setitem(recipes._METHODS, "infer", replace(method("infer"), build=build))
    found = reproduced(tmp_path, changes=(), networks=None, seeds=1)
    assert [row["arm"] for row in found["rows"]][::2] == [f"infer, {PAPERS}", f"infer, {COMMON}"]
    assert found["paper"] == [{"method": "infer", "cite": "arXiv:2408.06927"} | vars(NUMBERS[0])]
    assert found["rows"][0]["recipe"]["faithful"] is True


def test_every_row_is_written_as_a_file_of_the_ledger(found: Found, run: Path) -> None:
    assert sorted(entry.row["arm"] for entry in read_rows(run / "rows")) == sorted(r["arm"] for r in found["rows"])


def test_one_seed_has_no_standard_error(tmp_path: Path) -> None:
    found = reproduced(tmp_path, seeds=1, ipc=5)
    assert [line["standard_errors"] for line in found["reproduction"]] == [None, None]
    assert {(row["student"], row["ipc"]) for row in found["rows"]} == {(OTHER, 5)}
    assert found["reproduction"][0]["paper"] == 60.0


def test_results_are_plain_data_that_the_ledger_takes(found: Found, run: Path) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found == read_json(run / "results.json")
    assert len(row_files(found)) == 4
    assert found["estimate"].keys() >= {"12 students", "match on convnet(width=8)"}
    assert list(found["teachers"]) == ["convnet(width=8)", "convnet(width=10)", "mean of logits"]


def test_the_same_call_again_trains_and_distils_nothing(
    run: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_students(monkeypatch)
    monkeypatch.setattr("datastill.engine.build_content", lambda *args: pytest.fail("distilled again"))
    again = reproduced(run)
    assert not trained
    assert without_times(again["rows"]) == without_times(found["rows"])


def test_a_run_that_would_cost_too_much_is_refused_with_its_cost_and_a_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "estimate", lambda *args: Cost({"train a": 7200.0, "12 students": 28800.0}))
    with pytest.raises(DatastillError) as error:
        reproduced(tmp_path / "run", limit=7200.0)
    said = str(error.value)
    assert "would take about 10.0 h on this device (train a 2.0 h, 12 students 8.0 h), more than the 2.0 h" in said
    assert "raise --limit, or run a part of it with --scale 0.18 (its rows are named after the scale)" in said
    with pytest.raises(DatastillError, match=r"--scale 0\.09 "):
        reproduced(tmp_path / "run", limit=7200.0, scale=0.5)
    with pytest.raises(DatastillError, match=r"--scale 0\.0001 "):
        reproduced(tmp_path / "run", limit=0.001)
    assert not (tmp_path / "run").exists()


def test_what_is_not_in_the_cost_is_said_before_the_run_and_stands_in_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = Cost({"12 students": 1.0}, ("the match 'x'", "the networks of label.folds"))
    monkeypatch.setattr(measured, "estimate", lambda *args: cost)
    said: list[str] = []
    reporter = Reporter()
    monkeypatch.setattr(reporter, "say", said.append)
    found = reproduce(tiny.dataset(), asked(seeds=1), out=tmp_path, device=tiny.device(), reporter=reporter)
    assert said == ["What this run may cost was worked out without the match 'x' and the networks of label.folds."]
    assert found["not_estimated"] == list(cost.unknown)
    with pytest.raises(DatastillError, match=r"\(12 students 1 s; not counted: the match 'x', the networks of"):
        reproduced(tmp_path / "other", limit=0.5)


def test_a_scaled_run_is_named_after_its_scale_and_claims_no_papers_cell(tmp_path: Path) -> None:
    found = reproduced(tmp_path, scale=0.5, seeds=1)
    assert [row["arm"] for row in found["rows"]] == [
        f"{arm}, {protocol}, scaled to 0.5, changed" for protocol in (PAPERS, COMMON) for arm in ("infer", "random")
    ]
    recipe = found["rows"][0]["recipe"]
    assert (recipe["match"]["rounds"], recipe["student"]["epochs"]) == (2, 1)
    assert {row["steps"] for row in found["rows"]} == {3}
    assert {network["training"]["steps"] for network in recipe["networks"].values()} == {2}
    assert found["paper"] == []
    assert [line["scale"] for line in found["reproduction"]] == [0.5, 0.5]


def test_scaling_shortens_every_training_and_the_match_and_nothing_else() -> None:
    whole = tiny.recipe(
        student=replace(tiny.STUDENT, epochs=200, warmup=10),
        networks={name: replace(n, training=replace(n.training, epochs=40)) for name, n in tiny.NETWORKS.items()},
    )
    part = scaled(whole, 0.26)
    assert (part.student.epochs, part.student.warmup, part.student.steps) == (52, 3, None)
    assert {(n.training.epochs, n.training.steps) for n in part.networks.values()} == {(10, 3)}
    assert part.match.settings == dict(whole.match.settings) | {"rounds": 1}
    least = scaled(whole, 1e-6)
    assert (least.student.epochs, least.match.settings["rounds"]) == (1, 1)
    back = replace(part, student=whole.student, networks=whole.networks, match=whole.match)
    assert back == whole == scaled(whole, 1.0)
    assert scaled(tiny.recipe(match=recipes.choice("none")), 0.5).match == recipes.choice("none")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, 0), ({"ipc": 5}, 1), ({"student": OTHER}, 1), ({"ipc": 4, "student": STUDENT}, 0)],
)
def test_the_first_number_that_fits_is_taken(options: dict[str, Any], wanted: int) -> None:
    assert asked(**options).paper(tiny.dataset()) == NUMBERS[wanted]


@pytest.mark.parametrize(
    ("options", "name", "sentence"),
    [
        ({"ipc": 7}, "tiny", "has no such number for 'tiny'; it has those of --ipc 4 --student"),
        ({"ipc": 4, "student": OTHER}, "tiny", "has no such number for 'tiny'"),
        ({}, "tinies", "has no number for 'tinies'; did you mean 'tinier' or 'tiny'?"),
        ({}, "zzz", "has no number for 'zzz'; there are: tinier, tiny."),
        ({"method": "herding"}, "tiny", "no number of a paper is on record for method 'herding'"),
        ({"method": "infr"}, "tiny", "there is no method 'infr'; did you mean 'infer'"),
    ],
)
def test_without_a_number_the_nearest_ones_are_named(
    options: dict[str, Any], name: str, sentence: str, tmp_path: Path
) -> None:
    data = replace(tiny.dataset(), name=name)
    with pytest.raises(DatastillError, match=sentence.replace("?", r"\?")):
        reproduce(data, asked(**options), out=tmp_path / "run", device=tiny.device(), reporter=Reporter())
    assert not (tmp_path / "run").exists()
