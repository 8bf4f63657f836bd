"""A run that is killed, for real, at every kind of moment, and then taken up again. Run as a script: killed.py FOLDER.

Each moment has a folder of its own in FOLDER, with a cache of its own; `plain` is never killed. For every moment one
child process distils until it kills itself with SIGKILL (nothing is cleaned up), and another one goes on with
`resume=True`. Children are forked from one parent that has imported everything and computed nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datastill import engine
from datastill.label import static
from datastill.recipe import NetworkRecipe, Recipe, TrainRecipe, choice
from datastill.runtime.device import Device, open_device
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset, load
from datastill.training import bank

# What is being put in its place (by the end of its path), for which time, and whether the kill comes before or after.
MOMENTS = {
    "first-network-begun": ("checkpoint.safetensors", 1, "after"),
    "first-network-half-written": ("checkpoint.safetensors", 4, "before"),
    "first-network-unrecorded": ("network.safetensors", 1, "after"),
    "second-network-begun": ("checkpoint.safetensors", 14, "after"),
    "first-group-begun": ("group-00000.safetensors", 1, "after"),
    "first-group-half-written": ("group-00000.safetensors", 3, "before"),
    "second-group-done": ("group-00001.safetensors", 5, "after"),
    "labels-half-made": ("", 2, "label"),
    "pictures-half-written": ("images.parquet", 1, "before"),
    "arrays-written": ("arrays.safetensors", 1, "after"),
    "manifest-half-written": ("manifest.json", 1, "before"),
    "manifest-written": ("manifest.json", 1, "after"),
}
TEACHING = TrainRecipe(lr=0.05, steps=12, batch=32, crop=1, flip=False)
RECIPE = Recipe(
    method="infer",
    ipc=3,
    validation=6,
    select=choice("random"),
    store=choice("compensated"),
    match=choice("statistics", rounds=5, lr=0.1, jitter=1),
    label=choice("static"),
    stages=choice("once"),
    student=TrainRecipe(),
    networks={
        "one": NetworkRecipe(arch="convnet", settings={"width": 8}, training=TEACHING),
        "two": NetworkRecipe(arch="convnet", settings={"width": 10}, seed=1, training=TEACHING),
    },
)


def die() -> None:
    """Leave at once, as a machine that loses its power does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(ending: str, time: int, when: str) -> None:
    """Make this process kill itself at one moment."""
    seen = [0]

    def counted(act: Callable[[], object]) -> None:
        seen[0] += 1
        if seen[0] == time and when in ("before", "label"):
            die()
        act()
        if seen[0] == time:
            die()

    replace, predict = os.replace, vars(static)["predict"]
    if when == "label":

        def predicting(*args: Any, **options: Any) -> Any:
            counted(lambda: None)
            return predict(*args, **options)

        vars(static)["predict"] = predicting
        return

    def replacing(part: Path, path: Path) -> None:
        if str(path).endswith(ending):
            counted(lambda: replace(part, path))
        else:
            replace(part, path)

    os.replace = replacing  # type: ignore[assignment]  # of this child alone


def child(work: Callable[[], object]) -> int:
    """Fork, work, and return how the child ended: 0, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def distil(data: Dataset, device: Device, folder: Path, *, resume: bool) -> None:
    """Distil into the folder, with a cache of its own and a checkpoint after every step."""
    os.environ["DATASTILL_CACHE"] = str(folder / "cache")
    engine.distil(data, RECIPE, device=device, reporter=Reporter(), out=folder / "set", resume=resume)


def main(root: Path) -> None:
    """Kill a run at every moment and take it up again."""
    os.environ["DATASTILL_CACHE"] = str(root / "cache")
    for module in (bank, engine):
        vars(module)["CHECKPOINT_SECONDS"] = -1.0
    engine.GROUP_VALUES["cpu"] = 0
    data, device = load("digits", classes=["3", "5", "8"]), open_device("cpu", "float32")
    ended = child(lambda: distil(data, device, root / "plain", resume=False))
    assert ended == 0, f"the plain run ended with {ended}"
    for name, moment in MOMENTS.items():

        def killed(name: str = name, moment: tuple[str, int, str] = moment) -> None:
            kill_at(*moment)
            distil(data, device, root / name, resume=False)

        ended = child(killed)
        assert ended == -signal.SIGKILL, f"{name}: not killed, but ended with {ended}"
        resumed = child(lambda name=name: distil(data, device, root / name, resume=True))  # type: ignore[misc]
        assert resumed == 0, f"{name}: the resumed run ended with {resumed}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
