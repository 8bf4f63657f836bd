"""The pages keep their word: snippets run, commands parse, tables and names agree with the code."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import typer.main
import yaml

import datastill
from datastill import fields as rooms
from datastill import recipe as recipes
from datastill.cli import app, main
from datastill.errors import DatastillError
from datastill.networks import Space, create_network
from datastill.recipe import DatasetInfo, Recipe, compose, method, methods, read_networks
from datastill.store.compensated import Budget
from datastill.training import bank, supply, views

ROOT = Path(__file__).parents[2]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.name != "results.md"  # a table of results, made by a command
}
INFOS = {
    "digits": DatasetInfo("digits", 10, (1, 8, 8), 1438, (0.3,), (0.4,)),
    "cifar10": DatasetInfo("cifar10", 10, (3, 32, 32), 50_000, (0.5,) * 3, (0.2,) * 3),
    "cifar100": DatasetInfo("cifar100", 100, (3, 32, 32), 50_000, (0.5,) * 3, (0.2,) * 3),
    "tiny-imagenet": DatasetInfo("tiny-imagenet", 200, (3, 64, 64), 100_000, (0.5,) * 3, (0.2,) * 3),
    "imagenet": DatasetInfo("imagenet", 1000, (3, 224, 224), 1_281_167, (0.5,) * 3, (0.2,) * 3),
}
PROFILES = {"cifar": "cifar100", "tiny-imagenet": "tiny-imagenet", "imagenet": "imagenet", "small": "digits"}
# Of the page's own example; of arrays.
OTHER_NAMES = {"select.order", "store.compensators"} | {
    f"label.{name}" for name in ("logits", "codes", "scale", "index", "rest", "step", "basis", "mean", "width")
}
COMMANDS: dict[str, Any] = {}
for _name, _command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]  # a group, untyped
    # A group of commands stands for its members: `proxy nas`.
    inner = getattr(_command, "commands", None)
    COMMANDS |= {_name: _command} if inner is None else {f"{_name} {sub}": made for sub, made in inner.items()}
OPTIONS = {name for command in COMMANDS.values() for p in command.params for name in [*p.opts, *p.secondary_opts]}


class Block(NamedTuple):
    """A fenced block of a page; `run` where the line before it says so."""

    language: str
    text: str
    run: bool


def blocks(page: str) -> list[Block]:
    found = re.findall(r"(<!-- run -->\n)?```(\w*)[^\n]*\n(.*?)\n```", PAGES[page], re.DOTALL)
    return [Block(language, text, bool(mark)) for mark, language, text in found]


def codes(page: str) -> list[str]:
    """Return the inline code of a page."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))


def commands(page: str) -> list[list[str]]:
    """Return the arguments of every datastill command of a page's blocks."""
    lines = [line for b in blocks(page) if b.language in ("console", "sh") for line in b.text.splitlines()]
    cut = [re.sub(r"^(\$ )?(\w+=\S+ )?", "", line).split(" > ")[0] for line in lines]
    return [shlex.split(line)[1:] for line in cut if line.startswith("datastill ")]


def table(page: str, mark: str) -> list[list[str]]:
    """Return the cells below the heading of the table that a comment marks."""
    _, _, text = PAGES[page].partition(f"<!-- {mark} -->\n")
    rows = re.match(r"(?:\|.*\n)+", text)
    assert rows, f"{page} has no table '{mark}'"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


