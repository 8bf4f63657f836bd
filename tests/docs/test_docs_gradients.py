"""The tables of the page on DC and DSA agree with the code."""

from __future__ import annotations

import yaml

from datastill.match.gradients import LOOPS
from datastill.recipe import compose, method
from reference.pages import INFOS, controlled, profiled, table, value_at

METHODS = ("dc", "dsa")
PROFILES = ("cifar100", "tiny-imagenet", "imagenet", "digits")


def test_the_profiles_of_the_page_are_those_of_the_methods() -> None:
    cells = profiled("gradients.md", PROFILES)
    assert {name for name, *_ in cells} == set(METHODS)
    for name, path, source, cell in cells:
        assert value_at(compose(name, INFOS[source]), path) == yaml.safe_load(cell), (name, path, source)


def test_the_controls_of_the_page_are_those_of_the_methods() -> None:
    assert controlled("gradients.md", METHODS) == {name: {c.name for c in method(name).controls} for name in METHODS}


def test_the_loops_of_the_page_are_those_of_the_match() -> None:
    updates, epochs = table("gradients.md", "loops")
    found = list(zip([int(cell) for cell in updates[1:-1]], ["1", *epochs[2:-1]], strict=True))
    assert {ipc: (outer, int(inner)) for ipc, (outer, inner) in zip(LOOPS, found, strict=True)} == LOOPS
