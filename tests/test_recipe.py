"""Recipes: from and to YAML, `--set` paths, networks by text, presets by name, and how much work a training is."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datastill.errors import DatastillError, suggestion, unknown
from datastill.recipe import (
    Choice,
    Control,
    DatasetInfo,
    NetworkRecipe,
    Recipe,
    TrainRecipe,
    Work,
    apply_change,
    choice,
    compose,
    method,
    methods,
    preset,
    read_networks,
)

INFO = DatasetInfo("cifar100", 100, (3, 32, 32), 50_000, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


@pytest.fixture
def recipe() -> Recipe:
    return compose("infer", INFO)


# --- errors


def test_a_near_name_is_suggested_and_otherwise_all_are_listed() -> None:
    assert suggestion("adan", ["adamw", "adam", "sgd"]) == "; did you mean 'adam' or 'adamw'?"
    assert suggestion("zzz", ["b", "a"]) == "; there are: a, b."
    assert suggestion("zzz", []) == "; there are none."
    assert suggestion("zzz", [f"name{i:02d}" for i in range(30)]).endswith("name19, ....")
    assert str(unknown("fruit", "aple", ["apple"])) == "there is no fruit 'aple'; did you mean 'apple'?"


# --- files


def test_a_recipe_comes_back_equal_from_yaml(recipe: Recipe, tmp_path: Path) -> None:
    changed = recipe.changed(["student.lr=1e-5", "networks.*.training.weight_decay=0", "student.steps=7"])
    for made in (recipe, changed, compose("infer-dyn", INFO, ipc=50, seed=3, faithful=True)):
        path = tmp_path / "recipe.yaml"
        path.write_text(made.to_yaml(), encoding="utf-8")
        again = Recipe.from_yaml(path)
        assert again == made
        assert again.to_yaml() == made.to_yaml()


SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8) | st.sampled_from(
    ["1e-3", "1.0e5", "yes", "null", "0x1f", "1_0", "*", "&a", "2001-01-01", "~", "12:30", "- a", "a: b"]
)


@given(
    st.dictionaries(TEXTS.filter(lambda key: key != "kind"), SCALARS | TEXTS | st.lists(TEXTS, max_size=3), max_size=4)
)
def test_whatever_settings_a_choice_has_come_back_equal(settings: dict[str, Any]) -> None:
    recipe = Recipe(
        method="m",
        select=Choice("s", settings),
        store=choice("s"),
        match=choice("m"),
        label=choice("l"),
        stages=choice("o"),
        student=TrainRecipe(),
        networks={"n": NetworkRecipe(arch="convnet", settings=settings)},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        assert Recipe.from_yaml(path) == recipe


def test_a_recipe_file_with_wrong_types_is_refused_with_every_mistake(recipe: Recipe, tmp_path: Path) -> None:
    data = recipe.plain()
    data["ipc"] = "ten"
    data["seed"] = True
    data["networks"] = ["resnet18"]
    data["store"] = 3
    data["match"] = {"rounds": 5}
    data["student"] |= {"lr": "fast", "epochs": 2.5, "betas": 0.9, "flip": "no", "optimiser": "adamx", "lrate": 1}
    del data["label"]
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(DatastillError) as caught:
        Recipe.from_yaml(path)
    said = str(caught.value)
    assert said.startswith(f"'{path}': ")
    for sentence in [
        "'ipc' must be a whole number, not 'ten'.",
        "'seed' must be a whole number, not bool 'True'.",
        "'networks' must be a mapping, not list",
        "'store' must be a name, or a mapping with a 'kind'.",
        "'match' must be a name, or a mapping with a 'kind'.",
        "'student.lr' must be a number, not 'fast'.",
        "'student.epochs' must be a whole number, not float '2.5'.",
        "'student.betas' must be a list, not float '0.9'.",
        "'student.flip' must be true or false, not 'no'.",
        "'student.optimiser' is 'adamx'; did you mean",
        "there is no setting 'student.lrate'; did you mean 'student.lr'",
        "the setting 'label' is missing.",
    ]:
        assert sentence in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("ipc=0", "'ipc' must be at least 1, not 0."),
        ("seed=-1", "'seed' must be at least 0"),
        ("validation=-1", "'validation' must be at least 0"),
        ("student.lr=-1e-3", "'student.lr' must be at least 0.0"),
        ("student.momentum=1.1", "'student.momentum' must be between 0.0 and 1.0"),
        ("student.betas=[0.9, 1.0]", "'student.betas[1]' must be between 0.0 and"),
        ("student.batch=0", "'student.batch' must be at least 1"),
        ("student.steps=0", "'student.steps' must be at least 1"),
        ("student.crop=65", "'student.crop' must be between 0 and 64"),
        ("student.temperature=0", "'student.temperature' must be at least 0.001"),
        ("student.mix_alpha=.inf", "'student.mix_alpha' must be a number"),
        ("networks.resnet18.training.epochs=0", "'networks.resnet18.training.epochs' must be at least 1"),
    ],
)
def test_values_outside_their_range_are_refused(recipe: Recipe, change: str, sentence: str) -> None:
    with pytest.raises(DatastillError) as caught:
        recipe.changed([change])
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1,",
        "a: 2001-99-99",
        "a: " + "1" * 5000,
        "[" * 2000,
        "a: !!python/object/apply:os.getcwd []",
        "a: &x [1]\nb: *x",
        "a: &x [*x]",
        "? [a]\n: 1",
    ],
)
def test_a_file_that_is_not_plain_yaml_is_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatastillError, match=r"the recipe file '.*bad\.yaml' is not YAML: "):
        Recipe.from_yaml(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=r"'.*none\.yaml' cannot be read: No such file"):
        Recipe.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(DatastillError, match=r"'.*latin\.yaml' is not YAML"):
        Recipe.from_yaml(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_bytes(b"")
    with pytest.raises(DatastillError, match=r"empty\.yaml': 'the recipe' must be a mapping, not nothing"):
        Recipe.from_yaml(tmp_path / "empty.yaml")


# --- changes


def test_a_path_sets_one_value_and_leaves_the_recipe_itself_alone(recipe: Recipe) -> None:
    before = recipe.to_yaml()
    changed = recipe.changed(["student.epochs=5", "match.rounds=50", "networks.resnet18.training.lr=0.02"])
    assert (changed.student.epochs, changed.match.settings["rounds"]) == (5, 50)
    rates = {name: network.training.lr for name, network in changed.networks.items()}
    assert rates == {"resnet18": 0.02, "mobilenetv2": 0.1, "efficientnet_b0": 0.1, "shufflenet_g2": 0.1}
    assert recipe.to_yaml() == before


def test_a_star_stands_for_every_network(recipe: Recipe) -> None:
    changed = recipe.changed(["networks.*.training.epochs=30"])
    assert {network.training.epochs for network in changed.networks.values()} == {30}


def test_a_mapping_set_by_a_star_is_one_of_its_own_for_each(recipe: Recipe) -> None:
    changed = recipe.changed(["networks.*.settings={width: 0.5}", "networks.resnet18.settings.width=0.25"])
    widths = [network.settings["width"] for network in changed.networks.values()]
    assert widths == [0.25, 0.5, 0.5, 0.5]


def test_setting_a_choice_by_name_drops_the_settings_of_the_former_one(recipe: Recipe) -> None:
    assert recipe.changed(["match=none"]).match == Choice("none")
    assert recipe.changed(["match=statistics"]).match == recipe.match
    assert recipe.changed(["match={kind: statistics, rounds: 2}"]).match == Choice("statistics", {"rounds": 2})
    assert recipe.changed(["label=hard", "label.x=1"]).label == Choice("hard", {"x": 1})


def test_an_exponent_without_a_point_is_a_number(recipe: Recipe) -> None:
    assert yaml.safe_load("1e-3") == "1e-3"  # YAML 1.1, which is what makes this a trap
    changed = recipe.changed(["student.lr=1e-3", "match.lr=25E-2", "networks.resnet18.settings.width=5e-1"])
    assert (changed.student.lr, changed.match.settings["lr"]) == (0.001, 0.25)
    assert changed.networks["resnet18"].settings == {"width": 0.5}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("match.rounds", "--set wants path=value, not 'match.rounds'"),
        ("=3", "--set wants path=value, not '=3'"),
        ("mach.rounds=3", "--set mach.rounds: there is no 'mach'; did you mean 'match'"),
        ("networks.resnet19.seed=3", "there is no 'resnet19'; did you mean 'resnet18'"),
        ("student.lr.x=3", "there is no 'lr'"),
        ("match.*.x=3", "there is nothing that '*' could stand for"),
        ("networks.*=3", "a path cannot end in '*'"),
        ("student.epoch=3", "there is no setting 'student.epoch'; did you mean 'student.epochs'"),
        ("student=3", "'student' must be a mapping, not int '3'"),
        ("student.epochs=", "'student.epochs' must be a whole number, not nothing"),
        ("student.epochs=[1", "--set student.epochs: '[1' is not a YAML value"),
        ("student.epochs=2001-99-99", "is not a YAML value"),
        ("student.epochs=*", "is not a YAML value"),
    ],
)
def test_a_path_or_a_value_that_leads_nowhere_is_refused(recipe: Recipe, change: str, sentence: str) -> None:
    with pytest.raises(DatastillError) as caught:
        recipe.changed([change])
    assert sentence in str(caught.value)


def test_blanks_around_a_path_do_not_matter() -> None:
    data: dict[str, Any] = {"a": {"b": 1}}
    apply_change(data, " a.b = 2")
    assert data == {"a": {"b": 2}}


def test_later_changes_win(recipe: Recipe) -> None:
    assert recipe.changed(["student.lr=1", "student.lr=2"]).student.lr == 2.0


def test_a_patch_replaces_whole_values(recipe: Recipe) -> None:
    patched = recipe.patched({"match": choice("none"), "store": choice("pixels", total=4)})
    assert (patched.match, patched.store) == (Choice("none"), Choice("pixels", {"total": 4}))
    assert patched.student == recipe.student
    inner = recipe.patched({"label": choice("views", views=3)}).patched({"label.views": 5, "student.lr": 0.5})
    assert (inner.label, inner.student.lr) == (Choice("views", {"views": 5}), 0.5)
    assert inner.student == replace(recipe.student, lr=0.5)
    with pytest.raises(DatastillError, match="no setting 'stor'; did you mean 'store'"):
        recipe.patched({"stor": choice("pixels")})


# --- networks by text


def test_networks_are_read_from_a_text() -> None:
    assert read_networks("resnet18") == {"resnet18": ("resnet18", {})}
    assert read_networks(" resnet18 , convnet( width = 64 ,norm=instance),timm:a.b_c-1/d+") == {
        "resnet18": ("resnet18", {}),
        "convnet(width=64, norm=instance)": ("convnet", {"width": 64, "norm": "instance"}),
        "timm:a.b_c-1/d+": ("timm:a.b_c-1/d+", {}),
    }
    assert read_networks("convnet(width=8),convnet(width=16)").keys() == {"convnet(width=8)", "convnet(width=16)"}
    assert read_networks("resnet18()") == read_networks("resnet18, ") == read_networks("resnet18")


@pytest.mark.parametrize(
    "text",
    ["a(width=8)", "a(x=true)", "a(x=null)", "a(x=1e-05)", "a(x='1')", "a(x='1e-3')", "a(x=no)", "a(x=b c, y=2)"],
)
def test_the_label_of_a_network_reads_back_to_the_same_network(text: str) -> None:
    ((label, made),) = read_networks(text).items()
    assert read_networks(label) == {label: made}


@pytest.mark.parametrize(
    "text",
    ["res net", "resnet18(", "convnet(64)", "convnet(width)", "convnet(width=8", "convnet(width=[1)", "(width=3)",
     "a(b(c=1))", "a)", "convnet(=3)", "convnet(width=)", "convnet(a.b=1)"],
)  # fmt: skip
def test_what_names_no_network_is_refused(text: str) -> None:
    with pytest.raises(DatastillError, match=r"is no network; write NAME or NAME\(setting=value\)"):
        read_networks(text)


def test_no_network_and_the_same_network_twice_are_refused() -> None:
    with pytest.raises(DatastillError, match="' ,' names no network"):
        read_networks(" ,")
    with pytest.raises(DatastillError, match="'resnet18' is named twice"):
        read_networks("resnet18,resnet18")
    with pytest.raises(DatastillError, match=r"'a\(b=1\)' is named twice"):
        read_networks("a(b=1),a(b = 1)")


def test_other_networks_are_trained_as_the_first_one_was(recipe: Recipe) -> None:
    changed = recipe.changed(["networks.resnet18.training.epochs=3", "networks.resnet18.seed=5"])
    replaced = changed.with_networks("convnet(width=64),resnet10")
    assert list(replaced.networks) == ["convnet(width=64)", "resnet10"]
    for network in replaced.networks.values():
        assert (network.training, network.seed) == (changed.networks["resnet18"].training, 5)
    assert replaced.networks["convnet(width=64)"].settings == {"width": 64}
    empty = changed.patched({"networks": {}}).with_networks("resnet10")
    assert empty.networks["resnet10"].training == TrainRecipe()


# --- presets


def test_a_preset_takes_ipc_seed_and_changes() -> None:
    made = compose("infer", INFO, ipc=50, seed=7, changes=["student.epochs=3", "ipc=20", "validation=100"])
    assert (made.ipc, made.seed, made.student.epochs, made.validation, made.faithful) == (20, 7, 3, 100, False)


def test_what_a_preset_is_built_from_can_be_changed_first() -> None:
    asked = compose("infer", INFO, faithful=True)
    changed = compose("infer", INFO, changes=["faithful=true"])
    assert asked == changed
    assert asked.store.settings["storage"] == "jpeg75"
    assert compose("infer", INFO).store.settings["storage"] == "int8"


@pytest.mark.parametrize("value", ["0", "2.5", "true", "ten", "-3", "[1]"])
def test_ipc_must_be_a_whole_number_of_at_least_one(value: str) -> None:
    with pytest.raises(DatastillError, match="--ipc must be a whole number of at least 1"):
        compose("infer", INFO, changes=[f"ipc={value}"])


def test_other_early_settings_are_checked_too() -> None:
    with pytest.raises(DatastillError, match="'faithful' must be true or false"):
        compose("infer", INFO, changes=["faithful=3"])
    with pytest.raises(DatastillError, match="'seed' must be a whole number"):
        compose("infer", INFO, changes=["seed=x"])


def test_an_unknown_method_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(DatastillError, match=r"there is no method 'infre'; did you mean 'infer'"):
        compose("infre", INFO)
    assert method("infer-dyn").name == "infer-dyn"


def test_a_method_is_known_once_it_is_decorated(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    import datastill.recipe as module

    monkeypatch.setattr(module, "_METHODS", dict(module._METHODS))

    @preset("another", title="Another", cite="arXiv:0000.00000", controls=[Control("c", "says")])
    def another(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
        return recipe

    assert "another" in methods()
    assert [c.name for c in method("another").controls] == ["c"]
    assert compose("another", INFO, ipc=3) == recipe.changed(["ipc=3"])


# --- work


def test_the_steps_of_the_specification_come_out() -> None:
    student = TrainRecipe(batch=64, epochs=400)
    assert student.work(4_500) == Work(items=4_500, batch=64, epoch=71, steps=28_400)
    assert student.work(24_000).steps == 150_000
    assert student.work(350).steps == 2_400
    assert student.work(1_750).steps == 11_200


def test_eighty_and_four_hundred_epochs_can_be_asked_of_either_method() -> None:
    for name, own in (("infer", 28_400), ("infer-dyn", 5_680)):
        assert compose(name, INFO).student.work(4_500).steps == own
        for epochs, steps in ((80, 5_680), (400, 28_400)):
            by_epochs = compose(name, INFO, changes=[f"student.epochs={epochs}"]).student.work(4_500)
            by_steps = compose(name, INFO, changes=[f"student.steps={steps}"]).student.work(4_500)
            assert by_epochs == by_steps == Work(4_500, 64, 71, steps)


def test_a_given_total_comes_before_the_steps_and_these_before_the_epochs() -> None:
    recipe = TrainRecipe(batch=10, epochs=3, steps=7)
    assert recipe.work(25) == Work(25, 10, 3, 7)
    assert recipe.work(25, 5) == Work(25, 10, 3, 5)
    assert TrainRecipe(batch=10, epochs=3).work(25) == Work(25, 10, 3, 9)
    assert TrainRecipe(batch=64, epochs=2).work(5) == Work(5, 64, 1, 2)
