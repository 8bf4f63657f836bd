"""Dense labels on the images of other methods (LADD, WACV 2025), reconstructed: the paper's body was not at hand.

The paper labels the sets of three distillation methods that are not here. What it adds to them is the field `label`
alone, so it stands here on INFER's images and on random real ones. None of the paper's numbers belongs to these sets.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from datastill.methods.infer import infer
from datastill.methods.selection import build
from datastill.recipe import Choice, Control, DatasetInfo, Recipe, choice, preset

CITE = "arXiv:2409.16239"
GRID, RATIO = 5, 0.625  # remembered by the specification, and not the abstract's

HARD, STATIC, RANDOM = {"label": choice("hard")}, {"label": choice("static")}, {"select": choice("random")}
REAL = RANDOM | {"store": choice("pixels"), "match": choice("none")}
ALWAYS = [
    Control("global_only", "its images, one soft label of the whole each, no boxes", STATIC),
    Control("global_longer", "the same for so many steps that students see as many pictures", STATIC, needs="steps"),
    Control("hard_boxes", "its images and boxes, the boxes with hard labels", {"label.local": "hard"}),
    Control("equal_bytes_soft", "as many random real images as fill its bytes, one soft label each",
            RANDOM | {"match": choice("none")} | STATIC, needs="bytes"),
    Control("equal_bytes_hard", "as many random real images as fill its bytes, hard labels",
            RANDOM | {"match": choice("none")} | HARD, needs="bytes"),
    Control("random_hard", "random real images, hard labels", REAL | HARD),
]  # fmt: skip
OF_INFER = [
    Control("random_soft", "random real images, same labels", REAL),
    Control("ladd-infer_hard", "its own images with hard labels", HARD),
]


def dense(info: DatasetInfo) -> Choice:
    """Return dense labels of 5 x 5 boxes of 5/8 of a side, or of as many as stand a pixel apart in small pictures."""
    side = min(info.shape[1:])
    fitted: dict[str, Any] = {"grid": min(GRID, side - math.floor(RATIO * side + 0.5) + 1)}
    return choice("dense", **(fitted if fitted["grid"] < GRID else {}))


def _recipe(name: str, of: Recipe, info: DatasetInfo) -> Recipe:
    """Return a recipe with dense labels; a student that keeps small windows of pictures would keep less of a box."""
    return replace(of, method=name, label=dense(info), student=replace(of.student, resized_crop=None))


@preset("ladd-infer", title="INFER, dense labels (LADD, reconstructed)", cite=CITE, controls=[*OF_INFER, *ALWAYS])
def ladd_infer(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Dense labels on INFER's items."""
    return _recipe("ladd-infer", infer(info, ipc, faithful), info)


@preset("ladd-random", title="Random real images, dense labels (LADD, reconstructed)", cite=CITE, controls=ALWAYS)
def ladd_random(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Dense labels on random real images: the control that the gain of dense labels has to be told from."""
    return _recipe("ladd-random", build("random")(info, ipc, faithful), info)
