"""Grids of networks and of hyper-parameters: equal work, every arm from what it should, nothing trained twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.measure import student as measured
from datastill.measure.arms import ArmMaker
from datastill.measure.ledger import row_files
from datastill.measure.proxies import common, hyper, nas
from datastill.measure.proxies.common import Feed, ProxyTask, Run, Shared, distillation_seconds, make_feeds, whole_feed
from datastill.measure.proxies.hyper import default_values
from datastill.measure.proxies.search import default_grid
from datastill.networks import sketch
from datastill.recipe import Method, TrainRecipe, choice, method, read_networks
from datastill.runtime.progress import Reporter
from reference import tiny

GRID = ["convnet(width=4, depth=1)", "convnet(width=6, depth=1)", "convnet(width=4, depth=2)"]
HOW: dict[str, Any] = {"device": tiny.device(), "reporter": Reporter()}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> DistilledDataset:
    return tiny.distilled(tmp_path_factory.mktemp("proxies") / "set")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proxies") / "run"


@pytest.fixture(scope="module")
def found(own: DistilledDataset, run: Path) -> dict[str, Any]:
    return nas(own, tiny.dataset(), run=run, networks=GRID, seeds=2, steps=3, real_steps=5, command="it", **HOW)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note every student that is trained."""
    seen: list[dict[str, Any]] = []
    plain = vars(common)["run_student"]

    def watched(distilled: Any, expanded: Any, testing: Any, student: str, seed: int, **options: Any) -> Any:
        seen.append({"expanded": expanded, "testing": testing, "student": student, "seed": seed} | options)
        return plain(distilled, expanded, testing, student, seed, **options)

    monkeypatch.setattr(common, "run_student", watched)
    return seen


def test_every_network_is_trained_on_the_set_on_random_images_and_on_all_real_ones(found: dict[str, Any]) -> None:
    arms = {arm["arm"]: arm for arm in found["arms"]}
    assert list(arms) == ["infer", "random_soft", "whole"]
    assert [arm["steps"] for arm in arms.values()] == [3, 3, 5]
    assert [arm["column"] for arm in arms.values()] == ["S", "S", "H"]
    assert [arm["items"] for arm in arms.values()] == [24, 16, 48]
    assert [row["candidate"] for row in found["rows"]] == GRID
    for row in found["rows"]:
        assert list(row["top1"]) == list(arms)
        assert all(top1["n"] == 2 and min(top1["per_seed"]) >= 0 for top1 in row["top1"].values())
        assert all(len(seconds) == 2 for seconds in row["seconds"].values())
    settings = {"width": 6, "depth": 1}
    assert found["rows"][1]["settings"] == {"network": "convnet"} | settings
    made = sketch("convnet", classes=4, shape=tiny.SHAPE, settings=settings)
    assert found["rows"][1]["size"] == sum(p.numel() for p in made.parameters())


def test_the_results_are_written_and_hold_their_origin(found: dict[str, Any], own: DistilledDataset, run: Path) -> None:
    assert json.loads((run / "results.json").read_text()) == json.loads(json.dumps(found, allow_nan=False))
    assert (found["kind"], found["schema"], found["proxy"]) == ("proxy", 1, "nas")
    assert found["recipe"] == own.recipe.plain()
    assert found["source"] == own.facts["source"]
    assert found["commands"] == ["", "it"]
    assert (found["protocol"]["split"], found["protocol"]["epoch"]) == ("test", "last")
    assert found["time"]["students"].keys() == {"infer", "random_soft", "whole"}
    assert found["time"]["saved"] == pytest.approx(
        found["time"]["students"]["whole"] - found["time"]["students"]["infer"] - found["time"]["distillation"]
    )


def test_a_run_is_one_row_file_and_another_grid_is_another_row(found: dict[str, Any]) -> None:
    ((name, file),) = row_files(found).items()
    assert (file["kind"], file["row"]["proxy"]) == ("proxy", "nas")
    protocol = found["protocol"]
    ((other, _),) = row_files(found | {"protocol": protocol | {"grid": protocol["grid"][1:]}}).items()
    assert name != other


def test_nothing_is_trained_twice(
    found: dict[str, Any], own: DistilledDataset, run: Path, trained: list[dict[str, Any]]
) -> None:
    again = nas(own, tiny.dataset(), run=run, networks=GRID, seeds=2, steps=3, real_steps=5, command="it", **HOW)
    assert trained == []
    assert json.loads(json.dumps(again["rows"])) == json.loads(json.dumps(found["rows"]))
    nas(own, tiny.dataset(), run=run, networks=[*GRID, "convnet(width=5)"], seeds=2, steps=3, real_steps=5, **HOW)
    assert {each["student"] for each in trained} == {"convnet(width=5)"}
    assert len(trained) == 6


