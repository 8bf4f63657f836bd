"""Real images chosen by rule, as methods: INFER's networks and students, honest controls, and under other stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.fields import registered, resolve
from datastill.measure.arms import ArmMaker
from datastill.methods.selection import RULES
from datastill.recipe import Choice, DatasetInfo, choice, compose, method
from datastill.runtime.progress import Reporter
from reference import tiny

INFOS = [
    DatasetInfo("digits", 10, (1, 8, 8), 1437, (0.3,), (0.4,)),
    DatasetInfo("cifar100", 100, (3, 32, 32), 50_000, (0.5,) * 3, (0.2,) * 3),
    DatasetInfo("tiny-imagenet", 200, (3, 64, 64), 100_000, (0.5,) * 3, (0.2,) * 3),
    DatasetInfo("imagenet", 1000, (3, 224, 224), 1_281_167, (0.5,) * 3, (0.2,) * 3),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_a_rule_has_the_networks_and_the_student_of_infer(rule: str, info: DatasetInfo) -> None:
    made, infer = compose(rule, info), compose("infer", info)
    assert (made.networks, made.student) == (infer.networks, infer.student)
    assert list(made.networks) == list(infer.networks)
    assert (made.select, made.store, made.match) == (Choice(rule), Choice("pixels"), Choice("none"))
    assert (made.label, made.stages) == (Choice("static"), Choice("once"))
    assert made.method == rule
    resolve(made, info)


def test_every_registered_rule_is_a_method() -> None:
    # bilp prunes in front of any method; where it prunes nothing, it is random.
    assert sorted([*RULES, "bilp"]) == sorted(registered("select"))


@pytest.mark.parametrize("rule", RULES)
def test_no_number_of_a_paper_stands_beside_a_rule(rule: str) -> None:
    assert method(rule).paper == ()


@pytest.mark.parametrize("rule", RULES)
def test_controls_are_what_they_say(rule: str) -> None:
    recipe = compose(rule, INFOS[0])
    made = {c.name: recipe.patched(c.patch) for c in method(rule).controls}
    wanted = {f"{rule}_hard", "random_soft", "random_hard", "equal_bytes_hard"} - (
        {"random_soft"} if rule == "random" else set()
    )
    assert set(made) == wanted
    for name, patched in made.items():
        assert patched.student == recipe.student
        assert patched.networks == recipe.networks
        assert patched.label == Choice("static" if name.endswith("soft") else "hard")
        assert patched.select == (Choice(rule) if name == f"{rule}_hard" else Choice("random"))
        resolve(patched, INFOS[0])


@pytest.mark.parametrize("name", ["random_soft", "random_hard", "equal_bytes_soft", "equal_bytes_hard"])
def test_a_control_called_random_is_random_whatever_the_method_selects(name: str) -> None:
    recipe = compose("infer", INFOS[0], changes=["select=herding"])
    (control,) = (c for c in method("infer").controls if c.name == name)
    assert recipe.select == Choice("herding")
    assert recipe.patched(control.patch).select == Choice("random")


@pytest.mark.parametrize("rule", ["herding", "easy"])
def test_infer_begins_from_any_rule(rule: str) -> None:
    made = tiny.distilled(None, select=choice(rule))
    ctx = tiny.context(select=choice(rule))
    rows = ctx.fields.select.start(2, ctx)
    assert torch.equal(made.content.pictures.pixels, ctx.real.pictures(rows.flatten()).pixels)
    assert made.content.pictures.ids != tiny.distilled(None).content.pictures.ids
    assert made.content.items.maker.max() == 1


@pytest.mark.parametrize("rule", ["herding", "el2n"])
def test_arms_of_a_rule_are_made_beside_it(rule: str, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"method": rule, "select": choice(rule), "store": choice("pixels"), "match": choice("none")}
    own = tiny.distilled(tmp_path / "set", **plain)
    maker = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
    arms = {}
    for control in method(rule).controls:
        arms[control.name] = maker.make(control)
    assert all(arms.values())
    kept = {name: arm.distilled for name, arm in arms.items() if arm}
    assert kept[f"{rule}_hard"].content.pictures.ids == own.content.pictures.ids
    assert kept["random_soft"].content.pictures.ids == kept["random_hard"].content.pictures.ids
    assert kept["random_soft"].content.pictures.ids != own.content.pictures.ids
    assert len(kept["equal_bytes_hard"]) >= len(own)
    assert kept["equal_bytes_hard"].ledger()["total"] <= own.ledger()["total"]
    assert {name: arm.column for name, arm in arms.items() if arm} == {
        f"{rule}_hard": "H", "random_soft": "S", "random_hard": "H", "equal_bytes_hard": "H",
    }  # fmt: skip