def name_of(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Make every run a matter of a second, in a folder of its own, and forget what a page registered."""

    def composed(*arguments: Any, **options: Any) -> Recipe:
        made = compose(*arguments, **options)
        name, network = next(iter(made.networks.items()))
        rounds = {"rounds": 2} if made.match.kind == "statistics" else {}
        return replace(
            made,
            networks={name: replace(network, training=replace(network.training, epochs=1))},
            match=replace(made.match, settings=dict(made.match.settings) | rounds),
            student=replace(made.student, epochs=1),
        )

    evaluate = datastill.evaluate

    def evaluated(*arguments: Any, **options: Any) -> dict[str, Any]:
        return evaluate(*arguments, **options | {"seeds": 1, "steps": 2, "controls": ["random_soft"]})

    for place in ("datastill.api.compose", "datastill.cli.distil.compose"):
        monkeypatch.setattr(place, composed)
    for place in ("datastill.evaluate", "datastill.cli.measure.evaluate_set"):
        monkeypatch.setattr(place, evaluated)
    monkeypatch.setattr("datastill.measure.student.EMBEDDED", 40)
    monkeypatch.setattr(recipes, "_METHODS", dict(methods()))
    monkeypatch.setattr(rooms, "_CHOICES", {room: dict(rooms.registered(room)) for room in rooms.ROOMS})
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # networks this small only wait for a second one
    with torch.random.fork_rng():  # a page may build a plain torch network
        yield


def command(line: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line))
    assert end.value.code == 0, line


def run_page(page: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the marked blocks of a page in order, as one session; returns its names."""
    session = ModuleType(f"page_{Path(page).stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, session.__name__, session)  # dataclasses look their module up
    for block in blocks(page):
        if block.run and block.language == "python":
            exec(compile(block.text, page, "exec"), vars(session))
        elif block.run:
            for line in block.text.splitlines():
                command(line.removeprefix("$ datastill "))
    return vars(session)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("page", ["README.md", "your-data.md"])
def test_the_snippets_of_a_page_run_one_after_another(page, monkeypatch):
    results = run_page(page, monkeypatch)["results"]
    assert "proves nothing" in results["verdict"][0]  # one seed: the sentence that the snippets print


@pytest.mark.usefixtures("small")
def test_getting_started_runs_and_writes_what_it_says(monkeypatch, tmp_path):
    run_page("getting-started.md", monkeypatch)
    for name in ("digits-10", "digits-10-run/results.json", "digits-10-run/report.html", "digits-10-samples.png",
                 "digits-10-pictures", "digits-small"):  # fmt: skip
        assert (tmp_path / name).exists(), name


@pytest.mark.usefixtures("small")
def test_items_are_rebuilt_by_hand_and_the_artifact_is_as_its_page_says(monkeypatch, tmp_path):
    packed = "--set store.codec.format=avif --set store.codec.tiles=50 --set label.codec.kind="
    forms = {"int8": "", "fp16": "--set store.storage=fp16", "jpeg": "--set store.storage=jpeg75"}
    for storage, options in (forms | {kind: packed + kind for kind in ("int5", "topk", "klt")}).items():
        options = options.replace("topk", "topk --set label.codec.k=3")
        command(f"distill digits --out digits-10 {options}")
        names = run_page("artifact.md", monkeypatch)  # compares the hash itself
        assert len(names["images"]) == names["manifest"]["items"] > 0
        labels = datastill.DistilledDataset.load(tmp_path / "digits-10").labels.values
        assert labels is not None
        assert np.allclose(names["logits"], labels, atol=1e-6)
        written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "digits-10").rglob("*") if path.is_file()}
        (tmp_path / "digits-10").rename(tmp_path / storage)
    assert sorted(key for row in table("artifact.md", "manifest") for key in name_of(row[0])) == sorted(
        names["manifest"]
    )
    assert [name_of(row[0])[0] for row in table("artifact.md", "items")] == list(rooms.COLUMNS) == list(names["items"])
    listed = {
        f"digits-10/{name}" for name in re.findall(r"^  ([\w./]+\.\w+) ", blocks("artifact.md")[0].text, re.MULTILINE)
    }
    second = {"digits-10/pictures/00001.avif"}  # the page lists the first alone
    assert written - {"digits-10/run.json"} - second == listed - {"digits-10/teachers/0.safetensors"}


@pytest.mark.usefixtures("small")
def test_the_example_of_a_method_runs_resolves_and_has_its_controls(monkeypatch, tmp_path):
    names = run_page("adding-a-method.md", monkeypatch)
    assert {row["arm"] for row in names["results"]["rows"]} == {"nearest", "random_soft"}
    assert datastill.DistilledDataset.load(tmp_path / "digits-nearest").recipe.select.kind == "nearest"
    changed = compose("nearest", INFOS["digits"], changes=["select.order=1"])
    assert changed.select.settings == {"order": 1}
    rooms.resolve(changed, INFOS["digits"])
    with pytest.raises(DatastillError, match=r"'select\.order' must be at least 1"):
        rooms.resolve(compose("nearest", INFOS["digits"], changes=["select.order=0.5"]), INFOS["digits"])


