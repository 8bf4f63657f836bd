"""Choices of real images the plain way: one image, one distance, one training step at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from datastill.training.supply import Batch


def herding(phi: np.ndarray, n: int) -> list[int]:
    """Return argmin over x not chosen of norm(t * mean - S - phi(x)), S += phi(x), for t = 1..n; phi [N, D]."""
    mean, total, chosen = phi.mean(0), np.zeros(phi.shape[1]), []
    for t in range(1, n + 1):
        best, least = -1, math.inf
        for i, x in enumerate(phi):
            far = math.sqrt(sum((t * mean - total - x) ** 2))
            if i not in chosen and far < least:
                best, least = i, far
        chosen.append(best)
        total = total + phi[best]
    return chosen


def welling(phi: np.ndarray, n: int) -> list[int]:
    """Return argmax over x not chosen of <w, phi(x)>, w += mean - phi(x), w = mean at first (Welling, ICML 2009)."""
    mean, chosen = phi.mean(0), []
    w = mean.copy()
    for _ in range(n):
        best, most = -1, -math.inf
        for i, x in enumerate(phi):
            if i not in chosen and w @ x > most:
                best, most = i, w @ x
        chosen.append(best)
        w = w + mean - phi[best]
    return chosen


def farthest_first(phi: np.ndarray, n: int, first: int) -> list[int]:
    """Return `first`, then again and again the image farthest from its nearest chosen one; phi [N, D]."""
    chosen = [first]
    while len(chosen) < n:
        nearest = [min(float(np.linalg.norm(x - phi[c])) for c in chosen) for x in phi]
        chosen.append(max((i for i in range(len(phi)) if i not in chosen), key=lambda i: nearest[i]))
    return chosen


def radius(phi: np.ndarray, chosen: Sequence[int]) -> float:
    """Return the largest distance of an image to its nearest chosen one."""
    return max(min(float(np.linalg.norm(x - phi[c])) for c in chosen) for x in phi)


def smallest_radius(phi: np.ndarray, n: int) -> float:
    """Return the smallest covering radius of any n images, by trying all."""
    return min(radius(phi, chosen) for chosen in itertools.combinations(range(len(phi)), n))


def forgetting(rows: Sequence[int], right: Sequence[bool], items: int) -> list[float]:
    """Return how often each item went from right to wrong from one occurrence to its next; infinite if never right."""
    before: dict[int, bool] = {}
    events, learned = [0] * items, [False] * items
    for row, now in zip(rows, right, strict=True):
        events[row] += before.get(row, False) and not now
        learned[row] |= now
        before[row] = now
    return [float(count) if ever else math.inf for count, ever in zip(events, learned, strict=True)]


def dynamics(
    network: nn.Module, batches: Iterable[Batch], images: Tensor, labels: Tensor, epoch: int
) -> tuple[Tensor, Tensor, list[float]]:
    """Train with plain SGD (0.01, momentum 0.9, decay 5e-4) and return early loss, EL2N and forgetting counts.

    Args:
        network: trained in place.
        batches: what each step sees.
        images, labels: uint8[N, C, H, W] and long[N], scored after every `epoch` steps, one image at a time.
        epoch: steps.
    """
    sgd = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4, foreach=False)
    losses, norms = [], torch.empty(0)
    rows: list[int] = []
    right: list[bool] = []
    for step, batch in enumerate(batches):
        network.train()
        logits = network(batch.x.contiguous())
        rows += batch.rows.tolist()
        right += [int(row.argmax()) == int(y) for row, y in zip(logits, batch.hard, strict=True)]
        sgd.zero_grad()
        nn.functional.cross_entropy(logits, batch.hard).backward()
        sgd.step()
        if (step + 1) % epoch == 0:
            network.eval()
            with torch.no_grad():
                p = torch.cat([network(x[None].float() / 255).softmax(dim=1) for x in images])
            truth = p[torch.arange(len(labels)), labels]
            losses.append(-truth.log())
            off = p.square().sum(1) - truth.square() + (truth - 1).square()
            norms = off.sqrt()
    return torch.stack(losses).mean(0), norms, forgetting(rows, right, len(labels))


def utilities(
    held: Sequence[Sequence[bool]], accuracy: Sequence[Sequence[float]], classes: Sequence[int], first: Sequence[bool]
) -> list[float]:
    """Return what each image is worth: accuracies of its class where a student had it, less those of its half, plus
    the mean of the class; trial t draws from the first half where t is even."""
    found = []
    for i, k in enumerate(classes):
        every = [row[k] for row in accuracy]
        own = [row[k] for t, row in enumerate(accuracy) if (t % 2 == 0) == first[i]]
        having = [row[k] for t, row in enumerate(accuracy) if held[t][i]]
        mean = sum(every) / len(every)
        found.append(mean + sum(having) / len(having) - sum(own) / len(own) if having else mean)
    return found


def pruned(scores: Sequence[float], classes: Sequence[int] | None, keep: float, *, released: bool = False) -> list[int]:
    """Return which images stay, in order: of each class (or of all) those with the smallest scores, ties by index."""
    stay = []
    for k in sorted(set(classes)) if classes else [None]:
        mine = sorted((score, i) for i, score in enumerate(scores) if not classes or classes[i] == k)
        count = len(mine) - math.floor((1 - keep) * len(mine)) if released else max(1, round(keep * len(mine)))
        stay += [i for _, i in mine[:count]]
    return sorted(stay)
