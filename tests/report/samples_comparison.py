"""Results of a comparison as `datastill compare` writes them, without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datastill.measure.rows import put_against_random
from datastill.measure.scores import scores_of
from datastill.measure.stats import Summary
from datastill.recipe import TrainRecipe, method
from datastill.runtime.seeds import rng
from datastill.runtime.versions import versions
from datastill.settings import plain

CLASSES = ("<script>alert(1)</script>", "a|b", "$x_1$ & co", "plain")
STUDENTS = ("convnet(width=32)", "resnet18")
RANDOM_SAYS = "random real images, same labels"
TITLES = {"infer": "INFER, static labels", "infer-dyn": "INFER, networks in the loop", "random": "Random real images",
          "dm": "Distribution matching"}  # fmt: skip
# arm: (method, role, column, what it says, points above random real images of its column, label bytes per image)
ARMS = {
    "random": ("random", "method", "H", "Random real images, as distilled", 0.0, 0),
    "dm": ("dm", "method", "H", "Distribution matching, as distilled", 4.0, 0),
    "infer_hard": ("infer", "hard", "H", "its images with hard labels", -6.0, 0),
    "whole": ("random", "whole", "H", "the whole real training set", 45.0, 0),
    "infer": ("infer", "method", "S", "INFER, static labels, as distilled", -2.0, 80),
    "random_S": ("infer", "control", "S", RANDOM_SAYS, 0.0, 80),
    "infer/noise": ("infer", "control", "S", "noise of the same norm in place of compensators", -0.1, 80),
    "infer/other_steps": ("infer", "control", "S", "the set itself under another number of steps", -9.0, 80),
    "infer-dyn": ("infer-dyn", "method", "D", "INFER, networks in the loop, as distilled", 3.0, 0),
    "random_D": ("infer-dyn", "control", "D", RANDOM_SAYS, 0.0, 0),
}
RANDOM = ("random", "random_S", "random_D")
LEVELS = {"H": 20.0, "S": 28.0, "D": 30.0}
FAILURES = [
    {"method": "kcenter", "ipc": 10, "says": "kcenter needs 50 training images in class 'a|b', which has 12."},
    {"method": "dm", "ipc": 1, "says": "the student of seed 2 ran out of memory"},
]


def comparison_of(
    ipcs: Sequence[int] = (1, 10),
    students: Sequence[str] = STUDENTS,
    *,
    seeds: int = 3,
    split: str = "test",
    scores: bool = True,
) -> dict[str, Any]:
    """Return fresh results: arms in all columns; INFER is worse than its control, and `infer-dyn` better than its."""
    rows = []
    for ipc in ipcs:
        found = [row_of(arm, ipc, student, seeds, split) for student in students for arm in ARMS]
        put_against_random(found)
        rows += [row for row in found if (row["method"], ipc) != ("dm", 1)]
    same = {"bytes": 44_600, "losses": [1.5, 0.8, 0.2], "seconds": 66.05, "steps": 115}
    return {
        "kind": "comparison", "schema": 1,
        "source": {"asked": "photos", "name": "tiny <b>", "fingerprint": "f4" * 32, "skipped": [],
                   "notes": ["Grey & <i>small</i>."]},
        "classes": list(CLASSES), "shape": [3, 32, 32], "train_images": 5000,
        "protocol": {"student": plain(TrainRecipe()), "steps": 400, "batch": 64, "seeds": list(range(seeds)),
                     "split": split, "epoch": "last"},
        "chosen_on": None, "rows": rows, "scores": scores_of(rows) if scores else [],
        "failures": [dict(entry) for entry in FAILURES if entry["ipc"] in ipcs],
        "teachers": {name: {"arch": name, "top1": 61.5} | same for name in ("convnet", "resnet10")}
        | {"mean of logits": {"arch": "ensemble", "top1": 63.0, "bytes": 89_200}},
        "paper": [{"method": "infer", "source": "tiny <b>", "ipc": 10, "student": "resnet18", "column": "S",
                   "top1": 45.2, "std": 0.04, "where": "Table 1", "cite": method("infer").cite}],
        "real_bytes": {"webp": 9_300_000, "raw": 15_360_000},
        "seconds": {"distil (statistics)": 1.06, "train convnet (convnet)": 66.1}, "peak_bytes": 986_382_336,
        "versions": versions(), "commands": ["datastill compare photos --methods random,dm,infer,infer-dyn"],
        "device": {"device": "cpu", "name": "A CPU", "precision": "float32", "threads": "1", "jobs": "1"},
        "python": "3.11.7",
    }  # fmt: skip


def row_of(arm: str, ipc: int, student: str, seeds: int, split: str) -> dict[str, Any]:
    """Return one row; its accuracies are a level of its column and ipc, its arm's points, and a little noise."""
    name, role, column, says, points, label_bytes = ARMS[arm]
    level = LEVELS[column] + (15.0 if ipc > 1 else 0.0) + (5.0 if student == "resnet18" else 0.0)
    shared = rng(0, column, ipc, student).normal(size=seeds)  # seeds are paired
    own = rng(1, arm, ipc, student).normal(size=seeds)
    top1 = Summary.of([round(level + points + 0.5 * a + 0.2 * b, 2) for a, b in zip(shared, own, strict=True)])
    items = 5000 if role == "whole" else ipc * len(CLASSES)
    return {
        "arm": arm, "says": says, "method": name, "title": TITLES[name], "role": role, "random": arm in RANDOM,
        "ipc": ipc, "student": student, "column": column, "split": split, "epoch": "last", "items": items,
        "pictures": items, "steps": 100 if arm == "infer/other_steps" else 400,
        "same_work": arm != "infer/other_steps", "batch": 64, "bytes": ledger_of(items, column, label_bytes),
        "label_bytes": items * label_bytes, "teacher_top1": None if column == "H" else 63.0,
        "set_seconds": None if name == "random" else 12.5 * ipc, "seeds": list(range(seeds)),
        "top1": {"per_seed": list(top1.per_seed), "mean": top1.mean, "std": top1.std, "n": top1.n},
        "per_class": [top1.mean] * len(CLASSES), "seconds": [0.5] * seeds, "losses": [2.0, 1.0, 0.5],
        "item_accuracy": [[50, 10.0]], "embedding": None,
        "recipe": {"label": {"kind": {"H": "hard", "S": "static", "D": "dynamic"}[column]}, "networks": {}},
    }  # fmt: skip


def ledger_of(items: int, column: str, label_bytes: int) -> Mapping[str, int]:
    """Return the bytes of a set by what they are for."""
    found = {"natural images": 2000 * items, "compensators": 0, "labels": items * label_bytes, "items": 900 + items,
             "teachers": 89_200 if column == "D" else 0, "metadata": 2500}  # fmt: skip
    return found | {"total": sum(found.values())}
