"""The pages keep their word: snippets run, commands parse, names exist. Their tables are in test_docs_tables.py."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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
from datastill.measure import budget
from datastill.measure.compare import Comparison
from datastill.measure.frontier import Grid
from datastill.networks import Space, create_network
from datastill.recipe import Recipe, compose, method, methods, read_networks
from reference.pages import INFOS, PAGES, ROOT, blocks, codes, name_of, table, value_at

# Of the page's own example; of arrays.
OTHER_NAMES = {"select.order", "store.compensators", "store.pixels"} | {
    f"label.{name}" for name in ("logits", "codes", "scale", "index", "rest", "step", "basis", "mean", "width")
}
LABELLED_OTHERWISE = ("labels/00000.safetensors", "teachers/0.safetensors")  # than `static`
COMMANDS: dict[str, Any] = {}
for _name, _command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]  # a group, untyped
    # A group of commands stands for its members: `proxy nas`.
    inner = getattr(_command, "commands", None)
    COMMANDS |= {_name: _command} if inner is None else {f"{_name} {sub}": made for sub, made in inner.items()}
OPTIONS = {name for command in COMMANDS.values() for p in command.params for name in [*p.opts, *p.secondary_opts]}


def commands(page: str) -> list[list[str]]:
    """Return the arguments of every datastill command of a page's blocks."""
    whole = [b.text.replace("\\\n", " ") for b in blocks(page) if b.language in ("console", "sh")]
    lines = [line for text in whole for line in text.splitlines()]
    cut = [re.sub(r"^(\$ )?(\w+=\S+ )?", "", line).split(" > ")[0] for line in lines]
    return [shlex.split(line)[1:] for line in cut if line.startswith("datastill ")]


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

    compare = datastill.compare

    def compared(*arguments: Any, **options: Any) -> dict[str, Any]:
        return compare(*arguments, **options | {"seeds": 1, "steps": 2, "controls": False})

    for place in ("datastill.api.compose", "datastill.cli.distil.compose", "datastill.measure.compare.compose"):
        monkeypatch.setattr(place, composed)
    monkeypatch.setattr("datastill.compare", compared)
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
def test_a_comparison_runs_and_its_results_have_the_keys_that_the_page_lists(monkeypatch, tmp_path):
    results = run_page("comparing.md", monkeypatch)["results"]
    assert {row["arm"] for row in results["rows"]} >= {"random", "random_hard", "herding", "herding_hard", "infer"}
    listed = {key for row in table("comparing.md", "results") for key in name_of(row[0])}
    assert listed == set(results)
    assert (tmp_path / "digits-compare/results.json").exists()


@pytest.mark.usefixtures("small")
def test_a_budget_is_spent_as_its_page_says(monkeypatch, tmp_path, capsys):
    distill = datastill.distill
    monkeypatch.setattr("datastill.distill", lambda *given, **options: distill(*given, **options | {"steps": 2}))
    monkeypatch.setattr(budget, "STUDENT", "convnet(width=8)")
    made = run_page("budget.md", monkeypatch)["distilled"]
    assert (made.recipe.method, made.recipe.store.kind) == ("datastill", "coded")
    assert 18_000 < budget.folder_bytes(tmp_path / "digits-20kB") <= 20_000
    assert "20,000 bytes hold" in capsys.readouterr().err


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
    assert written - {"digits-10/run.json"} - second == listed - {f"digits-10/{name}" for name in LABELLED_OTHERWISE}


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
        check_command(words)


def check_command(words: list[str]) -> dict[str, Any]:
    """Check that the arguments of a command parse and ask for things that exist; return what they were parsed to."""
    width = 1 if words[0] in COMMANDS else 2
    name = " ".join(words[:width])
    params = COMMANDS[name].make_context(name, words[width:]).params
    if words[0] == "distill":
        check_recipe(params)
    if words[0] in ("compare", "frontier"):
        check_comparison(params)
    if words[0] == "evaluate":
        known = {control.name for control in method("infer").controls}
        assert set((params["only"] or "random_soft").split(",")) <= known, words
        check_networks(params["students"])
    return params


def test_the_commands_of_runs_that_wait_parse_and_are_those_of_their_line_of_the_leaderboard():
    entries = yaml.safe_load((ROOT / "docs" / "results" / "waiting.yaml").read_text(encoding="utf-8"))
    outs = []
    for entry in entries:
        lines = [shlex.split(line)[1:] for line in entry["command"].splitlines()]
        first, *others = [check_command(words) for words in lines]
        assert first["source"] == entry["source"]
        if lines[0][0] == "distill":
            assert (first["method"], first["ipc"]) == (entry["method"], entry["ipc"])
            assert (str(others[0]["folder"]), others[0]["students"]) == (str(first["out"]), entry["student"])
            outs.append(first["out"])
        if lines[0][0] in ("compare", "frontier"):
            assert str(entry["ipc"]) in first["ipc"].split(",")
            assert entry["method"] in first["methods"].split(",")
    assert len(outs) == len(set(outs))  # no run writes into the folder of another


def check_recipe(params: dict[str, Any]) -> None:
    info = INFOS.get(params["source"], INFOS["cifar10"])
    changes = params["set_"] or []
    made = compose(params["method"] or "infer", info, ipc=params["ipc"] or 10, changes=changes)
    if params["teachers"]:
        check_networks(params["teachers"])
        made = made.with_networks(params["teachers"])
    rooms.resolve(made, info)


def check_comparison(params: dict[str, Any]) -> None:
    """Check methods and changes of a command, its students, and every point of its grids."""
    info = INFOS.get(params["source"], INFOS["cifar10"])
    asked = Comparison(
        methods=tuple(params["methods"].split(",")), changes=tuple(params["set_"] or ()), networks=params["teachers"]
    )
    ipc = max(map(int, params["ipc"].split(",")))
    data: Any = SimpleNamespace(info=info)
    recipes_ = {name: asked.recipe(name, data, ipc) for name in ("random", *asked.methods)}
    check_networks(params["students"])
    for grid in map(Grid.parse, params.get("grid") or ()):
        for (_, codec), (_, label) in itertools.product(grid.codecs, grid.labels):
            store = recipes.choice("coded", codec=dict(codec))
            rooms.resolve(recipes_["random"].patched({"store": store, "label": label}), info)


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
            r"(?:^|--set '?)((?:select|store|match|label|stages|student|networks)[.=](?:\[[^]]*\]|[^' \[])+)", code
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
            given = {inner: yaml.safe_load(value)} if inner else yaml.safe_load(value)
            made = [rooms.make_choice(room, recipes.choice(owner.name, **{setting: given}), []) for owner in owners]
            assert any(made), change  # two choices may have a setting of one name
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
