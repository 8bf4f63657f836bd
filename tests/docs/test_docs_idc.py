"""The tables of the page on IDC agree with the code."""

from __future__ import annotations

import yaml

from datastill.recipe import compose, method
from reference.pages import INFOS, name_of, table, value_at

METHODS = ("idc-i", "idc")
PROFILES = ("cifar10", "cifar100", "tiny-imagenet", "imagenet", "digits")


def test_the_profiles_of_the_page_are_those_of_the_methods() -> None:
    rows = table("idc.md", "profiles")
    assert {name for row in rows for name in name_of(row[0])} == set(METHODS)
    for named, setting, *cells in rows:
        ((name,), (path,)) = name_of(named), name_of(setting)
        for source, cell in zip(PROFILES, cells, strict=True):
            assert value_at(compose(name, INFOS[source]), path) == yaml.safe_load(cell), (name, path, source)


def test_the_controls_of_the_page_are_those_of_the_methods() -> None:
    listed: dict[str, set[str]] = {name: set() for name in METHODS}
    for names, of, *_ in table("idc.md", "controls"):
        for name in METHODS if of == "both" else name_of(of):
            listed[name] |= set(name_of(names))
    assert listed == {name: {control.name for control in method(name).controls} for name in METHODS}
