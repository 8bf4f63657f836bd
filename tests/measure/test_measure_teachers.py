"""The networks behind the labels: each one's accuracy, and that of their mean logits, computed once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from datastill.measure import student as measured
from datastill.measure import teachers as asked
from datastill.measure.teachers import TOGETHER, Teachers
from datastill.recipe import NetworkRecipe, choice
from datastill.runtime.progress import Reporter
from reference import tiny

THIRD = {"third": NetworkRecipe(arch="convnet", settings={"width": 12}, training=tiny.TEACHING)}


def made() -> Teachers:
    test = tiny.dataset().test
    return Teachers(tiny.dataset(), measured.Testing(test.pixels, test.labels, "test"), tiny.device(), Reporter())


def by_hand(names: list[str], **changes: Any) -> float:
    """Return the accuracy in percent of the mean of these networks' logits, one image after another."""
    ctx, test = tiny.context(**changes), tiny.dataset().test
    networks = [ctx.network(name) for name in names]
    right = 0
    with torch.no_grad():
        for image, label in zip(test.pixels, test.labels, strict=True):
            logits = [network(image[None].float() / 255)[0] for network in networks]
            right += int(torch.stack(logits).mean(dim=0).argmax() == label)
    return 100.0 * right / len(test.labels)


def test_each_network_and_all_together_are_scored_as_by_hand() -> None:
    found = made().facts(tiny.recipe())
    assert list(found) == ["first", "second", TOGETHER]
    for name in ("first", "second"):
        assert found[name]["top1"] == pytest.approx(by_hand([name]))
        assert found[name]["steps"] == 12
        assert found[name]["arch"] == "convnet"
        assert len(found[name]["losses"]) == 4
    assert found[TOGETHER]["top1"] == pytest.approx(by_hand(["first", "second"]))
    assert found[TOGETHER]["bytes"] == found["first"]["bytes"] + found["second"]["bytes"]
    assert made().together(tiny.recipe()) == found[TOGETHER]["top1"]


def test_every_network_answers_once_whatever_recipes_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[int] = []
    plain = vars(asked)["predict"]

    def counted(network: Any, images: Any, **options: Any) -> Any:
        answered.append(network.settings["width"])
        return plain(network, images, **options)

    monkeypatch.setattr(asked, "predict", counted)
    teachers, networks = made(), tiny.NETWORKS | THIRD
    teachers.facts(tiny.recipe())
    both = teachers.together(tiny.recipe())
    more = teachers.together(tiny.recipe(networks=networks))
    renamed = {"one": tiny.NETWORKS["first"], "two": tiny.NETWORKS["second"]}
    assert teachers.together(tiny.recipe(networks=renamed)) == both
    assert answered == [8, 10, 12]
    assert more == pytest.approx(by_hand(["first", "second", "third"], networks=networks))


def test_networks_of_other_rows_or_another_training_are_others() -> None:
    teachers = made()
    longer = {name: replace(n, training=replace(n.training, steps=13)) for name, n in tiny.NETWORKS.items()}
    for changes in ({}, {"validation": 8}, {"networks": longer}):
        assert teachers.together(tiny.recipe(**changes)) == pytest.approx(by_hand(["first", "second"], **changes))
    assert len(teachers._logits) == 6


def test_without_networks_there_is_nothing_to_send() -> None:
    assert made().together(tiny.recipe(networks={})) is None
    assert made().facts(tiny.recipe(networks={})) == {}


def test_networks_that_neither_labels_nor_the_match_ask_are_not_trained_to_be_measured() -> None:
    unmatched = {"store": choice("pixels"), "match": choice("none")}
    networks = {"fourth": NetworkRecipe(arch="convnet", settings={"width": 9}, training=tiny.TEACHING)}
    teachers, recipe = made(), tiny.recipe(networks=networks, label=choice("hard"), **unmatched)
    assert teachers.facts(recipe) == {}
    assert teachers._logits == {}
    assert set(teachers.facts(replace(recipe, label=choice("static")))) == {"fourth", TOGETHER}
    assert set(teachers.facts(tiny.recipe(label=choice("hard")))) == {"first", "second", TOGETHER}
