"""The reference: the same mathematics as research code is usually written. B batch, C channels, H W pixels, K classes.

A picture at a time in Python through torch's DataLoader, contiguous memory, hooks on BatchNorm, weights that want
gradients, plain optimisers, and an allocator that nobody has spoken to.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.cases import GRID, MEAN, RATIO, STD, Case
from datastill.runtime.seeds import rng
from datastill.training.augment import OPERATIONS, Augment
from reference.boxes import all_stretched
from reference.taps import recovery_loss, statistics

CROP = 4
LABEL_BATCH = 64
Key = tuple[int, int, int, bool]  # row, top and left of the crop, whether it is mirrored


def precise(precision: str) -> AbstractContextManager[Any]:
    """Return autocast to bf16, or nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def png(image: Tensor) -> bytes:
    """Return a picture uint8[3, H, W] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


class Pictures(Dataset[tuple[Tensor, int]]):
    """Decodes, crops, mirrors and normalises one picture at a time; a key says which one and how."""

    def __init__(self, files: Sequence[bytes] | np.ndarray, dtype: torch.dtype) -> None:
        self.files, self.dtype = files, dtype
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        """Return float[C, H, W], normalised, and the row."""
        row, top, left, mirrored = key
        item = self.files[row]
        pixels = np.array(Image.open(io.BytesIO(item))) if isinstance(item, bytes) else item
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        height, width = image.shape[1:]
        image = functional.pad(image, (CROP,) * 4)[:, top : top + height, left : left + width]
        if mirrored:
            image = image.flip(2)
        return (image.to(self.dtype) / 255.0 - self.mean) / self.std, row


def batches(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised x float[B, C, H, W] and targets float[B, K] (logits) or long[B] (classes), epoch by epoch."""
    images = case.images()
    if case.phase == "teacher":
        targets, pictures = case.labels(), Pictures(images.permute(0, 2, 3, 1).contiguous().numpy(), case.dtype)
    else:
        targets, pictures = case.logits(), Pictures([png(image) for image in images], case.dtype)
    for epoch in count():
        draws = [case.step_draws(epoch * case.sizes.steps + step) for step in range(case.sizes.steps)]
        keys = [
            [(int(row), int(top), int(left), bool(mirrored))
             for row, (top, left), mirrored in zip(rows, view.shift, view.flip, strict=True)]
            for rows, view in draws
            if view.shift is not None and view.flip is not None
        ]  # fmt: skip
        loader: Any = DataLoader(pictures, batch_sampler=keys)
        for (x, rows), (_, view) in zip(loader, draws, strict=True):
            target = targets[rows]
            if view.partner is not None:
                x = view.lam * x + (1 - view.lam) * x[view.partner]
                target = view.lam * target + (1 - view.lam) * target[view.partner]
            yield x, target


