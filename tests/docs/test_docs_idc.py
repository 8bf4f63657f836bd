"""The tables of the page on IDC agree with the code."""

from __future__ import annotations

import yaml

from datastill.recipe import compose, method
from reference.pages import INFOS, controlled, profiled, value_at

METHODS = ("idc-i", "idc")
PROFILES = ("cifar10", "cifar100", "tiny-imagenet", "imagenet", "digits")


def test_the_profiles_of_the_page_are_those_of_the_methods() -> None:
    cells = profiled("idc.md", PROFILES)
    assert {name for name, *_ in cells} == set(METHODS)
    for name, path, source, cell in cells:
        assert value_at(compose(name, INFOS[source]), path) == yaml.safe_load(cell), (name, path, source)


def test_the_controls_of_the_page_are_those_of_the_methods() -> None:
    assert controlled("idc.md", METHODS) == {name: {c.name for c in method(name).controls} for name in METHODS}
