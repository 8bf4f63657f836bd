"""INFER: a few real images per class, and feature compensators that all classes share (ICLR 2025)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from datastill.methods.profiles import fitted_crop, networks, profile, student, unflipped
from datastill.recipe import Control, DatasetInfo, Paper, Recipe, choice, preset

CITE = "arXiv:2408.06927"
# By profile: the released settings (cifar, imagenet), the specification's inference (tiny-imagenet), our own (small).
RECOVERY: dict[str, dict[str, Any]] = {
    "cifar": {"rounds": 1000, "lr": 0.25, "alpha": 1.0, "jitter": 4},
    "tiny-imagenet": {"rounds": 2000, "lr": 0.1, "alpha": 1.0, "jitter": 4, "resized_crop": True, "flip": True},
    "imagenet": {"rounds": 2000, "lr": 0.25, "alpha": 0.01, "jitter": 32, "resized_crop": True, "flip": True},
    "small": {"rounds": 200, "lr": 0.1, "alpha": 0.1},
}

# Whatever the method itself selects: a control called random is random.
RANDOM = {"select": choice("random")}
REAL = RANDOM | {"store": choice("pixels"), "match": choice("none")}
CONTROLS = [
    Control("infer_hard", "its own images with hard labels", {"label": choice("hard")}),
    Control("random_soft", "random real images, same labels", REAL),
    Control("random_hard", "random real images, hard labels", REAL | {"label": choice("hard")}),
    Control("natural_only", "its natural images alone, same labels", {"match": choice("none")}, needs="sets"),
    Control("noise", "noise of equal norm instead of compensators, same labels", needs="norms"),
    Control("equal_bytes_soft", "as many random real images as fill its bytes, stored soft labels",
            RANDOM | {"match": choice("none"), "label": choice("static")}, needs="bytes"),
    Control("equal_bytes_hard", "as many random real images as fill its bytes, hard labels",
            RANDOM | {"match": choice("none"), "label": choice("hard")}, needs="bytes"),
    # Nobody asks networks for hard labels; under a codec, the bytes of their table in the manifest are many images.
    Control("coded_hard", "as many random real images under a lossy codec as fill its bytes, hard labels",
            RANDOM | {"store": choice("coded"), "match": choice("none"), "label": choice("hard"), "networks": {}},
            needs="bytes"),
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


def _recipe(name: str, info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    table, trained = networks(info), student(info)
    jitter = {"jitter": fitted_crop(info).get("crop", 4)}
    if name == "infer-dyn":  # as many teacher queries per natural image as static labels have items
        trained = replace(trained, epochs=max(1, trained.epochs // (len(table) + 1)))
    return Recipe(
        method=name,
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=choice("compensated", storage="jpeg75" if faithful else "int8"),
        match=choice("statistics", **(jitter | RECOVERY[profile(info)] | unflipped(info))),
        label=choice("dynamic" if name == "infer-dyn" else "static"),
        stages=choice("once"),
        student=trained,
        networks=table,
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


@preset("infer-coded", title="INFER, coded real images and labels", cite=CITE, controls=CONTROLS)
def infer_coded(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """INFER whose natural images and labels are packed as tightly as random real ones may be: fair at equal bytes.

    The bytes that this saves buy more natural sets (`store.sets`), or a larger ipc.
    """
    made = _recipe("infer-coded", info, ipc, faithful)
    codec = {"format": "avif", "quality": 60, "chroma": "444", "tiles": 1024}
    return replace(
        made,
        store=choice("compensated", codec=codec),
        label=choice("static", codec={"kind": "int4"}),
    )
