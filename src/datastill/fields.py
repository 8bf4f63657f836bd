"""The protocols of the six fields, what a choice may ask for, and the registry of choices.

N items, K classes, C channels, H x W pixels, P pictures, B batch.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from datastill.errors import DatastillError, suggestion
from datastill.networks import Network, sketch
from datastill.real import Real as Real
from datastill.recipe import Choice, DatasetInfo, Recipe, TrainRecipe, Work
from datastill.runtime.device import Device
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.settings import build
from datastill.training.bank import Bank, Training
from datastill.training.supply import Batch
from datastill.values import COLUMNS as COLUMNS
from datastill.values import Content as Content
from datastill.values import Expanded as Expanded
from datastill.values import FixedBoxes as FixedBoxes
from datastill.values import Items as Items
from datastill.values import Labels as Labels
from datastill.values import Pictures as Pictures
from datastill.values import Recording as Recording
from datastill.values import Records as Records
from datastill.values import SeededViews as SeededViews
from datastill.values import Weighing as Weighing


@dataclass
class Context:
    """What a choice may ask for while a recipe runs."""

    recipe: Recipe
    real: Real
    bank: Bank
    device: Device
    reporter: Reporter
    fields: Fields
    stage: int = 0
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def info(self) -> DatasetInfo:
        """What is known of the data set."""
        return self.real.info

    @property
    def makers(self) -> tuple[str, ...]:
        """The names of the table of networks, in order; an item's maker is an index into it."""
        return tuple(self.recipe.networks)

    def rng(self, name: str, *, part: int = 0, round: int = 0) -> np.random.Generator:
        """Return the random stream of a name: f(seed, stage, part, round, name)."""
        return rng(self.recipe.seed, self.stage, part, round, name)

    def training(self, name: str) -> Training:
        """Return a network of the table as a value."""
        return Training(name, self.recipe.networks[name], self.info, self.real.key, self.device.precision)

    def network(self, name: str) -> Network:
        """Return a network of the table, trained (once, then cached), frozen and in evaluation mode."""
        return self.bank.get(self.training(name), self.real.data)

    @property
    def pool(self) -> Tensor:
        """The real rows that a match may look at, long[n], ascending; networks are trained on all of `real`."""
        return self.fields.select.pool(self)


