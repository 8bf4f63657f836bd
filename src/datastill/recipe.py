"""A recipe: six fields, a table of networks and a few numbers. All data, no code.

How a network is trained stands in `training_recipe`, and is named here too, so that method files import one module.
Nothing else of the library is imported but its error and its settings, so that they can be read as tables.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from datastill.errors import DatastillError, suggestion, unknown
from datastill.settings import build, plain, setting
from datastill.training_recipe import OPERATIONS as OPERATIONS
from datastill.training_recipe import NetworkRecipe as NetworkRecipe
from datastill.training_recipe import Operation as Operation
from datastill.training_recipe import TrainRecipe as TrainRecipe
from datastill.training_recipe import Work as Work

FIELDS = ("select", "store", "match", "label", "stages")


@dataclass(frozen=True)
class DatasetInfo:
    """What a preset may know of a data set: shape is (channels, height, width), mean and std are per channel."""

    name: str
    classes: int
    shape: tuple[int, int, int]
    train_images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Choice:
    """One filling of a field: the short name of a registered class, and its settings."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, path: str, mistakes: list[str]) -> Choice | None:
        """Read `name` or `{kind: name, setting: value, ...}`; notes a mistake and returns None for anything else."""
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
            return cls(value["kind"], {str(k): v for k, v in value.items() if k != "kind"})
        mistakes.append(f"'{path}' must be a name, or a mapping with a 'kind'.")
        return None

    def plain(self) -> dict[str, Any]:
        """Return the choice as a flat mapping."""
        return {"kind": self.kind} | {k: plain(v) for k, v in self.settings.items()}


def choice(kind: str, **settings: Any) -> Choice:
    """Shorthand for `Choice` in method files."""
    return Choice(kind, settings)


