"""What the proxies share: what students learn from, one file per student, and what is written of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datastill.artifact import DistilledDataset
from datastill.engine import RUN
from datastill.errors import DatastillError
from datastill.fields import Expanded, Labels, Real
from datastill.measure.arms import Arm, ArmMaker
from datastill.measure.evaluate import RESULTS
from datastill.measure.jobs import run_tasks
from datastill.measure.stats import Summary
from datastill.measure.student import Testing, run_student
from datastill.networks import sketch
from datastill.recipe import TrainRecipe, choice, method, read_networks
from datastill.runtime.cache import locked
from datastill.runtime.device import Device, memory_peak_bytes
from datastill.runtime.files import digest_of, read_json, write_json
from datastill.runtime.progress import Reporter
from datastill.runtime.versions import versions
from datastill.sources import Dataset
from datastill.training.bank import Bank, Training

SCHEMA = 1
CONTROL, HARD_CONTROL, WHOLE = "random_soft", "random_hard", "whole"
REAL = {"store": choice("pixels"), "match": choice("none"), "label": choice("hard")}


@dataclass(frozen=True)
class Feed:
    """What the students of one arm learn from.

    role: "method", "control" or "whole" (all real training images). distilled: gives the labels and, where labels are
    dynamic, the networks. expanded: the items. key: the hash of all that a student meets here.
    """

    name: str
    says: str
    role: str
    distilled: DistilledDataset
    expanded: Expanded
    key: str

    @classmethod
    def of(cls, arm: Arm) -> Feed:
        """Return what an arm gives its students."""
        return cls(arm.name, arm.says, arm.role, arm.distilled, arm.distilled.expand(), arm.key)

    @property
    def column(self) -> Literal["H", "S", "D"]:
        """H, S or D."""
        return self.distilled.fields.label.column

    def plain(self) -> dict[str, Any]:
        """Return what results say of an arm; all real images are no set that a receiver stores, and have no ledger."""
        ledger = None if self.role == "whole" else self.distilled.ledger()
        return {"arm": self.name, "says": self.says, "role": self.role, "column": self.column,
                "items": len(self.expanded.cls), "bytes": ledger}  # fmt: skip


@dataclass(frozen=True)
class Shared:
    """What all tasks of a run share: arms by name, and the images that students are scored on."""

    feeds: Mapping[str, Feed]
    testing: Testing


@dataclass(frozen=True)
class ProxyTask:
    """One student of one arm; `path` will hold its result."""

    label: str
    arm: str
    student: str
    recipe: TrainRecipe
    seed: int
    steps: int
    path: Path

    def run(self, shared: Shared, device: Device, reporter: Reporter) -> None:
        """Train and score the student."""
        self._train(shared.feeds[self.arm], shared.testing, device, reporter)

    def _train(self, feed: Feed, testing: Testing, device: Device, reporter: Reporter) -> None:
        run_student(
            feed.distilled, feed.expanded, testing, self.student, self.seed, recipe=self.recipe, steps=self.steps,
            device=device, reporter=reporter, path=self.path, label=self.label, embed=False,
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Where a proxy is measured: its folder, the device, how many trainings at once, who is told, and the command."""

    folder: Path
    device: Device
    reporter: Reporter
    jobs: int = 1
    command: str = ""

    def path(self, feed: Feed, testing: Testing, *parts: Any) -> Path:
        """Return the file of a student: its name is the hash of what the student meets, and of `parts`."""
        key = digest_of([feed.key, testing.split, testing.key, self.device.precision, versions()["torch"], *parts])
        return self.folder / "students" / f"{key}.json"

    def train(self, tasks: Iterable[ProxyTask], shared: Shared, phase: str) -> None:
        """Train the students whose files are not there yet.

        Raises: DatastillError when one could not be trained; the files of the others stay.
        """
        waiting = list({task.path: task for task in tasks if not task.path.exists()}.values())
        failed = run_tasks(
            waiting, shared, jobs=self.jobs, device=self.device, reporter=self.reporter, phase=phase
        )  # fmt: skip
        if failed:
            first = min(failed)
            raise DatastillError(
                f"{len(failed)} of {len(waiting)} students could not be trained, and the results of the others are "
                f"kept in '{self.folder}'; the first one, {waiting[first].label}: {failed[first]}"
            )

    def write(self, results: dict[str, Any]) -> dict[str, Any]:
        """Write the results, and return them."""
        write_json(self.folder / RESULTS, results)
        return results


@contextmanager
def opened(run: Run, proxy: str, distilled: DistilledDataset, dataset: Dataset) -> Iterator[None]:
    """Hold the run folder for the block.

    Raises: DatastillError for another data set than the distilled one's, a set that was not saved, or a folder with
        results of something else.
    """
    distilled.ledger()
    if dataset.fingerprint != distilled.facts["source"]["fingerprint"]:
        raise DatastillError(
            f"'{dataset.name}' is not the data set that '{distilled.folder}' was distilled from: its contents differ."
        )
    path = run.folder / RESULTS
    if path.exists():
        there = read_json(path)
        held = there.get("proxy") if isinstance(there, dict) and there.get("kind") == "proxy" else "something else"
        if held != proxy:
            raise DatastillError(
                f"'{run.folder}' holds results of {held}, and not of the proxy {proxy}; choose another --run."
            )
    with locked(run.folder / "run"):
        yield


