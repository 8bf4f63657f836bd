"""DWA: SRe2L begun from real images, against a network that is moved a little for each set (NeurIPS 2024)."""

from __future__ import annotations

from typing import Any

from datastill.methods.profiles import profile
from datastill.methods.sre2l import (
    CROPS,
    STUDENTS,
    TINY_TEACHER,
    controls,
    label,
    match,
    of_resnets,
    papers,
    store,
    teacher,
    trained,
)
from datastill.recipe import Control, DatasetInfo, Recipe, choice, preset

# By profile: the released scripts, and our own for small sets. alpha weighs means, alpha * var_weight variances.
DIRECTED: dict[str, Any] = {"alpha": 0.01, "var_weight": 11.0, "adjust_steps": 12, "adjust_rho": 0.015}
RECOVERY: dict[str, dict[str, Any]] = {
    "cifar": {"rounds": 1000, "lr": 0.25, "jitter": 4} | DIRECTED,
    "tiny-imagenet": {"rounds": 2000, "lr": 0.1, "jitter": 4} | DIRECTED | CROPS,
    "imagenet": {"rounds": 2000, "lr": 0.25, "jitter": 32} | DIRECTED | {"var_weight": 2.0, "adjust_steps": 15} | CROPS,
    "small": {"rounds": 200, "lr": 0.1} | DIRECTED,
}
BLOCKS = {"tiny-imagenet": 200}
OTHER_STUDENTS: dict[str, dict[str, Any]] = {
    "tiny-imagenet": STUDENTS["tiny-imagenet"] | {"epochs": 200, "batch": 64, "mix": "cutmix", "mix_alpha": 1.0},
    "imagenet": STUDENTS["imagenet"] | {"batch": 128},
}
# The file of its teacher on tiny-imagenet is named E100.
TEACHER = TINY_TEACHER | {"epochs": 100}

CONTROLS = controls(
    "dwa",
    Control("no_adjustment", "the same against the network as it is", {"match.adjust_rho": 0.0}),
    Control("noise_start", "the same begun from noise", {"store.init": "noise"}),
    Control("coupled", "the same with variances weighed like means", {"match.var_weight": 1.0}),
)
TABLE_1 = {
    ("cifar10", 10): {"resnet18": (32.6, 0.4), "convnet": (45.0, 0.4)},
    ("cifar10", 50): {"resnet18": (53.1, 0.3), "convnet": (63.3, 0.7)},
    ("cifar100", 10): {"resnet18": (39.6, 0.6), "convnet": (47.6, 0.4)},
    ("cifar100", 50): {"resnet18": (60.9, 0.5), "convnet": (59.0, 0.1)},
}
TABLE_2 = {
    ("tiny-imagenet", 50): of_resnets((52.8, 0.2), (53.7, 0.2), (54.7, 0.3)),
    ("tiny-imagenet", 100): of_resnets((56.0, 0.2), (56.9, 0.4), (57.4, 0.3)),
    ("imagenet", 10): of_resnets((37.9, 0.2), (43.0, 0.5), (46.9, 0.4)),
    ("imagenet", 50): of_resnets((55.2, 0.2), (62.3, 0.1), (63.3, 0.7)),
    ("imagenet", 100): of_resnets((59.2, 0.3), (65.7, 0.4), (66.7, 0.2)),
}


@preset("dwa", title="DWA, pictures learned from real ones", cite="arXiv:2409.17612", controls=CONTROLS,
        paper=papers("Table 1", TABLE_1) + papers("Table 2", TABLE_2))  # fmt: skip
def dwa(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Real images, moved against a network that was moved uphill in their cross-entropy."""
    student = trained(info, STUDENTS | OTHER_STUDENTS)
    return Recipe(
        method="dwa",
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=store(faithful, init="real", block=BLOCKS.get(profile(info), 100)),
        match=choice("statistics", **match(info, RECOVERY)),
        label=label(info, ipc, student, faithful),
        stages=choice("once"),
        student=student,
        networks=teacher(info, TEACHER),
    )
