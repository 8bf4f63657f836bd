"""Datastill's own preset: random real images under a lossy codec, packed, and as many as the bytes hold.

A lever stands here only where a row under docs/results/ says that it helps; so far none but the codec does.
"""

from __future__ import annotations

from datastill.methods.profiles import networks, student
from datastill.recipe import Control, DatasetInfo, Recipe, choice, preset

HARD, STATIC = choice("hard"), choice("static", codec={"kind": "klt"})
PLAIN = choice("pixels")
CONTROLS = [
    Control("soft", "its own images with soft labels under a codec", {"label": STATIC}),
    Control("equal_bytes_hard", "as many random real images without loss as fill its bytes, hard labels",
            {"label": HARD}, needs="bytes"),
    Control("equal_bytes_soft", "as many random real images without loss as fill its bytes, stored soft labels",
            {"label": STATIC}, needs="bytes"),
    Control("random_hard", "random real images without loss, the nominal number, hard labels",
            {"store": PLAIN, "label": HARD}),
]  # fmt: skip


@preset(
    "datastill",
    title="Coded real images",
    cite="arXiv:2407.17954",
    controls=CONTROLS,
)
def datastill(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """As many random real images as asked for, under AVIF, with hard labels; `faithful` changes nothing."""
    return Recipe(
        method="datastill",
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=choice("coded"),
        match=choice("none"),
        label=HARD,
        stages=choice("once"),
        student=student(info),
        networks=networks(info),
    )
