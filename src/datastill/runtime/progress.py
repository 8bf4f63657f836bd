"""Progress as rooms report it: a phase with a number of steps. What is drawn is the caller's affair."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@dataclass
class Phase:
    """One phase of a run: what it does, how far it is, and the seconds that it took."""

    name: str
    total: int
    done: int = 0
    seconds: float = 0.0

    def advance(self, steps: int = 1) -> None:
        """Move on by `steps`."""
        self.done += steps


@dataclass
class Reporter:
    """Collects phases; draws nothing. `seconds` holds the time of each finished phase by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Phase]:
        """Open a phase of `total` steps, `done` of them finished already by an earlier run."""
        phase, start = Phase(name, total, done), time.perf_counter()
        try:
            yield phase
        finally:
            phase.seconds = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + phase.seconds

    def say(self, text: str) -> None:
        """Tell the reader one line."""


class Terminal(Reporter):
    """A reporter with a progress bar per phase, time left, and plain lines between them."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(stderr=True)

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Phase]:
        """Open a phase with a bar of its own."""
        columns = (
            TextColumn("{task.description:<46}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self.console) as bar, super().phase(name, total, done) as phase:
            task = bar.add_task(name, total=total, completed=done)

            def advance(steps: int = 1) -> None:
                phase.done += steps
                bar.update(task, completed=phase.done)

            phase.advance = advance  # type: ignore[method-assign]  # the bar follows this one phase
            yield phase

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, soft_wrap=True)
