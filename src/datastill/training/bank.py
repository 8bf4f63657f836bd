"""Networks by what they were made from: trained once, kept by hash, safe for several processes at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datastill.networks import Network, Space, create_network
from datastill.recipe import DatasetInfo, NetworkRecipe, Work
from datastill.runtime.cache import cache_dir, locked
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, load_arrays, read_json, save_arrays, write_json
from datastill.runtime.progress import Reporter
from datastill.settings import chosen, plain
from datastill.training.loop import Learner, train
from datastill.training.supply import Batch, Data, supply

VERSION = 1  # of what a training recipe means; part of every key, raised when the same recipe would give other weights
CHECKPOINT_SECONDS = 20.0
SETTLING = 32  # batches on which BatchNorm is measured anew under averaged weights


@dataclass(frozen=True)
class Training:
    """A network as a value: what it is, what it learns from, how, and from which seed. Its key is its address.

    data_key names the very rows that it is trained on; precision is part of the key because it changes the weights.
    """

    name: str
    recipe: NetworkRecipe
    info: DatasetInfo
    data_key: str
    precision: str

    @property
    def key(self) -> str:
        """The hash of everything that decides the weights (not of the name)."""
        info = plain(self.info)
        info.pop("name")
        return digest_of([VERSION, chosen(self.recipe), info, self.data_key, self.precision])

    def build(self) -> Network:
        """Return the untrained network."""
        return create_network(
            self.recipe.arch,
            classes=self.info.classes,
            shape=self.info.shape,
            space=Space(self.info.mean, self.info.std),
            seed=self.recipe.seed,
            **self.recipe.settings,
        )


def run_training(
    learner: Learner,
    batches: Callable[[int], Iterable[Batch]],
    checkpoint: Path,
    reporter: Reporter,
    label: str,
    watch: Callable[[Learner], None] | None = None,
) -> None:
    """Train to the end of the learner's work, from the checkpoint where there is one; writes one as time goes by.

    Args:
        learner: what is trained.
        batches: returns the batches from a step on.
        checkpoint: the file to go on from; the caller removes it once the result is safe.
        reporter: told about the steps.
        label: the name of the phase.
        watch: called after every step.
    """
    if checkpoint.exists():
        learner.load(checkpoint)
    last = time.monotonic()
    with reporter.phase(label, learner.work.steps, learner.step) as phase:
        for step in train(learner, batches(learner.step)):
            phase.advance()
            if watch:
                watch(learner)
            if time.monotonic() - last > CHECKPOINT_SECONDS and step.index + 1 < learner.work.steps:
                learner.save(checkpoint)
                last = time.monotonic()
    if learner.mean:
        learner.settle(batches(max(0, learner.work.steps - SETTLING)))


class Bank:
    """Trained networks in the cache folder. `get` returns them frozen and in evaluation mode."""

    def __init__(self, device: Device, reporter: Reporter, root: Path | None = None) -> None:
        self.device, self.reporter = device, reporter
        self.root = (root or cache_dir()) / "networks"
        self._held: dict[str, Network] = {}

    def folder(self, training: Training) -> Path:
        """Return where the network of `training` is kept."""
        return self.root / training.key

    def get(self, training: Training, data: Callable[[], Data]) -> Network:
        """Return the network of `training`, trained on `data()` if it is not in the cache yet."""
        key = training.key
        if key not in self._held:
            folder = self.folder(training)
            with locked(folder):
                if not (folder / "record.json").exists():
                    self._make(training, folder, data())
            self._held[key] = self._read(training, folder)
        return self._held[key]

    def record(self, training: Training) -> dict[str, Any]:
        """Return what was written down when the network was trained."""
        found: dict[str, Any] = read_json(self.folder(training) / "record.json")
        return found

    def _make(self, training: Training, folder: Path, data: Data) -> None:
        recipe = training.recipe.training
        work: Work = recipe.work(len(data))
        learner = Learner(training.build(), recipe, work, training.recipe.seed, self.device)
        start = time.perf_counter()
        checkpoint = folder / "checkpoint.safetensors"
        label = f"train {training.name} ({training.recipe.arch})"
        held = data.to(self.device.torch)
        run_training(
            learner,
            lambda start: supply(held, work, recipe, learner.seed, start=start),
            checkpoint,
            self.reporter,
            label,
        )
        arrays = dict(learner.network.state_dict())
        save_arrays(folder / "network.safetensors", arrays)
        losses = learner.losses.cpu()
        per_epoch = [float(part.mean()) for part in losses.split(work.epoch)]
        record = {
            "training": plain(training),
            "steps": work.steps,
            "bytes": sum(a.numel() * a.element_size() for a in arrays.values()),
            "losses": per_epoch,
            "seconds": time.perf_counter() - start,
            "torch": torch.__version__,
        } | self.device.describe()
        write_json(folder / "record.json", record)
        checkpoint.unlink(missing_ok=True)

    def _read(self, training: Training, folder: Path) -> Network:
        network = training.build()
        network.load_state_dict(load_arrays(folder / "network.safetensors"))
        network.requires_grad_(False).eval()
        return network.to(self.device.torch).to(memory_format=torch.channels_last)
