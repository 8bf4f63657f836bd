"""One of two processes that make the same set at the same time. Run as a script: together.py set|distil FOLDER.

Told to begin, it makes the set of `tiny` in FOLDER. It says "asks" as it is about to ask for the lock of the set, and
answers in a line of JSON: how many sets it really made itself, and the hash of what it got, or why it got none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from datastill import engine
from datastill.errors import DatastillError
from datastill.measure.sets import made_set
from datastill.recipe import Recipe, choice
from datastill.runtime.files import sha256_file
from datastill.runtime.progress import Reporter
from reference import tiny

RECIPE: Recipe = tiny.recipe(
    method="random", store=choice("pixels"), match=choice("none"), label=choice("hard"), networks={}
)


def told(lock: Callable[[Path], AbstractContextManager[None]]) -> Callable[[Path], AbstractContextManager[None]]:
    """Return a lock that says when it is asked for."""

    def asked(path: Path) -> AbstractContextManager[None]:
        print("asks", flush=True)
        return lock(path)

    return asked


def make(how: str, folder: Path) -> dict[str, Any]:
    """Make the set, as `compare` does ("set") or as `distill --out` does ("distil")."""
    made: list[object] = []
    realise: Callable[..., Any] = vars(engine)["_realise"]

    def counted(*given: Any) -> Any:
        made.append(given)
        return realise(*given)

    vars(engine)["_realise"] = counted
    vars(engine)["locked"] = told(vars(engine)["locked"])
    try:
        if how == "set":
            made_set(tiny.dataset(), RECIPE, folder, device=tiny.device(), reporter=Reporter())
        else:
            engine.distil(tiny.dataset(), RECIPE, device=tiny.device(), reporter=Reporter(), out=folder)
    except DatastillError as error:
        return {"made": len(made), "says": str(error)}
    return {"made": len(made), "manifest": sha256_file(folder / "manifest.json")}


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(make(sys.argv[1], Path(sys.argv[2]))), flush=True)
