"""The engine: what it refuses and when, resume after any interruption, and what never reaches a distilled set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill import engine
from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.recipe import NetworkRecipe, Recipe, choice
from datastill.runtime.progress import Phase, Reporter
from datastill.sources import Dataset
from datastill.training import bank
from reference import tiny

TESTS = Path(__file__).parent


def run(
    out: Path | None, data: Dataset | None = None, *, reporter: Reporter | None = None, **options: Any
) -> DistilledDataset:
    """Distil the tiny set with the tiny recipe under changes; `resume` and `precision` are no changes."""
    resume, precision = options.pop("resume", False), options.pop("precision", "float32")
    device = replace(tiny.device(), precision=precision)
    return distil(
        data or tiny.dataset(),
        tiny.recipe(**options),
        device=device,
        reporter=reporter or Reporter(),
        out=out,
        resume=resume,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of an artifact but the one that tells how long it took."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "run.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


class Stop(Exception):
    """What interrupts a run."""


class Fragile(Reporter):
    """A reporter that stops the run at its n-th step, whatever that belongs to; keeps the names of phases."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left, self.names = after, list[str]()

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Phase]:
        self.names.append(name)
        with super().phase(name, total, done) as phase:
            plain = phase.advance

            def advance(steps: int = 1) -> None:
                plain(steps)
                self.left -= 1
                if self.left == 0:
                    raise Stop

            phase.advance = advance  # type: ignore[method-assign]  # of this one phase
            yield phase


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, with no networks in it."""
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- what is refused ---


def test_a_folder_that_is_not_empty_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("mine")
    for resume in (False, True):
        with pytest.raises(DatastillError, match=r"is not empty \('photo.png' is there\); choose another --out"):
            run(tmp_path, resume=resume)
        assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_a_file_is_no_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatastillError, match="is a file; choose another --out"):
        run(tmp_path / "file")


def test_a_finished_set_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    run(tmp_path / "set")
    before = contents(tmp_path / "set")
    every: list[dict[str, Any]] = [{}, {"resume": True, "ipc": 5}, {"resume": True, "seed": 1}]
    for options in every:
        with pytest.raises(DatastillError, match="holds a finished set; choose another --out, or remove it first"):
            run(tmp_path / "set", **options)
    with pytest.raises(DatastillError, match="holds a finished set"):
        run(tmp_path / "set", tiny.dataset(seed=1), resume=True)
    assert contents(tmp_path / "set") == before
    assert not (tmp_path / "set" / ".work").exists()


def test_a_folder_with_a_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[1, 2]")
    with pytest.raises(DatastillError, match="holds a finished set; choose another --out, or remove it first"):
        run(tmp_path, resume=True)


def interrupted(out: Path, after: int = 20, **options: Any) -> None:
    with pytest.raises(Stop):
        run(out, reporter=Fragile(after), **options)


def test_an_unfinished_run_is_refused_without_resume(tmp_path: Path, cache: Path) -> None:
    interrupted(tmp_path / "set")
    with pytest.raises(DatastillError, match="holds an unfinished run; add --resume to go on, or choose another --out"):
        run(tmp_path / "set")


def test_an_unfinished_run_of_something_else_is_refused(tmp_path: Path, cache: Path) -> None:
    interrupted(tmp_path / "set")
    sentence = "unfinished run of another recipe, data set or precision; repeat its command with --resume, or choose"
    with pytest.raises(DatastillError, match=sentence):
        run(tmp_path / "set", resume=True, seed=1)
    with pytest.raises(DatastillError, match=sentence):
        run(tmp_path / "set", tiny.dataset(seed=1), resume=True)
    with pytest.raises(DatastillError, match=sentence):
        run(tmp_path / "set", resume=True, precision="bf16")
    assert len(run(tmp_path / "set", resume=True)) == 24


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"store": choice("compensate")}, "there is no store 'compensate'; did you mean 'compensated'"),
        ({"match": choice("statistic")}, "there is no match 'statistic'; did you mean 'statistics'"),
        ({"label": choice("statick")}, "there is no label 'statick'; did you mean 'static'"),
        ({"store": choice("pixels")}, "match 'statistics' needs gradients and sets, which no other"),
        ({"networks": tiny.NETWORKS | {"last": NetworkRecipe(arch="resnet99")}}, "there is no network 'resnet99'"),
        ({"ipc": 1}, "no room at ipc=1 with 4 classes and 2 networks; ask for --ipc 2 or more"),
        ({"ipc": 40}, "class 'class 0' has 12 training images, but this recipe starts from 26 per class"),
        ({"validation": 48}, "validation=48 would take all 12 training images of class 'class 0'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_network_is_trained(
    changes: dict[str, Any], sentence: str, tmp_path: Path, cache: Path
) -> None:
    reporter = Fragile(10**9)
    with pytest.raises(DatastillError, match=sentence):
        run(tmp_path / "set", reporter=reporter, **changes)
    assert reporter.names == []
    assert not (cache / "networks").exists()
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_mistakes_of_all_rooms_are_said_at_once() -> None:
    with pytest.raises(DatastillError) as refused:
        run(None, select=choice("rando"), label=choice("statick"), ipc=1)
    for part in ("no select 'rando'", "no label 'statick'", "no room at ipc=1"):
        assert part in str(refused.value)


# --- what is made ---


def test_a_set_in_memory_is_the_set_on_disk(tmp_path: Path) -> None:
    memory, disk = run(None), run(tmp_path / "set")
    assert memory.folder is None
    assert disk.folder == tmp_path / "set"
    assert torch.equal(memory.expand().images, disk.expand().images)
    assert memory.facts["counts"] == disk.facts["counts"]


def test_the_manifest_tells_where_a_set_comes_from(tmp_path: Path) -> None:
    data = tiny.dataset()
    source = {"asked": "somewhere", "classes": ["a"]}
    distil(
        data,
        tiny.recipe(),
        device=tiny.device(),
        reporter=Reporter(),
        out=tmp_path / "set",
        command="distil it",
        source=source,
    )
    made = json.loads((tmp_path / "set" / "manifest.json").read_text())
    found = {"name": "tiny", "fingerprint": data.fingerprint, "notes": [], "skipped": []}
    assert made["source"] == source | found
    assert made["command"] == "distil it"
    assert made["real_bytes"]["raw"] == data.train.pixels.numel()
    assert made["real_bytes"]["webp"] > 0
    assert made["counts"]["nominal"] == 16
    assert Recipe.from_plain(made["recipe"]) == tiny.recipe()
    assert made["versions"]["torch"] == torch.__version__
    told = json.loads((tmp_path / "set" / "run.json").read_text())
    assert any(name.startswith("distil") for name in told["seconds"])


def test_real_images_inside_are_named_and_validation_rows_are_not_among_them() -> None:
    data = tiny.dataset()
    made = run(None, validation=16, ipc=8, store=choice("compensated", leftover="natural"))
    held = Real(data, 16).held_out
    named = set(made.content.pictures.ids)
    assert named.isdisjoint({data.train.ids[int(row)] for row in held})
    rows = torch.tensor([data.train.ids.index(name) for name in made.content.pictures.ids])
    assert torch.equal(made.content.pictures.pixels, data.train.pixels[rows])
    assert torch.equal(made.content.pictures.cls, data.train.labels[rows])
    kept, hidden = made.content.pictures.pixels.flatten(1), data.train.pixels[held].flatten(1)
    assert not (kept[:, None] == hidden[None]).all(dim=2).any()


def test_networks_are_trained_on_the_allowed_rows_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = tiny.dataset(), list[torch.Tensor]()
    plain = vars(bank)["supply"]

    def watched(held: Any, *args: Any, **options: Any) -> Any:
        seen.append(held.images)
        return plain(held, *args, **options)

    monkeypatch.setattr(bank, "supply", watched)
    run(None, validation=16)
    assert len(seen) == 2
    hidden = data.train.pixels[Real(data, 16).held_out].flatten(1)
    for images in seen:
        assert len(images) == 32
        assert not (images.flatten(1)[:, None] == hidden[None]).all(dim=2).any()


def test_the_test_split_is_never_looked_at() -> None:
    blank = replace(
        tiny.dataset(), test=replace(tiny.dataset().test, pixels=torch.zeros(0, 3, 8, 8, dtype=torch.uint8))
    )
    one, two = run(None), run(None, blank)
    assert torch.equal(one.expand().images, two.expand().images)
    assert one.labels.values is not None
    assert two.labels.values is not None
    assert torch.equal(one.labels.values, two.labels.values)


def test_networks_are_bit_for_bit_what_they_were_after_distilling_and_labelling() -> None:
    ctx = tiny.context()
    networks = {name: ctx.network(name) for name in ctx.makers}
    before = {name: tiny.state(network) for name, network in networks.items()}
    content = engine.build_content(ctx)
    engine.label_content(ctx, ctx.fields.store.seal(content), {})
    for name, network in networks.items():
        assert all(torch.equal(before[name][key], value) for key, value in network.state_dict().items())
        assert not any(module.training for module in network.modules())
        assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


# --- resume ---


def test_a_finished_run_is_taken_as_it_is(tmp_path: Path) -> None:
    run(tmp_path / "set")
    before, reporter = contents(tmp_path / "set"), Fragile(10**9)
    again = run(tmp_path / "set", resume=True, reporter=reporter)
    assert reporter.names == []
    assert again.folder == tmp_path / "set"
    assert contents(tmp_path / "set") == before
    assert not (tmp_path / "set" / ".work").exists()


def test_resume_of_nothing_is_a_fresh_run(tmp_path: Path) -> None:
    run(tmp_path / "one")
    run(tmp_path / "two", resume=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> dict[str, bytes]:
    """What a run writes that nothing interrupts, with networks from the cache that all tests share."""
    folder = tmp_path_factory.mktemp("engine") / "plain"
    run(folder)
    return contents(folder)


@pytest.mark.parametrize("after", [1, 11, 13, 24, 25, 26, 29, 32, 33])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    after: int, plain: dict[str, bytes], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks of 12 steps, two groups of 4 rounds, two labellings: 34 steps in all."""
    for module in (engine, bank):
        monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    interrupted(tmp_path / "set", after)
    assert not (tmp_path / "set" / "manifest.json").exists()
    reporter = Fragile(10**9)
    run(tmp_path / "set", resume=True, reporter=reporter)
    assert contents(tmp_path / "set") == plain
    if 12 < after < 24:
        assert "train second (convnet)" in reporter.names
        assert "train first (convnet)" not in reporter.names


