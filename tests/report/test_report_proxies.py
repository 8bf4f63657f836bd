"""The page of a proxy: the verdict first, every number in a table, arms told apart by colour and shape."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datastill.errors import DatastillError
from datastill.report import words
from datastill.report.proxies import progress, render_proxy, scatter, write_proxy_report
from datastill.runtime.files import write_json
from reference.proxies import CLASSES, ranked, remembered

REAL = [float(v) for v in np.linspace(50, 70, 24)]
OTHER = [float(v) for v in np.array(REAL) + np.random.default_rng(0).normal(0, 3, 24)]
MEMORIES = {
    "infer": [[90.0, 91.0, 92.0], [80.0, 81.0, 82.5]],
    "random_soft": [[92.0, 93.5, 94.0], [83.0, 84.0, 84.5]],
    "random_hard": [[70.0, 71.0, 72.0], [50.0, 51.0, 52.5]],
    "whole": [[99.0, 98.0, 99.5], [97.0, 97.5, 98.0]],
}


class Page(HTMLParser):
    """The text of a page without its style, its tags, its addresses, and the rows of its tables by class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.addresses = "", [], []  # type: tuple[str, list[str], list[str]]
        self.rows: dict[str, list[list[str]]] = {}
        self._table, self._cell, self._style = "", False, False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.addresses += [found[name] for name in ("src", "href", "srcset", "xlink:href") if name in found]
        if tag == "table":
            self._table = found.get("class", "")
        elif tag == "tr":
            self.rows.setdefault(self._table, []).append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
        self._cell = tag in ("td", "th") or (self._cell and tag in ("small", "b", "span", "br"))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data
        if self._cell and data.strip():
            self.rows[self._table][-1][-1] = " ".join([self.rows[self._table][-1][-1], *data.split()]).strip()


RANKED = ranked({"infer": OTHER, "random_soft": OTHER[::-1], "whole": REAL})
ALL = {"nas": RANKED, "hyper": ranked({"infer": OTHER, "whole": REAL}, "hyper"), "continual": remembered(MEMORIES)}


def rankings() -> dict[str, Any]:
    return copy.deepcopy(RANKED)


@pytest.fixture(params=ALL)
def results(request: pytest.FixtureRequest) -> dict[str, Any]:
    return copy.deepcopy(ALL[request.param])


def test_the_page_opens_with_the_verdict(results: dict[str, Any]) -> None:
    text = " ".join(Page(render_proxy(results)).text.split())
    places = [text.index(words.minus(sentence)) for sentence in results["verdict"]]
    assert places == sorted(places)
    assert places[0] < text.index("Real training set") < text.index("To repeat it")


@pytest.mark.parametrize(
    ("made", "tone"),
    [
        (lambda: ranked({"infer": REAL, "random_soft": OTHER[::-1], "whole": REAL}), "Beats its control"),
        (lambda: ranked({"infer": OTHER[::-1], "random_soft": OTHER, "whole": REAL}), "Does not beat its control"),
        (lambda: ranked({"infer": OTHER, "random_soft": OTHER, "whole": REAL}), "Does not beat its control"),
        (lambda: ranked({"infer": REAL, "whole": REAL}), "Nothing proven"),
        (lambda: remembered(MEMORIES), "Does not beat its control"),
        (lambda: remembered(MEMORIES | {"infer": MEMORIES["whole"]}), "Beats its control"),
        (lambda: remembered({"infer": MEMORIES["infer"]}), "Nothing proven"),
    ],
)
def test_the_tone_is_that_of_the_difference(made: Any, tone: str) -> None:
    page = render_proxy(made())
    assert re.findall(r'<div class="verdict \w+"><strong>([^<]*)', page) == [tone]


def test_a_page_loads_nothing_and_runs_nothing_of_a_strangers(results: dict[str, Any]) -> None:
    page = render_proxy(results)
    read = Page(page)
    assert [a for a in read.addresses if not a.startswith("#")] == []
    assert not {"link", "iframe", "img"} & set(read.tags)
    assert read.tags.count("script") == 1  # the one that sorts tables
    assert "tiny <i>" not in page
    assert CLASSES[0] not in page
    assert "None" not in read.text
    assert "nan" not in read.text
    assert render_proxy(results) == page


