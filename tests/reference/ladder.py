"""Results as `datastill ablate` writes them, made up without any training, for tests of pages and of the ledger."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from datastill.measure.stats import Difference, Summary
from datastill.recipe import DatasetInfo, TrainRecipe, compose
from datastill.runtime.versions import versions
from datastill.settings import plain

CLASSES = ("<script>alert(1)</script>", "a|b", "plain")
HOSTILE = "a|b <b>x"
STUDENT = "convnet(width=64)"
INFO = DatasetInfo("photos", 3, (3, 32, 32), 3000, (0.5,) * 3, (0.2,) * 3)
START = [45.0, 46.0, 45.6]
# experiment: (what it asks, whether a variant may stay, the one that does, variant -> (changes, method, size, column,
# points above the best so far for each seed)). The rule is 0.3 points and one deviation of the differences.
EXPERIMENTS: dict[str, tuple[str, bool, str | None, dict[str, Any]]] = {
    "loss": ("Which loss reads a label best?", True, "T = 4", {
        "T = 4": (["student.temperature=4.0", "student.kl_scale=temperature-squared"], None, "budget", "S",
                  [0.8, 1.0, 1.2]),
        "squared error": (["student.soft_loss=mse"], None, "budget", "S", [0.1, 0.2, 0.3]),
        HOSTILE: (["student.hard_weight=0.1"], None, "budget", "S", [-0.6, 0.5, 1.6]),
    }),
    "labels": ("", True, None, {"hard": (["label=hard"], None, "budget", "H", [-2.0, -1.5, -2.2])}),
    "codec": ("How many bytes is an image worth?", True, "q45", {
        "q30": (["store.codec.quality=30"], None, "budget", "S", [0.4, 0.5, 0.6]),
        "q45": (["store.codec.quality=45"], None, "budget", "S", [1.0, 1.4, 0.9]),
        "herding": ([], "herding", "own", "S", [3.0, 3.1, 3.2]),
    }),
    "controls": ("What stands beside the result?", False, None, {
        "INFER": ([], "infer", "own", "S", [-5.0, -4.0, -4.5]),
        "without loss": (["store.codec.format=webp-lossless"], None, "same", "S", [0.5, 0.6, 0.7]),
    }),
    "views": ("", True, None, {}),
}  # fmt: skip
FAILURES: list[dict[str, Any]] = [
    {"method": "views: two <i>views", "ipc": 0, "says": "label 'views' needs a student without crops."}
]
TEACHERS = {
    "convnet": {"arch": "convnet", "top1": 61.5, "bytes": 44_600, "steps": 115, "seconds": 66.05, "losses": [1.5, 0.2]},
    "mean of logits": {"arch": "ensemble", "top1": 63.0, "bytes": 44_600},
}
RULE = {"gain": 0.3, "sds": 1.0}


def ladder(
    *, seeds: int = 3, split: str = "validation", budget: int | None = 400_000, only: Sequence[str] = tuple(EXPERIMENTS)
) -> dict[str, Any]:
    """Return fresh results of a plan with these experiments."""
    start = _row("start", "start", 0, START[:seeds], [], None, "budget" if budget else "own", "S", split)
    best, experiments, changes, order = start, [], [], 1
    for name in only:
        says, adopt, adopted, variants = EXPERIMENTS[name]
        rows: dict[str, dict[str, Any]] = {}
        for variant, (changed, method, size, column, points) in variants.items():
            scores = [round(a + b, 4) for a, b in zip(best["top1"]["per_seed"], points, strict=False)]
            row = _row(name, variant, order, scores, changed, method, size, column, split)
            rows[variant] = row | {"against_best": gap_of(row, best), "beside": best["variant"],
                                   "adopted": variant == adopted}  # fmt: skip
            order += 1
        if adopted:
            best = rows[adopted]
            changes += best["changes"]
        experiments.append({"name": name, "says": says, "adopt": adopt, "adopted": adopted,
                            "rows": list(rows.values())})  # fmt: skip
    return {
        "kind": "ablation", "schema": 1,
        "source": {"asked": "/home/someone/photos", "name": "photos <b>", "fingerprint": "f4" * 32, "notes": [],
                   "skipped": []},
        "classes": list(CLASSES), "shape": [3, 32, 32], "train_images": 3000,
        "protocol": {"student": STUDENT, "steps": 1200, "seeds": list(range(seeds)), "split": split, "epoch": "last",
                     "budget": budget, "rule": dict(RULE)},
        "plan": {"name": "levers", "says": "What moves the number?", "method": "datastill",
                 "changes": ["label=static"]},
        "chosen_on": "validation", "start": start, "experiments": experiments, "best": {"changes": changes},
        "failures": [dict(found) for found in FAILURES if found["method"].partition(":")[0] in only],
        "teachers": TEACHERS, "real_bytes": {"webp": 4_000_000, "raw": 9_216_000},
        "seconds": {"label": 1.0, "train students": 12.0}, "peak_bytes": 1 << 28, "versions": versions(),
        "device": {"device": "cpu", "name": "A CPU", "precision": "float32", "threads": "1", "jobs": "1"},
        "commands": ["datastill ablate /home/someone/photos --plan levers.yaml --out '/home/some one/run'"],
        "python": "3.11.7",
    }  # fmt: skip


def gap_of(row: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Return how far a row is above another one, with the deviation of the differences over seeds."""
    ours, theirs = row["top1"]["per_seed"], best["top1"]["per_seed"]
    gap = Difference.of(ours, theirs)
    return {"mean": gap.mean, "t": gap.t, "p": gap.p, "n": gap.n, "verdict": gap.verdict,
            "sd": statistics.stdev(a - b for a, b in zip(ours, theirs, strict=True))}  # fmt: skip


