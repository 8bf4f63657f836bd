"""What the presets of dataset condensation share: the network that is matched, students, stores and controls.

DC (arXiv 2006.05929) and DSA (arXiv 2102.08259) began with them; DM, DataDAM, ATOM, CAFE and IDC kept them. All have
hard labels, so that their recipes hold no table of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datastill.methods.profiles import NO_FLIP, profile
from datastill.recipe import (
    OPERATIONS,
    Choice,
    Control,
    DatasetInfo,
    NetworkRecipe,
    Operation,
    Paper,
    TrainRecipe,
    choice,
)

BATCH = 256  # of students and of training between image updates
SMALL_WIDTH = 64  # of the network for small sets, ours
# Plain SGD on the set itself, between image updates.
INNER: dict[str, Any] = {
    "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "batch": BATCH, "crop": 0, "flip": False
}  # fmt: skip
HARD, RANDOM = {"label": choice("hard")}, {"select": choice("random")}
UNMATCHED = {"match": choice("none")}
REAL = RANDOM | UNMATCHED | {"store": choice("pixels")}
# For methods that begin from real images.
START = Control("start", "the real images that it begins from, nothing learned", UNMATCHED)


def matched(info: DatasetInfo, **inner: Any) -> NetworkRecipe:
    """Return the network that images are matched in: a ConvNet with instance norm, as deep as the images are large.

    inner: changes to how it is trained between image updates, which is plain SGD without augmentation.
    """
    width = SMALL_WIDTH if profile(info) == "small" else 128
    return NetworkRecipe(arch="convnet_in", settings={"width": width}, training=TrainRecipe(**(INNER | inner)))


def operations(info: DatasetInfo) -> tuple[Operation, ...]:
    """Return the operations of the differentiable augmentation: digits are never mirrored."""
    return tuple(name for name in OPERATIONS if name != "flip" or info.name not in NO_FLIP)


def augmented(info: DatasetInfo, augment: str) -> dict[str, Any]:
    """Return settings of an augmentation, of a match and of a training alike: "none", "one" (DSA) or "all" (IDC)."""
    return {} if augment == "none" else {"augment": augment, "operations": operations(info)}


def student(info: DatasetInfo, ipc: int, epochs: int, augment: str = "none", **changes: Any) -> TrainRecipe:
    """Return the students' protocol of DC: E + 1 epochs of SGD, in batches that no image fills twice.

    After E // 2 + 2 of them the rate falls to a tenth and the momentum is forgotten, since the released code makes a
    new optimiser.

    Args:
        info: of the data set.
        ipc: images per class of the set that students see.
        epochs: E, 300 for DC, 1000 with augmentation.
        augment: as in `augmented`.
        **changes: of the training recipe.
    """
    made: dict[str, Any] = {
        "optimiser": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch": min(BATCH, ipc * info.classes),
        "crop": 0, "flip": False, "epochs": epochs + 1, "schedule": "steps", "drop": 0.1, "reset_momentum": True,
        "milestones": ((epochs // 2 + 2) / (epochs + 1),),
    }  # fmt: skip
    return TrainRecipe(**(made | augmented(info, augment) | changes))


def store(init: str, faithful: bool = False, **settings: Any) -> Choice:
    """Return free pixels, in deviations of the data set, that may leave black and white, as the papers' do.

    They are kept as floats of 16 bits, finer than the 8 bits of a picture everywhere; faithful ones have 32.
    """
    made = {"init": init, "space": "std", "bound": False, "storage": "fp32" if faithful else "fp16"}
    return choice("synthetic", **(made | settings))


def controls(name: str, *own: Control) -> list[Control]:
    """Return the controls of a method with hard labels, called `name`, its own ones last."""
    filling = f"as many random real images as fill the bytes of {name}, hard labels"
    coded = f"as many random real images under a lossy codec as fill the bytes of {name}, hard labels"
    return [
        Control("random_hard", "random real images, hard labels", REAL | HARD),
        Control("equal_bytes_hard", filling, RANDOM | UNMATCHED | HARD, needs="bytes"),
        Control("coded_hard", coded, RANDOM | UNMATCHED | HARD | {"store": choice("coded")}, needs="bytes"),
        *own,
    ]


def papers(where: str, table: Mapping[str, Mapping[int, Any]], student: str = "convnet_in") -> list[Paper]:
    """Return rows of a paper's table: top-1, or (top-1, deviation), by source and images per class; hard labels."""
    found = []
    for source, cells in table.items():
        for ipc, value in cells.items():
            top1, std = value if isinstance(value, tuple) else (value, None)
            found.append(Paper(source, ipc, student, "H", top1, std, where))
    return found
