"""Phases: steps and seconds add up, whatever draws them."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from datastill.runtime.progress import Reporter, Terminal


def reporters() -> list[Reporter]:
    return [Reporter(), Terminal(Console(file=io.StringIO(), force_terminal=True, width=100))]


@pytest.mark.parametrize("reporter", reporters(), ids=["silent", "terminal"])
def test_the_seconds_of_phases_of_one_name_add_up(reporter: Reporter) -> None:
    start = time.perf_counter()
    for _ in range(2):
        with reporter.phase("work", 3) as phase:
            phase.advance()
            phase.advance(2)
            time.sleep(0.02)
        assert (phase.done, phase.total) == (3, 3)
        assert phase.seconds >= 0.02
    with reporter.phase("rest", 1):
        pass
    whole = time.perf_counter() - start
    assert reporter.seconds.keys() == {"work", "rest"}
    assert 0.04 <= reporter.seconds["work"] <= whole
    assert 0 <= reporter.seconds["rest"] < reporter.seconds["work"]


@pytest.mark.parametrize("reporter", reporters(), ids=["silent", "terminal"])
def test_a_phase_may_begin_with_what_an_earlier_run_did(reporter: Reporter) -> None:
    with reporter.phase("work", 10, 7) as phase:
        assert phase.done == 7
        phase.advance()
    assert phase.done == 8


@pytest.mark.parametrize("reporter", reporters(), ids=["silent", "terminal"])
def test_a_phase_that_fails_has_taken_its_time_too(reporter: Reporter) -> None:
    with pytest.raises(KeyError), reporter.phase("work", 1):
        raise KeyError
    assert reporter.seconds["work"] > 0


def test_a_terminal_shows_names_counts_and_lines() -> None:
    screen = io.StringIO()
    terminal = Terminal(Console(file=screen, force_terminal=True, width=100))
    with terminal.phase("train resnet18", 4, 1) as phase:
        phase.advance(3)
    terminal.say("a line of [plain] text")
    text = screen.getvalue()
    assert "train resnet18" in text
    assert "4/4" in text
    assert "a line of" in text
    Reporter().say("nobody hears")
