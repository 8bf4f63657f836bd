"""The tables of the page on G-VBSM agree with the code."""

from __future__ import annotations

import yaml

from datastill.recipe import compose, method
from reference.pages import INFOS, name_of, table, value_at

PROFILES = ("cifar10", "cifar100", "tiny-imagenet", "imagenet", "digits")


def test_the_profiles_of_the_page_are_those_of_the_method() -> None:
    for named, *cells in table("gvbsm.md", "profiles"):
        (path,) = name_of(named)
        for source, cell in zip(PROFILES, cells, strict=True):
            found = value_at(compose("gvbsm", INFOS[source]), path)
            assert found == yaml.safe_load(cell), (path, source)


def test_the_controls_of_the_page_are_those_of_the_method() -> None:
    listed = [name for row in table("gvbsm.md", "controls") for name in name_of(row[0])]
    assert sorted(listed) == sorted(control.name for control in method("gvbsm").controls)
