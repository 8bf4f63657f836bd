"""A tiny distilled set on disk, and results as `evaluate` writes them, without any training."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from datastill.artifact import DistilledDataset
from datastill.fields import Content, Items, Labels, Pictures
from datastill.measure.evaluate import Plan, verdict
from datastill.measure.stats import Difference, Summary
from datastill.recipe import DatasetInfo, compose, method
from datastill.runtime.seeds import rng
from datastill.runtime.versions import versions

CLASSES = ("<script>alert(1)</script>", "a|b", "$x_1$ & co", "plain")
ARMS = {
    "random_soft": ("random real images, same labels", "S", 16, 400),
    "other_steps": ("the set itself under the other label kind's number of steps", "S", 32, 100),
    "random_hard": ("random real images, hard labels", "H", 16, 400),
    "dynamic": ("its own images with networks in the loop", "D", 32, 400),
}


def small_set(classes: tuple[str, ...] = CLASSES, side: int = 8, channels: int = 1, ipc: int = 4) -> DistilledDataset:
    """Return an INFER set of two natural sets with random pixels and compensators, not saved."""
    draw = rng(0, "small set")
    mean, std = (0.5,) * channels, (0.25,) * channels
    info = DatasetInfo("tiny <b>", len(classes), (channels, side, side), 200, mean, std)
    recipe = compose("infer", info, ipc=ipc)
    makers, sets = len(recipe.networks), 2
    spots = list(itertools.product(range(len(classes)), range(makers + 1), range(sets)))
    k, j, n = torch.tensor(spots).T
    items = Items.of(cls=k, set=n, maker=j - 1, unit=torch.where(j > 0, n * makers + j - 1, -1), picture=k * sets + n)
    pixels = torch.from_numpy(draw.integers(0, 256, (len(classes) * sets, channels, side, side), dtype=np.uint8))
    pictures = Pictures(pixels, torch.arange(len(classes)).repeat_interleave(sets),
                        tuple(f"train/{i}" for i in range(len(pixels))))  # fmt: skip
    units = torch.from_numpy(draw.integers(-30, 31, (sets * makers, channels, side, side)).astype(np.int8))
    logits = torch.from_numpy(draw.normal(size=(len(items), len(classes)))).half()
    counts = {
        "nominal": ipc * len(classes), "natural": len(pixels), "compensators": len(units), "leftover": 2, "sets": sets,
        "items": len(items), "compensator_norms": [1.5] * len(units), "compensator_rms": 0.1, "compensator_max": 0.236,
        "saturated_share": 0.307,
        "losses": {
            name: {
                "natural": {"cross-entropy": 0.1237, "statistics": 172.26},
                "open": {"cross-entropy": 0.1131, "statistics": 103.89},
                "rendered": {"cross-entropy": 0.1271, "statistics": 151.13},
            }
            for name in ("convnet", "resnet10", "mobilenetv2")
        },
    }  # fmt: skip
    facts = {
        "counts": counts, "real_bytes": {"webp": 148_668, "raw": 92_032}, "versions": versions(),
        "device": {"device": "cpu", "name": "A CPU", "precision": "float32", "threads": "1"},
        "command": "datastill distill /home/someone/photos --ipc 4 --out DIR",
        "source": {"asked": "/home/someone/photos", "name": "tiny <b>", "fingerprint": "f4" * 32,
                   "notes": ["Grey & <i>small</i>."], "skipped": ["/home/someone/photos/train/a.png"]},
    }  # fmt: skip
    return DistilledDataset(recipe, info, classes, Content(items, pictures, {"compensators": units}),
                            Labels("logits", logits), facts)  # fmt: skip


def results_of(
    distilled: DistilledDataset, students: dict[str, dict[str, list[float]]], paper: bool = False
) -> dict[str, Any]:
    """Return results of a saved set. students: name -> {arm: accuracy per seed}, the method's arm first."""
    rows = [_row(distilled, student, arm, scores) for student, arms in students.items() for arm, scores in arms.items()]
    for student in students:
        mine = [row for row in rows if row["student"] == student]
        for row in mine[1:]:
            gap = Difference.of(mine[0]["top1"]["per_seed"], row["top1"]["per_seed"])
            row["method_minus_this"] = {"mean": gap.mean, "t": gap.t, "p": gap.p, "n": gap.n, "verdict": gap.verdict}
        beside = next((row for row in mine if row["arm"] == "random_soft"), None)
        for row in mine:
            row |= {"random": row is beside, "against_random": None}
        mine[0]["against_random"] = None if beside is None else beside["method_minus_this"]
    recipe, facts = distilled.recipe, distilled.facts
    same = {"top1": 98.61, "bytes": 44_600, "losses": [1.5, 0.8, 0.2], "seconds": 66.05, "steps": 115}
    networks: dict[str, Any] = {name: {"arch": made.arch} | same for name, made in recipe.networks.items()}
    networks["mean of logits"] = {"arch": "ensemble", "top1": 98.75, "bytes": 44_600 * len(networks)}
    printed = [vars(p) for p in method("infer").paper if (p.source, p.ipc) == ("cifar100", 10)]
    return {
        "source": facts["source"], "classes": list(distilled.classes), "method": recipe.method, "ipc": recipe.ipc,
        "verdict": verdict(rows, Plan(tuple(students), 3, ("random_soft",))), "rows": rows, "teachers": networks,
        "paper": printed if paper else [], "counts": facts["counts"], "bytes": distilled.ledger(),
        "real_bytes": facts["real_bytes"], "recipe": recipe.plain(), "distilled": str(distilled.folder),
        "chosen_on": None, "seconds": {"distil (statistics)": 1.06, "label": 0.06, "train convnet (convnet)": 66.1},
        "peak_bytes": 986_382_336, "versions": versions(), "device": facts["device"],
        "commands": [facts["command"], "datastill evaluate '/home/some one/set' --students convnet"],
        "python": "3.11.7",
    }  # fmt: skip


def _row(distilled: DistilledDataset, student: str, arm: str, scores: list[float]) -> dict[str, Any]:
    own = ("INFER, static labels, as distilled", "S", len(distilled), 400)
    says, column, items, steps = ARMS.get(arm, own)
    top1, ledger, classes = Summary.of(scores), dict(distilled.ledger()), len(distilled.classes)
    if column == "D":
        ledger |= {"teachers": 133_800, "labels": 0, "total": ledger["total"] + 133_800 - ledger["labels"]}
    draw = rng(1, student, arm)
    spots = {"x": draw.normal(size=60).round(3).tolist(), "y": draw.normal(size=60).round(3).tolist(),
             "cls": [i % classes for i in range(60)]}  # fmt: skip
    return {
        "arm": arm, "says": says, "student": student, "column": column, "split": "test", "epoch": "last",
        "items": items, "pictures": 8, "steps": steps, "batch": 64, "bytes": ledger, "seeds": list(range(len(scores))),
        "top1": {"per_seed": scores, "mean": top1.mean, "std": top1.std, "n": top1.n},
        "per_class": [top1.mean] * classes, "seconds": [0.5] * len(scores),
        "losses": [round(2.0 / (i + 1), 6) for i in range(150)],
        "item_accuracy": [[50 * (i + 1), 10.0 * (i + 1)] for i in range(8)], "embedding": spots,
    }  # fmt: skip


WORSE = {
    "infer": [46.0, 47.0, 46.5],
    "random_soft": [51.0, 52.1, 51.4],
    "other_steps": [30.0, 31.0, 32.0],
    "random_hard": [80.0, 80.5, 80.1],
    "dynamic": [46.2, 46.8, 46.4],
}
