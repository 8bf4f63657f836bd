"""Real images chosen by a rule, with soft labels: what every distilled set has to beat.

Networks, teachers and students are those of the INFER preset of the same data set. No number of a paper stands here:
the usual ones come from code whose rules differ from the definitions (docs/selection.md).
"""

from __future__ import annotations

from collections.abc import Callable

from datastill.methods.profiles import networks, student
from datastill.recipe import Control, DatasetInfo, Recipe, choice, preset

RANDOM, HARD = {"select": choice("random")}, {"label": choice("hard")}
# random_hard is at once its own images with hard labels, and random ones; random_soft would be the set itself.
OF_RANDOM = [
    Control("random_hard", "its own images with hard labels", HARD),
    Control("equal_bytes_hard", "as many random real images as fill its bytes, hard labels", HARD, needs="bytes"),
]
# name: (title, where it comes from)
RULES = {
    "random": ("Random real images, soft labels", "arXiv:2406.10485"),
    "herding": ("Real images by herding, soft labels", "arXiv:1611.07725"),
    "kcenter": ("Real images by farthest-first k-center, soft labels", "arXiv:1708.00489"),
    "easy": ("Easiest real images by early loss, soft labels", "arXiv:2305.18381"),
    "el2n": ("Hardest real images by EL2N, soft labels", "arXiv:2107.07075"),
    "forgetting": ("Most forgotten real images, soft labels", "arXiv:1812.05159"),
}


def controls(rule: str) -> list[Control]:
    """Return the controls of a rule."""
    if rule == "random":
        return OF_RANDOM
    return [
        Control(f"{rule}_hard", "its own images with hard labels", HARD),
        Control("random_soft", "random real images, same labels", RANDOM),
        Control("random_hard", "random real images, hard labels", RANDOM | HARD),
        Control(
            "equal_bytes_hard",
            "as many random real images as fill its bytes, hard labels",
            RANDOM | HARD,
            needs="bytes",
        ),
    ]


def build(rule: str) -> Callable[[DatasetInfo, int, bool], Recipe]:
    """Return the preset function of a rule; `faithful` changes nothing, since no released code is followed."""

    def recipe(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
        return Recipe(
            method=rule,
            ipc=ipc,
            faithful=faithful,
            select=choice(rule),
            store=choice("pixels"),
            match=choice("none"),
            label=choice("static"),
            stages=choice("once"),
            student=student(info),
            networks=networks(info),
        )

    return recipe


for _rule, (_title, _cite) in RULES.items():
    preset(_rule, title=_title, cite=_cite, controls=controls(_rule))(build(_rule))
