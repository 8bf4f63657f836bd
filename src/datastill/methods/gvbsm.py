"""G-VBSM: pictures learned against several networks in turn, told by all of them (CVPR 2024)."""

from __future__ import annotations

from typing import Any

from datastill.methods.profiles import PROFILES, profile, unflipped
from datastill.methods.sre2l import CROPS, JPEG75, REPLAYED, START, controls, of_resnets, papers
from datastill.recipe import Choice, Control, DatasetInfo, NetworkRecipe, Recipe, TrainRecipe, choice, preset

CITE = "arXiv:2311.17950"
FIVE: dict[str, dict[str, Any]] = {
    "resnet18": {}, "convnet_in": {}, "mobilenetv2": {"width": 0.5}, "wrn_16_2": {}, "shufflenet_g2": {"width": 0.5}
}  # fmt: skip
FOUR = {"resnet18": {}, "mobilenetv2": {}, "efficientnet_b0": {}, "shufflenet_g2": {"width": 0.5}}
THREE = {"resnet10": {"width": 32}, "convnet_in": {"width": 64}, "mobilenetv2": {"width": 0.5}}
SGD = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "decay": "matrices"}
ADAMW = {"optimiser": "adamw", "lr": 1e-3, "decay": "matrices"}
VIEWS = {"mix": "cutmix", "mix_alpha": 1.0, "soft_loss": "mse"}
# By table: the released settings (cifar10, cifar100, tiny-imagenet, imagenet), and our own for small sets.
TABLES: dict[str, dict[str, Any]] = {
    "cifar10": {
        "networks": FIVE,
        "teacher": {"lr": 0.05, "schedule": "constant", "weight_decay": 0.0, "batch": 64, "epochs": 5},
        "match": {"rounds": 4000, "lr": 0.05, "flip": True},
        "block": (100, 100),
        "student": ADAMW | VIEWS | {"weight_decay": 0.0, "epochs": 1000, "batch": 100, "hard_weight": 0.15},
    },
    "cifar100": {
        "networks": FIVE,
        "teacher": {"lr": 0.05, "schedule": "constant", "weight_decay": 0.0, "batch": 64, "epochs": 50},
        "match": {"rounds": 4000, "lr": 0.05, "flip": True},
        "block": (100, 50),
        "student": SGD | VIEWS | {"epochs": 1000, "batch": 64, "hard_weight": 0.15},
    },
    "tiny-imagenet": {
        "networks": FIVE,
        "teacher": {"lr": 0.1, "weight_decay": 0.0, "batch": 128, "epochs": 50},
        "match": {"rounds": 4000, "lr": 0.05, "flip": True},
        "block": (100, 50),
        "student": SGD | VIEWS | {"epochs": 100, "batch": 100, "hard_weight": 0.1},
    },
    "imagenet": {
        "networks": FOUR,
        "teacher": PROFILES["imagenet"]["teacher"],
        "match": {"rounds": 4000, "lr": 0.1, "average": 0.4, "drop": 0.0, "patch": 16, "real_batch": 256} | CROPS,
        "block": (80, 40),
        "student": ADAMW | VIEWS | {"weight_decay": 0.01, "epochs": 300, "batch": 1024, "hard_weight": 0.1},
    },
    "small": {
        "networks": THREE,
        "teacher": PROFILES["small"]["teacher"],
        "match": {"rounds": 300, "lr": 0.1, "alpha": 0.1, "flip": True},
        "block": (100, 100),
        "student": ADAMW | VIEWS | {"weight_decay": 0.0, "epochs": 60, "batch": 64, "hard_weight": 0.15},
    },
}
CONTROLS = controls(
    "gvbsm",
    START,
    Control("one_backbone", "the same against its first network alone, labels by all", {"match.backbones": 1}),
    Control("no_convs", "the same without statistics of convolutions", {"match.drop": 1.0}),
    Control("no_average", "the same without moving averages", {"match.average": 0.0}),
    Control("spread", "the same with densification that works", {"match.densify_scale": "mean"}),
)
TABLE_4 = {
    ("tiny-imagenet", 50): of_resnets((47.6, 0.3), (48.7, 0.2), (48.8, 0.4)),
    ("tiny-imagenet", 100): of_resnets((51.0, 0.4), (52.1, 0.3), (52.3, 0.1)),
    ("imagenet", 10): of_resnets((31.4, 0.5), (35.4, 0.8), (38.2, 0.4)),
    ("imagenet", 50): of_resnets((51.8, 0.4), (58.7, 0.3), (61.0, 0.4)),
    ("imagenet", 100): of_resnets((55.7, 0.4), (62.2, 0.3), (63.7, 0.2)),
}
TABLE_5 = {
    ("cifar10", 10): {"convnet_in": (46.5, 0.7), "resnet18": (53.5, 0.6)},
    ("cifar10", 50): {"convnet_in": (54.3, 0.3), "resnet18": (59.2, 0.4)},
    ("cifar100", 1): {"convnet_in": (16.4, 0.7), "resnet18": (25.9, 0.5)},
    ("cifar100", 10): {"convnet_in": (38.7, 0.2), "resnet18": (59.5, 0.4)},
    ("cifar100", 50): {"convnet_in": (45.7, 0.4), "resnet18": (65.0, 0.5)},
}
TABLE_2 = {("imagenet", 50): {"mobilenetv2": 48.66}}