class Field:
    """A choice of a room: frozen settings. What cannot work is said by `check`, before any heavy work."""

    room: ClassVar[str]
    name: ClassVar[str]
    version: ClassVar[int] = 1
    provides: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[str]] = frozenset()

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Return one sentence for each thing that cannot work."""
        return []


class Select(Field, ABC):
    """Which real images may be looked at, and from which the store begins."""

    @abstractmethod
    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k; a larger count extends a smaller one.

        Raises: DatastillError naming the first class that has too few images.
        """

    def start(self, n: int, ctx: Context) -> Tensor:
        """Return train rows long[K, n]: `pick` with n of every class."""
        return torch.stack(self.pick([n] * ctx.info.classes, ctx))

    def pool(self, ctx: Context) -> Tensor:
        """Return the allowed train rows that a match may look at, long[n], ascending: all of them."""
        return ctx.real.rows

    def available(self, ctx: Context) -> list[int]:
        """Return how many rows of each class `pick` has: all allowed ones."""
        return [len(ctx.real.of_class(k)) for k in range(ctx.info.classes)]

    def sift(
        self, k: int, places: Tensor, influence: Callable[[Weighing], Tensor], state: dict[str, Tensor], ctx: Context
    ) -> Tensor:
        """Return what a match looks at in place of a batch of class k, places in `pool`, one at least: the batch.

        Args:
            k: the class.
            places: of the batch, long[B] on the host.
            influence: returns what each image of it does to the pull, float[B] >= 0; the match forms it if asked.
            state: the draft's, which goes on from step to step and stands in checkpoints.
            ctx: of the run; random streams are of names that no match has.
        """
        return places

    def counted(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what `sift` counted in the `state` of a finished draft, plain data."""
        return {}


class Store(Field, ABC):
    """The parameterization: what is learned and kept, and how it becomes images.

    kinds: what the bytes of its pictures and those of its arrays are counted as.
    """

    kinds: ClassVar[tuple[str, str]] = ("natural images", "compensators")

    @abstractmethod
    def begin(self, ctx: Context) -> Content:
        """Open this stage's units on real images."""

    @abstractmethod
    def decode(self, content: Content, rows: Tensor, *, open: bool = False) -> Tensor:
        """Return float[B, C, H, W] pixels; pure and differentiable, the very code that a receiver runs.

        open: the form before projection and rounding, which a match may ask for.
        """

    def settle(self, content: Content, when: Literal["step", "round"] = "step") -> None:
        """Project learned arrays back to where they are allowed, in place; called after every step, and every round."""

    @abstractmethod
    def seal(self, content: Content) -> Content:
        """Round to exactly what will be written."""

    @abstractmethod
    def expand(self, content: Content) -> Tensor:
        """Return every item of a sealed content as a student sees it: uint8 or float[N, C, H, W] pixels."""

    def facts(self, content: Content, ctx: Context) -> dict[str, Any]:
        """Return counts and measurements worth recording: images bought, left over, saturated pixels."""
        return {}

    def told(self, content: Content) -> tuple[str, str] | None:
        """Return for the data card what a sealed set holds and how its items are opened, in Markdown.

        None where it holds real images as they are, or these and compensators.
        """
        return None


@dataclass(frozen=True)
class Optimise:
    """The optimiser and schedule of one learned array: Adam, or SGD where a momentum is given (0: plain).

    schedule: lr held (constant), falling to zero (cosine), or multiplied by `drop` at each share of the rounds in
    `milestones` (steps).
    turns: C classes that share one momentum and step in turn, each once before the next gradient is taken, as one step
    of all of them: v <- m v + g, x <- x - lr (1 - m^C) / (1 - m) v, v <- m^(C - 1) v. 1: plain momentum.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["cosine", "constant", "steps"] = "constant"
    momentum: float | None = None
    turns: int = 1
    milestones: tuple[float, ...] = ()
    drop: float = 0.5


@dataclass(frozen=True)
class Part:
    """Rows that are matched together and independently of other parts, with the network that they meet.

    alone: whether it may not share a forward pass with other parts.
    """

    index: int
    rows: Tensor
    network: str
    alone: bool = False


class Match(Field, ABC):
    """What the images are pulled towards. `draft` is a `datastill.draft.Draft`."""

    @property
    @abstractmethod
    def total_rounds(self) -> int:
        """How many rounds each part runs; checkpoints fall between rounds."""

    def optimise(self) -> dict[str, Optimise]:
        """Return learned name -> optimiser and schedule: the only home of learning rates."""
        return {}

    def unweighed(self, how: Weighing, info: DatasetInfo) -> str:
        """Return why it cannot say in this way what one real image of a batch does, and what would do; "" if it can."""
        return f"match '{self.name}' forms no mean over a batch of real images; take match=gradients or match=features"

    def parts(self, items: Items, makers: tuple[str, ...]) -> list[Part]:
        """Return the independent parts; neighbours that meet the same network may run in one forward pass."""
        return []

    def trained(self, makers: tuple[str, ...]) -> tuple[str, ...]:
        """Return which networks of the table have to be trained before any round: all of them."""
        return makers

    def prepare(self, ctx: Context) -> None:
        """Measure once what the rounds of all parts need of the real images and the networks, and keep it in the cache.

        Called after the networks are there and before any round, only where there are parts.
        """

    def begin(self, draft: Any, ctx: Context) -> None:
        """Put what the rounds of a draft need, and no checkpoint holds, into its `memo`.

        Called once before its rounds, in a resumed run too: the draft stands at its start, whatever was learned.
        """

    @abstractmethod
    def round(self, draft: Any, ctx: Context) -> dict[str, Tensor]:
        """Pull the draft and step it once; returns metrics float[G], one per part, without a host synchronisation."""

    def counted(self, draft: Any) -> dict[str, Any]:
        """Return what the rounds of a finished draft counted, plain data; drafts of a run have names of their own."""
        return {}

    def facts(self, ctx: Context, content: Content, sealed: Content) -> dict[str, Any]:
        """Return measurements of the finished set, from its open and its sealed form."""
        return {}


class Label(Field, ABC):
    """What a student is told about an image."""

    @property
    @abstractmethod
    def column(self) -> Literal["H", "S", "D"]:
        """H: classes alone. S: stored soft labels. D: networks in the loop, or labels of every epoch."""

    @property
    def pictures_per_item(self) -> int:
        """How many pictures a student sees of each item of a batch."""
        return 1

    @property
    def even(self) -> bool:
        """Whether every picture of a batch counts alike, and is told in the same way."""
        return True

    @property
    def kind(self) -> str:
        """The kind of the `Labels` that it makes."""
        return {"H": "classes", "S": "logits", "D": "teachers"}[self.column]

    def recording(self, recipe: Recipe, items: int) -> Recording | None:
        """Return which batches of so many items stored labels belong to; None where they belong to no batch."""
        return None

    def rendering(self, recipe: Recipe) -> SeededViews | FixedBoxes | None:
        """Return the views that stored labels of this recipe belong to; None where labels belong to the items."""
        return None

    @abstractmethod
    def make(self, images: Tensor, ctx: Context, content: Content) -> Labels:
        """Label the expanded images (uint8 or float[N, C, H, W]) of any sealed set.

        `content` is that set, which knows the real picture behind each item.
        """

    @abstractmethod
    def supply(
        self,
        data: Expanded,
        work: Work,
        recipe: TrainRecipe,
        seed: int,
        *,
        device: torch.device,
        start: int = 0,
        teachers: Mapping[str, Network] | None = None,
    ) -> Iterator[Batch]:
        """Yield training batches from step `start`: order, views, mixing and targets meet here and nowhere else."""


@dataclass(frozen=True)
class Stage:
    """One step of a recipe, given the ones before."""

    index: int
    recipe: Recipe


class Stages(Field, ABC):
    """In how many steps, each given the ones before."""

    @abstractmethod
    def plan(self, recipe: Recipe) -> list[Stage]:
        """Return the stages in order."""


@dataclass(frozen=True)
class Fields:
    """A recipe's five choices as objects."""

    select: Select
    store: Store
    match: Match
    label: Label
    stages: Stages


ROOMS = ("select", "store", "match", "label", "stages")
_CHOICES: dict[str, dict[str, type[Field]]] = {room: {} for room in ROOMS}
F = TypeVar("F", bound=type[Field])


def register(room: str, name: str) -> Callable[[F], F]:
    """Register a frozen dataclass as a choice of a room; being registered is what gets it tested."""

    def record(cls: F) -> F:
        cls.room, cls.name = room, name
        _CHOICES[room][name] = cls
        return cls

    return record


def registered(room: str) -> dict[str, type[Field]]:
    """Return the choices of a room by name."""
    importlib.import_module(f"datastill.{room}")
    return dict(sorted(_CHOICES[room].items()))


def make_choice(room: str, chosen: Choice, mistakes: list[str]) -> Field | None:
    """Make the object of a choice, or note what is wrong with it and return None."""
    known = registered(room)
    if chosen.kind not in known:
        mistakes.append(f"there is no {room} '{chosen.kind}'{suggestion(chosen.kind, known)}")
        return None
    return cast("Field | None", build(known[chosen.kind], chosen.settings, room, mistakes))


def resolve(recipe: Recipe, info: DatasetInfo, *, run: bool = True) -> Fields:
    """Make the objects of a recipe; for a run, check that they fit each other, the data set and its networks.

    Raises: DatastillError with every mistake, a sentence each, before any heavy work.
    """
    mistakes: list[str] = []
    made = {room: make_choice(room, getattr(recipe, room), mistakes) for room in ROOMS}
    if run:
        mistakes += _misfits([f for f in made.values() if f is not None], recipe, info)
    if mistakes:
        raise DatastillError(" ".join(mistakes))
    return Fields(**cast(dict[str, Any], made))


def _misfits(fields: list[Field], recipe: Recipe, info: DatasetInfo) -> list[str]:
    mistakes = []
    provided = frozenset().union(*(f.provides for f in fields))
    for choice_ in fields:
        missing = sorted(choice_.requires - provided)
        if missing and len(fields) == len(ROOMS):  # a choice that could not be made might have provided it
            lacks = " and ".join(missing)
            mistakes.append(f"{choice_.room} '{choice_.name}' needs {lacks}, which no other choice here provides.")
        mistakes += choice_.check(recipe, info)
    for name, network in recipe.networks.items():
        try:
            sketch(network.arch, classes=info.classes, shape=info.shape, settings=network.settings)
        except DatastillError as error:
            mistakes.append(f"network '{name}': {error}")
    return mistakes
