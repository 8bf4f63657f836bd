"""The tables of the page on CAFE agree with the code."""

from __future__ import annotations

import dataclasses

import yaml

from datastill.match import Living
from datastill.match.dynamic import Policy
from datastill.recipe import compose, method
from reference.pages import INFOS, PAGES, name_of, table, value_at

METHODS = ("cafe", "cafe-dsa")
PROFILES = ("cifar10", "tiny-imagenet", "imagenet", "digits")


def test_the_profiles_of_the_page_are_those_of_the_methods() -> None:
    rows = table("cafe.md", "profiles")
    assert {name for row in rows for name in name_of(row[0])} == set(METHODS)
    for named, setting, *cells in rows:
        ((name,), (path,)) = name_of(named), name_of(setting)
        for source, cell in zip(PROFILES, cells, strict=True):
            assert value_at(compose(name, INFOS[source]), path) == yaml.safe_load(cell), (name, path, source)


def test_the_controls_of_the_page_are_those_of_the_methods() -> None:
    rows = table("cafe.md", "controls")
    assert {row[1] for row in rows} == {"both"}
    for name in METHODS:
        assert [control for row in rows for control in name_of(row[0])] == [c.name for c in method(name).controls]


def test_the_settings_of_the_page_are_there_and_those_of_a_policy_are_all_named() -> None:
    page = PAGES["cafe.md"]
    settings = {field.name for field in dataclasses.fields(Living)}
    (listed,) = [line for line in page.splitlines() if line.startswith("| `match.policy` |")]
    assert name_of(listed) == ["match.policy", *(field.name for field in dataclasses.fields(Policy))]
    rows = page.partition("## Settings")[2].partition("\n\n## ")[0].splitlines()
    named = [name for line in rows if line.startswith("| `match.") for name in name_of(line.split("|")[1])]
    assert {name.removeprefix("match.") for name in named} == settings - {"steps"}
