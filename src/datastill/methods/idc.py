"""IDC and IDC-I: gradients of learned and of real images, alike in networks that learn from real ones (ICML 2022).

Arxiv 2205.14959, with the settings of the released code. IDC stores mosaics, of which every tile is an item for
students; IDC-I stores the items themselves.
"""

from __future__ import annotations

from typing import Any

from datastill.methods.condensation import UNMATCHED, controls, matched, papers
from datastill.methods.profiles import NO_FLIP, profile
from datastill.recipe import Control, DatasetInfo, NetworkRecipe, Operation, Recipe, TrainRecipe, choice, preset

# By data set, and our own for small ones. lr is that of 10 pictures per class of `base` pixels a side (None: of any).
MATCHES: dict[str, dict[str, Any]] = {
    "cifar": {"distance": "mse", "lr": 5e-3, "base": 32, "rounds": 2000, "outer": 100, "inner_images": 2000},
    "svhn": {"distance": "mse", "lr": 5e-3, "base": 32, "rounds": 2000, "outer": 100, "inner_images": 500},
    "mnist": {"distance": "l1", "lr": 1e-4, "base": 28, "rounds": 2000, "outer": 100, "inner_images": 500},
    "fashion-mnist": {"distance": "l1", "lr": 1e-4, "base": 32, "rounds": 2000, "outer": 100, "inner_images": 500},
    "photographs": {"distance": "l1", "lr": 3e-3, "base": 224, "rounds": 500, "outer": 100, "inner_images": 500,
                    "source": "early", "epochs": 10},
    "photographs-100": {"distance": "l1", "lr": 1e-3, "base": 224, "rounds": 500, "outer": 100, "inner_images": 500,
                        "source": "pool", "pool": 10, "epochs": 5},
    "small": {"distance": "mse", "lr": 0.2, "base": None, "rounds": 20, "outer": 20, "inner_images": 500},
}  # fmt: skip
OWN = ("svhn", "mnist", "fashion-mnist")
LARGE, MANY = 112, 100  # pixels of a side, and classes, from which there is another setting
REAL, MOST = 64, 128  # images of a class in an image update: real ones, and items at most
# How the networks that are matched learn, and students.
TRAINING: dict[str, Any] = {
    "optimiser": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch": 64, "crop": 0, "flip": False,
    "mix": "cutmix", "mix_alpha": 1.0, "mix_share": 0.5,
}  # fmt: skip
ALWAYS, NEVER = {"mix_share": 1.0}, {"mix": "none"}
OF_MANY: dict[str, Any] = {"lr": 0.1, "weight_decay": 1e-4, "batch": 128}
# Epochs of students of photographs: of so many items of a class at most, else the fewest.
PHOTOGRAPHS = {1: 3000, 10: 2000, 50: 1500, 200: 1000, 500: 500}
FEWEST = 300
EPOCHS = {"small": 300}
PARITY = {"pick": "first", "resize": "nearest", "storage": "fp32"}
README = "README of the released code"
IDC_I = {
    "cifar10": {1: 36.7, 10: 58.3, 50: 69.5}, "cifar100": {10: 36.6, 20: 41.5},
    "svhn": {1: 46.7, 10: 77.0, 50: 87.9}, "mnist": {1: 88.9, 10: 98.0, 50: 98.8},
    "fashion-mnist": {1: 70.7, 10: 85.3, 50: 89.1},
}  # fmt: skip
IDC = {
    "cifar10": {1: 50.6, 10: 67.5, 50: 74.5}, "cifar100": {10: 45.1, 20: 49.0},
    "svhn": {1: 68.5, 10: 87.5, 50: 90.1}, "mnist": {1: 94.2, 10: 98.4, 50: 99.1},
    "fashion-mnist": {1: 81.0, 10: 86.0, 50: 86.2},
}  # fmt: skip


def kind(info: DatasetInfo) -> str:
    """Return whose settings a data set has: its own, or those of the nearest one that the paper has."""
    found = info.name if info.name in OWN else profile(info)
    if found == "imagenet":
        return "photographs" if info.classes < MANY else "photographs-100"
    return "cifar" if found == "tiny-imagenet" else found


def tiles(info: DatasetInfo) -> int:
    """Return the tiles a side of a picture of IDC."""
    return 2 if info.shape[1] < LARGE else 3