def _table(info: DatasetInfo) -> dict[str, Any]:
    """Return the settings of a data set; of CIFAR's two the one whose number of classes is nearer."""
    kind = profile(info)
    if kind == "cifar":
        kind = "cifar10" if info.classes <= 30 else "cifar100"
    return TABLES[kind]


def _crop(info: DatasetInfo) -> dict[str, int]:
    """Return the border of random crops: 4 pixels of 32, 8 of 64; nothing for large pictures."""
    return {"crop": max(1, info.shape[1] // 8)} if info.shape[1] < 112 else {}


def _views(info: DatasetInfo) -> dict[str, Any]:
    """Return how students see pictures: random resized crops; shifts for small sets, whose pictures bear no cut."""
    return (_crop(info) if profile(info) == "small" else {"resized_crop": 0.08}) | unflipped(info)


def _match(info: DatasetInfo, faithful: bool) -> Choice:
    settings = _crop(info) | _table(info)["match"] | unflipped(info)
    if profile(info) == "small":
        settings["jitter"] = _crop(info).get("crop", 4)
    if faithful and settings.get("resized_crop"):
        settings["antialias"] = False  # torchvision filtered tensors from version 0.17 on, which came later
    return choice("various", **settings)


def _store(info: DatasetInfo, ipc: int, faithful: bool) -> Choice:
    """Return learned pixels in class-major sets; the released scripts match halves of a set, each on a card of its own.

    With densification as released, which is zero, halves are sets. On Tiny-ImageNet a tenth of a class stands together.
    """
    habits: dict[str, Any] = {"rounding": "truncate"} if faithful else {}
    if profile(info) == "tiny-imagenet" and ipc >= 10:
        habits["group"] = ipc // 10
    if faithful and profile(info) == "imagenet":
        habits["codec"] = JPEG75
    return choice("synthetic", block=_table(info)["block"][int(faithful)], order="class-major", **habits)


def _label(info: DatasetInfo, ipc: int, student: TrainRecipe) -> Choice:
    """Return recorded labels of every epoch, or networks in the loop where these are more than can be held."""
    work = student.work(ipc * info.classes)
    combine = {"combine": "norm_mean"} if profile(info) == "imagenet" else {}
    return choice("replayed" if work.steps * work.batch * info.classes <= REPLAYED else "dynamic", **combine)


@preset("gvbsm", title="G-VBSM, pictures of several networks", cite=CITE, controls=CONTROLS,
        paper=papers("Table 5", TABLE_5) + papers("Table 4", TABLE_4) + papers("Table 2", TABLE_2))  # fmt: skip
def gvbsm(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Pictures learned from noise under statistics of many layers of several networks; all of them label."""
    table = _table(info)
    student = TrainRecipe(**(table["student"] | _views(info)))
    training = TrainRecipe(**(_crop(info) | unflipped(info) | table["teacher"]))
    return Recipe(
        method="gvbsm",
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=_store(info, ipc, faithful),
        match=_match(info, faithful),
        label=_label(info, ipc, student),
        stages=choice("once"),
        student=student,
        networks={
            arch: NetworkRecipe(arch=arch, settings=settings, training=training)
            for arch, settings in table["networks"].items()
        },
    )
