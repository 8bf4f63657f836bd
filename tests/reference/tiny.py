"""Small sets, recipes and contexts that tests share: nothing here takes a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.engine import distil, make_context
from datastill.fields import Context, registered
from datastill.networks import Network
from datastill.recipe import Choice, NetworkRecipe, Recipe, TrainRecipe, choice
from datastill.runtime.device import Device, open_device
from datastill.runtime.files import digest_of
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset, Images
from datastill.training.bank import Bank, Training

CLASSES, PER_CLASS, SHAPE = 4, 12, (3, 8, 8)
Shape = tuple[int, int, int]


def _split(name: str, per_class: tuple[int, ...], shape: Shape, seed: int) -> Images:
    """Noisy copies of one blocky pattern per class; a few values are 0 and 255, the bounds of Clip."""
    pixels, labels = [], []
    for k, count in enumerate(per_class):
        blocks = np.random.default_rng(100 + k).integers(0, 256, (shape[0], 2, 2))
        pattern = np.kron(blocks, np.ones((shape[1] // 2, shape[2] // 2)))
        noise = np.random.default_rng([seed, k]).normal(0, 40, (count, *shape))
        pixels.append(np.clip(pattern + noise, 0, 255).astype(np.uint8))
        labels += [k] * count
    order = np.random.default_rng(seed).permutation(len(labels))
    return Images(
        torch.from_numpy(np.concatenate(pixels)[order]),
        torch.tensor(labels)[torch.from_numpy(order)],
        tuple(f"{name}/{i}" for i in range(len(labels))),
    )


@cache
def dataset(
    classes: int = CLASSES,
    per_class: int | tuple[int, ...] = PER_CLASS,
    shape: Shape = SHAPE,
    names: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Dataset:
    """Return a set of `classes` classes whose training and test images are all different."""
    counts = per_class if isinstance(per_class, tuple) else (per_class,) * classes
    train, test = _split("train", counts, shape, 2 * seed), _split("test", (6,) * classes, shape, 2 * seed + 1)
    return Dataset(
        name="tiny",
        origin="tiny",
        classes=names or tuple(f"class {k}" for k in range(classes)),
        train=train,
        test=test,
        fingerprint=digest_of([classes, counts, shape, names, seed]),
        mean=(0.5, 0.45, 0.4)[: shape[0]],
        std=(0.25, 0.2, 0.3)[: shape[0]],
        notes=(),
        bad=(),
        raw_train_bytes=train.pixels.numel(),
    )


TEACHING = TrainRecipe(lr=0.05, steps=12, batch=16, crop=1, flip=False)
NETWORKS = {
    "first": NetworkRecipe(arch="convnet", settings={"width": 8}, training=TEACHING),
    "second": NetworkRecipe(arch="convnet", settings={"width": 10}, seed=1, training=TEACHING),
}
STUDENT = TrainRecipe(optimiser="adamw", lr=0.01, weight_decay=0.01, epochs=2, batch=8, crop=1, flip=False, mix="mixup")
MATCH = choice("statistics", rounds=4, lr=0.1, jitter=1)


def recipe(**changes: Any) -> Recipe:
    """Return INFER on two small networks, under whole values replaced: ipc 4 of 4 classes buys N = 2, leftover 4."""
    made: dict[str, Any] = {
        "method": "infer",
        "ipc": 4,
        "select": choice("random"),
        "store": choice("compensated"),
        "match": MATCH,
        "label": choice("static"),
        "stages": choice("once"),
        "student": STUDENT,
        "networks": NETWORKS,
    }
    return Recipe(**(made | changes))


@cache
def device() -> Device:
    """Return the CPU in float32."""
    return open_device("cpu", "float32")


def context(data: Dataset | None = None, *, given: Mapping[str, Network] | None = None, **changes: Any) -> Context:
    """Return a context of `recipe(**changes)`; with `given`, these networks answer in place of trained ones."""
    bank = None if given is None else GivenBank(given)
    return make_context(data or dataset(), recipe(**changes), device(), Reporter(), bank)


def distilled(folder: Path | None, data: Dataset | None = None, **changes: Any) -> DistilledDataset:
    """Run `recipe(**changes)` into the folder, or in memory."""
    return distil(data or dataset(), recipe(**changes), device=device(), reporter=Reporter(), out=folder)


class GivenBank(Bank):
    """A bank that hands out the networks it was given, by name."""

    def __init__(self, networks: Mapping[str, Network]) -> None:
        super().__init__(device(), Reporter())
        self.given = dict(networks)

    def get(self, training: Training, data: object) -> Network:
        """Return the network of that name."""
        return self.given[training.name]


# What a registered choice needs to be told where it has no default for it.
NEEDED: dict[tuple[str, str], dict[str, Any]] = {
    ("label", "dense"): {"grid": 3},
    ("match", "gradients"): {
        "outer": 2, "inner": 1, "batch": 8, "lr": 0.1, "network": {"arch": "convnet_in", "settings": {"width": 8}}
    },
    ("match", "living"): {
        "network": {"arch": "convnet_in", "settings": {"width": 4, "depth": 2}},
        "policy": {"kind": "dynamic", "window": 2, "query": 8, "most_outer": 2, "most_inner": 2},
    },
    ("match", "noise"): {"norms": [1.0, 2.0, 3.0, 4.0]},
    ("store", "crops"): {"order": "random"},  # asks no network
    ("store", "tiles"): {"init": "noise"},  # asks for no more real images than there are
}  # fmt: skip


def chosen(room: str, name: str, **settings: Any) -> Choice:
    """Return a registered choice with the settings that it cannot do without, and few rounds where it has rounds."""
    few = {"rounds": 4} if "rounds" in {f.name for f in fields(registered(room)[name])} else {}  # type: ignore[arg-type]  # choices are dataclasses
    return choice(name, **(few | NEEDED.get((room, name), {}) | settings))


def state(network: torch.nn.Module) -> dict[str, Tensor]:
    """Return a copy of everything that a network remembers."""
    return {name: value.clone() for name, value in network.state_dict().items()}
