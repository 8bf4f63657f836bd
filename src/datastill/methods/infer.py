"""INFER: a few real images per class, and feature compensators that all classes share (ICLR 2025)."""

from __future__ import annotations

from typing import Any, Literal

from datastill.recipe import Control, DatasetInfo, NetworkRecipe, Paper, Recipe, TrainRecipe, choice, preset

CITE = "arXiv:2408.06927"
FOUR: dict[str, dict[str, Any]] = {"resnet18": {}, "mobilenetv2": {}, "efficientnet_b0": {}, "shufflenet_g2": {}}
SMALL = {"convnet": {"width": 64}, "resnet10": {"width": 32}, "mobilenetv2": {"width": 0.5}}
CIFAR_STUDENT = {
    "optimiser": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "epochs": 400,
    "batch": 64,
    "mix": "mixup",
    "temperature": 30.0,
}

# Profiles: the released settings where they exist (CIFAR), the specification's inferences (tiny-imagenet, imagenette
# after ImageNet-1k with networks trained from scratch), and our own for small sets ("small").
HYPER: dict[str, dict[str, Any]] = {
    "cifar": {
        "networks": FOUR,
        "teacher": {"lr": 0.1, "weight_decay": 5e-4, "epochs": 200, "batch": 128, "crop": 4},
        "match": {"rounds": 1000, "lr": 0.25, "alpha": 1.0, "jitter": 4},
        "student": CIFAR_STUDENT,
    },
    "tiny-imagenet": {
        "networks": FOUR,
        "teacher": {"lr": 0.1, "weight_decay": 5e-4, "epochs": 200, "batch": 128, "crop": 4},
        "match": {"rounds": 2000, "lr": 0.1, "alpha": 1.0, "jitter": 4, "resized_crop": True, "flip": True},
        "student": {
            "optimiser": "sgd",
            "lr": 0.2,
            "weight_decay": 1e-4,
            "epochs": 200,
            "warmup": 5,
            "batch": 64,
            "mix": "mixup",
            "temperature": 20.0,
            "kl_scale": "temperature-squared",
            "resized_crop": 0.08,
        },
    },
    "imagenet": {
        "networks": {"resnet18": {}, "mobilenetv2": {}, "efficientnet_b0": {}},
        "teacher": {"lr": 0.1, "weight_decay": 1e-4, "epochs": 90, "batch": 128, "crop": 16},
        "match": {"rounds": 2000, "lr": 0.25, "alpha": 0.01, "jitter": 32, "resized_crop": True, "flip": True},
        "student": {
            "optimiser": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "decay": "matrices",
            "epochs": 300,
            "batch": 128,
            "mix": "mixup",
            "temperature": 20.0,
            "resized_crop": 0.08,
        },
    },
    "small": {
        "networks": SMALL,
        "teacher": {"lr": 0.05, "weight_decay": 5e-4, "epochs": 40, "batch": 64},
        "match": {"rounds": 200, "lr": 0.1, "alpha": 0.1},
        "student": CIFAR_STUDENT | {"epochs": 60},
    },
}
COVERED = {"cifar10": "cifar", "cifar100": "cifar", "tiny-imagenet": "tiny-imagenet", "imagenet": "imagenet"}
NO_FLIP = {"digits", "mnist", "svhn"}  # a mirrored digit is another sign

REAL = choice("pixels")
CONTROLS = [
    Control("infer_hard", "its own images with hard labels", {"label": choice("hard")}),
    Control("random_soft", "random real images, same labels", {"store": REAL, "match": choice("none")}),
    Control("random_hard", "random real images, hard labels",
            {"store": REAL, "match": choice("none"), "label": choice("hard")}),
    Control("natural_only", "its natural images alone, same labels", {"match": choice("none")}, needs="sets"),
    Control("noise", "noise of equal norm instead of compensators, same labels", needs="norms"),
    Control("equal_bytes_soft", "as many random real images as fill its bytes, stored soft labels",
            {"match": choice("none"), "label": choice("static")}, needs="bytes"),
    Control("equal_bytes_hard", "as many random real images as fill its bytes, hard labels",
            {"match": choice("none"), "label": choice("hard")}, needs="bytes"),
    Control("other_steps", "the set itself under the other label kind's number of steps", needs="steps"),
]  # fmt: skip

