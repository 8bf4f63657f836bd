"""The tables of the pages agree with the code."""

from __future__ import annotations

import dataclasses
import re
import sys
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import yaml

from datastill import fields as rooms
from datastill import recipe as recipes
from datastill.codecs import LabelCodec
from datastill.label.static import Combine
from datastill.measure.ablation import DEVIATIONS, GAIN, Ablation, Plan, Variant
from datastill.measure.compare import CROSS
from datastill.measure.frontier import TILES, Grid
from datastill.measure.ledger import key_of
from datastill.recipe import compose, method, read_networks
from datastill.store.compensated import Budget
from datastill.training import bank, supply, views
from reference.pages import INFOS, PAGES, ROOT, blocks, name_of, table, value_at

PROFILES = {"cifar": "cifar100", "tiny-imagenet": "tiny-imagenet", "imagenet": "imagenet", "small": "digits"}


def test_the_students_of_the_page_are_those_that_a_comparison_takes_by_itself():
    assert tuple(name_of(row[0])[0] for row in table("comparing.md", "students")) == CROSS


def test_the_key_of_a_row_is_as_the_page_says():
    listed = [name for row in table("what-a-number-means.md", "key") for name in name_of(row[0])]
    assert sorted(listed) == sorted(key_of("accuracy", {}, {}))


def test_the_grid_of_the_frontier_page_is_the_one_that_the_command_reads():
    codecs, _, labels = table("frontier.md", "grid")
    assert f"{TILES:,}" in codecs[2]
    kinds = get_args(get_type_hints(LabelCodec)["kind"])
    assert {name.split(":")[0] for name in name_of(labels[1])} == {"hard", *kinds}
    told = ",".join(name_of(labels[1])).replace(":K", ":5").replace(":ERROR", ":0.01")
    made = Grid.parse(f"codecs={','.join(name_of(codecs[1])[1:])} ipc=10,all labels={told}")
    mistakes: list[str] = []
    for choice in [recipes.choice("coded", codec=dict(settings)) for _, settings in made.codecs]:
        rooms.make_choice("store", choice, mistakes)
    for _, choice in made.labels:
        rooms.make_choice("label", choice, mistakes)
    assert not mistakes


def test_the_plan_of_the_page_on_levers_is_one_and_its_rule_and_keys_are_those_of_the_code(tmp_path):
    (text,) = [block.text for block in blocks("levers.md") if block.language == "yaml"]
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    info = INFOS["digits"]
    data: Any = SimpleNamespace(info=info, classes=range(info.classes), shape=info.shape)
    Ablation(plan=Plan.from_yaml(tmp_path / "plan.yaml"), budget=20_000, steps=400).checked(data)
    listed = [name for row in table("levers.md", "variant") for name in name_of(row[0])]
    assert sorted(listed) == sorted(each.name for each in dataclasses.fields(Variant))
    assert set(get_args(get_type_hints(Variant)["size"])) == set(name_of(table("levers.md", "variant")[2][1]))
    assert DEVIATIONS == 1
    assert f"at least {GAIN} points, and at least one standard deviation" in " ".join(PAGES["levers.md"].split())


def test_the_means_of_the_labels_page_are_those_of_the_code():
    assert [name_of(row[0])[0] for row in table("labels.md", "combine")] == list(get_args(Combine))
    section = PAGES["labels.md"].partition("## Several networks")[2].partition("## ")[0].strip()
    first, last = section.split("\n\n")[0], section.split("\n\n")[-1]
    labels = rooms.registered("label")
    mixing = {name for name, label in labels.items() if "combine" in get_type_hints(label)}
    assert mixing == set(re.findall(r"`(\w+)`", first))
    assert set(labels) - mixing - {"hard"} == set(re.findall(r"`(\w+)`", last))


def test_the_budget_table_is_what_the_code_computes():
    for data, sets, bought, used, items, labels in table("infer.md", "budget"):
        classes, makers, ipc = map(int, re.findall(r"\((\d+), (\d+)\) at ipc (\d+)", data)[0])
        budget = Budget.of(ipc, classes, makers)
        nominal = ipc * classes
        size, unit = labels.split()
        assert int(sets) == budget.sets
        assert bought == f"{budget.natural:,} + {budget.compensators}"
        assert used == f"{nominal - budget.leftover:,} of {nominal:,}"
        assert items == f"{budget.items:,}"
        assert round(float(size) * {"kB": 1_000, "MB": 1_000_000}[unit]) == 2 * classes * budget.items


def test_the_profiles_of_the_page_are_those_of_the_method():
    for row in table("infer.md", "profiles"):
        (path,) = name_of(row[0])
        for name, cell in zip(PROFILES.values(), row[1:], strict=True):
            made = compose("infer", INFOS[name])
            if path == "networks":
                assert made.networks.keys() == {arch for arch, _ in read_networks(cell).values()}
                assert [n.settings for n in made.networks.values()] == [s for _, s in read_networks(cell).values()]
            elif cell != "by size":
                assert value_at(made, path) == yaml.safe_load(cell), (path, name)


def test_the_controls_of_the_page_are_those_of_the_method():
    named = sorted(name_of(row[0])[0] for row in table("infer.md", "controls"))
    for name in ("infer", "infer-dyn"):
        assert named == sorted(control.name for control in method(name).controls)


def test_faithful_changes_what_the_page_says():
    plain, faithful = (compose("infer", INFOS["cifar100"], faithful=value).plain() for value in (False, True))
    assert {key for key in plain if plain[key] != faithful[key]} == {"faithful", "store"}
    assert faithful["store"]["storage"] == "jpeg75"


def test_the_choices_and_values_that_the_guides_list_are_those_of_the_code():
    for room, _, named in table("adding-a-method.md", "choices")[:-1]:
        assert sorted(name_of(named)) == sorted(rooms.registered(name_of(room)[0]))
    for row in table("architecture.md", "values"):
        (name,) = name_of(row[0])
        homes = (rooms, recipes, views, supply, bank, sys.modules["datastill.draft"])
        assert any(hasattr(home, name) for home in homes), name


def test_the_tree_of_the_architecture_page_holds_every_room():
    for entry in (ROOT / "src/datastill").iterdir():
        if entry.suffix in (".py", "") and not entry.name.startswith("_"):
            name = entry.name if entry.suffix else f"{entry.name}/"
            assert f"{name}" in PAGES["architecture.md"], name
