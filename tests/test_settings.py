"""Frozen dataclasses from plain data: what is taken, what is refused, and that everything wrong is said at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from datastill.settings import build, chosen, convert, plain, setting


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested group of settings."""

    rate: float = setting(0.5, low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One setting of every sort that a recipe may hold."""

    name: str
    count: int = setting(3, low=1, high=9)
    rate: float = setting(0.1, low=0.0)
    below: float = setting(0.0, high=2.0)
    on: bool = setting(True)
    kind: Literal["round", "square"] = setting("round")
    pair: tuple[float, float] = setting((0.5, 0.9), low=0.0, high=1.0)
    many: tuple[int, ...] = setting((1, 2))
    limit: int | None = setting(None, low=1)
    table: dict[str, Inner] = setting({})
    free: dict[str, Any] = setting({})
    inner: Inner = field(default_factory=Inner)


def made(**data: Any) -> Sample:
    mistakes: list[str] = []
    found = build(Sample, {"name": "a"} | data, "", mistakes)
    assert mistakes == []
    assert isinstance(found, Sample)
    return found


def wrong(**data: Any) -> list[str]:
    mistakes: list[str] = []
    assert build(Sample, {"name": "a"} | data, "", mistakes) is None
    return mistakes


def test_what_is_left_out_takes_its_default() -> None:
    assert made() == Sample(name="a")
    assert made().table is not made().table


def test_plain_data_come_back_equal() -> None:
    sample = made(
        count=4, rate=1, pair=[0, 1], many=[], limit=2, table={"x": {"rate": 1}}, free={"a": [1, {"b": None}]}
    )
    assert sample.rate == 1.0
    assert type(sample.rate) is float
    assert sample.pair == (0.0, 1.0)
    assert sample.table == {"x": Inner(rate=1.0)}
    assert plain(sample)["pair"] == [0.0, 1.0]
    assert made(**plain(sample)) == sample


def test_a_group_that_is_made_already_is_taken_as_it_is() -> None:
    inner = Inner(rate=0.25)
    assert made(inner=inner).inner is inner


def test_a_text_that_is_a_number_is_a_number_where_one_is_wanted() -> None:
    assert made(rate="1e-3").rate == 0.001
    assert wrong(rate="fast") == ["'rate' must be a number, not 'fast'."]
    assert wrong(count="4") == ["'count' must be a whole number, not '4'."]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"name": 3}, "'name' must be a text, not int '3'."),
        ({"name": None}, "'name' must be a text, not nothing."),
        ({"count": True}, "'count' must be a whole number, not bool 'True'."),
        ({"count": 2.0}, "'count' must be a whole number, not float '2.0'."),
        ({"rate": True}, "'rate' must be a number, not bool 'True'."),
        ({"rate": [1]}, "'rate' must be a number, not list '[1]'."),
        ({"rate": float("nan")}, "'rate' must be a number, not float 'nan'."),
        ({"rate": "inf"}, "'rate' must be a number, not 'inf'."),
        ({"rate": 10**400}, "'rate' must be a number, not int '1000"),
        ({"on": 1}, "'on' must be true or false, not int '1'."),
        ({"on": "yes"}, "'on' must be true or false, not 'yes'."),
        ({"kind": "sqare"}, "'kind' is 'sqare'; did you mean 'square'?"),
        ({"kind": True}, "'kind' is bool 'True'; there are: round, square."),
        ({"kind": ["round"]}, "'kind' is list '['round']'"),
        ({"pair": 0.5}, "'pair' must be a list, not float '0.5'."),
        ({"pair": [0.5]}, "'pair' must hold 2 values, not 1."),
        ({"pair": [0.5, "x"]}, "'pair[1]' must be a number, not 'x'."),
        ({"many": [1, True]}, "'many[1]' must be a whole number, not bool 'True'."),
        ({"limit": "3"}, "'limit' must be a whole number, not '3'."),
        ({"table": ["x"]}, "'table' must be a mapping, not list '['x']'."),
        ({"table": {"x": 3}}, "'table.x' must be a mapping, not int '3'."),
        ({"table": {"x": {"rtae": 0.5}}}, "there is no setting 'table.x.rtae'; did you mean 'table.x.rate'?"),
        ({"inner": {"rate": 2}}, "'inner.rate' must be between 0.0 and 1.0, not 2.0."),
        ({"cuont": 3}, "there is no setting 'cuont'; did you mean 'count' or 'on'?"),
        ({7: 3}, "there is no setting '7'; there are: below, count, free, "),
    ],
)
def test_a_wrong_type_is_said_with_its_path(data: dict[Any, Any], sentence: str) -> None:
    mistakes: list[str] = []
    assert build(Sample, {"name": "a"} | data, "", mistakes) is None
    (said,) = mistakes
    assert said.startswith(sentence)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"count": 0}, "'count' must be between 1 and 9, not 0."),
        ({"count": 10}, "'count' must be between 1 and 9, not 10."),
        ({"rate": -0.1}, "'rate' must be at least 0.0, not -0.1."),
        ({"rate": "-1e-3"}, "'rate' must be at least 0.0, not -0.001."),
        ({"below": 3}, "'below' must be at most 2.0, not 3.0."),
        ({"limit": 0}, "'limit' must be at least 1, not 0."),
        ({"pair": [0.5, 1.5]}, "'pair[1]' must be between 0.0 and 1.0, not 1.5."),
    ],
)
def test_a_number_outside_its_range_is_refused(data: dict[str, Any], sentence: str) -> None:
    assert wrong(**data) == [sentence]


def test_both_ends_of_a_range_are_allowed() -> None:
    assert (made(count=1).count, made(count=9).count, made(below=2).below) == (1, 9, 2.0)


def test_every_mistake_is_said_at_once() -> None:
    mistakes: list[str] = []
    data = {"count": 0, "rate": "x", "kin": 1, "pair": [2, "y"], "table": {"a": {"rate": -1}, "b": []}}
    assert build(Sample, data, "top", mistakes) is None
    paths = ["'top.count'", "'top.rate'", "'top.kin'", "'top.pair[1]'", "'top.table.a.rate'", "'top.table.b'"]
    for path in [*paths, "'top.pair[0]'", "the setting 'top.name' is missing"]:
        assert sum(path in sentence for sentence in mistakes) == 1, path
    assert len(mistakes) == 8


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused_as_a_whole(data: object) -> None:
    mistakes: list[str] = []
    assert build(Sample, data, "", mistakes) is None
    assert len(mistakes) == 1
    assert mistakes[0].startswith("'the recipe' must be a mapping, not ")


def test_a_long_value_is_not_repeated_in_full() -> None:
    (sentence,) = wrong(rate="x" * 100_000)
    assert len(sentence) < 200


def test_the_help_and_the_range_of_a_setting_can_be_asked_for() -> None:
    (count,) = [f for f in dataclasses.fields(Sample) if f.name == "count"]
    assert (count.metadata["low"], count.metadata["high"]) == (1, 9)


def test_a_value_without_a_hint_passes() -> None:
    mistakes: list[str] = []
    assert convert(Any, {"a": object}, "x", mistakes) == {"a": object}
    assert mistakes == []


def test_what_stands_at_its_default_is_no_part_of_what_was_chosen() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        a: int = setting(1)
        b: dict[str, int] = setting({})

    @dataclasses.dataclass(frozen=True)
    class Outer:
        name: str
        inner: Inner = dataclasses.field(default_factory=Inner)

    assert chosen(Outer("x")) == {"name": "x"}
    assert chosen(Outer("x", Inner(a=2))) == {"name": "x", "inner": {"a": 2}}
    assert chosen(Outer("x", Inner(b={"k": 1}))) == {"name": "x", "inner": {"b": {"k": 1}}}
