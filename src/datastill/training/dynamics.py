"""How hard each real image is, as networks find it while they train: early loss, EL2N, forgetting events.

N real training rows, K classes, R runs, E epochs, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from datastill.recipe import TrainRecipe
from datastill.runtime.cache import cache_dir, locked
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, load_arrays, save_arrays
from datastill.runtime.progress import Phase, Reporter
from datastill.runtime.seeds import derive
from datastill.training.bank import Training
from datastill.training.loop import Learner, train
from datastill.training.predict import predict
from datastill.training.supply import Batch, Data, batch_rows, supply

CHUNK = 4096  # rows whose logits stand in memory at once
VERSION = 1  # of what the scores mean; part of every key, raised when the same networks would give other scores
# arXiv 2305.18381 names no optimiser. These numbers are ours: small steps at one rate, so that five epochs are early.
EARLY = TrainRecipe(
    optimiser="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="constant", batch=256, crop=0, flip=False
)  # fmt: skip


@dataclass(frozen=True)
class Scoring:
    """R scoring networks as a value. Its key is the address of what they say.

    network: whose architecture, rows and precision count; its training recipe and its seed do not. epochs: E of each
    run. seed: the R seeds are derived from it. last: of how many last epochs the loss is the mean; None: of all.
    """

    network: Training
    epochs: int
    runs: int
    seed: int
    last: int | None = None

    @property
    def trainings(self) -> list[Training]:
        """The R networks, each with its own seed and the recipe EARLY."""
        recipe = replace(self.network.recipe, training=replace(EARLY, epochs=self.epochs))
        seeds = [derive(self.seed, "scoring", run) for run in range(self.runs)]
        return [replace(self.network, recipe=replace(recipe, seed=seed)) for seed in seeds]

    @property
    def key(self) -> str:
        """The hash of everything that decides the scores."""
        return digest_of([VERSION, [training.key for training in self.trainings], *filter(None, [self.last])])


@dataclass(frozen=True)
class Scores:
    """What R networks say of each real training row, float64[N] in the order of the rows; larger is harder.

    loss: cross-entropy in evaluation mode at the end of an epoch, mean over E (or the last of them) and R
        (arXiv 2305.18381, section 3).
    el2n: norm of softmax minus one-hot at the end of the last epoch, mean over R of the norm (arXiv 2107.07075).
    forgetting: how often it went from right to wrong between its occurrences in training batches, mean over R; infinite
        where a run never had it right (arXiv 1812.05159).
    curve: float64[R, E], the mean loss of all rows at each epoch's end.
    """

    loss: Tensor
    el2n: Tensor
    forgetting: Tensor
    curve: Tensor

    def learned(self, classes: int) -> bool:
        """Whether the last mean loss is below nine tenths of ln K, what a network that knows nothing has."""
        return bool(self.curve[:, -1].mean() < 0.9 * math.log(classes))


def score(
    scoring: Scoring, data: Callable[[], Data], *, device: Device, reporter: Reporter, root: Path | None = None
) -> Scores:
    """Return the scores of `data()`, with hard labels, from the cache where they are; trains R networks where not.

    Args:
        scoring: which networks.
        data: returns the real training rows.
        device, reporter: where, and who is told.
        root: folder of the files; None takes `scores` in the cache folder.
    """
    path = (root or cache_dir() / "scores") / f"{scoring.key}.safetensors"
    with locked(path):
        if not path.exists():
            save_arrays(path, vars(_measure(scoring, data().to(device.torch), device, reporter)))
    return Scores(**load_arrays(path))


def _measure(scoring: Scoring, data: Data, device: Device, reporter: Reporter) -> Scores:
    trainings = scoring.trainings
    work = trainings[0].recipe.training.work(len(data))
    label = f"score with {scoring.network.name} ({scoring.network.recipe.arch})"
    with reporter.phase(label, len(trainings) * work.steps) as phase:
        found = [vars(_run(training, data, device, phase, scoring.last)) for training in trainings]
    mean = {name: torch.stack([run[name] for run in found]).mean(0) for name in ("loss", "el2n", "forgetting")}
    return Scores(**mean, curve=torch.cat([run["curve"] for run in found]))


def _run(training: Training, data: Data, device: Device, phase: Phase, last: int | None) -> Scores:
    """Train one scoring network and return what it alone says."""
    recipe = training.recipe.training
    work = recipe.work(len(data))
    learner = Learner(training.build(), recipe, work, training.recipe.seed, device)
    right = torch.zeros(work.steps, work.batch, dtype=torch.bool, device=device.torch)

    def see(batch: Batch, logits: Tensor) -> None:
        right[learner.step] = logits.argmax(dim=1) == batch.hard

    losses, norms = [], torch.empty(0)
    for step in train(learner, supply(data, work, recipe, learner.seed), see):
        phase.advance()
        if (step.index + 1) % work.epoch == 0:
            loss, norms = _errors(learner.network, data, device)
            losses.append(loss)
    rows = torch.cat([torch.from_numpy(batch_rows(work, learner.seed, step)) for step in range(work.steps)])
    return Scores(
        loss=torch.stack(losses[-(last or len(losses)) :]).mean(0),
        el2n=norms,
        forgetting=forgetting_events(rows, right.flatten().cpu(), len(data)),
        curve=torch.stack(losses).mean(1)[None],
    )


def _errors(network: nn.Module, data: Data, device: Device) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy and the norm of softmax minus one-hot of every row, float64[N] each, in eval mode."""
    losses, norms = [], []
    for start in range(0, len(data), CHUNK):
        rows = slice(start, start + CHUNK)
        logits = predict(network, data.images[rows], device=device.torch).double()
        classes = data.classes[rows].cpu()
        losses.append(functional.cross_entropy(logits, classes, reduction="none"))
        norms.append((logits.softmax(dim=1) - functional.one_hot(classes, logits.shape[1])).norm(dim=1))
    return torch.cat(losses), torch.cat(norms)


def forgetting_events(rows: Tensor, right: Tensor, items: int) -> Tensor:
    """Return float64[items]: how often an item went from right to wrong; infinite for one that was never right.

    Args:
        rows: long[T], the item of each occurrence, in the order of training.
        right: bool[T], whether it was classified correctly then.
        items: how many there are.
    """
    order = rows.argsort(stable=True)
    row, was = rows[order], right[order]
    forgot = (row[1:] == row[:-1]) & was[:-1] & ~was[1:]
    events = row[1:][forgot].bincount(minlength=items).double()
    events[row[was].bincount(minlength=items) == 0] = math.inf
    return events