def test_students_look_at_the_test_split_and_follow_the_recipe_of_the_set(
    own: DistilledDataset, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    nas(own, tiny.dataset(), run=tmp_path, networks=GRID, steps=2, **HOW)
    test = tiny.dataset().test
    assert len(trained) == 9
    for each in trained:
        assert torch.equal(each["testing"].images, test.pixels)
        assert each["recipe"] == own.recipe.student
        assert (each["steps"], each["seed"]) == (2, 0)


def test_all_real_images_are_the_allowed_rows_with_hard_labels(tmp_path: Path) -> None:
    data = tiny.dataset()
    made = tiny.distilled(tmp_path / "set", validation=8)
    feed = whole_feed(made, data)
    rows = Real(data, 8).rows
    assert torch.equal(feed.expanded.images, data.train.pixels[rows])
    assert torch.equal(feed.expanded.cls, data.train.labels[rows])
    assert (feed.column, feed.expanded.labels.kind, feed.role) == ("H", "classes", "whole")
    assert feed.key != whole_feed(replace(made, recipe=replace(made.recipe, validation=0)), data).key


def test_the_default_grid_has_24_networks_for_the_smallest_images() -> None:
    grid = default_grid()
    assert len(set(grid)) == 24
    for text in grid:
        ((arch, settings),) = read_networks(text).values()
        sketch(arch, classes=10, shape=(1, 8, 8), settings=settings)


def test_the_default_rates_and_decays_are_20_pairs_around_the_recipe() -> None:
    rates, decays = default_values(TrainRecipe(lr=1e-3, weight_decay=0.01))
    assert rates == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert decays == [0.0, 0.001, 0.01, 0.1]
    assert len(set(default_values(TrainRecipe(weight_decay=0.0))[1])) == 4


def test_hyper_parameters_change_those_two_settings_and_nothing_else(
    own: DistilledDataset, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    found = hyper(own, tiny.dataset(), run=tmp_path, student="convnet(width=4)", lr=[0.001, 0.01],
                  weight_decay=[0, 0.1], steps=2, **HOW)  # fmt: skip
    assert found["what"] == "settings of convnet(width=4)"
    assert [row["candidate"] for row in found["rows"]] == [
        "lr=0.001, weight_decay=0", "lr=0.001, weight_decay=0.1", "lr=0.01, weight_decay=0",
        "lr=0.01, weight_decay=0.1",
    ]  # fmt: skip
    assert "size" not in found["agreement"]
    assert len(trained) == 12
    used = {(each["recipe"].lr, each["recipe"].weight_decay) for each in trained}
    assert used == {(0.001, 0.0), (0.001, 0.1), (0.01, 0.0), (0.01, 0.1)}
    for each in trained:
        lr, decay = own.recipe.student.lr, own.recipe.student.weight_decay
        assert replace(each["recipe"], lr=lr, weight_decay=decay) == own.recipe.student


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"networks": []}, "the grid of networks is empty; name at least three"),
        ({"networks": GRID[:2]}, "the grid holds 2 networks; a ranking needs at least 3"),
        ({"networks": [*GRID, GRID[0]]}, "stands twice in the grid"),
        ({"networks": ["convnt", *GRID]}, "there is no network 'convnt'; did you mean 'convnet'"),
        ({"networks": ["convnet,resnet10", *GRID]}, "names 2 networks where one student is wanted"),
        ({"networks": ["convnet(depth=9)", *GRID]}, "asked for depth 9"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"real_steps": 0}, "--real-steps must be at least 1, not 0"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_any_work(
    own: DistilledDataset, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DatastillError, match=said):
        nas(own, tiny.dataset(), run=tmp_path, **HOW, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": []}, "the grid of learning rates and weight decays is empty"),
        ({"lr": [-1.0]}, r"'student\.lr' must be at least 0"),
        ({"weight_decay": [float("nan")]}, r"'student\.weight_decay' must be a number"),
        ({"lr": [0.1], "weight_decay": [0.0]}, "the grid holds 1 settings"),
        ({"lr": [0.1, 0.1]}, "'lr=0.1, weight_decay=0' stands twice"),
    ],
)
def test_hyper_parameters_that_cannot_be_are_refused_before_any_work(
    own: DistilledDataset, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DatastillError, match=said):
        hyper(own, tiny.dataset(), run=tmp_path, **HOW, **options)
    assert not list(tmp_path.iterdir())


def test_another_data_set_or_a_set_in_memory_is_refused(own: DistilledDataset, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match="is not the data set that .* was distilled from"):
        nas(own, tiny.dataset(seed=1), run=tmp_path, networks=GRID, steps=2, **HOW)
    with pytest.raises(DatastillError, match="save this set first"):
        nas(replace(own, folder=None), tiny.dataset(), run=tmp_path, networks=GRID, steps=2, **HOW)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("there", "said"), [({"rows": []}, "results of something else"), (None, "results of nas")])
