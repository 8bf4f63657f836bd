"""DC and DSA: pictures learned so that they turn the weights of many networks as real images do.

DC is arXiv 2006.05929 (ICLR 2021), DSA arXiv 2102.08259 (ICML 2021): the same under one augmentation of both sides.
"""

from __future__ import annotations

from typing import Any

from datastill.methods.condensation import START, augmented, controls, matched, papers, store, student
from datastill.methods.profiles import profile
from datastill.recipe import Control, DatasetInfo, Recipe, choice, preset

ROUNDS = {"small": 50}  # ours; elsewhere those of the released code, which counts from 0 to 1000
RELEASED_ROUNDS = 1001
MATCH: dict[str, Any] = {"distance": "rowcos", "lr": 0.1, "momentum": 0.5, "batch": 256}
EPOCHS = {"dc": 300, "dsa": 1000}
AUGMENT = {"dc": "none", "dsa": "one"}
INIT = {"dc": "noise", "dsa": "real"}

UNAUGMENTED = Control("unaugmented", "the same, matched without augmentation", {"match.augment": "none"})
README = "main tables, as the README of its code shows them"
DC_TABLE = {
    "fashion-mnist": {1: 70.5, 10: 82.3, 50: 83.6},
    "svhn": {1: 31.2, 10: 76.1, 50: 82.3},
    "cifar10": {1: 28.3, 10: 44.9, 50: 53.9},
    "cifar100": {1: 12.8, 10: 25.2},
}
DC_MNIST = {"mnist": {1: 91.7, 10: 97.4, 50: 98.8}}
DC_PAPERS = papers(README, DC_TABLE) + papers(f"{README}; students saw crops, scales and turns", DC_MNIST)
DSA_TABLE = {
    "mnist": {1: 88.7, 10: 97.8, 50: 99.2},
    "fashion-mnist": {1: 70.6, 10: 84.6, 50: 88.7},
    "svhn": {1: 27.5, 10: 79.2, 50: 84.4},
    "cifar10": {1: 28.8, 10: 52.1, 50: 60.6},
    "cifar100": {1: 13.9, 10: 32.3},
}


def _recipe(name: str, info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    views = augmented(info, AUGMENT[name])
    return Recipe(
        method=name,
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=store(INIT[name], faithful),
        match=choice(
            "gradients",
            rounds=ROUNDS.get(profile(info), RELEASED_ROUNDS),
            network=matched(info, **views),
            **MATCH,
            **views,
        ),
        label=choice("hard"),
        stages=choice("once"),
        student=student(info, ipc, EPOCHS[name], AUGMENT[name]),
    )


@preset(
    "dc", title="DC, gradients matched from noise", cite="arXiv:2006.05929", controls=controls("DC"), paper=DC_PAPERS
)
def dc(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Pictures learned from noise, as they are; students see them as they are, too."""
    return _recipe("dc", info, ipc, faithful)


@preset("dsa", title="DSA, gradients matched under shared augmentation", cite="arXiv:2102.08259",
        controls=controls("DSA", START, UNAUGMENTED), paper=papers(README, DSA_TABLE))  # fmt: skip
def dsa(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Pictures begun as real images; both sides, networks between updates, and students see them augmented."""
    return _recipe("dsa", info, ipc, faithful)
