"""What a run would cost on this device: a few steps of every training are timed, and extended to all that it does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from datastill.fields import Fields, Real, resolve
from datastill.match.noise import Noise
from datastill.match.none import None_
from datastill.match.paired import Paired
from datastill.match.statistics import Statistics
from datastill.match.various import Various
from datastill.networks import Space, create_network
from datastill.recipe import DatasetInfo, NetworkRecipe, Recipe, TrainRecipe, Work, read_networks
from datastill.runtime.device import Device
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset
from datastill.store.coded import Coded
from datastill.store.compensated import Budget, Compensated
from datastill.store.crops import Crops
from datastill.store.pixels import Pixels
from datastill.store.synthetic import Synthetic
from datastill.store.tiles import Tiles
from datastill.training.bank import Bank, Training
from datastill.training.loop import Learner, train
from datastill.training.supply import supply

TIMED_STEPS = 3
# Of a training step on as many images: an answer is a forward pass, and weights that are not trained have no gradient.
ANSWER, PULL = 1 / 3, 2 / 3
SECOND = 4.0  # as docs/gradients.md says of an image whose gradient is differentiated again


@dataclass(frozen=True)
class Cost:
    """What a run would take here, in seconds by phase. unknown: what it does besides, and what is not in the sum."""

    phases: Mapping[str, float]
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.phases.values())

    def __str__(self) -> str:
        known = ", ".join(f"{name} {told_time(seconds)}" for name, seconds in self.phases.items())
        return known + (f"; not counted: {', '.join(self.unknown)}" if self.unknown else "")


def told_time(seconds: float) -> str:
    """Return a time in one unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate(dataset: Dataset, recipe: Recipe, common: TrainRecipe, student: str, seeds: int, device: Device) -> Cost:
    """Return what a run of the recipe, and of its students under its own and a common protocol, would cost here.

    Students train on the set and on random real images beside it. Networks that the cache holds cost nothing. Two
    protocols that are equal share their students.
    """
    real, info = Real(dataset, recipe.validation, recipe.seed), dataset.info
    bank, run = Bank(device, Reporter()), _Run(recipe, resolve(recipe, info), info, len(real.rows))
    phases: dict[str, float] = {}
    each: dict[str, float] = {}  # seconds of a training step per image
    for name, made in recipe.networks.items():
        training = Training(name, made, info, real.key, device.precision)
        step = _step_seconds(dataset, made.arch, made.settings, made.training, device)
        if run.trains(name) and not (bank.folder(training) / "record.json").exists():
            phases[f"train {name}"] = step * made.training.work(len(real.rows)).steps
        each[name] = step / made.training.batch
        phases |= {f"{phase} {name}": each[name] * images for phase, images in run.passes(name) if images}
    if (met := run.condensing) is not None:
        phase, images, network = met
        step = _step_seconds(dataset, network.arch, network.settings, network.training, device)
        phases[phase] = step / network.training.batch * images
    ((arch, settings),) = read_networks(student).values()
    protocols = [recipe.student] if common == recipe.student else [recipe.student, common]
    seen, asked = run.fields.label.pictures_per_item, sum(each.values()) * ANSWER if run.in_the_loop else 0.0
    step = sum(
        seen * (_step_seconds(dataset, arch, settings, training, device) + training.batch * asked)
        for training in protocols
    )
    phases[f"{2 * seeds * len(protocols)} students"] = 2 * seeds * step * recipe.student.work(run.items).steps
    return Cost(phases, run.unknown)


