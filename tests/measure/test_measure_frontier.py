"""Accuracy against bytes: grids as they are written, equal images trained once, and bytes in their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datastill.errors import DatastillError
from datastill.measure.compare import Comparison
from datastill.measure.frontier import GRIDS, Grid, frontier
from datastill.measure.ledger import row_files
from datastill.recipe import choice
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from reference import tiny
from reference.comparing import STUDENT, asked, count_students, without_times

COUNTS = (12, 12, 5, 12)  # images of each class
GRID = (
    "codecs=raw/1,webp-lossless/1,png/1,webp-lossless,raw ipc=3,all labels=hard,fp16",
    "codecs=jpeg:75:420/1,jpeg:20:420/1,avfi:60,avif:60:333 ipc=3 labels=hard",
    "codecs=raw/1 ipc=3,9 labels=topk:2,topk:4,klt:0.1,softish",
)
Found = dict[str, Any]


def measured(out: Path, *grids: str, labels: tuple[str, ...] | None = None, **options: Any) -> Found:
    """Run a frontier of INFER and random real images, of one seed and three steps unless told otherwise."""
    made: Comparison = asked("infer", **({"seeds": 1, "steps": 3} | options))
    kinds = () if labels is None else (labels,)
    return frontier(tiny.dataset(per_class=COUNTS), made, grids, *kinds, out=out, device=tiny.device(),
                    reporter=Reporter(), command="it")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frontier") / "run"


@pytest.fixture(scope="module")
def trained() -> list[Path]:
    """The files of the students that were trained for `found`."""
    return []


@pytest.fixture(scope="module")
def found(run: Path, trained: list[Path], _own_cache: None) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        counted = count_students(patch)
        results = measured(run, *GRID, labels=("own", "hard", "topk:9", "int4"))
    trained += counted
    return results


def by_arm(found: Found) -> dict[str, Found]:
    return {row["arm"]: row for row in found["rows"]}


def test_the_points_have_the_names_that_they_were_asked_for_by(found: Found) -> None:
    lossless = ("raw/1", "webp-lossless/1", "png/1", "webp-lossless", "raw")
    wanted = {
        f"random {codec}, {label} ipc{ipc}" for codec in lossless for label in ("hard", "fp16") for ipc in (3, 11)
    }
    wanted |= {f"random {codec}, hard ipc3" for codec in ("jpeg:75:420/1", "jpeg:20:420/1")}
    wanted |= {"random raw/1, topk:2 ipc3", "random raw/1, klt:0.1 ipc3"}
    wanted |= {f"{name}, {label} ipc4" for name in ("random", "infer") for label in ("own", "hard", "int4")}
    arms = [row["arm"] for row in found["rows"]]
    assert set(arms) == wanted
    assert len(arms) == len(wanted)
    roles = {row["arm"]: row["role"] for row in found["rows"]}
    assert {role for arm, role in roles.items() if "/" in arm or "raw" in arm or "webp" in arm} == {"frontier"}
    assert (roles["random, own ipc4"], roles["infer, hard ipc4"]) == ("method", "hard")


def test_what_cannot_be_made_is_left_out_with_its_sentence(found: Found) -> None:
    said = {failure["method"]: failure["says"] for failure in found["failures"]}
    assert len(said) == len(found["failures"])
    assert "'store.codec.format' is 'avfi'; did you mean 'avif'" in said["random avfi:60, hard ipc3"]
    assert "'store.codec.chroma' is '333'" in said["random avif:60:333, hard ipc3"]
    assert "was given k=4 for 4 classes" in said["random raw/1, topk:4 ipc3"]
    assert "'label.codec.kind' is 'softish'" in said["random raw/1, softish ipc3"]
    assert "class 'class 2' has 5 training images" in said["random raw/1, klt:0.1 ipc9"]
    assert "was given k=9 for 4 classes" in said["infer, topk:9 ipc4"]


def test_all_takes_every_training_image_of_every_class(found: Found) -> None:
    for arm, row in by_arm(found).items():
        if arm.endswith("ipc11"):
            assert (row["items"], row["pictures"]) == (sum(COUNTS), sum(COUNTS))
            assert row["recipe"]["store"]["total"] == sum(COUNTS)


def test_lossless_codecs_of_the_same_images_share_their_students(found: Found, trained: list[Path]) -> None:
    rows, alone = by_arm(found), ("raw/1", "webp-lossless/1", "png/1")
    for tail in ("hard ipc3", "fp16 ipc3", "hard ipc11", "fp16 ipc11"):
        for codecs in (alone, ("webp-lossless", "raw")):  # packed pictures are sorted, so that their order is another
            scores = [rows[f"random {codec}, {tail}"]["top1"]["per_seed"] for codec in codecs]
            assert scores == [scores[0]] * len(scores)
    # Two orders, two numbers and two labels; two lossy ones; topk and klt; two methods with three kinds of labels.
    assert len(trained) == len(set(trained)) == 8 + 2 + 2 + 6


def test_bytes_are_those_of_the_codec(found: Found) -> None:
    rows = by_arm(found)
    for tail in ("hard ipc3", "hard ipc11", "fp16 ipc11"):
        size = {codec: rows[f"random {codec}, {tail}"]["bytes"]["natural images"]
                for codec in ("raw/1", "webp-lossless/1", "webp-lossless")}  # fmt: skip
        assert min(size["raw/1"], size["webp-lossless/1"]) > size["webp-lossless"]
    assert (
        rows["random jpeg:75:420/1, hard ipc3"]["bytes"]["total"]
        > rows["random jpeg:20:420/1, hard ipc3"]["bytes"]["total"]
    )
    topk, klt = (rows[f"random raw/1, {label} ipc3"]["label_bytes"] for label in ("topk:2", "klt:0.1"))
    assert len({rows["random raw/1, fp16 ipc3"]["label_bytes"], topk, klt}) == 3
    for row in rows.values():
        assert (row["label_bytes"] == 0) == (row["column"] == "H") == (row["teacher_top1"] is None)
        assert row["bytes"]["total"] == sum(size for kind, size in row["bytes"].items() if kind != "total")


def test_every_point_has_the_same_work(found: Found) -> None:
    assert {(row["steps"], row["batch"], row["same_work"], row["student"]) for row in found["rows"]} == {
        (3, 8, True, STUDENT)
    }
    assert (found["protocol"]["steps"], found["protocol"]["batch"]) == (3, 8)


def test_random_images_as_they_are_stand_beside_what_has_their_number_of_images(found: Found) -> None:
    rows = by_arm(found)
    beside = {arm for arm, row in rows.items() if row["against_random"]}
    assert beside == {"infer, own ipc4", "infer, hard ipc4", "infer, int4 ipc4", "random, int4 ipc4"}
    gap = rows["infer, hard ipc4"]["top1"]["mean"] - rows["random, hard ipc4"]["top1"]["mean"]
    assert rows["infer, hard ipc4"]["against_random"]["mean"] == pytest.approx(gap)


def test_networks_that_could_be_sent_instead_are_weighed_and_scored(found: Found) -> None:
    rows = {(row["network"], row["form"]): row for row in found["networks"]}
    names = ("convnet(width=8)", "convnet(width=10)")
    assert set(rows) == {(name, form) for name in names for form in ("fp32", "fp16", "int8")}
    for name in names:
        exact, half, eighth = (rows[name, form] for form in ("fp32", "fp16", "int8"))
        assert exact["arm"] == f"ship {name}, fp32"
        assert exact["top1"] == found["teachers"][name]["top1"]
        assert abs(half["top1"] - exact["top1"]) <= 100 / 24
        assert abs(eighth["top1"] - exact["top1"]) <= 2 * 100 / 24
        weights = found["teachers"][name]["bytes"]
        assert exact["bytes"] - half["bytes"] == pytest.approx(weights / 2, rel=0.02)
        assert exact["bytes"] > half["bytes"] > eighth["bytes"]


def test_results_are_plain_data_that_the_ledger_takes(found: Found, run: Path) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found == read_json(run / "results.json")
    kinds = [file["kind"] for file in row_files(found).values()]
    assert (kinds.count("accuracy"), kinds.count("network")) == (len(found["rows"]), 6)


def test_the_same_call_again_makes_and_trains_nothing(run: Path, found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_students(monkeypatch)
    monkeypatch.setattr("datastill.engine.label_content", lambda *args: pytest.fail("made again"))
    again = measured(run, *GRID, labels=("own", "hard", "topk:9", "int4"))
    assert not counted
    assert without_times(again["rows"]) == without_times(found["rows"])
    assert again["failures"] == found["failures"]


def test_a_point_that_two_grids_name_stands_once(tmp_path: Path) -> None:
    grid = "codecs=raw/1,nope ipc=3 labels=hard"
    made = measured(tmp_path, grid, grid, labels=("hard",))
    assert [row["arm"] for row in made["rows"]] == ["random, hard ipc4", "infer, hard ipc4", "random raw/1, hard ipc3"]
    assert len(made["failures"]) == 1


def test_a_student_recipe_that_is_given_is_that_of_all(tmp_path: Path) -> None:
    grid = "codecs=raw/1 ipc=3 labels=hard"
    made = measured(tmp_path, grid, labels=("hard",), student=tiny.STUDENT)
    assert made["protocol"]["student"] == plain(tiny.STUDENT)


def test_a_frontier_of_nothing_says_why(tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match="nothing could be measured: .*'nope'"):
        measured(tmp_path, "codecs=nope ipc=3 labels=hard", labels=())


def test_a_grid_is_read_as_it_is_written() -> None:
    grid = Grid.parse(
        "codecs=avif:60,webp:75:420/64,jpeg:30/1,raw/1,png ipc=10,all,1 labels=hard,fp16,topk:5,klt,klt:1e-3"
    )
    assert dict(grid.codecs) == {
        "avif:60": {"format": "avif", "quality": 60, "tiles": 1024},
        "webp:75:420/64": {"format": "webp", "quality": 75, "chroma": "420", "tiles": 64},
        "jpeg:30/1": {"format": "jpeg", "quality": 30, "tiles": 1},
        "raw/1": {"format": "raw", "tiles": 1},
        "png": {"format": "png", "tiles": 1024},
    }
    assert grid.ipcs == (10, 0, 1)
    assert dict(grid.labels) == {
        "hard": choice("hard"),
        "fp16": choice("static", codec={"kind": "fp16"}),
        "topk:5": choice("static", codec={"kind": "topk", "k": 5}),
        "klt": choice("static", codec={"kind": "klt"}),
        "klt:1e-3": choice("static", codec={"kind": "klt", "error": "1e-3"}),
    }
    assert Grid.parse("labels=hard   ipc=all codecs=raw,") == Grid.parse("codecs=raw ipc=all labels=hard")


@pytest.mark.parametrize("text", GRIDS)
def test_the_grids_of_the_command_are_read(text: str) -> None:
    assert all(Grid.parse(text).codecs)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "--grid wants 'codecs=... ipc=... labels=...', not ''"),
        ("codecs=raw ipc=3", "--grid wants"),
        ("codecs=raw ipc=3 labels=hard tiles=4", "--grid wants"),
        ("codecs=raw codec=raw ipc=3 labels=hard", "--grid wants"),
        ("codecs=raw codecs=png ipc=3 labels=hard", "--grid wants"),
        ("codecs=raw ipc=3 labels=", "is empty: 'labels' names nothing"),
        ("codecs=, ipc=3 labels=hard", "is empty: 'codecs' names nothing"),
        ("codecs=raw ipc labels=hard", "is empty: 'ipc' names nothing"),
        ("codecs=raw ipc=0 labels=hard", "at least one image per class; 'all' stands for every one"),
        ("codecs=raw ipc=-3 labels=hard", "'-3' is not a whole number"),
        ("codecs=raw ipc=many labels=hard", "'many' is not a whole number"),
        ("codecs=raw:60 ipc=3 labels=hard", "'raw:60' is no codec; write FORMAT"),
        ("codecs=avif:60:444:1 ipc=3 labels=hard", "'avif:60:444:1' is no codec"),
        ("codecs=avif:high ipc=3 labels=hard", "'avif:high': 'high' is not a whole number"),
        ("codecs=avif: ipc=3 labels=hard", "'avif:': '' is not a whole number"),
        ("codecs=avif/many ipc=3 labels=hard", "'avif/many': 'many' is not a whole number"),
        ("codecs=raw ipc=3 labels=fp16:3", "'fp16:3' is no label codec; only topk:K and klt:ERROR take a number"),
        ("codecs=raw ipc=3 labels=hard:1", "'hard:1' is no label codec"),
        ("codecs=raw ipc=3 labels=topk:few", "'few' is not a whole number"),
    ],
)
def test_a_grid_that_means_nothing_is_refused_before_any_work(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=sentence.replace("(", r"\(")):
        measured(tmp_path / "run", text)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": None}, "under equal work: give --steps"),
        ({"split": "validation"}, "hold one out: --set validation=COUNT"),
        ({"labels": ("own", "fp16:3")}, "'fp16:3' is no label codec"),
        ({"students": ("convnt",)}, "there is no network 'convnt'"),
        ({"changes": ("infer:validation=4",)}, "the same for every method"),
    ],
)
def test_a_frontier_that_cannot_be_is_refused_before_any_work(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DatastillError, match=sentence):
        measured(tmp_path / "run", "codecs=raw ipc=3 labels=hard", **options)
    assert not (tmp_path / "run").exists()
