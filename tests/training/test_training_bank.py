"""Networks by what they were made from: trained once, found again, and safe from interruption and from each other."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datastill.errors import DatastillError
from datastill.recipe import DatasetInfo, NetworkRecipe, TrainRecipe
from datastill.runtime.device import Device
from datastill.runtime.progress import Phase, Reporter
from datastill.training import bank as module
from datastill.training.bank import Bank, Training, run_training
from datastill.training.loop import Learner, train
from datastill.training.supply import Data, supply

INFO = DatasetInfo("tiny", 3, (3, 8, 8), 20, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RECIPE = NetworkRecipe(arch="convnet", settings={"width": 8}, training=TrainRecipe(lr=0.05, batch=8, epochs=3, crop=1))


def training(**changes: Any) -> Training:
    return dataclasses.replace(Training("first", RECIPE, INFO, "rows", "float32"), **changes)


def pictures() -> Data:
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(20) % 3
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Data(images, classes, torch.eye(3)[classes], "classes")


class Counting(Reporter):
    """Remembers the phases that were opened, as (name, total, done before, done after)."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.phases: list[tuple[str, int, int, int]] = []
        self.fail_at = fail_at

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Phase]:
        with super().phase(name, total, done) as phase:
            advance = phase.advance

            def counted(steps: int = 1) -> None:
                advance(steps)
                if phase.done == self.fail_at:
                    raise KeyboardInterrupt

            phase.advance = counted  # type: ignore[method-assign]  # the same, and stops when it is told to
            try:
                yield phase
            finally:
                self.phases.append((name, total, done, phase.done))


def refuse() -> Data:
    raise AssertionError("a network that is there already needs no data")


def test_a_network_is_trained_once_and_then_found(cpu: Device, tmp_path: Path) -> None:
    reporter = Counting()
    bank = Bank(cpu, reporter, tmp_path)
    first = bank.get(training(), pictures)
    assert reporter.phases == [("train first (convnet)", 9, 0, 9)]
    assert bank.get(training(), refuse) is first
    assert bank.get(training(name="another name"), refuse) is first
    later = Counting()
    found = Bank(cpu, later, tmp_path).get(training(), refuse)
    assert later.phases == []
    assert found is not first
    for name, value in first.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_networks_are_kept_in_the_cache_where_no_folder_is_named(
    cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path))
    made = training()
    assert Bank(cpu, Reporter()).folder(made) == tmp_path / "networks" / made.key


def test_the_network_is_the_last_state_of_its_training(cpu: Device, tmp_path: Path) -> None:
    bank = Bank(cpu, Reporter(), tmp_path)
    found = bank.get(training(), pictures)
    learner = Learner(training().build(), RECIPE.training, RECIPE.training.work(20), RECIPE.seed, cpu)
    for _ in train(learner, supply(pictures(), learner.work, learner.recipe, RECIPE.seed)):
        pass
    for name, value in learner.network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    record = bank.record(training())
    assert record["steps"] == 9
    assert record["losses"] == pytest.approx(learner.losses.view(3, 3).mean(1).tolist())
    assert record["bytes"] == sum(v.numel() * v.element_size() for v in found.state_dict().values())
    assert record["training"]["recipe"] == dataclasses.asdict(RECIPE) | {
        "training": record["training"]["recipe"]["training"]
    }
    assert (record["device"], record["precision"]) == ("cpu", "float32")


def test_a_network_comes_frozen_and_in_evaluation_mode(cpu: Device, tmp_path: Path) -> None:
    bank = Bank(cpu, Reporter(), tmp_path)
    for network in (bank.get(training(), pictures), Bank(cpu, Reporter(), tmp_path).get(training(), refuse)):
        assert not any(module.training for module in network.modules())
        assert not any(p.requires_grad for p in network.parameters())


def test_the_checkpoint_is_gone_when_the_network_is_there(
    cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    saved: list[int] = []
    save = Learner.save

    def noted(learner: Learner, path: Path) -> None:
        saved.append(learner.step)
        save(learner, path)

    monkeypatch.setattr(Learner, "save", noted)
    bank = Bank(cpu, Reporter(), tmp_path)
    bank.get(training(), pictures)
    assert saved == list(range(1, 9))
    assert sorted(p.name for p in bank.folder(training()).iterdir()) == ["network.safetensors", "record.json"]


def changed(**changes: Any) -> NetworkRecipe:
    return dataclasses.replace(RECIPE, **changes)


DIFFERENT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "seed": {"recipe": changed(seed=1)},
    "architecture": {"recipe": changed(arch="resnet10")},
    "settings": {"recipe": changed(settings={"width": 9})},
    "a number of the training": {"recipe": changed(training=dataclasses.replace(RECIPE.training, lr=0.06))},
    "another number": {"recipe": changed(training=dataclasses.replace(RECIPE.training, steps=9))},
    "rows or data": {"data_key": "other rows"},
    "precision": {"precision": "bf16"},
    "classes": {"info": dataclasses.replace(INFO, classes=4)},
    "shape": {"info": dataclasses.replace(INFO, shape=(3, 8, 9))},
    "space": {"info": dataclasses.replace(INFO, std=(0.25, 0.25, 0.26))},
}


