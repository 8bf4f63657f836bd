"""The tables of the page on SRe2L, CDA and DWA agree with the code."""

from __future__ import annotations

import yaml

from datastill.recipe import compose, method
from reference.pages import INFOS, name_of, table, value_at

METHODS = ("sre2l", "cda", "dwa")
PROFILES = ("cifar100", "tiny-imagenet", "imagenet", "digits")


def test_the_profiles_of_the_page_are_those_of_the_methods() -> None:
    rows = table("squeeze.md", "profiles")
    assert {name for row in rows for name in name_of(row[0])} == set(METHODS)
    for named, setting, *cells in rows:
        ((name,), (path,)) = name_of(named), name_of(setting)
        for source, cell in zip(PROFILES, cells, strict=True):
            if cell != "by size":
                assert value_at(compose(name, INFOS[source]), path) == yaml.safe_load(cell), (name, path, source)


def test_students_of_cda_are_those_of_sre2l() -> None:
    for info in INFOS.values():
        assert compose("cda", info).student == compose("sre2l", info).student


def test_the_controls_of_the_page_are_those_of_the_methods() -> None:
    listed: dict[str, set[str]] = {name: set() for name in METHODS}
    for names, of, *_ in table("squeeze.md", "controls"):
        for control in name_of(names):
            mine = name_of(of) or ([control.removesuffix("_hard")] if of == "each" else METHODS)
            for name in mine:
                listed[name].add(control)
    for name in METHODS:
        assert listed[name] == {control.name for control in method(name).controls}