def _row(
    experiment: str, variant: str, order: int, scores: list[float], changes: list[str], method: str | None, size: str,
    column: str, split: str,
) -> dict[str, Any]:  # fmt: skip
    top1, items, name = Summary.of(scores), 900 + 10 * order, method or "datastill"
    ledger = {"natural images": 350 * items, "compensators": 0, "labels": 0 if column == "H" else 30 * items,
              "items": 900, "teachers": 0, "metadata": 2500}  # fmt: skip
    recipe = compose(name, INFO, changes=[] if method else ["store.total=" + str(items), f"label={_label(column)}"])
    return {
        "arm": "start" if order == 0 else f"{experiment}: {variant}", "says": "", "method": name,
        "title": {"datastill": "Coded real images", "infer": "INFER, static labels"}.get(name, "Herding"),
        "role": "trial", "random": False, "ipc": 10, "student": STUDENT, "column": column, "split": split,
        "epoch": "last", "items": items, "pictures": items, "steps": 1200, "same_work": True, "batch": 64,
        "bytes": ledger | {"total": sum(ledger.values())}, "label_bytes": ledger["labels"],
        "teacher_top1": None if column == "H" else 63.0, "set_seconds": 2.5, "seeds": list(range(len(scores))),
        "top1": {"per_seed": scores, "mean": top1.mean, "std": top1.std, "n": top1.n},
        "per_class": [top1.mean] * len(CLASSES), "seconds": [0.5] * len(scores),
        "losses": [2.0 / (i + 1) for i in range(150)], "item_accuracy": [[50, 10.0]], "embedding": None,
        "recipe": recipe.plain(), "against_random": None,
        "plan": "levers", "experiment": experiment, "order": order, "variant": variant, "changes": changes,
        "of": method, "size": size, "trained": plain(TrainRecipe(lr=0.001 * (order + 1))), "against_best": None,
        "beside": "start", "adopted": False,
    }  # fmt: skip


def _label(column: str) -> str:
    return "hard" if column == "H" else "static"
