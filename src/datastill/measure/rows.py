"""Rows: what was measured of each arm with each student, with everything that belongs beside the number."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastill.engine import RUN
from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.measure.arms import Arm
from datastill.measure.jobs import run_tasks
from datastill.measure.stats import Difference, Summary
from datastill.measure.student import StudentTask, Testing
from datastill.measure.teachers import Teachers
from datastill.recipe import Recipe
from datastill.runtime.device import Device, memory_peak_bytes
from datastill.runtime.files import digest_of, read_json
from datastill.runtime.progress import Reporter
from datastill.runtime.versions import versions
from datastill.sources import Dataset, encoded_train_bytes

SCHEMA = 1


@dataclass(frozen=True)
class Bench:
    """What every student of a comparison shares: the images that it is scored on, where it runs, where results lie."""

    testing: Testing
    run: Path
    device: Device
    reporter: Reporter
    jobs: int = 1


def scored_on(dataset: Dataset, split: str, validation: int, seed: int) -> Testing:
    """Return the test split, or the training images that a recipe with `validation` and `seed` held out.

    Raises: DatastillError for a validation split of no images.
    """
    if split == "test":
        return Testing(dataset.test.pixels, dataset.test.labels, split, dataset.fingerprint)
    if not validation:
        raise DatastillError("to measure on a validation split, hold one out: --set validation=COUNT.")
    real = Real(dataset, validation, seed)
    rows = real.held_out
    return Testing(dataset.train.batch(rows), dataset.train.labels[rows], split, real.key)


def train_students(
    arms: Sequence[Arm], students: Sequence[str], seeds: int, steps: int, bench: Bench, *, embed: Arm | None = None
) -> dict[tuple[str, str, int], Path | str]:
    """Train what is not there yet, a student for each arm, architecture and seed.

    Returns: by (arm's name, student, seed) the file of the result, or the sentence of why there is none. Arms on which
        students meet the very same share their results.
    """
    found: dict[tuple[str, str, int], Path | str] = {}
    tasks: dict[Path, StudentTask] = {}
    for arm in arms:
        folder = arm.distilled.folder
        assert folder is not None, "an arm is saved and weighed before it is measured"
        met, own = arm.key, own_steps(arm, steps)  # the key reads every label, so once
        for student in students:
            for seed in range(seeds):
                key = digest_of([met, student, seed, own, bench.testing.split, bench.testing.key,
                                 bench.device.precision, versions()["torch"]])  # fmt: skip
                path = bench.run / "students" / f"{key}.json"
                found[arm.name, student, seed] = path
                if not path.exists() and path not in tasks:
                    tasks[path] = StudentTask(folder, student, seed, arm.training, own, path,
                                              f"{arm.name}: {student}, seed {seed}",
                                              embed=arm is embed and seed == 0)  # fmt: skip
    failed = run_tasks(
        list(tasks.values()), bench.testing, jobs=bench.jobs, device=bench.device, reporter=bench.reporter,
        phase="train students",
    )  # fmt: skip
    said = {path: failed[i] for i, path in enumerate(tasks) if i in failed}
    return {key: said.get(path, path) if isinstance(path, Path) else path for key, path in found.items()}


def trained(files: Mapping[tuple[str, str, int], Path | str], arm: Arm, student: str, seeds: int) -> list[Path]:
    """Return the results of one arm and student, in the order of seeds. Raises: DatastillError where one is missing."""
    there = []
    for seed in range(seeds):
        file = files[arm.name, student, seed]
        if isinstance(file, str):
            raise DatastillError(file)
        there.append(file)
    return there


def own_steps(arm: Arm, steps: int) -> int:
    """Return an arm's optimiser steps in a comparison of `steps`."""
    return max(1, round(steps * arm.scale))


def make_row(
    arm: Arm, student: str, files: Sequence[Path], steps: int, split: str, teachers: Teachers
) -> dict[str, Any]:
    """Return the row of an arm and a student from the results of its seeds, in the order of the seeds."""
    found = [read_json(path) for path in files]
    top1 = Summary.of([f["top1"] for f in found])
    recipe, ledger, folder = arm.distilled.recipe, arm.distilled.ledger(), arm.distilled.folder
    assert folder is not None, "an arm is saved and weighed before it is measured"
    return {
        "arm": arm.name,
        "says": arm.says,
        "method": recipe.method,
        "title": arm.title,
        "role": arm.role,
        "random": arm.random,
        "ipc": recipe.ipc,
        "student": student,
        "column": arm.column,
        "split": split,
        "epoch": "last",
        "items": len(arm.distilled),
        "pictures": len(arm.distilled.content.pictures.cls),
        "steps": own_steps(arm, steps),
        "same_work": arm.scale == 1.0,
        "batch": found[0]["batch"],
        "seen_per_step": found[0]["batch"] * arm.distilled.fields.label.pictures_per_item,
        "bytes": ledger,
        "label_bytes": ledger["labels"],
        "teacher_top1": teachers.together(recipe) if arm.column != "H" and _told_by_networks(recipe) else None,
        "set_seconds": _set_seconds(folder),
        "seeds": list(range(len(files))),
        "top1": {"per_seed": list(top1.per_seed), "mean": top1.mean, "std": top1.std, "n": top1.n},
        "per_class": [_mean(v) for v in zip(*(f["per_class"] for f in found), strict=True)],
        "seconds": [f["seconds"] for f in found],
        "losses": found[0]["losses"],
        "item_accuracy": found[0]["item_accuracy"],
        "embedding": found[0].get("embedding"),
        "recipe": recipe.plain(),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def run_facts(dataset: Dataset, source: Mapping[str, Any], bench: Bench, command: str) -> dict[str, Any]:
    """Return what is recorded of a run over one data set: source, bytes of the real set, machine, versions, times."""
    known = {"name": dataset.name, "fingerprint": dataset.fingerprint, "notes": list(dataset.notes),
             "skipped": list(dataset.bad)}  # fmt: skip
    return {
        "source": dict(source) | known,
        "classes": list(dataset.classes),
        "shape": list(dataset.shape),
        "train_images": len(dataset.train),
        "real_bytes": {"webp": encoded_train_bytes(dataset), "raw": dataset.raw_train_bytes},
        "seconds": bench.reporter.seconds,
        "peak_bytes": memory_peak_bytes(),
        "versions": versions(),
        "device": bench.device.describe() | {"jobs": str(bench.jobs)},
        "commands": [command],
        "python": sys.version.split()[0],
    }


def paired(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far `ours` is above `theirs`, two rows with the same seeds, as plain data."""
    gap = Difference.of(ours["top1"]["per_seed"], theirs["top1"]["per_seed"])
    return {"mean": gap.mean, "t": gap.t, "p": gap.p, "n": gap.n, "verdict": gap.verdict}


def put_against_random(rows: Iterable[dict[str, Any]]) -> None:
    """Put beside each row how far it is above random real images with the same kind of labels, student and ipc.

    Rows of students without augmentation were trained in another way, and stand beside nothing.
    """
    rows = list(rows)
    random = {_place(row): row for row in reversed(rows) if row["random"]}
    for row in rows:
        beside = None if row["role"] == "plain" else random.get(_place(row))
        row["against_random"] = paired(row, beside) if beside is not None and beside is not row else None


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # Soft labels are the same kind only if the same networks gave them, in the same way.
    label, networks = label_kind(row["recipe"]["label"]), row["recipe"]["networks"]
    told = digest_of([label] if row["column"] == "H" else [networks, label])
    return row["ipc"], row["student"], row["column"], told


def label_kind(label: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the kind of a recipe's labels, as plain data: all settings but how they are stored."""
    return {name: value for name, value in label.items() if name != "codec"}


def _told_by_networks(recipe: Recipe) -> bool:
    """Whether soft labels are what the recipe's networks say: cross-fitted and shuffled ones are not."""
    settings = recipe.label.settings
    return settings.get("folds", 1) == 1 and not settings.get("shuffled", False)


def _set_seconds(folder: Path) -> float | None:
    """Return what a set took to make, without its networks, which are cached and shared; None where nobody timed it."""
    timed = folder / RUN
    if not timed.exists():
        return None
    times = read_json(timed)["seconds"]
    return float(sum(seconds for name, seconds in times.items() if not name.startswith("train ")))
