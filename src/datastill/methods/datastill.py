"""Our own preset: random real images under a lossy codec, soft labels in four bits, as many as the bytes hold.

A lever stands here only where a row of docs/levers.md says that it helps.
"""

from __future__ import annotations

from dataclasses import replace

from datastill.methods.profiles import networks, student
from datastill.recipe import Control, DatasetInfo, Recipe, TrainRecipe, choice, preset

HARD, PLAIN = choice("hard"), choice("pixels")
INT4 = {"kind": "int4"}
CONTROLS = [
    Control("datastill_hard", "its own images with hard labels", {"label": HARD}),
    Control("shuffled", "its own images, their labels dealt out anew within each class",
            {"label": choice("static", codec=INT4, shuffled=True)}),
    Control("equal_bytes_hard", "as many random real images without loss as fill its bytes, hard labels",
            {"label": HARD}, needs="bytes"),
    Control("equal_bytes_soft", "as many random real images without loss as fill its bytes, stored soft labels",
            {"label": choice("static")}, needs="bytes"),
    Control("random_soft", "random real images without loss, the nominal number, same labels", {"store": PLAIN}),
    Control("random_hard", "random real images without loss, the nominal number, hard labels",
            {"store": PLAIN, "label": HARD}),
]  # fmt: skip


def _student(info: DatasetInfo) -> TrainRecipe:
    """Return the profile's student without mixing and, under AdamW, with four times its step size.

    Measured at 1,200 steps; much longer runs may want the profile's own.
    """
    made = replace(student(info), mix="none")
    return replace(made, lr=4.0 * made.lr) if made.optimiser == "adamw" else made


@preset(
    "datastill",
    title="Coded real images, soft labels in 4 bits",
    cite="arXiv:2407.17954",
    controls=CONTROLS,
)
def datastill(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """As many random real images as asked for, under AVIF, labelled by the networks; `faithful` changes nothing."""
    return Recipe(
        method="datastill",
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=choice("coded"),
        match=choice("none"),
        label=choice("static", codec=INT4),
        stages=choice("once"),
        student=_student(info),
        networks=networks(info),
    )