def test_rounds_that_were_done_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", -1.0)
    run(None)  # the networks are in the cache from here on
    interrupted(tmp_path / "set", 6)  # of two groups of four rounds
    rounds = 0
    match = type(tiny.context(given={}).fields.match)
    plain = match.round

    def counted(self: Any, draft: Any, ctx: Any) -> Any:
        nonlocal rounds
        rounds += 1
        return plain(self, draft, ctx)

    monkeypatch.setattr(match, "round", counted)
    run(tmp_path / "set", resume=True)
    assert rounds == 3  # the sixth was interrupted before it was written down


def test_what_a_killed_run_left_half_written_is_swept_away(tmp_path: Path, cache: Path) -> None:
    interrupted(tmp_path / "set")
    for name in (
        ".images.parquet.abc.part",
        "labels/.logits.safetensors.abc.part",
        ".work/.group-00000.safetensors.x.part",
    ):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"half")
    run(tmp_path / "set", resume=True)
    assert not list((tmp_path / "set").rglob("*.part"))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes_whenever_it_was_killed(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(TESTS / "reference" / "killed.py"), str(tmp_path)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    plain = contents(tmp_path / "plain" / "set")
    assert {"manifest.json", "images.parquet", "labels/logits.safetensors"} <= plain.keys()
    killed = sorted(p.name for p in tmp_path.iterdir() if (p / "set").is_dir() and p.name != "plain")
    assert len(killed) == 12
    for name in killed:
        assert contents(tmp_path / name / "set") == plain, name


def test_what_was_learned_is_shared_by_recipes_that_differ_in_labels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    match = type(tiny.context(given={}).fields.match)
    plain = match.round

    def counted(self: Any, draft: Any, ctx: Any) -> Any:
        rounds.append(1)
        return plain(self, draft, ctx)

    monkeypatch.setattr(match, "round", counted)

    def made(**changes: Any) -> DistilledDataset:
        recipe = tiny.recipe(**changes)
        return distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), kept=tmp_path / "learned")

    first = made()
    done = len(rounds)
    assert done > 0
    again = made(label=choice("hard"))
    assert len(rounds) == done
    assert again.labels.kind == "classes"
    assert torch.equal(again.expand().images, first.expand().images)
    assert again.facts["counts"]["compensator_norms"] == first.facts["counts"]["compensator_norms"]
    other = made(seed=1)
    assert len(rounds) > done
    assert not torch.equal(other.expand().images, first.expand().images)
