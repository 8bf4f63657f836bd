"""CAFE: class means of features at every layer, and centres that classify, in networks that are trained on the set.

Arxiv 2203.01531 (CVPR 2022), with the settings of the released code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datastill.methods.condensation import augmented, controls, matched, store, student
from datastill.methods.profiles import profile
from datastill.recipe import Control, DatasetInfo, NetworkRecipe, Recipe, choice, preset

EPOCHS = {"none": 600, "one": 1000}  # of students, by augmentation
SHALLOW, DEEP, LAST = 0.1, 1.0, 2.0  # weights of ReLUs, of the last ReLU, and of what the head sees
SMALL_SIDE = 12  # below it, a ConvNet has one block by itself, hence no layer before the last
# The released loop runs from 0 to 2000, both included. For small sets our own: the distance is a sum over channels and
# positions, of which there are fewer, and a query that held nearly all real images would have no noise to end a phase.
RELEASED: dict[str, Any] = {"rounds": 2001, "lr": 0.1, "policy": {"kind": "dynamic"}}
SMALL: dict[str, Any] = {"rounds": 10, "lr": 0.5, "policy": {"kind": "dynamic", "query": 320}}
LAST_LAYER: dict[str, Any] = {"tap": "embed", "weight": LAST}
TERMS = [{"tap": "relu", "weight": SHALLOW}, {"tap": "relu_last", "weight": DEEP}, LAST_LAYER]


def network(info: DatasetInfo, augment: str) -> NetworkRecipe:
    """Return the network that is met, of two blocks or more; between image updates it sees views of its own."""
    made = matched(info, **augmented(info, augment))
    depth = {"depth": 2} if info.shape[1] < SMALL_SIDE else {}
    return replace(made, settings=made.settings | depth)


def _recipe(name: str, info: DatasetInfo, ipc: int, faithful: bool, augment: str) -> Recipe:
    return Recipe(
        method=name,
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=store("noise", faithful),
        match=choice(
            "living", momentum=0.5, batch=256, beta=0.01, network=network(info, augment), terms=TERMS,
            **(SMALL if profile(info) == "small" else RELEASED), **augmented(info, augment),
        ),
        label=choice("hard"),
        stages=choice("once"),
        student=student(info, ipc, EPOCHS[augment], augment),
    )  # fmt: skip


OWN = [
    Control("fixed", "the same with 20 image updates and 10 epochs between two of them, whatever the accuracy",
            {"match.policy.kind": "fixed"}),
    Control("untrained", "the same in networks that are never trained", {"match.policy.kind": "fresh"}),
    Control("no_discrimination", "the same without the loss of the centres", {"match.beta": 0.0}),
    Control("last_layer", "the same with what the head sees alone", {"match.terms": [LAST_LAYER]}),
]  # fmt: skip


@preset("cafe", title="CAFE, features aligned at every layer", cite="arXiv:2203.01531", controls=controls("cafe", *OWN))
def cafe(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Images learned from noise, in networks that are trained on them for as long as accuracy on real images says."""
    return _recipe("cafe", info, ipc, faithful, "none")


@preset("cafe-dsa", title="CAFE under siamese augmentation", cite="arXiv:2203.01531",
        controls=controls("cafe-dsa", *OWN))  # fmt: skip
def cafe_dsa(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """CAFE whose real and learned images of a class are seen under one view, and whose networks see views, too."""
    return _recipe("cafe-dsa", info, ipc, faithful, "one")