@dataclass(frozen=True)
class _Run:
    """What a recipe does, in numbers of images. rows: real ones that it may look at."""

    recipe: Recipe
    fields: Fields
    info: DatasetInfo
    rows: int

    @property
    def nominal(self) -> int:
        """ipc of every class."""
        return self.recipe.ipc * self.info.classes

    @property
    def items(self) -> int:
        """Items that students train on."""
        store, classes = self.fields.store, self.info.classes
        if isinstance(store, Compensated):
            budget = self._budget(store)
            return budget.items + (store.extra if store.leftover == "drop" else min(budget.leftover, classes))
        if isinstance(store, Pixels):  # and with them coded ones
            return store.total or (store.per_class or self.recipe.ipc) * classes
        return self.nominal * (store.factor**2 if isinstance(store, Tiles) else 1)

    @property
    def learned(self) -> int:
        """Images that a match looks at and learns: of compensators those of one network."""
        store = self.fields.store
        if isinstance(store, Compensated):
            return self._budget(store).natural
        return self.items if isinstance(store, Synthetic) else 0

    def _budget(self, store: Compensated) -> Budget:
        classes, makers = self.info.classes, len(self.recipe.networks)
        if store.sets is None:
            return Budget.of(self.recipe.ipc, classes, makers)
        return Budget.holding(store.sets, classes, makers)

    @property
    def in_the_loop(self) -> bool:
        """Whether networks answer on every batch of every student."""
        return self.fields.label.kind == "teachers"

    def trains(self, name: str) -> bool:
        """Whether a network of the table has to be trained: for soft labels, for the match, or to choose crops."""
        store, match = self.fields.store, self.fields.match
        matches = match.total_rounds > 0 and name in match.trained(self._names)
        return self.fields.label.column != "H" or matches or (isinstance(store, Crops) and self._chooses(store, name))

    def _chooses(self, store: Crops, name: str) -> bool:
        return store.order != "random" and name == (store.network or self._names[0])

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the run does that is not in `passes`."""
        recipe, found = self.recipe, []
        if recipe.select.kind != "random":
            found.append(f"choosing real images by '{recipe.select.kind}'")
        if type(self.fields.store) not in KNOWN_STORES:
            found.append(f"what store '{recipe.store.kind}' has beside ipc images of each class")
        if not isinstance(self.fields.match, KNOWN_MATCHES):
            found.append(f"the match '{recipe.match.kind}'")
        if recipe.select.settings.get("beta"):
            found.append("weighing the real images of a batch")
        if recipe.label.settings.get("folds", 1) > 1:
            found.append("the networks of label.folds")
        return tuple(found)

    def passes(self, name: str) -> Iterator[tuple[str, float]]:
        """Yield (phase, training steps on one image) of a network of the table beside its own training."""
        store, match = self.fields.store, self.fields.match
        if isinstance(store, Crops) and self._chooses(store, name):
            looked = min(self.rows, store.mipc * self.info.classes)
            yield "choose crops with", ANSWER * looked * store.crops
        if isinstance(match, Various):
            yield "measure real images with", ANSWER * self.rows if match.convs and name in self._turns(match) else 0.0
        yield "match on", self._matched(name)
        yield "label with", ANSWER * (self._labelled(self.items) + self._labelled(self.nominal))

    @property
    def condensing(self) -> tuple[str, float, NetworkRecipe] | None:
        """The phase, its training steps on one image, and the network, of a match whose network is its own."""
        match = self.fields.match
        if not isinstance(match, Paired) or not match.total_rounds or not self.learned:
            return None
        made = match.passes(self.recipe, self.info, self.items, self.rows)
        images = ANSWER * made.answers + PULL * made.pulls + made.trainings + SECOND * made.second
        return "match at the most" if made.bound else "match", images, match.network

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.recipe.networks)

    def _turns(self, match: Various) -> tuple[str, ...]:
        return self._names[: match.backbones]

    def _matched(self, name: str) -> float:
        """Return the training steps on one image that a match takes on a network."""
        store, match = self.fields.store, self.fields.match
        of_each = isinstance(store, Compensated)
        if isinstance(match, Statistics):
            met = of_each or name == (match.network or self._names[0])
            moved = match.adjust_steps if match.adjust_rho > 0 else 0
            real = ANSWER * self.rows if match.reference == "plain" and self.learned else 0.0
            return (PULL * match.rounds + moved) * self.learned + real if met else 0.0
        if isinstance(match, Various) and name in self._turns(match):
            every = self.learned * (len(self._names) if of_each else 1)
            return PULL * match.rounds * every / len(self._turns(match))
        return 0.0

    def _labelled(self, items: int) -> int:
        """Return the answers that are stored of so many items."""
        label = self.fields.label
        recording, rendering = label.recording(self.recipe, items), label.rendering(self.recipe)
        if label.column == "H" or self.in_the_loop:
            return 0
        if recording is not None:
            return recording.count * recording.batch
        return items * (1 if rendering is None else rendering.count)


KNOWN_STORES = frozenset({Compensated, Synthetic, Tiles, Crops, Pixels, Coded})
KNOWN_MATCHES = (None_, Noise, Paired, Statistics, Various)


def _step_seconds(
    dataset: Dataset, arch: str, settings: Mapping[str, Any], recipe: TrainRecipe, device: Device
) -> float:
    """Return the seconds of one training step: the least of a few, after one to warm up."""
    info = dataset.info
    network = create_network(
        arch, classes=info.classes, shape=info.shape, space=Space(info.mean, info.std), seed=0, **settings
    )
    work = Work(recipe.batch, recipe.batch, 1, TIMED_STEPS + 1)
    learner = Learner(network, recipe, work, 0, device)
    rows = torch.arange(min(recipe.batch, len(dataset.train))).repeat(-(-recipe.batch // len(dataset.train)))
    data = Real(dataset).data()
    data = replace(
        data, images=data.images[rows], classes=data.classes[rows],
        targets=None if data.targets is None else data.targets[rows],
    ).to(device.torch)  # fmt: skip
    times, last = [], time.perf_counter()
    for _ in train(learner, supply(data, work, recipe, 0)):
        if device.torch.type == "cuda":
            torch.cuda.synchronize(device.torch)
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
    return min(times[1:])