def test_results_of_something_else_are_left_alone(
    own: DistilledDataset, found: dict[str, Any], run: Path, tmp_path: Path, there: Any, said: str
) -> None:
    folder = run if there is None else tmp_path
    if there is not None:
        (folder / "results.json").write_text(json.dumps(there))
    before = (folder / "results.json").read_bytes()
    with pytest.raises(DatastillError, match=f"holds {said}, and not of the proxy hyper; choose another --run"):
        hyper(own, tiny.dataset(), run=folder, steps=2, **HOW)
    assert (folder / "results.json").read_bytes() == before


def test_a_control_that_cannot_be_made_is_one_sentence_and_nothing_was_trained(tmp_path: Path) -> None:
    data = tiny.dataset(per_class=3)  # the set buys two images of each class, random real images need four
    own = tiny.distilled(tmp_path / "set", data)
    with pytest.raises(DatastillError, match=r"^the control 'random_soft' of '.*set' cannot be made: "):
        nas(own, data, run=tmp_path / "run", networks=GRID, steps=2, **HOW)
    assert not (tmp_path / "run" / "students").exists()


def test_a_student_that_fails_is_named_and_the_others_are_kept(
    own: DistilledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = vars(common)["run_student"]

    def failing(*args: Any, **options: Any) -> Any:
        if args[3] == GRID[1]:
            raise DatastillError("it cannot be trained.")
        return plain(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(common, "run_student", failing)
        said = f"3 of 9 students could not be trained.*the first one, infer: {re.escape(GRID[1])}, seed 0: it cannot"
        with pytest.raises(DatastillError, match=said):
            nas(own, tiny.dataset(), run=tmp_path, networks=GRID, steps=2, **HOW)
    assert len(list((tmp_path / "students").glob("*.json"))) == 6
    assert len(nas(own, tiny.dataset(), run=tmp_path, networks=GRID, steps=2, **HOW)["rows"]) == 3


def test_without_a_control_the_verdict_says_so(
    own: DistilledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare: Method = replace(method("infer"), controls=())
    monkeypatch.setattr(common, "method", lambda name: bare)
    found = nas(own, tiny.dataset(), run=tmp_path, networks=GRID, steps=2, **HOW)
    assert found["control"] is None
    assert found["difference"] is None
    assert [arm["arm"] for arm in found["arms"]] == ["infer", "whole"]
    assert "random real images" not in " ".join(found["verdict"])


def test_the_control_of_hard_labels_is_random_real_images_with_hard_labels(
    own: DistilledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = replace(own, recipe=own.recipe.patched({"label": choice("hard")}))
    only = [c for c in method("infer").controls if c.name == "random_hard"]
    monkeypatch.setattr(common, "method", lambda name: replace(method("infer"), controls=tuple(only)))
    assert common.nearest_control(hard) == "random_hard"
    assert common.nearest_control(own) is None


def test_tasks_and_what_they_share_travel_to_other_processes(own: DistilledDataset, tmp_path: Path) -> None:
    data = tiny.dataset()
    run = Run(tmp_path, tiny.device(), Reporter())
    feeds = make_feeds(own, data, run, controls=[], whole=True)
    shared = Shared(feeds, measured.Testing(data.test.pixels, data.test.labels, "test"))
    task = ProxyTask("one", "infer", GRID[0], own.recipe.student, 0, 2, tmp_path / "one.json")
    again, held = (ForkingPickler.loads(ForkingPickler.dumps(each)) for each in (task, shared))
    assert again == task
    again.run(held, tiny.device(), Reporter())
    there = json.loads((tmp_path / "one.json").read_text())
    replace(task, path=tmp_path / "two.json").run(shared, tiny.device(), Reporter())
    assert there["losses"] == json.loads((tmp_path / "two.json").read_text())["losses"]


def test_the_time_of_a_set_has_its_networks_in_it_or_is_unknown(own: DistilledDataset, tmp_path: Path) -> None:
    run = Run(tmp_path, tiny.device(), Reporter())
    known = distillation_seconds(own, tiny.dataset(), run)
    assert known is not None
    assert own.folder is not None
    phases = json.loads((own.folder / "run.json").read_text())["seconds"]
    assert known > sum(s for phase, s in phases.items() if not phase.startswith("train "))
    other = replace(own, recipe=replace(own.recipe, validation=4))  # its networks were never trained
    assert distillation_seconds(other, tiny.dataset(), run) is None
    assert distillation_seconds(replace(own, folder=tmp_path), tiny.dataset(), run) is None


def test_an_arm_feeds_what_it_holds(own: DistilledDataset, tmp_path: Path) -> None:
    arm = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path).own()
    feed = Feed.of(arm)
    assert (feed.name, feed.role, feed.column) == ("infer", "method", "S")
    assert feed.plain()["bytes"] == own.ledger()
    loaded = DistilledDataset.load(own.folder or Path())
    assert torch.equal(feed.expanded.images, loaded.expand().images)
    assert distil(tiny.dataset(), own.recipe, **HOW).content.items.cls.equal(feed.expanded.cls)