def test_a_key_knows_everything_that_decides_the_weights_and_no_names() -> None:
    keys = {what: training(**changes).key for what, changes in DIFFERENT.items()}
    assert len(set(keys.values())) == len(DIFFERENT)
    assert training(name="second").key == keys["nothing"]
    assert training(info=dataclasses.replace(INFO, name="renamed")).key == keys["nothing"]
    again = Training("x", NetworkRecipe(**vars(RECIPE)), DatasetInfo(**vars(INFO)), "rows", "float32")
    assert again.key == keys["nothing"]


def test_other_seeds_are_trained_apart(cpu: Device, tmp_path: Path) -> None:
    reporter = Counting()
    bank = Bank(cpu, reporter, tmp_path)
    one = bank.get(training(), pictures)
    two = bank.get(training(recipe=changed(seed=1)), pictures)
    assert len(reporter.phases) == 2
    assert not torch.equal(one.state_dict()["body.head.weight"], two.state_dict()["body.head.weight"])


@pytest.mark.parametrize(("arch", "stop"), [("convnet", 1), ("convnet", 4), ("convnet", 9), ("efficientnet_b0", 2)])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    arch: str, stop: int, cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    small = {"convnet": {"width": 8}, "efficientnet_b0": {"width": 0.1}}[arch]
    steps = 9 if arch == "convnet" else 3
    recipe = dataclasses.replace(RECIPE.training, steps=steps)
    made = training(recipe=changed(arch=arch, settings=small, training=recipe))
    unbroken = Bank(cpu, Reporter(), tmp_path / "unbroken")
    unbroken.get(made, pictures)
    with pytest.raises(KeyboardInterrupt):
        Bank(cpu, Counting(fail_at=stop), tmp_path / "broken").get(made, pictures)
    broken = Bank(cpu, Counting(), tmp_path / "broken")
    assert not (broken.folder(made) / "record.json").exists()
    reporter = Counting()
    Bank(cpu, reporter, tmp_path / "broken").get(made, pictures)
    assert reporter.phases == [(f"train first ({arch})", steps, stop - 1, steps)]
    paths = [bank.folder(made) / "network.safetensors" for bank in (broken, unbroken)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert broken.record(made)["losses"] == unbroken.record(made)["losses"]


def test_a_training_that_ended_before_it_was_recorded_is_recorded_with_the_same_bytes(
    cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    bank = Bank(cpu, Reporter(), tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            bank.get(training(), pictures)
    path = bank.folder(training()) / "network.safetensors"
    before = path.read_bytes()
    bank.get(training(), pictures)
    assert path.read_bytes() == before


def test_a_damaged_network_is_named(cpu: Device, tmp_path: Path) -> None:
    bank = Bank(cpu, Reporter(), tmp_path)
    bank.get(training(), pictures)
    path = bank.folder(training()) / "network.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatastillError, match=r"network\.safetensors' is damaged"):
        Bank(cpu, Reporter(), tmp_path).get(training(), refuse)


def test_whoever_watches_is_called_after_every_step(cpu: Device, tmp_path: Path) -> None:
    recipe = RECIPE.training
    learner = Learner(training().build(), recipe, recipe.work(20), 0, cpu)
    steps: list[int] = []
    run_training(
        learner,
        lambda start: supply(pictures(), learner.work, recipe, 0, start=start),
        tmp_path / "checkpoint",
        Reporter(),
        "student",
        lambda watched: steps.append(watched.step),
    )
    assert steps == list(range(1, 10))
    assert not (tmp_path / "checkpoint").exists()


class Waiting(Reporter):
    """Says when a phase opens, and waits for an answer before it goes on."""

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Phase]:
        print(name, flush=True)
        sys.stdin.readline()
        with super().phase(name, total, done) as phase:
            yield phase


def child(root: str) -> None:
    """Get the network in another process; run by the test below."""
    device = Device(SimpleNamespace(device="cpu"), "float32")
    Bank(device, Waiting(), Path(root)).get(training(), pictures)


def test_two_processes_at_once_train_once(cpu: Device, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"import sys, {__name__} as t; t.child(sys.argv[1])", str(tmp_path)]
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "train first (convnet)\n"
        release = threading.Timer(0.2, lambda: print(file=other.stdin, flush=True))
        release.start()
        reporter = Counting()
        found = Bank(cpu, reporter, tmp_path).get(training(), refuse)
        release.join()
    assert other.returncode == 0
    assert reporter.phases == []
    alone = Bank(cpu, Reporter(), tmp_path / "alone").get(training(), pictures)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-4, atol=1e-5)
