"""Methods beside each other: one protocol for all, random images always there, columns apart, nothing done twice."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datastill import recipe as recipes
from datastill.errors import DatastillError
from datastill.measure import student as students
from datastill.measure.arms import ArmMaker
from datastill.measure.compare import CROSS, Comparison
from datastill.measure.ledger import row_files
from datastill.measure.rows import paired
from datastill.measure.scores import ars, hlr, ior, lrs
from datastill.recipe import Control, Paper, TrainRecipe, method
from datastill.runtime.files import read_json
from datastill.settings import plain
from datastill.sources import Dataset
from reference import tiny
from reference.comparing import STUDENT, asked, compared, count_students, without_times

PAPERS = (Paper("tiny", 4, STUDENT, "S", 51.5, 0.4, "Table 7"), Paper("tiny", 5, STUDENT, "S", 61.5, 0.4, "Table 7"),
          Paper("digits", 4, STUDENT, "S", 71.5, 0.4, "Table 8"))  # fmt: skip
HARD = {"random_hard", "herding_hard", "infer_hard", "random/equal_bytes_hard", "infer/equal_bytes_hard",
        "infer/coded_hard", "whole"}  # fmt: skip
SOFT = {"random", "herding", "infer", "infer/natural_only", "infer/noise", "infer/equal_bytes_soft",
        "infer/other_steps"}  # fmt: skip
PLAIN = {"random@plain", "herding@plain", "infer@plain"}
Found = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare") / "run"


@pytest.fixture(scope="module")
def found(run: Path, _own_cache: None) -> Iterator[Found]:
    """Herding and INFER, asked for twice, with every control and what the scores need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes._METHODS, "infer", replace(method("infer"), paper=PAPERS))
        yield compared(run, "herding", "infer", "herding", scores=True)


def by_arm(found: Found) -> dict[str, Found]:
    return {row["arm"]: row for row in found["rows"]}


def test_random_images_stand_beside_the_methods_with_every_control_but_none_twice(found: Found) -> None:
    arms = [row["arm"] for row in found["rows"]]
    # What other methods call random_soft, random_hard or herding_hard is there already.
    assert set(arms) == HARD | SOFT | PLAIN
    assert len(arms) == len(set(arms))
    assert found["failures"] == []


def test_where_all_methods_have_hard_labels_no_network_is_trained_for_random_images(tmp_path: Path) -> None:
    dm = ("dm:match.rounds=2", "dm:match.network.settings.width=4")
    found = compared(tmp_path / "hard", "dm", changes=dm)
    rows = by_arm(found)
    assert rows.keys() == {"random", "dm", "dm/equal_bytes_hard", "dm/coded_hard", "dm/start"}
    assert {row["column"] for row in rows.values()} == {"H"}
    assert rows["random"]["random"]
    assert rows["random"]["recipe"]["networks"] == {}
    assert rows["random"]["title"] == "Random real images, soft labels, but label=hard"
    assert rows["dm"]["against_random"] == paired(rows["dm"], rows["random"])
    assert found["teachers"] == {}
    for methods, changes in ((("random", "dm"), dm), (("dm",), (*dm, "dm:label=static")), (("dm", "herding"), dm)):
        assert asked(*methods, changes=changes).recipe("random", tiny.dataset(), 4).label.kind == "static"
    asked_for = asked("dm", changes=(*dm, "random:label=dynamic")).recipe("random", tiny.dataset(), 4)
    assert asked_for.label.kind == "dynamic"


def test_rows_are_in_the_order_of_columns_and_methods(found: Found) -> None:
    rows = found["rows"]
    assert [row["column"] for row in rows] == ["H"] * len(HARD) + ["S"] * len(SOFT | PLAIN)
    assert [row["arm"] for row in rows if row["role"] == "method"] == ["random", "herding", "infer"]
    assert [row["arm"] for row in rows if row["role"] == "hard"] == ["random_hard", "herding_hard", "infer_hard"]
    assert Counter(row["role"] for row in rows) == {"method": 3, "hard": 3, "control": 7, "whole": 1, "plain": 3}


def test_every_method_has_a_row_with_hard_labels_on_its_very_images(found: Found) -> None:
    rows = by_arm(found)
    for name in ("random", "herding", "infer"):
        own, hard = rows[name], rows[f"{name}_hard"]
        assert (own["column"], hard["column"], hard["method"]) == ("S", "H", name)
        assert hard["recipe"] == own["recipe"] | {"label": {"kind": "hard"}}
        assert (hard["items"], hard["pictures"]) == (own["items"], own["pictures"])
        assert hard["label_bytes"] == 0 < own["label_bytes"]


