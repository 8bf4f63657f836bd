"""The public face in Python, and what a set needs to be measured again elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import datastill
from datastill import DatastillError, DistilledDataset
from datastill.api import load_again
from datastill.codecs import PictureCodec
from datastill.measure.budget import Budget, Chosen, folder_bytes
from datastill.networks import create_network
from datastill.recipe import choice, compose
from datastill.runtime.progress import Reporter
from reference import tiny

CHANGES = ["networks.*.training.epochs=1", "match.rounds=1", "student.batch=8", "student.epochs=1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders that nobody has seen: two colours, noise, sizes that differ."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        for i in range(12):
            size = (int(draw.integers(20, 40)), int(draw.integers(20, 40)), 3)
            pixels = np.clip(draw.normal(colour, 30, size), 0, 255).astype(np.uint8)
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def small(photos: Path, out: Path) -> DistilledDataset:
    data = datastill.load(str(photos))
    recipe = datastill.Recipe.from_plain(tiny.recipe(ipc=3).plain())
    return datastill.distill(data, recipe, out=out, source={"asked": str(photos)}, device="cpu")


def test_five_lines_distil_and_measure_a_folder(photos: Path, tmp_path: Path) -> None:
    made = small(photos, tmp_path / "set")
    results = datastill.evaluate(made, ["convnet(width=8)"], seeds=1, steps=2, controls=["random_soft"], device="cpu")
    assert [row["arm"] for row in results["rows"]] == ["infer", "random_soft"]
    assert results["verdict"][0].startswith("infer was measured with fewer than 3 seeds")


def test_a_set_in_memory_can_be_measured_but_not_weighed(photos: Path) -> None:
    data = datastill.load(str(photos))
    made = datastill.distill(data, tiny.recipe(ipc=3), device="cpu", source={"asked": str(photos)})
    with pytest.raises(DatastillError, match="save this set first"):
        made.ledger()
    results = datastill.evaluate(made, ["convnet(width=8)"], 1, dataset=data, steps=1, controls=False, device="cpu")
    assert results["bytes"]["total"] > 0


def test_the_order_of_networks_survives_the_disk(photos: Path, tmp_path: Path) -> None:
    networks = {"zebra": tiny.NETWORKS["first"], "ant": tiny.NETWORKS["second"]}
    data = datastill.load(str(photos))
    datastill.distill(data, tiny.recipe(ipc=3, networks=networks), out=tmp_path / "set", device="cpu")
    assert list(DistilledDataset.load(tmp_path / "set").recipe.networks) == ["zebra", "ant"]


def test_a_real_set_that_moved_is_found_where_it_is_said_to_be(photos: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    photos_copy = tmp_path / "after"
    for target in (before, photos_copy):
        for file in photos.rglob("*.png"):
            (target / file.parent.name).mkdir(parents=True, exist_ok=True)
            (target / file.parent.name / file.name).write_bytes(file.read_bytes())
    made = small(before, tmp_path / "set")
    for file in before.rglob("*.png"):
        file.unlink()
    with pytest.raises(DatastillError, match="not at hand"):
        load_again(made)
    assert load_again(made, str(photos_copy)).fingerprint == made.facts["source"]["fingerprint"]


def test_a_relative_source_is_found_from_another_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    made = datastill.distill(
        datastill.load(photos.name), tiny.recipe(ipc=3), out=tmp_path / "set", device="cpu",
        source={"asked": photos.name},
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert load_again(made).fingerprint == made.facts["source"]["fingerprint"]
    assert str(photos) not in (tmp_path / "set" / "manifest.json").read_text()


def test_without_its_nearest_control_nothing_is_claimed(photos: Path, tmp_path: Path) -> None:
    made = small(photos, tmp_path / "set")
    results = datastill.evaluate(made, ["convnet(width=8)"], 1, steps=1, controls=["noise"], device="cpu")
    assert "says nothing about the method" in results["verdict"][0]


def test_the_loader_gives_full_batches_of_the_recipes_targets(photos: Path, tmp_path: Path) -> None:
    made = small(photos, tmp_path / "set")
    loader = made.loader(batch_size=5, seed=3)
    first, second = list(loader), list(loader)
    assert len(first) == len(loader) == len(second)
    assert all(x.shape == (5, 3, 32, 32) and t.shape == (5, 2) for x, t in first)
    assert not torch.equal(first[0][0], second[0][0])
    again = list(made.loader(batch_size=5, seed=3))
    assert all(torch.equal(a, b) and torch.equal(s, t) for (a, s), (b, t) in zip(first, again, strict=True))
    assert 0 <= float(first[0][0].min()) <= float(first[0][0].max()) <= 1


def test_opening_a_set_never_fetches_pretrained_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = datastill.load(str(photos))
    datastill.distill(data, tiny.recipe(ipc=3, label=choice("dynamic")), out=tmp_path / "set", device="cpu")
    text = (tmp_path / "set" / "manifest.json").read_text()
    (tmp_path / "set" / "manifest.json").write_text(text.replace('"width": 8', '"width": 8,\n "pretrained": true'))
    asked: list[dict[str, object]] = []

    def spy(name: str, **given: object) -> object:
        asked.append(given)
        return create_network(name, **given)  # type: ignore[arg-type]

    monkeypatch.setattr("datastill.artifact.create_network", spy)
    monkeypatch.setattr(
        "datastill.artifact.resolve", lambda recipe, info, **_: tiny.context(label=choice("dynamic")).fields
    )
    DistilledDataset.load(tmp_path / "set")
    assert len(asked) == 2
    assert all("pretrained" not in given for given in asked)


def compared(photos: Path, out: Path, **options: Any) -> dict[str, Any]:
    changes = ["networks.*.training.steps=2", "networks.*.training.batch=8", "student.batch=4", "infer:match.rounds=1"]
    given: dict[str, Any] = {"ipc": 3, "students": ["convnet(width=8)"], "seeds": 1, "steps": 2, "controls": False}
    return datastill.compare(str(photos), ["infer"], out=out, changes=changes, device="cpu",
                             teachers="convnet(width=8),convnet(width=10)", **(given | options))  # fmt: skip


def test_methods_are_compared_in_one_call(photos: Path, tmp_path: Path) -> None:
    results = compared(photos, tmp_path / "run", command="mine", source={"asked": "photos", "size": 32})
    assert [row["arm"] for row in results["rows"]] == ["random_hard", "infer_hard", "random", "infer"]
    assert {row["ipc"] for row in results["rows"]} == {3}
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["source"]["asked"] == "photos"
    assert (results["commands"], results["device"]["jobs"]) == (["mine"], "1")
    made = DistilledDataset.load(tmp_path / "run" / "sets" / "infer-ipc3")
    assert made.recipe.match.settings["rounds"] == 1


def test_several_ipcs_and_some_controls_are_compared(photos: Path, tmp_path: Path) -> None:
    results = compared(photos, tmp_path / "run", ipc=[4, 3], controls=["infer/noise"])
    rows = [(row["ipc"], row["arm"]) for row in results["rows"]]
    each = ["random_hard", "infer_hard", "random", "infer", "infer/noise"]
    assert rows == [(ipc, arm) for ipc in (3, 4) for arm in each]
    with pytest.raises(DatastillError, match="'infer/nois'; did you mean 'infer/noise'"):
        compared(photos, tmp_path / "run", controls=["infer/nois"])


class Told(Reporter):
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("size", ["200kB", 200_000])
def test_a_number_of_bytes_buys_a_set_and_three_lines_say_which(size: str | int, photos: Path, tmp_path: Path) -> None:
    told = Told()
    made = datastill.distill(str(photos), budget=size, seed=5, out=tmp_path / "set", device="cpu", reporter=told)
    assert isinstance(made, DistilledDataset)
    assert len(made) == 20
    assert (made.recipe.method, made.recipe.seed, made.recipe.store.kind) == ("datastill", 5, "coded")
    assert len(told.lines) == 3
    assert told.lines[0].startswith("The whole training set fits: 20 images as webp-lossless")
    assert folder_bytes(tmp_path / "set") <= 200_000
    assert DistilledDataset.load(tmp_path / "set").recipe == made.recipe


def test_what_is_given_beside_a_budget_reaches_the_search(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Budget] = []

    def chosen(self: Budget) -> Chosen:
        seen.append(self)
        return Chosen(self._recipe(PictureCodec(format="avif", quality=44), "hard", 7), ("one", "two", "three"), ())

    monkeypatch.setattr(Budget, "choose", chosen)
    source, told = {"asked": "photos"}, Told()
    made = datastill.distill(
        str(photos), budget="3kB", steps=77, labels=["hard", "soft"], jobs=2, changes=["student.batch=9"],
        device="cpu", precision="float32", reporter=told, command="mine", source=source,
    )  # fmt: skip
    (search,) = seen
    assert (search.size, search.steps, search.labels, search.jobs) == (3000, 77, ("hard", "soft"), 2)
    assert (search.recipe.student.batch, search.command, search.source) == (9, "mine", source)
    assert (len(made), made.facts["command"]) == (7, "mine")
    assert made.recipe.store.settings["codec"]["quality"] == 44
    assert told.lines == ["one", "two", "three"]


@pytest.mark.parametrize(
    "given", [{"recipe": "infer"}, {"ipc": 10}, {"recipe": tiny.recipe()}, {"recipe": "datastill", "ipc": 3}]
)
def test_a_method_or_an_ipc_beside_a_budget_is_refused_in_one_sentence(given: dict[str, Any], photos: Path) -> None:
    with pytest.raises(DatastillError, match="^--budget chooses the method and the number of images; give it without"):
        datastill.distill(str(photos), budget="30kB", device="cpu", **given)


def test_a_recipe_of_the_preset_may_say_how_students_are_trained(photos: Path) -> None:
    data = datastill.load(str(photos))
    recipe = compose("datastill", data.info, seed=3, changes=["student.epochs=7"])
    made = datastill.distill(data, recipe, budget="1MB", device="cpu")
    assert (made.recipe.student.epochs, made.recipe.seed) == (7, 3)


@pytest.mark.parametrize("jobs", [0, -2])
def test_fewer_jobs_than_one_are_refused_before_any_work(jobs: int, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=f"--jobs must be at least 1, not {jobs}"):
        compared(photos, tmp_path / "run", jobs=jobs)
    made = small(photos, tmp_path / "set")
    with pytest.raises(DatastillError, match=f"--jobs must be at least 1, not {jobs}"):
        datastill.evaluate(made, ["convnet(width=8)"], run=tmp_path / "run", jobs=jobs, device="cpu")
    assert not (tmp_path / "run").exists()


def test_none_takes_as_many_jobs_as_the_device_bears(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def noted(*args: Any, jobs: int, **options: Any) -> dict[str, Any]:
        seen.append(jobs)
        return {}

    monkeypatch.setattr("datastill.measure.jobs.automatic_jobs", lambda device: 3)
    monkeypatch.setattr("datastill.api._compare", noted)
    monkeypatch.setattr("datastill.api._evaluate", noted)
    for jobs in (None, 2):
        compared(photos, tmp_path / "run", jobs=jobs)
        datastill.evaluate(small(photos, tmp_path / f"set {jobs}"), ["convnet(width=8)"], jobs=jobs, device="cpu")
    assert seen == [3, 3, 2, 2]
