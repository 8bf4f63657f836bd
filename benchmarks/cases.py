"""What is measured: a case, its sizes, and the inputs and draws that both sides are given. B batch, K classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from datastill.networks import Network, Space, create_network
from datastill.recipe import TrainRecipe, Work, read_networks
from datastill.runtime.seeds import rng
from datastill.store.cutting import draw_windows
from datastill.training.supply import batch_rows
from datastill.training.views import View

PHASES = ("teacher", "recovery", "pictures", "matching", "features", "labelling", "boxes", "scoring", "student")
NETWORKS = ("convnet", "resnet18", "mobilenetv2")
PRECISIONS = ("float32", "bf16")
EXACT = "float64"
SIDES = ("reference", "product")
FLOAT32 = ("labelling", "boxes")  # what the product does in float32 whatever the precision of its training
CROPS, SCALE = 4, (0.08, 1.0)  # of scoring: crops of a picture, and the share of it that each takes
GRID, RATIO = 3, 0.625  # of boxes: how many stand along a side, and the share of the side that each keeps
MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)


@dataclass(frozen=True)
class Sizes:
    """How large a round is. pixels: side of the pictures. labelled: pictures of a labelling round, crops of a scoring
    one; a round of boxes has a quarter of the pictures. steps: optimiser steps of a round. parts: compensators of one
    recovery round, each of one picture per class, or as many sets of learned pictures. real and matched: pictures of
    each class whose gradients are set side by side in an image update of a matching round, or the means of whose
    features in one of features."""

    pixels: int = 32
    classes: int = 20
    teacher_batch: int = 128
    student_batch: int = 64
    labelled: int = 256
    parts: int = 1
    real: int = 8
    matched: int = 2
    steps: int = 1


@dataclass(frozen=True)
class Case:
    """One side of one measurement; equal cases of the two sides compute the same numbers."""

    phase: str
    network: str
    precision: str
    side: str
    sizes: Sizes
    threads: int = 1
    seed: int = 0

    @property
    def recipe(self) -> TrainRecipe:
        """The training recipe of the phase: a CIFAR teacher's, or a CIFAR student's of INFER, at a constant rate."""
        if self.phase == "teacher":
            return TrainRecipe(lr=0.01, batch=self.sizes.teacher_batch, schedule="constant")
        return TrainRecipe(
            optimiser="adamw",
            lr=1e-3,
            weight_decay=0.01,
            batch=self.sizes.student_batch,
            mix="mixup",
            schedule="constant",
        )

    @property
    def work(self) -> Work:
        """More steps than are ever run; an epoch, hence a round, is `sizes.steps` batches."""
        return self.recipe.work(self.sizes.steps * self.recipe.batch, steps=10_000)

    @cached_property
    def items(self) -> int:
        """How many pictures a round works on; crops and boxes are pictures."""
        sizes = self.sizes
        pulled = sizes.parts * sizes.classes * sizes.steps
        counts = {"labelling": sizes.labelled, "recovery": pulled, "pictures": pulled}
        counts["matching"] = counts["features"] = (sizes.real + sizes.matched) * sizes.classes * sizes.steps
        counts["scoring"] = sizes.labelled // CROPS * CROPS
        counts["boxes"] = sizes.labelled // 4 * (GRID**2 + 1)
        return counts.get(self.phase, self.work.items)

    def images(self) -> Tensor:
        """Return pictures, uint8[N, 3, H, W], smooth as photographs are, so that PNG can shorten them."""
        parts = self.sizes.parts * self.sizes.classes
        counts = {"recovery": parts, "pictures": parts, "scoring": self.items // CROPS}
        counts["matching"] = counts["features"] = self.sizes.real * self.sizes.classes
        counts["boxes"] = self.items // (GRID**2 + 1)
        count = counts.get(self.phase, self.items)
        draw, side = rng(self.seed, "images"), self.sizes.pixels
        coarse = torch.from_numpy(draw.uniform(0, 255, (count, 3, 4, 4))).float()
        smooth = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
        noise = torch.from_numpy(draw.normal(0, 4, smooth.shape)).float()
        return (smooth + noise).clamp(0, 255).to(torch.uint8)

    def noise(self) -> Tensor:
        """Return what learned pictures begin from, float[N, 3, H, W] in normalised units."""
        drawn = rng(self.seed, "noise").standard_normal((len(self.labels()), 3, self.sizes.pixels, self.sizes.pixels))
        return torch.from_numpy(drawn).to(self.dtype)

    def windows(self) -> Tensor:
        """Return the crops that are scored, long[N / CROPS, CROPS, 3]."""
        side = self.sizes.pixels
        return draw_windows(rng(self.seed, "windows"), self.items // CROPS, CROPS, SCALE, (side, side))

    def pixels(self) -> Tensor:
        """Return the pictures as the product is given them: uint8, in float64 arithmetic floats in [0, 1]."""
        images = self.images()
        return images if self.precision != EXACT else images.to(self.dtype) / 255.0

    def labels(self) -> Tensor:
        """Return classes, long[N]; each of a part's pictures has its own class."""
        return torch.arange(len(self.images())) % self.sizes.classes

    def logits(self) -> Tensor:
        """Return stored soft labels, float32[N, K]."""
        values = rng(self.seed, "logits").normal(0, 4, (self.items, self.sizes.classes))
        return torch.from_numpy(values.astype(np.float32))

    def build(self) -> Network:
        """Return the network, contiguous in memory, its BatchNorm layers having seen the pictures once."""
        ((arch, settings),) = read_networks(self.network).values()
        shape = (3, self.sizes.pixels, self.sizes.pixels)
        network = create_network(
            arch, classes=self.sizes.classes, shape=shape, space=Space(MEAN, STD), seed=self.seed, **settings
        )
        if self.phase not in ("teacher", "features", "student"):
            norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = 1.0
            with torch.no_grad():
                network.train()(self.images()[:32].float() / 255.0)
        return network.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The type of pixels as floats, and of the weights."""
        return torch.float64 if self.precision == EXACT else torch.float32

    @property
    def exact(self) -> Case:
        """The same case in float64, small, with a second step: there both sides must agree in every number.

        In float32 they agree in losses and logits only: where rounding moves a ReLU across its kink, a gradient jumps.
        """
        small = Sizes(
            self.sizes.pixels, self.sizes.classes, teacher_batch=8, student_batch=8, labelled=24, parts=2, real=3,
            matched=2, steps=2,
        )  # fmt: skip
        return replace(self, precision=EXACT, sizes=small)

    def step_draws(self, step: int) -> tuple[np.ndarray, View]:
        """Return the rows and the view of a training step, as the product draws them."""
        shape = (3, self.sizes.pixels, self.sizes.pixels)
        view = View.draw(rng(self.seed, "view", step), self.recipe.batch, shape, self.recipe)
        return batch_rows(self.work, self.seed, step), view