def test_equal_work_is_equal_steps_of_equal_batches_of_one_recipe(found: Found) -> None:
    assert found["protocol"] == {
        "student": plain(asked("random").recipe("random", tiny.dataset(), 4).student), "steps": 4, "batch": 8,
        "seeds": [0, 1, 2], "split": "test", "epoch": "last",
    }  # fmt: skip
    for row in found["rows"]:
        assert (row["batch"], row["seeds"], row["student"], row["ipc"]) == (8, [0, 1, 2], STUDENT, 4)
        assert row["same_work"] == (row["arm"] != "infer/other_steps") == (row["steps"] == 4)
    assert by_arm(found)["infer/other_steps"]["steps"] == 1


def test_every_row_stands_beside_random_images_of_its_own_column(found: Found) -> None:
    rows = by_arm(found)
    assert {arm for arm, row in rows.items() if row["random"]} == {"random", "random_hard"}
    for arm, row in rows.items():
        control = rows["random_hard" if row["column"] == "H" else "random"]
        alone = row is control or row["role"] == "plain"
        assert row["against_random"] == (None if alone else paired(row, control)), arm


def test_every_control_stands_beside_its_method(found: Found) -> None:
    rows = by_arm(found)
    for row in rows.values():
        if row["role"] == "method":
            assert "method_minus_this" not in row
        else:
            assert row["method_minus_this"] == paired(rows[row["method"]], row)


def test_equal_bytes_are_at_most_those_of_the_method_beside_which_they_stand(found: Found) -> None:
    rows = by_arm(found)
    for name in ("random/equal_bytes_hard", "infer/equal_bytes_hard", "infer/equal_bytes_soft", "infer/coded_hard"):
        assert rows[name]["bytes"]["total"] <= rows[rows[name]["method"]]["bytes"]["total"]


def test_results_are_plain_data_that_the_ledger_takes(found: Found, run: Path) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found == read_json(run / "results.json")
    files = row_files(found)
    assert len(files) == len(found["rows"])
    assert {file["row"]["arm"] for file in files.values()} == HARD | SOFT | PLAIN
    assert (found["kind"], found["schema"], found["chosen_on"]) == ("comparison", 1, None)
    assert (found["commands"], found["classes"]) == (["it"], [f"class {k}" for k in range(4)])
    assert found["source"]["asked"] == "tiny"


def test_the_papers_numbers_are_those_of_this_very_set_and_ipc(found: Found) -> None:
    (paper,) = found["paper"]
    assert paper == {"method": "infer", "cite": "arXiv:2408.06927"} | vars(PAPERS[0])


def test_networks_are_told_with_what_it_would_be_to_send_them(found: Found) -> None:
    assert list(found["teachers"]) == ["convnet(width=8)", "convnet(width=10)", "mean of logits"]
    together = found["teachers"]["mean of logits"]["top1"]
    for row in found["rows"]:
        assert row["teacher_top1"] == (None if row["column"] == "H" else together)


def test_scores_are_made_of_the_whole_real_set_and_of_students_without_augmentation(found: Found) -> None:
    rows = by_arm(found)
    assert rows["whole"]["items"] == 48
    assert rows["whole"]["column"] == "H"
    top1 = {arm: [value / 100 for value in row["top1"]["per_seed"]] for arm, row in rows.items()}
    scores = {score["method"]: score for score in found["scores"]}
    assert list(scores) == ["random", "herding", "infer"]
    for name, score in scores.items():
        assert score["missing"] == {}
        for seed in range(3):
            lost = hlr(top1["whole"][seed], top1[f"{name}_hard"][seed])
            won = ior(top1[name][seed], top1["random"][seed])
            bare = ior(top1[f"{name}@plain"][seed], top1["random@plain"][seed])
            wanted = {"hlr": lost, "ior": won, "lrs": lrs(lost, won), "ars": ars(won, bare)}
            assert {key: score[key]["per_seed"][seed] for key in wanted} == pytest.approx(wanted)
            assert all(score[key]["same_work"] for key in wanted)


