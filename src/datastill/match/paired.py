"""What matches of real and synthetic batches share: real batches by class, one view for both sides, networks' inputs.

K classes, B real images of each in a batch, N synthetic items, C channels, H W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.fields import Context, Items, Match, Optimise, Part
from datastill.networks import sketch
from datastill.recipe import DatasetInfo, NetworkRecipe, Recipe, TrainRecipe
from datastill.settings import setting
from datastill.training.augment import OPERATIONS, Augment, Drawn
from datastill.training.supply import Data, scale_of
from datastill.training.views import to_unit

if TYPE_CHECKING:
    from datastill.draft import Draft

LEARNED = ("pixels", "compensators")
# Plain SGD at 0.01 on the set itself: the inner training of arXiv 2006.05929.
INNER = TrainRecipe(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant", batch=256, crop=0, flip=False)
MATCHED = NetworkRecipe(arch="convnet_in", training=INNER)


@dataclass(frozen=True)
class Passes:
    """How many images pass the network that is met, in all rounds: what a run would cost follows from it.

    answers: forward alone. pulls: forward, and back to the pixels. trainings: forward, and back to the weights.
    second: those whose gradient at the weights is differentiated again at the pixels. bound: whether these are the most
    that there may be, and no one knows before how many there will be.
    """

    answers: float = 0.0
    pulls: float = 0.0
    trainings: float = 0.0
    second: float = 0.0
    bound: bool = False


class ClassImages:
    """The images that a match may look at, uint8 and by class, on the device.

    Args:
        ctx: of the run; its select says which rows there are.
    """

    def __init__(self, ctx: Context) -> None:
        data = ctx.real.data(ctx.pool)
        self.images = data.images.to(ctx.device.torch)
        self.cls = data.classes
        self._places = [(data.classes == k).nonzero().flatten().numpy() for k in range(ctx.info.classes)]
        for name, places in zip(ctx.real.classes, self._places, strict=True):
            if not len(places):
                raise DatastillError(
                    f"select '{ctx.fields.select.name}' leaves no training image of class '{name}' for match "
                    f"'{ctx.fields.match.name}' to look at; let more images stay."
                )

    def draw(self, rng: np.random.Generator, batch: int, classes: range | None = None) -> list[Tensor]:
        """Return places long[min(B, n_k)] of each class k among `images`, drawn without replacement, on the host."""
        found = []
        for k in range(len(self._places)) if classes is None else classes:
            places = self._places[k]
            drawn = rng.choice(places, min(batch, len(places)), replace=False)
            found.append(torch.from_numpy(drawn))
        return found


@dataclass(frozen=True, kw_only=True)
class Paired(Match):
    """A match that sets synthetic images beside batches of real ones, class by class.

    The network that both sides meet is not of the recipe's table, which is for networks behind labels: `network` is its
    recipe, and `network.training` how it learns where it does. There is one part: classes meet in the network.
    """

    rounds: int = setting(1000, low=0, help="networks met, one after another")
    lr: float = setting(1.0, low=0.0, help="of what is learned, in the unit of the store; SGD")
    momentum: float = setting(0.5, low=0.0, high=1.0)
    network: NetworkRecipe = setting(MATCHED, help="what the images meet; its training is that between image updates")
    batch: int = setting(256, low=1, help="real images of a class in a batch; all of them where there are fewer")
    augment: Literal["none", "one", "all"] = setting(
        "none", help="one draw for each class and step, shared by both sides: one of `operations`, or all together"
    )
    operations: tuple[Literal["color", "crop", "cutout", "flip", "scale", "rotate"], ...] = setting(
        OPERATIONS, help="of `augment`"
    )

    requires = frozenset({"gradients"})

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a network that cannot be built for the data set."""
        made = self.network
        try:
            sketch(made.arch, classes=info.classes, shape=info.shape, settings=made.settings)
        except DatastillError as error:
            return [f"match '{self.name}': {error}"]
        return []

    @property
    def total_rounds(self) -> int:
        """How many networks are met."""
        return self.rounds

    @abstractmethod
    def passes(self, recipe: Recipe, info: DatasetInfo, items: int, rows: int) -> Passes:
        """Return what passes the network in all rounds, of so many synthetic items and real images to look at."""

    def looked(self, info: DatasetInfo, rows: int) -> int:
        """Return the real images of one batch of all classes, where all have as many among `rows`."""
        return min(self.batch * info.classes, rows)

    def optimise(self) -> dict[str, Optimise]:
        """Return SGD for pixels and compensators alike."""
        return dict.fromkeys(LEARNED, Optimise(self.lr, momentum=self.momentum))

    def parts(self, items: Items, makers: tuple[str, ...]) -> list[Part]:
        """Return all items as one part, which meets no network of the table."""
        return [Part(0, torch.arange(len(items)), "", alone=True)] if self.rounds else []

    def trained(self, makers: tuple[str, ...]) -> tuple[str, ...]:
        """Return none: the networks of the table are for labels, and wait until they are asked."""
        return ()

    def begin(self, draft: Draft, ctx: Context) -> None:
        """Put the real images and the places of each class's items into the draft's `memo`."""
        draft.memo["real"] = ClassImages(ctx)
        draft.memo["items"] = [
            (draft.cls == k).nonzero().flatten().to(ctx.device.torch) for k in range(ctx.info.classes)
        ]

    def drawn(self, ctx: Context, round: int, step: int) -> Drawn:
        """Return one view for each class, of one step of a round; both sides see it (siamese)."""
        names = self.operations if self.augment != "none" else ()
        augment = Augment(names, "all" if self.augment == "all" else "one")
        stream = ctx.rng(f"siamese {step}", round=round)
        return augment.draw(stream, ctx.info.classes, ctx.info.shape).to(ctx.device.torch)


def inner_data(draft: Draft, ctx: Context) -> Data:
    """Return the set as it stands, as training data for the network that is met."""
    return replace(draft.data(), scale=scale_of(ctx.info).to(ctx.device.torch))


def pixels_of(real: ClassImages, places: Tensor) -> Tensor:
    """Return real images long[B] of `real` as float[B, C, H, W] in [0, 1], channels last, on the device."""
    return to_unit(real.images[places.to(real.images.device, non_blocking=True)]).contiguous(
        memory_format=torch.channels_last
    )