TABLE_1: list[tuple[str, int, str, Literal["S", "D"], float, float]] = [
    ("cifar10", 10, "convnet", "S", 34.0, 0.4), ("cifar10", 50, "convnet", "S", 57.0, 0.2),
    ("cifar100", 10, "convnet", "S", 41.0, 0.4), ("cifar100", 50, "convnet", "S", 53.8, 0.2),
    ("cifar100", 100, "convnet", "S", 57.0, 0.02), ("tiny-imagenet", 10, "convnet", "S", 22.8, 0.3),
    ("tiny-imagenet", 50, "convnet", "S", 32.3, 0.3), ("cifar10", 10, "resnet18", "S", 32.0, 0.5),
    ("cifar10", 50, "resnet18", "S", 60.4, 1.6), ("cifar100", 10, "resnet18", "S", 45.2, 0.04),
    ("cifar100", 50, "resnet18", "S", 62.8, 0.4), ("cifar100", 100, "resnet18", "S", 66.3, 0.1),
    ("tiny-imagenet", 10, "resnet18", "S", 32.0, 0.1), ("tiny-imagenet", 50, "resnet18", "S", 52.9, 0.1),
    ("cifar10", 10, "convnet", "D", 30.1, 0.8), ("cifar10", 50, "convnet", "D", 52.4, 0.7),
    ("cifar100", 10, "convnet", "D", 37.2, 0.3), ("cifar100", 50, "convnet", "D", 50.7, 0.3),
    ("cifar100", 100, "convnet", "D", 53.4, 0.2), ("tiny-imagenet", 10, "convnet", "D", 24.9, 0.3),
    ("tiny-imagenet", 50, "convnet", "D", 33.9, 0.6), ("cifar10", 10, "resnet18", "D", 30.7, 0.3),
    ("cifar10", 50, "resnet18", "D", 60.7, 0.9), ("cifar100", 10, "resnet18", "D", 53.4, 0.6),
    ("cifar100", 50, "resnet18", "D", 68.9, 0.1), ("cifar100", 100, "resnet18", "D", 73.3, 0.2),
    ("tiny-imagenet", 10, "resnet18", "D", 41.0, 0.4), ("tiny-imagenet", 50, "resnet18", "D", 54.6, 0.4),
]  # fmt: skip
PAPER = [
    Paper(source, ipc, student, column, top1, std, "Table 1") for source, ipc, student, column, top1, std in TABLE_1
]


def profile(info: DatasetInfo) -> str:
    """Return the profile of a data set: its own, or the nearest by number of training images and side."""
    if info.name in COVERED:
        return COVERED[info.name]
    if info.train_images < 5000:
        return "small"
    side = info.shape[1]
    return "cifar" if side <= 48 else "tiny-imagenet" if side <= 96 else "imagenet"


def _recipe(name: str, info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    hyper = HYPER[profile(info)]
    fit = {"crop": max(1, min(4, info.shape[1] // 8))} if info.shape[1] < 112 else {}
    unflipped = {"flip": False} if info.name in NO_FLIP else {}
    views = fit | unflipped
    match = {"jitter": fit.get("crop", 4)} | hyper["match"] | unflipped
    student = views | hyper["student"]
    if name == "infer-dyn":  # as many teacher queries per natural image as static labels have items
        student["epochs"] = max(1, student["epochs"] // (len(hyper["networks"]) + 1))
    return Recipe(
        method=name,
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=choice("compensated", storage="jpeg75" if faithful else "int8"),
        match=choice("statistics", **match),
        label=choice("dynamic" if name == "infer-dyn" else "static"),
        stages=choice("once"),
        student=TrainRecipe(**student),
        networks={
            arch: NetworkRecipe(arch=arch, settings=settings, training=TrainRecipe(**(views | hyper["teacher"])))
            for arch, settings in hyper["networks"].items()
        },
    )


@preset(
    "infer", title="INFER, static labels", cite=CITE, controls=CONTROLS, paper=[p for p in PAPER if p.column == "S"]
)
def infer(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Static labels; a set that the paper does not cover takes the nearest profile."""
    return _recipe("infer", info, ipc, faithful)


@preset("infer-dyn", title="INFER, networks in the loop", cite=CITE, controls=CONTROLS,
        paper=[p for p in PAPER if p.column == "D"])  # fmt: skip
def infer_dyn(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Dynamic labels, epochs divided by M + 1."""
    return _recipe("infer-dyn", info, ipc, faithful)