def test_every_candidate_has_a_row_with_its_accuracies_and_ranks() -> None:
    results = rankings()
    head, *rows = Page(render_proxy(results)).rows["candidates sortable"]
    assert head == ["network", "whole", "infer", "random_soft"]
    assert [row[0] for row in rows] == [f"network {i}" for i in reversed(range(24))]
    best = max(range(24), key=lambda i: OTHER[i])
    for i, row in zip(reversed(range(24)), rows, strict=True):
        assert row[1] == f"{REAL[i]:.2f} (n=1) rank {24 - i}"
        assert row[2].startswith(f"{OTHER[i]:.2f} (n=1) rank ")
        assert (row[2].split()[-1] == "1") == (i == best)


def test_agreement_choices_and_times_stand_in_tables() -> None:
    results = rankings()
    read = Page(render_proxy(results))
    names = [row[0] for row in read.rows["agreement"] if len(row) == 3]
    once = ["infer", "random_soft", "method minus control", "number of parameters, nothing trained"]
    assert names == ["order by", *once, *once]
    tau = results["agreement"]["infer"]["all"]["tau"]
    told = words.minus(f"{tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}]")
    assert read.rows["agreement"][2][2] == told
    assert [row[1] for row in read.rows["choices"][1:]] == [
        "network 23",
        *(results["choices"]["arms"][arm]["candidate"] for arm in ("infer", "random_soft")),
    ]
    assert ["distil the set, networks included", "12.0 s"] in read.rows["light times"]
    assert read.rows["light times"][-1] == [
        "lost: the set's students and its distillation, less the whole real set", "12.0 s",
    ]  # fmt: skip


def test_a_time_that_is_not_on_record_is_said_so() -> None:
    results = rankings()
    results["time"] |= {"distillation": None, "saved": None}
    assert ["saved", "not known"] in Page(render_proxy(results)).rows["light times"]


def test_every_memory_has_a_row_with_its_course() -> None:
    results = remembered(MEMORIES)
    head, *rows = Page(render_proxy(results)).rows["memories"]
    assert head[1:3] == ["2 classes", "4 classes"]
    assert [row[0].split()[0] for row in rows] == ["S", "infer", "random_soft", "H", "random_hard", "whole"]
    own = rows[1]
    assert own[1:4] == ["91.00 ± 1.00 (n=3)", "81.17 ± 1.26 (n=3)", "86.08 ± 1.13 (n=3)"]
    assert own[4].startswith("\u22122.42 t")
    assert own[5] == "▼ worse"
    assert [row[4:] for row in rows[2:] if len(row) > 1] == [["", ""]] * 3


def test_arms_differ_in_colour_and_in_shape_and_have_a_text_alternative() -> None:
    soft, hard = progress(remembered(MEMORIES))
    plots = [scatter(rankings(), ["infer", "random_soft"]), soft, hard]
    for marks in (plots[0].legend, soft.legend + hard.legend):
        assert len({mark.colour for mark in marks}) == len({mark.sign for mark in marks}) == len(marks)
    assert [mark.name for mark in soft.legend + hard.legend] == list(MEMORIES)
    for plot in plots:
        assert all(mark.colour in plot.svg for mark in plot.legend)
        assert ElementTree.fromstring(plot.svg).tag == "svg"
        assert "currentColor" in plot.svg
    assert "Kendall" in plots[0].alt
    assert "infer from 91.0 to 81.2 %" in soft.alt


def test_the_scatter_has_a_point_per_candidate_and_arm() -> None:
    one, two = (scatter(rankings(), arms).svg.count("<use") for arms in (["infer"], ["infer", "random_soft"]))
    assert two - one == 24


def test_the_page_is_written_beside_the_results(results: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", results)
    path = write_proxy_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render_proxy(json.loads(json.dumps(results)))


@pytest.mark.parametrize("key", ["verdict", "protocol", "arms", "choices", "time", "device", "recipe", "agreement"])
def test_a_missing_key_is_one_sentence(key: str, tmp_path: Path) -> None:
    results = rankings()
    del results[key]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(DatastillError, match=f"lacks something .*{key}.*run datastill proxy nas again"):
        write_proxy_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"kind": "comparison"}, "holds no results of a proxy"), ({"proxy": "nass"}, "no proxy 'nass'; did you mean")],
)
def test_results_of_another_kind_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", rankings() | changes)
    with pytest.raises(DatastillError, match=said):
        write_proxy_report(tmp_path)
