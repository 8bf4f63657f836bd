"""What presets share by data set: the table of networks, how these are trained, and how students are.

The released settings of INFER where they exist (CIFAR), the specification's inferences (tiny-imagenet; imagenet with
networks trained from scratch), and our own for small sets ("small").
"""

from __future__ import annotations

from typing import Any

from datastill.recipe import DatasetInfo, NetworkRecipe, TrainRecipe

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

PROFILES: dict[str, dict[str, Any]] = {
    "cifar": {
        "networks": FOUR,
        "teacher": {"lr": 0.1, "weight_decay": 5e-4, "epochs": 200, "batch": 128, "crop": 4},
        "student": CIFAR_STUDENT,
    },
    "tiny-imagenet": {
        "networks": FOUR,
        "teacher": {"lr": 0.1, "weight_decay": 5e-4, "epochs": 200, "batch": 128, "crop": 4},
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
        "student": CIFAR_STUDENT | {"epochs": 60},
    },
}
COVERED = {"cifar10": "cifar", "cifar100": "cifar", "tiny-imagenet": "tiny-imagenet", "imagenet": "imagenet"}
NO_FLIP = {"digits", "mnist", "svhn"}  # a mirrored digit is another sign


def profile(info: DatasetInfo) -> str:
    """Return the profile of a data set: its own, or the nearest by number of training images and side."""
    if info.name in COVERED:
        return COVERED[info.name]
    if info.train_images < 5000:
        return "small"
    side = info.shape[1]
    return "cifar" if side <= 48 else "tiny-imagenet" if side <= 96 else "imagenet"


def fitted_crop(info: DatasetInfo) -> dict[str, int]:
    """Return the border of random crops of small pictures, an eighth of the side; nothing for large ones."""
    return {"crop": max(1, min(4, info.shape[1] // 8))} if info.shape[1] < 112 else {}


def unflipped(info: DatasetInfo) -> dict[str, bool]:
    """Return that a set is never mirrored, where that is so."""
    return {"flip": False} if info.name in NO_FLIP else {}


def student(info: DatasetInfo) -> TrainRecipe:
    """Return how a student of a data set is trained."""
    return TrainRecipe(**(fitted_crop(info) | unflipped(info) | PROFILES[profile(info)]["student"]))


def networks(info: DatasetInfo) -> dict[str, NetworkRecipe]:
    """Return the table of networks of a data set."""
    hyper = PROFILES[profile(info)]
    training = TrainRecipe(**(fitted_crop(info) | unflipped(info) | hyper["teacher"]))
    return {
        arch: NetworkRecipe(arch=arch, settings=settings, training=training)
        for arch, settings in hyper["networks"].items()
    }