def test_plain_students_see_no_augmentation(run: Path, found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, TrainRecipe] = {}
    plain_run = vars(students)["run_student"]

    def watched(*args: Any, **options: Any) -> Any:
        seen[options["label"].split(":")[0]] = options["recipe"]
        return plain_run(*args, **options)

    monkeypatch.setattr(students, "run_student", watched)
    compared(run.parent / "plain", "infer", scores=True, controls=False, seeds=1, steps=1)
    for arm, recipe in seen.items():
        bare = (recipe.crop, recipe.resized_crop, recipe.flip, recipe.mix, recipe.cutout) == (0, None, False, "none", 0)
        assert bare == arm.endswith("@plain"), arm
    assert set(seen) == {"random", "random_hard", "infer", "infer_hard", "whole", "random@plain", "infer@plain"}


def test_the_same_call_again_trains_and_distils_nothing(
    run: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_students(monkeypatch)
    monkeypatch.setattr("datastill.engine.build_content", lambda *args: pytest.fail("distilled again"))
    monkeypatch.setattr(ArmMaker, "_fill", lambda *args: pytest.fail("weighed again"))
    again = compared(run, "herding", "infer", scores=True)
    assert not trained
    assert without_times(again["rows"]) == without_times(found["rows"])
    fewer = compared(run, "infer", controls=False)
    assert not trained
    assert [row["arm"] for row in fewer["rows"]] == ["random_hard", "infer_hard", "random", "infer"]
    assert fewer["scores"] == []


def test_a_comparison_that_was_interrupted_goes_on_where_it_stopped(
    tmp_path: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(count: int) -> None:
        if count == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        first = count_students(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            compared(tmp_path, "herding", "infer", controls=False)
    assert len(first) == 4
    assert not (tmp_path / "results.json").exists()
    rest = count_students(monkeypatch)
    results = compared(tmp_path, "herding", "infer", controls=False)
    assert len(rest) == 6 * 3 - 4
    assert not set(rest) & set(first)
    mine, whole = by_arm(results), by_arm(found)
    for arm, row in mine.items():
        assert row["top1"] == whole[arm]["top1"]
        assert row["losses"] == pytest.approx(whole[arm]["losses"], abs=1e-4)


def test_a_method_that_cannot_serve_an_ipc_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    networks = "convnet(width=8),convnet(width=10),convnet(width=12)"
    found = compared(tmp_path, "infer", ipcs=(4, 1), controls=False, seeds=1, networks=networks)
    (failure,) = found["failures"]
    assert (failure["method"], failure["ipc"]) == ("infer", 1)
    assert "has no room at ipc=1 with 4 classes and 3 networks; ask for --ipc 2 or more" in failure["says"]
    rows = [(row["ipc"], row["arm"]) for row in found["rows"]]
    assert rows == [
        (1, "random_hard"),
        (1, "random"),
        (4, "random_hard"),
        (4, "infer_hard"),
        (4, "random"),
        (4, "infer"),
    ]
    assert len(row_files(found)) == 6


def test_where_random_images_cannot_be_had_nothing_is_claimed(tmp_path: Path) -> None:
    found = compared(tmp_path, "infer", ipcs=(13,), controls=False, seeds=1, steps=1)
    assert [row["arm"] for row in found["rows"]] == ["infer_hard", "infer"]
    assert [row["against_random"] for row in found["rows"]] == [None, None]
    assert [failure["method"] for failure in found["failures"]] == ["random", "random_S"]
    assert all(
        "has 12 training images, but this recipe starts from 13" in failure["says"] for failure in found["failures"]
    )


def test_nothing_at_all_is_an_error_with_its_reasons(tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match="nothing could be compared: class 'class 0' has 12 training images"):
        compared(tmp_path, "random", ipcs=(13,), controls=False)


def test_a_control_that_cannot_be_made_hinders_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Control("too_many", "more than there are", {"store": recipes.choice("pixels", total=99)})
    controls = (broken, *(c for c in method("infer").controls if c.name in ("noise", "natural_only")))
    monkeypatch.setitem(recipes._METHODS, "infer", replace(method("infer"), controls=controls))
    monkeypatch.setitem(recipes._METHODS, "random", replace(method("random"), controls=()))
    found = compared(tmp_path, "infer", seeds=1, steps=1, scores=True)
    assert [failure["method"] for failure in found["failures"]] == ["infer/too_many"]
    arms = set(by_arm(found))
    assert arms > {"infer/noise", "infer/natural_only", "infer@plain", "whole"}


def test_a_student_that_cannot_be_trained_leaves_its_row_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = vars(students)["run_student"]

    def refusing(*args: Any, **options: Any) -> Any:
        if options["label"] == f"infer: {STUDENT}, seed 1":
            raise DatastillError("no memory is left.")
        return ran(*args, **options)

    monkeypatch.setattr(students, "run_student", refusing)
    found = compared(tmp_path, "infer", seeds=2, steps=1, controls=False)
    assert [row["arm"] for row in found["rows"]] == ["random_hard", "infer_hard", "random"]
    assert found["failures"] == [{"method": "infer", "ipc": 4, "says": "no memory is left."}]


def test_columns_have_random_images_of_their_own_and_never_meet(tmp_path: Path) -> None:
    changes = ("random:label=hard", "infer-dyn:match.rounds=2")
    found = compared(tmp_path, "infer", "infer-dyn", changes=changes, seeds=1, steps=1, controls=False)
    random = {row["column"]: row["arm"] for row in found["rows"] if row["random"]}
    assert random == {"H": "random", "S": "random_S", "D": "random_D"}
    rows = by_arm(found)
    for row in found["rows"]:
        beside = rows[random[row["column"]]]
        assert row["against_random"] == (None if row is beside else paired(row, beside))
    assert [row["column"] for row in found["rows"]] == sorted((r["column"] for r in found["rows"]), key="HSD".index)
    assert rows["infer-dyn"]["bytes"]["teachers"] == rows["random_D"]["bytes"]["teachers"] > 0


def test_a_method_with_networks_of_its_own_has_random_images_of_its_own(tmp_path: Path) -> None:
    changes = ("infer:networks.*.training.steps=5",)
    found = compared(tmp_path, "herding", "infer", changes=changes, seeds=1, steps=1, controls=False, scores=True)
    rows = by_arm(found)
    assert {row["arm"] for row in found["rows"] if row["random"]} == {"random", "random_hard", "random_S"}
    assert rows["infer"]["against_random"] == paired(rows["infer"], rows["random_S"])
    assert rows["herding"]["against_random"] == paired(rows["herding"], rows["random"])
    assert rows["random_S"]["recipe"]["networks"] == rows["infer"]["recipe"]["networks"]
    assert rows["random_S"]["teacher_top1"] == rows["infer"]["teacher_top1"]
    gained = {score["method"]: score["ior"]["mean"] for score in found["scores"]}
    for name, beside in (("random", "random"), ("herding", "random"), ("infer", "random_S")):
        assert gained[name] == pytest.approx((rows[name]["top1"]["mean"] - rows[beside]["top1"]["mean"]) / 100)
    assert {score["method"]: score["missing"] for score in found["scores"]} == dict.fromkeys(gained, {})


def test_without_steps_all_take_as_many_as_the_largest_set_asks_for(tmp_path: Path) -> None:
    found = compared(tmp_path, "infer", seeds=1, steps=None, controls=False)
    assert {row["steps"] for row in found["rows"]} == {3}  # 24 items of INFER in batches of 8, for one epoch
    assert found["protocol"]["steps"] == 3


def test_a_student_recipe_that_is_given_is_that_of_all(tmp_path: Path) -> None:
    given = replace(tiny.STUDENT, batch=5, lr=0.5)
    found = compared(tmp_path, "infer", seeds=1, steps=1, controls=False, student=given)
    assert found["protocol"]["student"] == plain(given)
    assert {row["batch"] for row in found["rows"]} == {5}


class Untested(Dataset):
    """A data set whose test split must not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        assert name != "test", "the test split was looked at"
        return super().__getattribute__(name)


def test_on_a_validation_split_no_test_image_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.dataset()
    guarded = Untested(**{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})
    seen: list[Any] = []
    ran = vars(students)["run_student"]

    def watched(distilled: Any, expanded: Any, testing: Any, *args: Any, **options: Any) -> Any:
        seen.append(testing)
        return ran(distilled, expanded, testing, *args, **options)

    monkeypatch.setattr(students, "run_student", watched)
    found = compared(tmp_path, "infer", data=guarded, split="validation", changes=("validation=8",), seeds=1, steps=1)
    assert {(testing.split, len(testing.labels)) for testing in seen} == {("validation", 8)}
    assert {row["split"] for row in found["rows"]} == {found["protocol"]["split"]} == {"validation"}
    assert found["chosen_on"] == "validation"
    assert sorted(seen[0].labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": ()}, "at least one method, one ipc and one student; this grid is empty"),
        ({"ipcs": ()}, "this grid is empty"),
        ({"students": ()}, "this grid is empty"),
        ({"ipcs": (4, 0)}, "at least one seed, one step and one image per class"),
        ({"seeds": 0}, "at least one seed, one step and one image per class"),
        ({"steps": 0}, "at least one seed, one step and one image per class"),
        ({"split": "train"}, "there is no split 'train'"),
        ({"split": "validation"}, "hold one out: --set validation=COUNT"),
        ({"methods": ("infr",)}, "there is no method 'infr'; did you mean 'infer'"),
        ({"changes": ("infr:match.rounds=3",)}, "there is no method 'infr'; did you mean 'infer'"),
        ({"changes": ("select.x=3",)}, "there is no setting 'select.x'"),
        ({"students": ("convnt",)}, "there is no network 'convnt'; did you mean 'convnet'"),
        ({"students": ("convnet(widht=8)",)}, "no setting 'widht'"),
        ({"networks": "convnt"}, "there is no network 'convnt'"),
        ({"changes": ("ipc=3",)}, "images per class are those of the grid; ask for them with --ipc"),
        ({"changes": ("infer:ipc=3",)}, "images per class are those of the grid; ask for them with --ipc"),
        ({"changes": ("infer:student.lr=3",)}, "'infer:student.lr=3': student, seed and validation are the same for"),
        ({"changes": ("infer:seed=3",)}, "leave 'infer:' out to change them for all"),
        ({"changes": ("random:validation=8",)}, "leave 'random:' out to change them for all"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_any_work(
    options: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datastill.engine.build_content", lambda *args: pytest.fail("distilled"))
    methods = options.get("methods", ("infer",))
    with pytest.raises(DatastillError, match=sentence):
        compared(tmp_path / "run", *methods, **{k: v for k, v in options.items() if k != "methods"})
    assert not (tmp_path / "run" / "results.json").exists()


def test_names_stand_once_and_ipcs_in_order() -> None:
    made = asked("infer", "random", "infer", ipcs=(5, 4, 5), students=("convnet,resnet10", "convnet")).checked(
        tiny.dataset()
    )
    assert (made.methods, made.ipcs, made.students) == (("infer", "random"), (4, 5), ("convnet", "resnet10"))
    assert Comparison(methods=("random",)).checked(tiny.dataset()).students == CROSS


def test_a_change_applies_to_all_or_to_the_one_method_that_it_names() -> None:
    changes = ("herding:select.normalise=false", "infer:networks.*.training.steps=9", "seed=3")
    made = asked("herding", "infer", changes=changes)
    of = {name: made.recipe(name, tiny.dataset(), 5) for name in ("random", "herding", "infer")}
    assert of["herding"].select.settings == {"normalise": False}
    assert of["infer"].match.settings["rounds"] == 2
    steps = {name: {n.training.steps for n in recipe.networks.values()} for name, recipe in of.items()}
    assert steps == {"random": {4}, "herding": {4}, "infer": {9}}
    assert {(r.seed, r.ipc, r.student.batch) for r in of.values()} == {(3, 5, 8)}
    assert {tuple(r.networks) for r in of.values()} == {("convnet(width=8)", "convnet(width=10)")}


def test_a_change_of_all_networks_passes_over_methods_that_have_none() -> None:
    made = Comparison(methods=("dc", "infer"), changes=("networks.*.training.steps=9",))
    assert made.recipe("dc", tiny.dataset(), 1).networks == {}
    assert {n.training.steps for n in made.recipe("infer", tiny.dataset(), 5).networks.values()} == {9}
    with pytest.raises(DatastillError, match="nothing that"):
        replace(made, changes=("dc:networks.*.training.steps=9",)).recipe("dc", tiny.dataset(), 1)


def test_a_colon_in_the_name_of_a_network_is_no_method() -> None:
    made = Comparison(methods=("random",), changes=("networks.timm:resnet18.seed=1",)).checked(tiny.dataset())
    with pytest.raises(DatastillError, match="there is no 'timm:resnet18'"):
        made.recipe("random", tiny.dataset(), 4)
