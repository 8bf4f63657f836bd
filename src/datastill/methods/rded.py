"""RDED: crops of real images that a network finds easy, labelled by it in the loop (CVPR 2024)."""

from __future__ import annotations

from typing import Any

from datastill.methods.profiles import networks, unflipped
from datastill.recipe import Choice, Control, DatasetInfo, Recipe, TrainRecipe, choice, preset

LARGE = 112  # pixels of a side from which a picture is 2 x 2 crops, as the store decides by itself
# By ipc: the paper's rule for 1, 10 and 50; what lies between takes the rule of the next smaller one.
BATCHES = {1: 10, 10: 50, 50: 100}
STUDENT: dict[str, Any] = {
    "optimiser": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "decay": "matrices",
    "eta": 2.0,
    "epochs": 300,
    "crop": 0,
    "mix": "cutmix",
    "mix_alpha": 1.0,
    "temperature": 20.0,
}
JPEG75 = {"format": "jpeg", "quality": 75, "chroma": "420"}

RANDOM, HARD, NONE = {"select": choice("random")}, {"label": choice("hard")}, {"match": choice("none")}
REAL = RANDOM | NONE | {"store": choice("pixels")}
STORED = {"label": choice("static")}
CONTROLS = [
    Control("rded_hard", "its own images with hard labels", HARD),
    Control("rded_stored", "its own images with stored soft labels", STORED),
    Control("random_soft", "random real images, same labels", REAL),
    Control("random_hard", "random real images, hard labels", REAL | HARD),
    Control("random_crops", "random crops of random images, same labels", {"store": choice("crops", order="random")}),
    Control("hardest_crops", "the crops that the network finds hardest, same labels",
            {"store": choice("crops", order="hardest")}),
    Control("equal_bytes_soft", "as many random real images as fill its bytes, stored soft labels",
            RANDOM | NONE | STORED, needs="bytes"),
    Control("equal_bytes_hard", "as many random real images as fill its bytes, hard labels",
            RANDOM | NONE | HARD, needs="bytes"),
]  # fmt: skip


def batch(info: DatasetInfo, ipc: int) -> int:
    """Return the students' batch: by ipc, twice as many from 100 classes on, 100 on Tiny-ImageNet, at most the set."""
    size = BATCHES[max(n for n in BATCHES if n <= ipc)] * (2 if info.classes >= 100 else 1)
    return min(100 if info.name == "tiny-imagenet" else size, ipc * info.classes)


def _store(faithful: bool) -> Choice:
    return choice("crops", codec=JPEG75, rounding="truncate") if faithful else choice("crops")


@preset("rded", title="RDED", cite="arXiv:2312.03526", controls=CONTROLS)
def rded(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """One network chooses the crops and labels them; `faithful` adds JPEG 75, truncation and the double BatchNorm."""
    views = {"shuffle_tiles": 2, "resized_crop": 0.5} if min(info.shape[1:]) >= LARGE else {}
    habits = {"bn_momentum": 0.19} if faithful else {}
    name, observer = next(iter(networks(info).items()))
    return Recipe(
        method="rded",
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=_store(faithful),
        match=choice("none"),
        label=choice("dynamic"),
        stages=choice("once"),
        student=TrainRecipe(**(STUDENT | {"batch": batch(info, ipc)} | views | habits | unflipped(info))),
        networks={name: observer},
    )
