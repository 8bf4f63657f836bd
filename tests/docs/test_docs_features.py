"""The tables of the page on DM, DataDAM and ATOM agree with the code."""

from __future__ import annotations

import yaml

from datastill.recipe import compose, method
from reference.pages import INFOS, name_of, table, value_at

METHODS = ("dm", "datadam", "datadam-released", "atom", "atom-spatial", "atom-channel")
PROFILES = ("cifar100", "tiny-imagenet", "imagenet", "digits")


def test_the_profiles_of_the_page_are_those_of_the_methods() -> None:
    rows = table("features.md", "profiles")
    assert {name for row in rows for name in name_of(row[0])} == {"dm", "datadam", "datadam-released", "atom"}
    for named, setting, *cells in rows:
        ((name,), (path,)) = name_of(named), name_of(setting)
        for source, cell in zip(PROFILES, cells, strict=True):
            assert value_at(compose(name, INFOS[source]), path) == yaml.safe_load(cell), (name, path, source)


def test_the_variants_of_atom_differ_from_it_in_their_terms_alone() -> None:
    for source in PROFILES:
        plain = {name: compose(name, INFOS[source]).plain() for name in METHODS}
        for made in plain.values():
            made.pop("method")
        assert plain["atom-spatial"] == plain["datadam"]
        spatial, channel, embed = plain["atom"]["match"]["terms"]
        for name, terms in (("datadam", [spatial, embed]), ("atom-channel", [channel, embed])):
            changed = plain["atom"] | {"match": plain["atom"]["match"] | {"terms": terms}}
            assert plain[name] == changed


def test_the_controls_of_the_page_are_those_of_the_methods() -> None:
    listed: dict[str, set[str]] = {name: set() for name in METHODS}
    for names, of, *_ in table("features.md", "controls"):
        for name in METHODS if of == "all" else name_of(of):
            listed[name] |= set(name_of(names))
    for name in METHODS:
        assert listed[name] == {control.name: control for control in method(name).controls}.keys()