def read_networks(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Read `resnet18,convnet(width=64)` as label -> (architecture, settings); the label reads back to the same two.

    Raises: DatastillError for an entry that is neither NAME nor NAME(setting=value, ...), one that stands there twice,
        or no entry at all.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in filter(str.strip, re.findall(r"[^,(]+(?:\([^)]*\)?)?", text)):
        match = re.fullmatch(r"\s*([\w.:/+-]+)\s*(?:\((.*)\))?\s*", entry)
        settings = _read_settings(match[2] or "") if match else None
        if match is None or settings is None:
            raise DatastillError(
                f"'{entry.strip()}' is no network; write NAME or NAME(setting=value), with commas between."
            )
        label = match[1] + (f"({', '.join(f'{k}={_written(v)}' for k, v in settings.items())})" if settings else "")
        if label in found:
            raise DatastillError(f"the network '{label}' is named twice; name it once.")
        found[label] = (match[1], settings)
    if not found:
        raise DatastillError(f"'{text}' names no network; write NAME or NAME(setting=value), with commas between.")
    return found


def _read_settings(text: str) -> dict[str, Any] | None:
    """Read `width=64, norm=batch`; returns None where it is something else."""
    settings: dict[str, Any] = {}
    for change in filter(str.strip, text.split(",")):
        name, _, value = change.partition("=")
        if not name.strip().isidentifier() or not value.strip():
            return None
        try:
            settings[name.strip()] = yaml.load(value, _Reader)
        except YAML_ERRORS:
            return None
    return settings


def _written(value: Any) -> str:
    return yaml.dump(value, Dumper=_Writer, default_flow_style=True, width=math.inf).splitlines()[0]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a distilled data set is, given the real one."""

    method: str
    ipc: int = setting(10, low=1, help="nominal images per class")
    seed: int = setting(0, low=0)
    validation: int = setting(0, low=0, help="training images held out of everything, for choices")
    faithful: bool = setting(False, help="the released code's habits, where a specification lists them")
    select: Choice
    store: Choice
    match: Choice
    label: Choice
    stages: Choice
    student: TrainRecipe
    networks: dict[str, NetworkRecipe] = setting({})

    def plain(self) -> dict[str, Any]:
        """Return the recipe as dicts, lists, texts and numbers."""
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_yaml(self) -> str:
        """Return the recipe as YAML that `Recipe.from_yaml` reads back to an equal one."""
        return yaml.dump(self.plain(), Dumper=_Writer, sort_keys=False)

    @classmethod
    def from_plain(cls, data: Any, where: str = "the recipe") -> Recipe:
        """Check and build a recipe. Raises: DatastillError with every mistake, a sentence each."""
        mistakes: list[str] = []
        made = build(cls, data, "", mistakes)
        if mistakes:
            raise DatastillError(f"{where}: " + " ".join(mistakes))
        return cast(Recipe, made)

    @classmethod
    def from_yaml(cls, path: Path) -> Recipe:
        """Read a recipe file. Raises: DatastillError, naming the file, when it is missing, malformed or mistaken."""
        return cls.from_plain(read_yaml(path), f"'{path}'")

    def changed(self, changes: Iterable[str]) -> Recipe:
        """Return the recipe under `path=value` changes, values in YAML; `*` stands for every key of a mapping.

        Example: `recipe.changed(["match.rounds=50", "networks.*.training.epochs=30", "label=hard"])`
        """
        data = self.plain()
        for change in changes:
            apply_change(data, change)
        return Recipe.from_plain(data)

    def with_networks(self, text: str) -> Recipe:
        """Return the recipe with another table of networks, trained as the first one of the table is."""
        like = next(iter(self.networks.values()), NetworkRecipe(arch=""))
        made = {
            label: NetworkRecipe(arch=arch, settings=settings, seed=like.seed, training=like.training)
            for label, (arch, settings) in read_networks(text).items()
        }
        return dataclasses.replace(self, networks=made)

    def patched(self, patch: Mapping[str, Any]) -> Recipe:
        """Return the recipe with whole values replaced, as the controls of a method are written.

        A path such as `label.local` replaces one setting, and leaves the others as the recipe has them.
        """
        data = self.plain()
        for path, value in patch.items():
            *way, last = path.split(".")
            for place in _places(data, way, path):
                place[last] = plain(value)
        return Recipe.from_plain(data)


class _Reader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in its version 1.2, and without aliases: what they expand to has no bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name), which is not read here")
        return super().compose_node(parent, index)


class _Writer(yaml.SafeDumper):
    """The same for writing: a text '1e-3' gets quotes."""


for _kind in (_Reader, _Writer):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )

# Beside its own errors the parser raises ValueError (a date or a number that cannot be) and RecursionError (nesting).
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file without running anything in it."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Reader)
    except OSError as error:
        raise DatastillError(f"the recipe file '{path}' cannot be read: {error.strerror}.") from error
    except YAML_ERRORS as error:
        raise DatastillError(f"the recipe file '{path}' is not YAML: {' '.join(str(error).split())}.") from error


def apply_change(data: dict[str, Any], change: str) -> None:
    """Apply one `path=value` to plain data, in place. Raises: DatastillError for a path that leads nowhere."""
    path, equals, text = change.partition("=")
    path = path.strip()
    if not equals or not path:
        raise DatastillError(f"--set wants path=value, not '{change}'; for example --set match.rounds=50.")
    try:
        value = yaml.load(text, _Reader)
    except YAML_ERRORS as error:
        raise DatastillError(f"--set {path}: '{text}' is not a YAML value.") from error
    *way, last = path.split(".")
    if last == "*":
        raise DatastillError(f"--set {path}: a path cannot end in '*'.")
    for place in _places(data, way, path):
        old = place.get(last)
        if isinstance(old, dict) and "kind" in old and isinstance(value, str):
            place[last] = {"kind": value} if value != old["kind"] else old
        else:
            place[last] = copy.deepcopy(value)


def _places(data: dict[str, Any], way: list[str], path: str) -> list[dict[str, Any]]:
    places = [data]
    for name in way:
        found = []
        for place in places:
            if name == "*":
                found += [v for v in place.values() if isinstance(v, dict)]
            elif isinstance(place.get(name), dict):
                found.append(place[name])
            elif "kind" in place and name not in place:  # settings of a setting, of which none was said yet
                found.append(place.setdefault(name, {}))
            else:
                raise DatastillError(f"--set {path}: there is no '{name}'{suggestion(name, place)}")
        if not found:
            raise DatastillError(f"--set {path}: there is nothing that '*' could stand for.")
        places = found
    return places


@dataclass(frozen=True)
class Control:
    """A data set that stands beside a method's result: recipe patches (data too), same student, same steps.

    `needs` names what has to be measured first and added to the patch: the norms of the learned units ("norms"), how
    many items fill the bytes of the method ("bytes"), its natural sets ("sets"), or other step counts ("steps").
    """

    name: str
    says: str
    patch: Mapping[str, Any] = field(default_factory=dict)
    needs: Literal["", "norms", "bytes", "sets", "steps"] = ""


@dataclass(frozen=True)
class Paper:
    """A number that a paper printed; always shown as the paper's."""

    source: str
    ipc: int
    student: str
    column: Literal["H", "S", "D"]
    top1: float
    std: float | None
    where: str


@dataclass(frozen=True)
class Method:
    """A preset with what belongs beside it."""

    name: str
    build: Callable[[DatasetInfo, int, bool], Recipe]
    title: str
    cite: str
    controls: tuple[Control, ...]
    paper: tuple[Paper, ...]


_METHODS: dict[str, Method] = {}


def preset(
    name: str, *, title: str, cite: str, controls: Iterable[Control] = (), paper: Iterable[Paper] = ()
) -> Callable[[Callable[[DatasetInfo, int, bool], Recipe]], Callable[[DatasetInfo, int, bool], Recipe]]:
    """Register `build(info, ipc, faithful) -> Recipe` as the method `name`."""

    def register(
        build: Callable[[DatasetInfo, int, bool], Recipe],
    ) -> Callable[[DatasetInfo, int, bool], Recipe]:
        _METHODS[name] = Method(name, build, title, cite, tuple(controls), tuple(paper))
        return build

    return register


def methods() -> dict[str, Method]:
    """Return every method by name."""
    importlib.import_module("datastill.methods")
    return dict(sorted(_METHODS.items()))


def method(name: str) -> Method:
    """Return one method. Raises: DatastillError with the nearest names."""
    found = methods()
    if name not in found:
        raise unknown("method", name, found)
    return found[name]


def compose(
    name: str, info: DatasetInfo, *, ipc: int = 10, seed: int = 0, faithful: bool = False, changes: Iterable[str] = ()
) -> Recipe:
    """Return the preset `name` for a data set, under `path=value` changes."""
    changes = list(changes)
    early: dict[str, Any] = {"faithful": faithful, "ipc": ipc, "seed": seed}
    for change in changes:
        if change.partition("=")[0] in early:
            apply_change(early, change)
    late = [c for c in changes if c.partition("=")[0] not in early]
    if type(early["ipc"]) is not int or early["ipc"] < 1:
        raise DatastillError(f"--ipc must be a whole number of at least 1, not '{early['ipc']}'.")
    made = method(name).build(info, early["ipc"], bool(early["faithful"]))
    return Recipe.from_plain(made.plain() | early).changed(late)