def make_feeds(
    distilled: DistilledDataset, dataset: Dataset, run: Run, *, controls: Sequence[str], whole: bool
) -> dict[str, Feed]:
    """Return the arms by name: the method's own set, those of the named controls that it has, and the whole real set.

    Raises: DatastillError for a control that cannot be made.
    """
    maker = ArmMaker(distilled, dataset, run.device, run.reporter, run.folder / "arms")
    feeds = [Feed.of(maker.own())]
    known = {c.name: c for c in method(distilled.recipe.method).controls}
    for name in controls:
        if name in known:
            try:
                arm = maker.make(known[name])
            except DatastillError as error:
                raise DatastillError(f"the control '{name}' of '{distilled.folder}' cannot be made: {error}") from error
            feeds += [Feed.of(arm)] if arm is not None else []
    if whole:
        feeds.append(whole_feed(distilled, dataset))
    return {feed.name: feed for feed in feeds}


def nearest_control(distilled: DistilledDataset) -> str | None:
    """Return the control that is random real images with the method's own kind of labels; None where it has none."""
    names = {c.name for c in method(distilled.recipe.method).controls}
    if CONTROL in names:
        return CONTROL
    return HARD_CONTROL if HARD_CONTROL in names and distilled.fields.label.column == "H" else None


def whole_feed(distilled: DistilledDataset, dataset: Dataset) -> Feed:
    """Return all real training images, less the held-out ones, with hard labels; nothing is copied to disk."""
    recipe = distilled.recipe
    real = Real(dataset, recipe.validation, recipe.seed)
    data = real.data()
    labels = Labels("classes")
    hard = replace(distilled, recipe=recipe.patched(REAL), labels=labels, teachers={})
    expanded = Expanded(data.images, data.classes, labels, dataset.info.classes, data.scale)
    key = digest_of([WHOLE, real.key, dataset.info.mean, dataset.info.std])
    return Feed(WHOLE, "all real training images, hard labels", "whole", hard, expanded, key)


def read_student(text: str, distilled: DistilledDataset, classes: int | None = None) -> str:
    """Return one network's label as `read_networks` spells it.

    Raises: DatastillError for none or several, and for one that cannot be built for the set's images.
    """
    found = read_networks(text)
    if len(found) != 1:
        raise DatastillError(f"'{text}' names {len(found)} networks where one student is wanted; name one.")
    ((label, (arch, settings)),) = found.items()
    sketch(arch, classes=classes or distilled.info.classes, shape=distilled.info.shape, settings=settings)
    return label


def summarised(values: Sequence[float]) -> dict[str, Any]:
    """Return accuracies, one per seed, as results hold them."""
    top1 = Summary.of(values)
    return {"per_seed": list(top1.per_seed), "mean": top1.mean, "std": top1.std, "n": top1.n}


def distillation_seconds(distilled: DistilledDataset, dataset: Dataset, run: Run) -> float | None:
    """Return the seconds that the set took, those of its networks included; None where they are not on record.

    The set's own phases stand in run.json beside it; each network's time in its record in the cache.
    """
    beside = (distilled.folder or Path()) / RUN
    if not beside.exists():
        return None
    total = sum(s for phase, s in read_json(beside)["seconds"].items() if not phase.startswith("train "))
    recipe = distilled.recipe
    bank, real = Bank(run.device, run.reporter), Real(dataset, recipe.validation, recipe.seed)
    for name, made in recipe.networks.items():
        training = Training(name, made, dataset.info, real.key, run.device.precision)
        if not (bank.folder(training) / "record.json").exists():
            return None
        total += bank.record(training)["seconds"]
    return float(total)


def common_facts(proxy: str, distilled: DistilledDataset, dataset: Dataset, run: Run) -> dict[str, Any]:
    """Return what the results of every proxy say of the set and of the machine."""
    recipe = distilled.recipe
    return {
        "kind": "proxy",
        "schema": SCHEMA,
        "proxy": proxy,
        "source": distilled.facts["source"],
        "classes": list(distilled.classes),
        "shape": list(distilled.info.shape),
        "train_images": dataset.info.train_images,
        "method": recipe.method,
        "title": method(recipe.method).title,
        "ipc": recipe.ipc,
        "recipe": recipe.plain(),
        "distilled": str(distilled.folder),
        "real_bytes": distilled.facts["real_bytes"],
        "peak_bytes": memory_peak_bytes(),
        "versions": versions(),
        "device": run.device.describe() | {"jobs": str(run.jobs)},
        "commands": [distilled.facts["command"], run.command],
        "python": sys.version.split()[0],
    }


def check_counts(**counts: int | None) -> None:
    """Refuse counts below 1; None stands for the recipe's own. Raises: DatastillError."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise DatastillError(f"--{name.replace('_', '-')} must be at least 1, not {count}.")
