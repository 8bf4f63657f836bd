"""DM: class means of the last features of untrained networks, alike for learned and for real images.

Arxiv 2110.04181 (WACV 2023), with the settings of the released code.
"""

from __future__ import annotations

from typing import Any

from datastill.methods.condensation import START, augmented, controls, matched, papers, store, student
from datastill.methods.profiles import profile
from datastill.recipe import DatasetInfo, Recipe, choice, preset

EPOCHS = 1000  # of students
# The released loop runs from 0 to 20000, both included. For small sets our own.
RELEASED: dict[str, Any] = {"rounds": 20_001, "batch": 256, "lr": 1.0}
SMALL: dict[str, Any] = {"rounds": 500, "batch": 64, "lr": 0.1}
LARGE = 100  # images per class of CIFAR-10 from which the rate is ten times as high
README = "README of the released code"
README_TABLE = {"cifar10": {100: (67.0, 0.3), 200: (71.2, 0.4), 500: (76.1, 0.3), 1000: (79.8, 0.3), 1250: (80.8, 0.3)}}


@preset("dm", title="DM, feature means in random networks", cite="arXiv:2110.04181", controls=controls("dm", START),
        paper=papers(README, README_TABLE))  # fmt: skip
def dm(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Images learned from real ones until untrained networks see the same mean features in both."""
    settings = SMALL if profile(info) == "small" else RELEASED
    if info.name == "cifar10" and ipc >= LARGE:
        settings = settings | {"lr": 10.0}
    return Recipe(
        method="dm",
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=store("real", faithful),
        match=choice(
            "features", momentum=0.5, network=matched(info), terms=[{"tap": "embed"}],
            **settings, **augmented(info, "one"),
        ),
        label=choice("hard"),
        stages=choice("once"),
        student=student(info, ipc, EPOCHS, "one"),
    )  # fmt: skip
