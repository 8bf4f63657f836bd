"""Results as comparisons, frontiers and proxies write them, made up without any training, for tests of the ledger."""

from __future__ import annotations

from typing import Any

from datastill.measure.rows import put_against_random
from datastill.measure.stats import Summary

CLASSES = ["<b>one</b>", "two", "three"]
STUDENT = {"optimiser": "sgd", "lr": 0.1, "batch": 64}
TEACHERS = {
    "convnet": {"arch": "convnet", "top1": 80.0, "bytes": 4000, "steps": 90, "seconds": 1.5, "losses": [1.0] * 90},
    "mean of logits": {"arch": "ensemble", "top1": 81.0, "bytes": 4000},
}


def row(
    method: str, scores: list[float], *, arm: str = "", column: str = "S", role: str = "method", ipc: int = 10,
    student: str = "convnet", total: int = 1000, steps: int = 400, same_work: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Return a row of a comparison."""
    top1, labels = Summary.of(scores), 0 if column == "H" else 100
    return {
        "arm": arm or method, "says": f"what {arm or method} <i>is", "method": method, "title": method.upper(),
        "role": role, "random": method == "random" and role in ("method", "hard"), "ipc": ipc, "student": student,
        "column": column, "split": "test", "epoch": "last", "items": 30, "pictures": 30, "steps": steps,
        "same_work": same_work, "batch": 64, "label_bytes": labels, "teacher_top1": None if column == "H" else 81.0,
        "bytes": {"natural images": total - labels, "labels": labels, "total": total}, "set_seconds": 2.5,
        "seeds": list(range(len(scores))),
        "top1": {"per_seed": scores, "mean": top1.mean, "std": top1.std, "n": top1.n},
        "per_class": [top1.mean] * len(CLASSES), "seconds": [0.5] * len(scores),
        "losses": [2.0 / (i + 1) for i in range(150)], "item_accuracy": [[50, 10.0], [100, 20.0]],
        "embedding": {"x": [0.0], "y": [0.0], "cls": [0]},
        "recipe": {"method": method, "ipc": ipc, "seed": 0, "networks": {"convnet": {}}, "arm": arm,
                   "label": {"kind": "hard" if column == "H" else "static"}},
    }  # fmt: skip


def measured(rows: list[dict[str, Any]], kind: str = "comparison", source: str = "photos") -> dict[str, Any]:
    """Return the results that hold these rows."""
    put_against_random(rows)
    return {
        "kind": kind, "schema": 1, "classes": CLASSES, "shape": [3, 8, 8], "train_images": 300,
        "source": {"asked": "/home/someone/photos", "name": source, "fingerprint": "f4" * 32, "notes": [],
                   "skipped": ["/home/someone/photos/bad.png is no picture"]},
        "protocol": {"student": STUDENT, "steps": 400, "batch": 64, "seeds": [0, 1, 2], "split": "test",
                     "epoch": "last"},
        "rows": rows, "failures": [], "teachers": TEACHERS, "paper": [],
        "real_bytes": {"webp": 20_000, "raw": 57_600}, "seconds": {"train students": 12.0}, "peak_bytes": 1 << 28,
        "versions": {"datastill": "0.1.0", "torch": "2.9"}, "chosen_on": None,
        "device": {"device": "cpu", "name": "A CPU", "precision": "float32", "threads": "1"},
        "commands": ["datastill compare /home/someone/photos --out '/home/some one/run'"], "python": "3.11.7",
    }  # fmt: skip


def compared(source: str = "photos", ipc: int = 10, **others: list[float]) -> dict[str, Any]:
    """Return a comparison of INFER, which is worse than random real images, with any other methods."""
    rows = [
        row("infer", [46.0, 47.0, 46.5], ipc=ipc, total=1200),
        row("infer", [40.0, 41.0, 40.2], arm="infer_hard", column="H", role="hard", ipc=ipc, total=1100),
        row("random", [51.0, 52.1, 51.4], ipc=ipc),
        row("random", [45.0, 45.5, 45.2], arm="random_hard", column="H", role="hard", ipc=ipc, total=900),
        *(row(name, scores, ipc=ipc) for name, scores in others.items()),
    ]
    return measured(rows, source=source)


def frontier() -> dict[str, Any]:
    """Return a frontier: real images and a method at two sizes, and two networks that could be sent."""
    rows = [row("infer", [46.0, 47.0, 46.5], arm=f"infer, logits ipc{ipc}", ipc=ipc) for ipc in (10, 50)] + [
        row("random", [50.0, 51.0, 52.0], arm=f"random avif:60, hard ipc{ipc}", column=column, role="frontier", ipc=ipc,
            total=size)
        for column in "HS"
        for ipc, size in ((10, 500), (50, 2100))
    ]  # fmt: skip
    networks = [{"arm": f"ship {name}, fp16", "bytes": size, "top1": top1}
                for name, size, top1 in (("resnet18", 9000, 90.0), ("convnet", 2000, 80.0))]  # fmt: skip
    return measured(rows, "frontier") | {"networks": networks}


def proxy(name: str) -> dict[str, Any]:
    """Return a run of a proxy task: "nas", or "continual"."""
    value = {"value": 0.5, "low": 0.1, "high": -0.7}
    scope = {"n": 4, "tau": value, "rho": {"value": None, "low": None, "high": None}}
    facts = {"all": scope, "top half": scope}
    if name == "continual":
        own: dict[str, Any] = {
            "orders": [[[0], [1, 2]]], "seen": [1, 3], "student": "convnet",
            "rows": [
                {"arm": arm, "says": f"what {arm} is", "role": role, "column": "S", "items": 30, "steps": 400,
                 "bytes": {"total": 1000}, "after": [_top1(90.0), _top1(60.0)], "average": _top1(75.0), "held": [],
                 "seconds": [1.0], "losses": [1.0] * 200, "against_random": gap}
                for arm, role, gap in (
                    ("infer", "method", {"arm": "random_soft", "mean": -2.0, "t": -4.0, "p": 0.05, "n": 3,
                                         "verdict": "none"}),
                    ("random_soft", "control", None),
                )
            ],
        }  # fmt: skip
    else:
        arms = [("infer", "method"), ("random_soft", "control"), ("whole", "whole")]
        own = {
            "what": "networks", "control": "random_soft",
            "arms": [{"arm": arm, "says": f"what {arm} is", "role": role} for arm, role in arms],
            "rows": [{"candidate": f"net{i}", "top1": {}, "losses": [1.0] * 200} for i in range(4)],
            "agreement": {"infer": facts, "random_soft": facts, "size": facts},
            "choices": {
                "best": {"candidate": "net3", "real_top1": 91.0}, "blind": {"real_top1": 80.0, "behind": 11.0},
                "arms": {arm: {"candidate": "net1", "real_top1": 88.0, "behind": 3.0}
                         for arm in ("infer", "random_soft")},
            },
            "time": {"students": {"infer": 10.0, "random_soft": 9.0, "whole": 700.0}, "distillation": 100.0},
        }  # fmt: skip
    shared = {k: v for k, v in measured([]).items() if k not in ("rows", "teachers", "paper", "failures", "seconds")}
    return shared | own | {
        "kind": "proxy", "proxy": name, "method": "infer", "title": "INFER", "ipc": 10, "recipe": {"method": "infer"},
        "distilled": "/home/someone/set", "verdict": ["It ranks no better than <i>random.", "More is said."],
    }  # fmt: skip


def _top1(mean: float) -> dict[str, Any]:
    return {"per_seed": [mean - 1, mean, mean + 1], "mean": mean, "std": 1.0, "n": 3}