def make_optimiser(case: Case, network: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimiser, neither fused nor grouped."""
    recipe, parameters = case.recipe, network.parameters()
    decay, plainly = recipe.weight_decay, {"foreach": False, "fused": False}
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=decay, **plainly)
    return torch.optim.AdamW(parameters, recipe.lr, recipe.betas, weight_decay=decay, **plainly)


def train(
    case: Case, network: nn.Module, optimiser: torch.optim.Optimizer, supplied: Iterator[tuple[Tensor, Tensor]]
) -> Iterator[Tensor]:
    """Yield the loss of every step; `network` eats normalised images."""
    recipe = case.recipe
    network.train()
    for x, target in supplied:
        with precise(case.precision):
            logits = network(x)
        if case.phase == "teacher":
            loss = functional.cross_entropy(logits.float(), target)
        else:
            own = functional.log_softmax(logits.float() / recipe.temperature, dim=1)
            wanted = functional.softmax(target / recipe.temperature, dim=1)
            loss = functional.kl_div(own, wanted, reduction="batchmean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.detach()


class Recovery:
    """One compensator, or one set of learned pictures, in normalised units, recovered for itself.

    As `reference.infer` and `reference.squeeze` do in float64. alpha: weight of the statistics.
    """

    def __init__(
        self, body: nn.Module, case: Case, part: int, lr: float, rounds: int, jitter: int, alpha: float
    ) -> None:
        sizes = case.sizes
        rows = slice(part * sizes.classes, (part + 1) * sizes.classes)
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        self.labels, self.free = case.labels()[rows], case.phase == "pictures"
        if self.free:
            self.x, self.u = torch.zeros(()), nn.Parameter(case.noise()[rows])
        else:
            self.x = (case.images()[rows].to(case.dtype) / 255.0 - mean) / std
            self.u = nn.Parameter(torch.zeros_like(self.x[:1]))
        self.low, self.high = ((bound - mean) / std for bound in (0.0, 1.0))
        self.adam = torch.optim.Adam([self.u], lr=lr, betas=(0.5, 0.9), eps=1e-8, foreach=False, fused=False)
        self.body, self.case, self.part, self.lr, self.rounds, self.jitter = body, case, part, lr, rounds, jitter
        self.alpha = alpha
        self.done = 0

    def step(self) -> Tensor:
        """Take one step; returns its loss."""
        draw = rng(self.case.seed, 0, self.part, self.done, "view")
        shift = draw.integers(0, self.jitter + 1, 2).tolist()
        self.adam.param_groups[0]["lr"] = 0.5 * self.lr * (1 + math.cos(math.pi * self.done / self.rounds))
        z = torch.roll(self.x + self.u, shift, dims=(2, 3))
        with precise(self.case.precision):
            logits, found = statistics(self.body, z)
        loss = recovery_loss(logits, self.labels, found, self.alpha)
        self.adam.zero_grad()
        self.body.zero_grad()
        loss.backward()
        self.adam.step()
        if self.free:
            with torch.no_grad():
                self.u.copy_(torch.minimum(torch.maximum(self.u, self.low.to(self.u)), self.high.to(self.u)))
        self.done += 1
        return loss.detach()


class Features:
    """DM as its released code does it: a new network each step, class after class, one backward pass for all of them.

    With batch norm all classes of a side are one batch. s: learned pictures float[N, 3, H, W] in normalised units.
    """

    def __init__(self, case: Case, start: Tensor, classes: int) -> None:
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        images, labels = (case.images().to(case.dtype) / 255.0 - mean) / std, case.labels()
        self.real = [images[labels == k] for k in range(classes)]
        self.s, self.case, self.done = nn.Parameter(start.clone()), case, 0
        self.sgd = torch.optim.SGD([self.s], lr=1.0, momentum=0.5, foreach=False, fused=False)

    def step(self) -> Tensor:
        """Take one step; returns its loss, float[1]."""
        network = replace(self.case, seed=self.done).build().train().requires_grad_(False)
        shape, stream = network.shape, rng(self.case.seed, 0, 0, self.done, "siamese 0")
        drawn = Augment(OPERATIONS, "one").draw(stream, len(self.real), shape)

        def seen(x: Tensor, k: int) -> Tensor:
            return drawn.of(torch.full((len(x),), k)).apply(x)

        real = [seen(x, k) for k, x in enumerate(self.real)]
        made = [seen(x, k) for k, x in enumerate(self.s.chunk(len(self.real)))]
        loss = torch.zeros((), dtype=self.case.dtype)
        with precise(self.case.precision):
            if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
                theirs = network.body.features(torch.cat(real)).detach().chunk(len(real))
                mine = network.body.features(torch.cat(made)).chunk(len(real))
                for r, s in zip(theirs, mine, strict=True):
                    loss = loss + (r.mean(0) - s.mean(0)).square().sum()
            else:
                for x, y in zip(real, made, strict=True):
                    r, s = network.body.features(x).detach(), network.body.features(y)
                    loss = loss + (r.mean(0) - s.mean(0)).square().sum()
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        self.done += 1
        return loss.detach()[None]


@torch.no_grad()
def label(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return logits float[N, K] of pictures uint8[N, C, H, W]; `network` eats pixels in [0, 1]."""
    network.eval()
    return torch.cat([network(part.to(dtype) / 255.0) for part in images.split(LABEL_BATCH)])


@torch.no_grad()
def label_boxes(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return logits float[N * (1 + G * G), K] of pictures uint8[N, C, H, W] and of their boxes; cut one by one."""
    network.eval()
    views = []
    for image in images:
        pixels = image.to(dtype) / 255.0
        views += [pixels, *all_stretched(pixels[None], GRID, Fraction(RATIO))]
    return torch.cat([network(part) for part in torch.stack(views).split(LABEL_BATCH)])


@torch.no_grad()
def score(network: nn.Module, images: Tensor, windows: Tensor, case: Case) -> Tensor:
    """Return the cross-entropy of class 0 for crops of pictures uint8[n, 3, H, W], float[n, m]; cut one by one.

    Crops are as large as the pictures, so that none stands in a frame.
    """
    network.eval()
    size = (case.sizes.pixels, case.sizes.pixels)
    crops = [
        functional.interpolate(
            (image[:, top : top + side, left : left + side].to(case.dtype) / 255.0)[None],
            size, mode="bilinear", antialias=True,
        )
        for image, row in zip(images, windows.tolist(), strict=True)
        for top, left, side in row
    ]  # fmt: skip
    with precise(case.precision):
        logits = torch.cat([network(part) for part in torch.cat(crops).split(LABEL_BATCH)])
    return -functional.log_softmax(logits.float(), dim=1)[:, 0].view(windows.shape[:2])
