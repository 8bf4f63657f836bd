"""The tables of the page on pruning agree with the code."""

from __future__ import annotations

from datastill.methods.bilp import MANY, SHARES
from datastill.recipe import method
from reference.pages import PAGES, name_of, table

METHODS = ("bilp-dc", "bilp-idc")


def test_the_controls_of_the_page_are_those_of_the_methods() -> None:
    listed: dict[str, set[str]] = {name: set() for name in METHODS}
    for names, of, *_ in table("bilp.md", "controls"):
        for name in METHODS if of == "both" else name_of(of):
            listed[name] |= set(name_of(names))
    assert listed == {name: {control.name for control in method(name).controls} for name in METHODS}


def test_the_shares_of_the_page_are_those_of_the_methods() -> None:
    found = [(row[0], float(row[1]), float(row[2])) for row in table("bilp.md", "shares")]
    assert found == [*((f"to {most}", *shares) for most, shares in SHARES.items()), ("more", *MANY)]


def test_no_number_of_the_paper_is_shown() -> None:
    assert not any(method(name).paper for name in METHODS)
    assert "No number of the paper stands here" in PAGES["bilp.md"]
