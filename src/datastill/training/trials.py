"""What real images are worth to a student that trains on few of them: a Monte-Carlo estimate of their causal effect.

The estimator is that of arXiv 2305.18381 (versions 1 to 3) as far as its README and its released numbers show it, with
a small student in the place of a whole distillation, and scored on training images alone: the released numbers were
taken on test images. N real training rows, K classes, T trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datastill.runtime.cache import cache_dir, locked
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, load_arrays, save_arrays
from datastill.runtime.progress import Phase, Reporter
from datastill.runtime.seeds import derive, rng
from datastill.training.bank import Training
from datastill.training.dynamics import EARLY
from datastill.training.loop import Learner, train
from datastill.training.losses import one_hot
from datastill.training.predict import predict
from datastill.training.supply import Data, supply

VERSION = 1  # of what a utility means; part of every key
STUDENT = replace(EARLY, batch=64)  # small steps at one rate, as the networks that score by loss make them


@dataclass(frozen=True)
class Trials:
    """T trials as a value. Its key is the address of what they say.

    network: whose architecture, rows and precision count; its training recipe and its seed do not. trials: T. share: of
    each class's half that one student trains on. steps: of each student. seed: of halves, subsets and students.
    """

    network: Training
    trials: int
    share: float
    steps: int
    seed: int

    def training(self, trial: int) -> Training:
        """Return the student of a trial, with its own seed."""
        recipe = replace(self.network.recipe, training=replace(STUDENT, steps=self.steps))
        return replace(self.network, recipe=replace(recipe, seed=derive(self.seed, "trial", trial)))

    @property
    def key(self) -> str:
        """The hash of everything that decides the utilities."""
        return digest_of([VERSION, self.training(0).key, self.trials, self.share, self.seed])


def utilities(
    asked: Trials, data: Callable[[], Data], *, device: Device, reporter: Reporter, root: Path | None = None
) -> Tensor:
    """Return the utility of each row of `data()`, float64[N] in percent, from the cache where it is.

    Each class is cut in two halves. A trial trains a student on a random part of one half and notes its accuracy on the
    other half, class by class. The utility of a row is `mean_utilities` of these. Only rows of one class compare.

    Args:
        asked: which trials.
        data: returns the real training rows, with two or more of each class.
        device, reporter: where, and who is told.
        root: folder of the files; None takes `scores` in the cache folder.
    """
    path = (root or cache_dir() / "scores") / f"{asked.key}.safetensors"
    with locked(path):
        if not path.exists():
            held = data().to(device.torch)
            label = f"Monte-Carlo trials with {asked.network.name} ({asked.network.recipe.arch})"
            with reporter.phase(label, asked.trials) as phase:
                save_arrays(path, {"utility": _measure(asked, held, device, phase)})
    return load_arrays(path)["utility"]


def _measure(asked: Trials, data: Data, device: Device, phase: Phase) -> Tensor:
    classes = data.classes.cpu()
    first = first_halves(classes, asked.network.info.classes, asked.seed)
    held = torch.zeros(asked.trials, len(data), dtype=torch.bool)
    accuracy = torch.zeros(asked.trials, asked.network.info.classes, dtype=torch.float64)
    for trial in range(asked.trials):
        drawn_from = first if trial % 2 == 0 else ~first
        rows = _drawn(classes, drawn_from, asked, trial)
        held[trial, rows] = True
        others = (~drawn_from).nonzero().flatten()
        accuracy[trial] = _accuracies(_taught(asked.training(trial), data, rows, device), data, others, device)
        phase.advance()
    return mean_utilities(held, accuracy, classes, first)


def first_halves(classes: Tensor, count: int, seed: int) -> Tensor:
    """Return bool[N]: the first half of each of `count` classes, drawn by the seed; classes is long[N]."""
    first = torch.zeros(len(classes), dtype=torch.bool)
    for k in range(count):
        rows = (classes == k).nonzero().flatten()
        first[rows[torch.from_numpy(rng(seed, "halves", k).permutation(len(rows))[: len(rows) // 2])]] = True
    return first


def _drawn(classes: Tensor, allowed: Tensor, asked: Trials, trial: int) -> Tensor:
    """Return the rows of a trial's student, long[n], ascending: the same share of each class, one at least."""
    found = []
    for k in range(asked.network.info.classes):
        rows = ((classes == k) & allowed).nonzero().flatten()
        order: np.ndarray = rng(asked.seed, "subset", trial, k).permutation(len(rows))
        found.append(rows[torch.from_numpy(order[: max(1, round(asked.share * len(rows)))])])
    return torch.cat(found).sort().values


def _taught(training: Training, data: Data, rows: Tensor, device: Device) -> torch.nn.Module:
    recipe, here = training.recipe.training, rows.to(data.classes.device)
    classes = data.classes[here]
    part = Data(data.images[here], classes, one_hot(classes, training.info.classes), "classes", data.scale)
    work = recipe.work(len(part))
    learner = Learner(training.build(), recipe, work, training.recipe.seed, device)
    for _ in train(learner, supply(part, work, recipe, learner.seed)):
        pass
    return learner.network


def _accuracies(network: torch.nn.Module, data: Data, rows: Tensor, device: Device) -> Tensor:
    """Return the accuracy on these rows in percent, float64[K], class by class."""
    here = rows.to(data.classes.device)
    logits = predict(network, data.images[here], device=device.torch)
    classes = data.classes[here].cpu()
    right = (logits.argmax(dim=1) == classes).double()
    count = logits.shape[1]
    return 100.0 * classes.bincount(right, count) / classes.bincount(minlength=count)


def mean_utilities(held: Tensor, accuracy: Tensor, classes: Tensor, first: Tensor) -> Tensor:
    """Return the utility of each row, float64[N].

    For row i of class c: the mean of the accuracies of c over the trials whose student trained on i, less their mean
    over all trials that drew from its half (another half is another exam), plus the mean of c over all trials. A row
    that no trial drew gets the mean of its class: nothing is known of it, which is not to be worthless.

    Args:
        held: bool[T, N], which rows a trial's student trained on; of one half each, even trials of the first.
        accuracy: float64[T, K], of each class on the half that the trial did not draw from.
        classes: long[N].
        first: bool[N], whether a row is of the first half.
    """
    odd = torch.arange(len(held)) % 2 == 1
    of_half = torch.stack([accuracy[odd].mean(0), accuracy[~odd].mean(0)])
    found = accuracy.mean(0)[classes]
    for k in range(accuracy.shape[1]):
        rows = (classes == k).nonzero().flatten()
        drawn = held[:, rows].double()
        seen = drawn.sum(0)
        effect = drawn.T @ accuracy[:, k] / seen - of_half[first[rows].long(), k]
        found[rows] += effect.where(seen > 0, torch.zeros_like(effect))
    return found