def rate(info: DatasetInfo, ipc: int) -> float:
    """Return the rate of the pictures: a loss is a mean over those of a class, and a side of pixels moves as one."""
    made = MATCHES[kind(info)]
    return float(made["lr"] * ipc / 10 * (info.shape[1] / (made["base"] or info.shape[1])) ** 2)


def augmented(info: DatasetInfo, *names: Operation) -> dict[str, Any]:
    """Return these operations, composed as the paper does it; digits are never mirrored."""
    return {"augment": "all", "operations": tuple(n for n in names if n != "flip" or info.name not in NO_FLIP)}


def mixing(info: DatasetInfo, factor: int) -> dict[str, Any]:
    """Return how often CutMix is: always on photographs, and never on mosaics of MNIST."""
    if kind(info).startswith("photographs"):
        return ALWAYS
    return NEVER if info.name == "mnist" and factor > 1 else {}


def network(info: DatasetInfo, factor: int) -> NetworkRecipe:
    """Return the network that images are matched in, and how it learns from real ones."""
    made = TRAINING | {"schedule": "constant"} | augmented(info, "color", "crop") | mixing(info, factor)
    return matched(info, **made | (OF_MANY if kind(info) == "photographs-100" else {}))


def epochs(info: DatasetInfo, items: int) -> int:
    """Return the epochs of students of so many items of a class."""
    if not kind(info).startswith("photographs"):
        return EPOCHS.get(kind(info), 1000)
    found = next((count for most, count in PHOTOGRAPHS.items() if items <= most), FEWEST)
    return found if info.classes < MANY else found * 2 // 3 // 100 * 100


def student(info: DatasetInfo, ipc: int, factor: int) -> TrainRecipe:
    """Return how students of ipc pictures of factor * factor items are trained."""
    items = ipc * factor**2
    count = epochs(info, items)
    drops = {"schedule": "steps", "drop": 0.2, "milestones": (2 * count // 3 / count, 5 * count // 6 / count)}
    made = TRAINING | {"epochs": count} | drops | mixing(info, factor)
    if kind(info).startswith("photographs"):
        made |= {"resized_crop": 0.5, "flip": True} | (OF_MANY if info.classes >= MANY else {})
    elif info.name == "svhn" and items == 1:
        made |= NEVER | augmented(info, "color", "crop", "cutout", "scale", "rotate")
    else:
        made |= augmented(info, "color", "crop", "flip", "scale", "rotate")
    return TrainRecipe(**made | {"batch": min(made["batch"], items * info.classes)})


def recipe(name: str, info: DatasetInfo, ipc: int, faithful: bool, factor: int) -> Recipe:
    """Return the recipe of pictures of factor * factor tiles; faithful ones begin as the first images, and are floats.

    The released code also condenses 20 photographs or more under other tilings than they are read with; this does not.
    """
    settings = {name: value for name, value in MATCHES[kind(info)].items() if name != "base"} | {"lr": rate(info, ipc)}
    hidden: tuple[Operation, ...] = () if info.name == "mnist" and factor > 1 else ("cutout",)
    return Recipe(
        method=name,
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=choice("tiles", factor=factor, **(PARITY if faithful else {})),
        match=choice(
            "gradients", **settings, momentum=0.5, turns=info.classes, tensors="conv", inner_on="real", batch=REAL,
            most=MOST, network=network(info, factor), **augmented(info, "color", "crop", *hidden),
        ),
        label=choice("hard"),
        stages=choice("once"),
        student=student(info, ipc, factor),
    )  # fmt: skip


@preset("idc-i", title="IDC-I, gradients in networks of real images", cite="arXiv:2205.14959",
        controls=controls("idc-i", Control("start", "the real images that it begins from, nothing learned", UNMATCHED)),
        paper=papers(README, IDC_I))  # fmt: skip
def idc_i(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Pictures learned from real ones until both have the same gradients in networks that learn from real images."""
    return recipe("idc-i", info, ipc, faithful, 1)


@preset("idc", title="IDC, mosaics of learned images", cite="arXiv:2205.14959",
        controls=controls(
            "idc", Control("start", "the mosaics of real images that it begins from, nothing learned", UNMATCHED),
            Control("one_tile", "the same with one item a picture (IDC-I)", {"store.factor": 1}),
        ),
        paper=papers(README, IDC))  # fmt: skip
def idc(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """IDC-I on pictures of several tiles each, which are stretched to full size before anyone sees them."""
    return recipe("idc", info, ipc, faithful, tiles(info))