@pytest.mark.usefixtures("small")
def test_the_example_select_extends_a_smaller_choice(monkeypatch):
    names = run_page("adding-a-method.md", monkeypatch)
    made = names["distilled"].content.pictures
    fewer = datastill.distill("digits", "nearest", ipc=3).content.pictures
    for k in range(10):
        ten, three = ([i for i, c in zip(p.ids, p.cls, strict=True) if c == k] for p in (made, fewer))
        assert ten[:3] == three


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses_and_asks_for_things_that_exist(page):
    for words in commands(page):
        width = 1 if words[0] in COMMANDS else 2
        name = " ".join(words[:width])
        params = COMMANDS[name].make_context(name, words[width:]).params
        if words[0] == "distill":
            check_recipe(params)
        if words[0] == "evaluate":
            known = {control.name for control in method("infer").controls}
            assert set((params["only"] or "random_soft").split(",")) <= known, words
            check_networks(params["students"])


def check_recipe(params: dict[str, Any]) -> None:
    info = INFOS.get(params["source"], INFOS["cifar10"])
    changes = params["set_"] or []
    made = compose(params["method"] or "infer", info, ipc=params["ipc"] or 10, changes=changes)
    if params["teachers"]:
        check_networks(params["teachers"])
        made = made.with_networks(params["teachers"])
    rooms.resolve(made, info)


def check_networks(text: str) -> None:
    for arch, settings in read_networks(text).values():
        create_network(arch, classes=10, shape=(3, 32, 32), space=Space((0.5,) * 3, (0.2,) * 3), seed=0, **settings)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_option_setting_and_file_named_in_the_text_exists(page):
    for code in codes(page):
        if code.startswith("datastill "):
            assert {code.split()[1], " ".join(code.split()[1:3])} & COMMANDS.keys(), code
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
            assert option in OPTIONS | {"--debug"}, code
        if code.endswith(".py"):
            assert (ROOT / code).exists() or (ROOT / "src/datastill" / code).exists(), code
        for change in re.findall(
            r"(?:^|--set '?)((?:select|store|match|label|stages|student|networks)[.=][^' ]+)", code
        ):
            check_change(change)
        if code.startswith("make "):
            assert f"\n{code.split()[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), code


def check_change(change: str) -> None:
    """Check `room=choice`, `room.setting=value`, or a path that names a setting or a method of a protocol."""
    path, _, value = change.partition("=")
    room, _, setting = path.partition(".")
    setting, _, inner = setting.partition(".")
    if path in OTHER_NAMES:
        return
    if room in rooms.ROOMS and not setting:
        assert value in rooms.registered(room), change
    elif room in rooms.ROOMS:
        owners = [c for c in rooms.registered(room).values() if setting in c.__dataclass_fields__]  # type: ignore[attr-defined]  # choices are dataclasses, which their base is not
        assert owners or hasattr(getattr(rooms, room.capitalize()), setting), change
        if value:
            mistakes: list[str] = []
            given = {inner: yaml.safe_load(value)} if inner else yaml.safe_load(value)
            rooms.make_choice(room, recipes.choice(owners[0].name, **{setting: given}), mistakes)
            assert not mistakes, change
    elif value:
        compose("infer", INFOS["cifar100"], changes=[change])
    else:
        value_at(compose("infer", INFOS["cifar100"]), path)


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page]):
        assert target.endswith("results.md") or (folder / target).exists(), target


def test_the_readme_keeps_a_place_for_the_table_of_results():
    assert re.search(r"^<!-- results -->\n(?:.*\n)*?<!-- /results -->$", PAGES["README.md"], re.MULTILINE)


def test_the_message_of_the_page_is_the_message_of_the_program(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["distill", "digits", "--out", "a", "--set", "match.round=50"])
    assert end.value.code == 2
    assert capsys.readouterr().err.strip() in [b.text for b in blocks("getting-started.md")]


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


def value_at(made: Recipe, path: str) -> Any:
    """Return a value of a recipe; one that a choice leaves to its default is looked up there."""
    room, _, setting = path.partition(".")
    if room in rooms.ROOMS:
        return getattr(rooms.make_choice(room, getattr(made, room), []), setting)
    if room == "student":
        return getattr(made.student, setting)
    values = [getattr(n.training, setting.removeprefix("*.training.")) for n in made.networks.values()]
    assert values == values[:1] * len(values), path
    return values[0]


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
