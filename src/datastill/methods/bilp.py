"""BiLP on DC and on IDC: fewer real images, and of each batch those alone that pull in the middle of the range.

Y. Xu et al., Distill Gold from Massive Ores: Bi-level Data Pruning towards Efficient Dataset Distillation, ECCV 2024,
arXiv 2305.18381. How much is pruned is ours: the released code holds neither level 2 nor its shares.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datastill.methods.condensation import RANDOM, START, UNMATCHED, controls, matched
from datastill.methods.dc import dc
from datastill.methods.idc import idc
from datastill.methods.profiles import profile
from datastill.recipe import Control, DatasetInfo, NetworkRecipe, Recipe, choice, preset

# Images per class up to which these shares hold: what stays of a class, and what is left out of a batch.
SHARES = {3: (0.1, 0.2), 22: (0.4, 0.2)}
MANY = (0.8, 0.1)
SPARE = 2  # a class keeps so many times the images that a set begins from
# How the networks learn whose loss says what stays; small sets have few steps in five epochs.
SCORING: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4}
SMALL = {"lr": 0.05, "batch": 32}

UNPRUNED = Control("unpruned", "the same on all real images: the method below it", RANDOM)
NO_BATCHES = {"select.beta": 0.0}
LEVEL_1 = Control("level_1", "the same without pruning of batches", NO_BATCHES)
LEVEL_2 = Control("level_2", "the same without pruning before", {"select.keep": 1.0})
BEGUN = Control(START.name, START.says, UNMATCHED | NO_BATCHES)
WHOLE_START = Control("whole_start", "the same, begun from any real images", {"select.then": "whole"})


def scoring(info: DatasetInfo) -> NetworkRecipe:
    """Return the network whose early loss ranks real images: the one that is matched, trained on all of them."""
    return matched(info, **SCORING | (SMALL if profile(info) == "small" else {}))


def shares(info: DatasetInfo, ipc: int, begun: int) -> tuple[float, float]:
    """Return what stays of a class, and what is left out of a batch.

    begun: real images of a class that the set begins from, SPARE times which stay at least.
    """
    keep, beta = next((found for most, found in SHARES.items() if ipc <= most), MANY)
    return min(1.0, max(keep, SPARE * begun * info.classes / info.train_images)), beta


def pruned(name: str, base: Recipe, info: DatasetInfo, begun: int) -> Recipe:
    """Return a recipe of gradient matching on pruned real images; see `shares`."""
    keep, beta = shares(info, base.ipc, begun)
    # Absolute values have no slope that changes smoothly: there an image has to be left out to be weighed.
    absolute = str(base.match.settings["distance"]).startswith("l1")
    estimate = "exact" if absolute else "taylor"
    select = choice("bilp", keep=keep, beta=beta, every=10, estimate=estimate)
    return replace(base, method=name, select=select, networks={"scoring": scoring(info)})


@preset("bilp-dc", title="BiLP on DC", cite="arXiv:2305.18381", controls=controls("BiLP", UNPRUNED, LEVEL_1, LEVEL_2))
def bilp_dc(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """DC on images that networks learn early, less those of a batch that do much or little to what is learned."""
    return pruned("bilp-dc", dc(info, ipc, faithful), info, 0)


@preset(
    "bilp-idc",
    title="BiLP on IDC",
    cite="arXiv:2305.18381",
    controls=controls("BiLP", BEGUN, UNPRUNED, LEVEL_1, LEVEL_2, WHOLE_START),
)
def bilp_idc(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """IDC likewise; its networks learn from the images that stay, too."""
    base = idc(info, ipc, faithful)
    return pruned("bilp-idc", base, info, ipc * int(base.store.settings["factor"]) ** 2)
