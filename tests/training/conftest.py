"""Small learners and data that the tests of the training room share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from datastill.networks import Network, Space, create_network
from datastill.recipe import TrainRecipe
from datastill.runtime.device import Device, open_device
from datastill.training.loop import Learner
from datastill.training.supply import Data

MakeLearner = Callable[..., Learner]
CLASSES, SHAPE = 3, (3, 8, 8)
SMALL: dict[str, dict[str, Any]] = {"convnet": {"width": 8}, "efficientnet_b0": {"width": 0.1}}


@pytest.fixture(scope="session")
def cpu() -> Device:
    return open_device("cpu", "float32")


@pytest.fixture
def data() -> Data:
    """20 pictures of three classes, whose mean colours differ."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(20) % CLASSES
    images = (
        torch.randint(0, 156, (20, *SHAPE), generator=generator) + 100 * torch.eye(3).long()[classes][:, :, None, None]
    )
    return Data(images.to(torch.uint8), classes, torch.eye(CLASSES)[classes], "classes")


@pytest.fixture
def make_network() -> Callable[..., Network]:
    def make(arch: str = "convnet", seed: int = 0, **settings: Any) -> Network:
        space = Space((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        return create_network(arch, classes=CLASSES, shape=SHAPE, space=space, seed=seed, **(settings or SMALL[arch]))

    return make


@pytest.fixture
def make_learner(cpu: Device, make_network: Callable[..., Network]) -> MakeLearner:
    """Return a maker of learners on 20 items: 3 steps of 8 an epoch."""

    def make(
        arch: str = "convnet", *, settings: dict[str, Any] | None = None, device: Device | None = None, **recipe: Any
    ) -> Learner:
        defaults: dict[str, Any] = {"optimiser": "sgd", "lr": 0.05, "batch": 8, "epochs": 2, "crop": 1}
        made = TrainRecipe(**(defaults | recipe))
        return Learner(make_network(arch, **(settings or {})), made, made.work(20), 0, device or cpu)

    return make
