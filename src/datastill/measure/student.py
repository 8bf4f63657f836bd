"""One student: trained from scratch on a distilled set, looked at once, after the last step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datastill.artifact import MANIFEST, DistilledDataset
from datastill.fields import Expanded
from datastill.networks import Network, Space, create_network
from datastill.recipe import TrainRecipe, read_networks
from datastill.runtime.device import Device
from datastill.runtime.files import read_json, sha256_file, write_json
from datastill.runtime.progress import Reporter
from datastill.training.bank import run_training
from datastill.training.loop import Learner
from datastill.training.predict import accuracy, predict

CURVE_POINTS, CURVE_ITEMS = 8, 500
EMBEDDED = 800  # test images whose features are drawn


@dataclass(frozen=True)
class Testing:
    """The images that students are scored on, and what they are: "test", or "validation" (held-out training rows).

    key: hash of the very images, part of the address of a student's result.
    """

    images: Tensor
    labels: Tensor
    split: str
    key: str = ""


def train_student(
    distilled: DistilledDataset,
    expanded: Expanded,
    student: str,
    seed: int,
    *,
    recipe: TrainRecipe,
    steps: int,
    device: Device,
    reporter: Reporter,
    checkpoint: Path,
    label: str,
) -> tuple[Network, dict[str, Any]]:
    """Train one student; returns it with its curves and counts.

    Args:
        distilled: gives the labels and, where labels are dynamic, the teachers.
        expanded: its items.
        student: NAME or NAME(setting=value).
        seed: of initialisation, order and views.
        recipe: how it is trained, but for the number of steps.
        steps: optimiser steps, exactly.
        device, reporter, checkpoint, label: as in `run_training`.
    """
    ((arch, settings),) = read_networks(student).values()
    info = distilled.info
    network = create_network(
        arch, classes=info.classes, shape=info.shape, space=Space(info.mean, info.std), seed=seed, **settings
    )
    learner = Learner(network, recipe, recipe.work(len(expanded.images), steps), seed, device)
    curve = _Curve(expanded, steps, device, checkpoint.with_suffix(".curve.json"))
    start = time.perf_counter()
    run_training(
        learner,
        lambda step: distilled.fields.label.supply(
            expanded, learner.work, recipe, seed, device=device.torch, start=step, teachers=distilled.teachers
        ),
        checkpoint,
        reporter,
        label,
        curve.watch,
    )
    counts = {
        "steps": steps,
        "batch": recipe.batch,
        "seconds": time.perf_counter() - start,
        "losses": _thinned(learner.losses.cpu()),
        "item_accuracy": curve.points,
    }
    return network, counts


def score(network: Network, testing: Testing, device: Device, *, embed: bool) -> dict[str, Any]:
    """Return top-1 and per-class accuracy in percent, and, if asked, a two-dimensional embedding of features.

    A class without images has no accuracy: None.
    """
    logits = predict(network, testing.images, device=device.torch)
    guess = logits.argmax(dim=1)
    classes = logits.shape[1]
    of_class = [guess[testing.labels == k] == k for k in range(classes)]
    per_class = [100.0 * float(right.double().mean()) if len(right) else None for right in of_class]
    found: dict[str, Any] = {"top1": accuracy(logits, testing.labels), "per_class": per_class}
    if embed:
        found["embedding"] = _embedding(network, testing, device)
    return found


def run_student(
    distilled: DistilledDataset,
    expanded: Expanded,
    testing: Testing,
    student: str,
    seed: int,
    *,
    recipe: TrainRecipe,
    steps: int,
    device: Device,
    reporter: Reporter,
    path: Path,
    label: str,
    embed: bool,
) -> dict[str, Any]:
    """Train and score one student, and write the result to `path`; its checkpoint stands beside it meanwhile."""
    checkpoint = path.with_suffix(".checkpoint.safetensors")
    network, counts = train_student(
        distilled, expanded, student, seed,
        recipe=recipe, steps=steps, device=device, reporter=reporter, checkpoint=checkpoint, label=label,
    )  # fmt: skip
    result = counts | score(network, testing, device, embed=embed)
    write_json(path, result)
    checkpoint.unlink(missing_ok=True)
    checkpoint.with_suffix(".curve.json").unlink(missing_ok=True)
    return result


@dataclass(frozen=True)
class StudentTask:
    """One student as a task of its own: `folder` holds the saved set, `path` will hold the result."""

    folder: Path
    student: str
    seed: int
    recipe: TrainRecipe
    steps: int
    path: Path
    label: str
    embed: bool = False

    def run(self, shared: Testing, device: Device, reporter: Reporter) -> None:
        """Train and score the student on the images that all tasks share."""
        distilled, expanded = _opened(self.folder, sha256_file(self.folder / MANIFEST))
        run_student(
            distilled, expanded, shared, self.student, self.seed, recipe=self.recipe, steps=self.steps, device=device,
            reporter=reporter, path=self.path, label=self.label, embed=self.embed,
        )  # fmt: skip


@lru_cache(maxsize=1)
def _opened(folder: Path, manifest: str) -> tuple[DistilledDataset, Expanded]:
    """Return a set and its items; tasks of one set follow each other. manifest: its hash, so that none is stale."""
    distilled = DistilledDataset.load(folder)
    return distilled, distilled.expand()


def student_steps(recipe: TrainRecipe, items: int, steps: int | None) -> int:
    """Return the optimiser steps of a run: the asked number, or the recipe's own on so many items."""
    return recipe.work(items, steps).steps


class _Curve:
    """Accuracy on the training items themselves at a few steps: the test split is looked at only once."""

    def __init__(self, expanded: Expanded, steps: int, device: Device, path: Path) -> None:
        rows = torch.linspace(0, len(expanded.images) - 1, min(CURVE_ITEMS, len(expanded.images))).long()
        self.images, self.cls = expanded.images[rows], expanded.cls[rows]
        self.every, self.device = max(1, steps // CURVE_POINTS), device
        self.path = path
        self.points: list[list[float]] = read_json(path) if path.exists() else []

    def watch(self, learner: Learner) -> None:
        if learner.step % self.every == 0:
            logits = predict(learner.network, self.images, device=self.device.torch)
            # A run that was cut off may have been ahead of its last checkpoint.
            self.points = [p for p in self.points if p[0] < learner.step]
            self.points.append([learner.step, accuracy(logits, self.cls)])
            write_json(self.path, self.points)


def _thinned(losses: Tensor, points: int = 200) -> list[float]:
    """Return the losses as at most `points` means of neighbours."""
    width = -(-len(losses) // points)
    return [round(float(part.mean()), 6) for part in losses.split(width)]


def _embedding(network: Network, testing: Testing, device: Device) -> dict[str, list[Any]]:
    """Return t-SNE coordinates of test features (the first images, in the order of the source)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = torch.linspace(0, len(testing.images) - 1, min(EMBEDDED, len(testing.images))).long()
    features = predict(network, testing.images[rows], device=device.torch, features=True).numpy()
    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpool_limits(1):  # its threads spin; on a busy machine they made this a hundred times slower
        spots = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(features)
    return {"x": np.round(spots[:, 0], 3).tolist(), "y": np.round(spots[:, 1], 3).tolist(),
            "cls": testing.labels[rows].tolist()}  # fmt: skip
