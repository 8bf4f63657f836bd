"""The values that rooms speak in, the registry of their choices, and what a recipe is refused for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from datastill.errors import DatastillError
from datastill.fields import ROOMS, Items, Real, Stage, registered, resolve
from datastill.recipe import NetworkRecipe, Recipe, choice
from datastill.runtime.files import digest_of
from datastill.runtime.seeds import rng
from datastill.stages import Once
from reference import tiny

EVERY = [(room, name) for room in ROOMS for name in registered(room)]


def test_items_default_to_stage_and_set_zero_and_to_nothing_behind_them() -> None:
    items = Items.of(cls=torch.tensor([3, 1]))
    columns = [getattr(items, name).tolist() for name in ("cls", "stage", "set", "maker", "unit", "picture")]
    assert columns == [[3, 1], [0, 0], [0, 0], [-1, -1], [-1, -1], [-1, -1]]
    assert all(getattr(items, name).dtype == torch.long for name in ("cls", "maker", "picture"))
    assert len(items) == 2


def test_rows_of_items_take_every_column_along() -> None:
    columns = {
        name: torch.arange(5) + 10 * i for i, name in enumerate(("cls", "stage", "set", "maker", "unit", "picture"))
    }
    items = Items.of(**columns)[torch.tensor([4, 0])]
    assert all(getattr(items, name).tolist() == [4 + 10 * i, 10 * i] for i, name in enumerate(columns))


@pytest.mark.parametrize("validation", [0, 1, 4, 7, 40])
def test_validation_rows_are_spread_evenly_and_never_allowed(validation: int) -> None:
    data = tiny.dataset()
    real = Real(data, validation, seed=3)
    counts = data.train.labels[real.held_out].bincount(minlength=4)
    assert len(real.held_out) == validation
    assert counts.max() - counts.min() <= 1
    assert torch.equal(torch.cat([real.rows, real.held_out]).sort().values, torch.arange(48))
    for k in range(4):
        rows = real.of_class(k)
        assert torch.equal(rows, rows.sort().values)
        assert (data.train.labels[rows] == k).all()
        assert not torch.isin(rows, real.held_out).any()


def test_validation_rows_never_stand_in_the_training_data() -> None:
    data = tiny.dataset()
    real = Real(data, 9)
    images = real.data().images
    assert len(images) == 39
    held = data.train.pixels[real.held_out]
    assert not (images.unsqueeze(0) == held.unsqueeze(1)).flatten(2).all(dim=2).any()
    assert torch.equal(images, data.train.pixels[real.rows])
    assert torch.equal(real.data().classes, data.train.labels[real.rows])


def test_another_seed_holds_out_other_rows_and_so_trains_other_networks() -> None:
    data = tiny.dataset()
    assert not torch.equal(Real(data, 8, 0).held_out, Real(data, 8, 1).held_out)
    keys = {Real(data, 8, 0).key, Real(data, 8, 1).key, Real(data, 9, 0).key, Real(data).key}
    assert len(keys) == 4
    assert Real(data, 0, 0).key == Real(data, 0, 5).key


@pytest.mark.parametrize("named", ["both", "places", "ids"])
def test_a_picture_leads_back_to_its_training_row(named: str) -> None:
    real, rows = Real(tiny.dataset()), torch.tensor([30, 2, 47, 2])
    pictures = real.pictures(rows)
    if named == "places":
        pictures = dataclasses.replace(pictures, ids=())
    if named == "ids":
        pictures = dataclasses.replace(pictures, places=None)
    assert torch.equal(real.rows_of(pictures), rows)


def test_a_picture_that_is_no_training_image_leads_nowhere() -> None:
    real = Real(tiny.dataset())
    pictures = real.pictures(torch.arange(3))
    places = torch.tensor([-1, 48, int(pictures.places[2])])  # type: ignore[index]  # real pictures have places
    assert real.rows_of(dataclasses.replace(pictures, places=places)).tolist() == [-1, -1, 2]
    unnamed = dataclasses.replace(pictures, places=None, ids=("", "train/1", "test/1"))
    assert real.rows_of(unnamed).tolist() == [-1, 1, -1]
    assert real.rows_of(dataclasses.replace(pictures, places=None, ids=())).tolist() == [-1, -1, -1]
    assert real.rows_of(dataclasses.replace(pictures, cls=(pictures.cls + 1) % 4)).tolist() == [-1, -1, -1]


def test_a_part_of_the_rows_has_a_key_and_data_of_its_own() -> None:
    data = tiny.dataset()
    real = Real(data, 8, seed=1)
    assert real.key_of(real.rows) == real.key
    assert real.key == digest_of([data.fingerprint, real.held_out.tolist()])
    some = real.rows[torch.tensor([5, 0, 9])]
    assert real.key_of(some) == real.key_of(some.flip(0))
    assert real.key_of(some) not in (real.key, real.key_of(real.rows[:3]))
    assert torch.equal(real.data(some).images, data.train.pixels[some.sort().values])
    assert torch.equal(real.data(some).classes, data.train.labels[some.sort().values])


def test_a_part_of_the_rows_is_named_alike_whatever_else_was_held_out() -> None:
    data = tiny.dataset()
    held, every = Real(data, 8, seed=1), Real(data)
    assert every.key_of(held.rows) == held.key


def test_more_validation_than_a_class_can_give_is_refused() -> None:
    with pytest.raises(DatastillError, match="validation=9 would take all 2 training images of class 'class 1'"):
        Real(tiny.dataset(per_class=(12, 2, 12, 12)), 9)


def test_real_rows_hold_no_test_split() -> None:
    data = tiny.dataset()
    held = vars(Real(data)).values()
    assert not any(value is data or value is data.test for value in held)


def test_a_context_names_its_networks_and_its_randomness() -> None:
    ctx = tiny.context(given={}, seed=7)
    assert ctx.makers == ("first", "second")
    assert ctx.info == tiny.dataset().info
    draw = ctx.rng("view", part=2, round=3).integers(0, 1 << 30, 4).tolist()
    assert draw == rng(7, 0, 2, 3, "view").integers(0, 1 << 30, 4).tolist()
    assert draw != ctx.rng("view", part=3, round=2).integers(0, 1 << 30, 4).tolist()


def test_a_network_of_the_table_is_trained_once_and_frozen() -> None:
    one, two = tiny.context(), tiny.context()
    network = one.network("first")
    assert one.network("first") is network
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    before = dict(two.reporter.seconds)
    again = two.network("first")
    assert two.reporter.seconds == before
    assert all(torch.equal(network.state_dict()[key], value) for key, value in again.state_dict().items())
    assert one.training("first").key != one.training("second").key


@pytest.mark.parametrize(("room", "name"), EVERY)
def test_a_choice_is_frozen_settings_by_keyword_under_its_own_name(room: str, name: str) -> None:
    cls = registered(room)[name]
    assert dataclasses.is_dataclass(cls)
    made: Any = resolve(tiny.recipe(**{room: tiny.chosen(room, name)}), tiny.dataset().info, run=False)
    choice_ = getattr(made, room)
    assert type(choice_) is cls
    assert (choice_.room, choice_.name) == (room, name)
    assert hash(choice_) == hash(dataclasses.replace(choice_))
    for field in dataclasses.fields(cls):
        assert field.kw_only
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(choice_, field.name, None)
    assert (cls.__doc__ or "").strip()


@pytest.mark.parametrize(("room", "name"), EVERY)
def test_a_choice_survives_yaml(room: str, name: str, tmp_path: Any) -> None:
    recipe = tiny.recipe(**{room: tiny.chosen(room, name)})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = Recipe.from_yaml(tmp_path / "recipe.yaml")
    info = tiny.dataset().info
    assert resolve(again, info, run=False) == resolve(recipe, info, run=False)


@pytest.mark.parametrize(
    ("room", "name", "near"),
    [
        ("select", "randm", "did you mean 'random'"),
        ("store", "compensate", "did you mean 'compensated'"),
        ("store", "zzz", "there are: "),
        ("match", "statistic", "did you mean 'statistics'"),
        ("label", "statik", "did you mean 'static'"),
        ("stages", "ones", "did you mean 'once'"),
    ],
)
def test_an_unknown_choice_is_refused_with_its_near_matches(room: str, name: str, near: str) -> None:
    with pytest.raises(DatastillError, match=f"there is no {room} '{name}'; {near}"):
        resolve(tiny.recipe(**{room: choice(name)}), tiny.dataset().info)


def test_an_unknown_setting_of_a_choice_is_refused_with_its_path() -> None:
    with pytest.raises(DatastillError, match=r"there is no setting 'match\.round'; did you mean 'match\.rounds'"):
        resolve(tiny.recipe(match=choice("statistics", round=3)), tiny.dataset().info)


def test_all_mistakes_are_said_at_once() -> None:
    table = {"odd": NetworkRecipe(arch="convnet", settings={"norm": "instance"}), "far": NetworkRecipe(arch="convnt")}
    recipe = tiny.recipe(
        ipc=1,
        select=choice("rando"),
        match=choice("statistics", rounds=-1),
        label=choice("static", extra=1),
        networks=table,
    )
    with pytest.raises(DatastillError) as refused:
        resolve(recipe, tiny.dataset().info)
    text = str(refused.value)
    for part in (
        "there is no select 'rando'; did you mean 'random'?",
        "'match.rounds' must be at least 0, not -1.",
        "there is no setting 'label.extra'",
        "store 'compensated' has no room at ipc=1",
        "network 'far': there is no network 'convnt'; did you mean 'convnet'",
    ):
        assert part in text


def test_choices_that_do_not_fit_each_other_are_all_said() -> None:
    table = {"odd": NetworkRecipe(arch="convnet", settings={"norm": "instance"})}
    with pytest.raises(DatastillError) as refused:
        resolve(tiny.recipe(store=choice("pixels", total=3), networks=table), tiny.dataset().info)
    text = str(refused.value)
    assert "match 'statistics' needs gradients and sets, which no other choice here" in text
    assert "store 'pixels' was given total=3 for 4 classes" in text
    assert "network 'odd' has none" in text


def test_a_missing_provision_is_not_guessed_while_a_choice_is_unknown() -> None:
    with pytest.raises(DatastillError) as refused:
        resolve(tiny.recipe(store=choice("compensate")), tiny.dataset().info)
    assert "needs" not in str(refused.value)


def test_a_receiver_needs_no_recipe_that_could_run() -> None:
    table = {"gone": NetworkRecipe(arch="a_network_of_tomorrow")}
    recipe = tiny.recipe(networks=table)
    with pytest.raises(DatastillError, match="there is no network 'a_network_of_tomorrow'"):
        resolve(recipe, tiny.dataset().info)
    assert resolve(recipe, tiny.dataset().info, run=False).store.name == "compensated"


@pytest.mark.parametrize("name", registered("stages"))
def test_stages_are_numbered_in_order(name: str) -> None:
    recipe = tiny.recipe(stages=tiny.chosen("stages", name))
    plan = resolve(recipe, tiny.dataset().info).stages.plan(recipe)
    assert plan
    assert [stage.index for stage in plan] == list(range(len(plan)))


def test_once_is_the_recipe_as_it_is() -> None:
    recipe = tiny.recipe()
    assert Once().plan(recipe) == [Stage(0, recipe)]
