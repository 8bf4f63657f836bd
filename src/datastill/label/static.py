"""Static soft labels: the mean of the networks' logits on each finished item, stored once (arXiv 2408.06927)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from datastill.codecs import LabelCodec, label_problems
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Expanded, Label, Labels, Real, register
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe, Work
from datastill.runtime.progress import Phase
from datastill.runtime.seeds import rng
from datastill.settings import setting
from datastill.training.bank import Training
from datastill.training.predict import predict
from datastill.training.supply import Batch, Data, supply

Combine = Literal["mean", "norm_mean"]
COMBINE = "the mean of the networks' logits, or of what they are once every network's share has the same norm"


def combined(answers: Iterable[Tensor], combine: Combine = "mean") -> Tensor:
    """Return the mean of several networks' logits, float[N, K] each.

    "norm_mean" brings every matrix to the mean of their Frobenius norms first, so that a network whose logits are
    larger does not say more (G-VBSM, arXiv 2311.17950).
    """
    total: Tensor | None = None
    norms, count = torch.zeros(()), 0
    for logits in answers:
        if combine == "norm_mean":
            norm = torch.linalg.vector_norm(logits)
            norms, logits = norms.to(norm) + norm, logits / norm.clamp(min=torch.finfo(logits.dtype).tiny)
        total, count = logits if total is None else total + logits, count + 1
    assert total is not None, "checked: the table of networks is not empty"
    return total / count if combine == "mean" else total / count * (norms / count)


def mean_logits(images: Tensor, ctx: Context, combine: Combine = "mean") -> Tensor:
    """Return float32[N, K]: the mean over the table's networks of their logits, each in evaluation mode."""
    networks = [ctx.network(name) for name in ctx.makers]  # before the phase: they may have to be trained first
    with ctx.reporter.phase("label", len(networks)) as phase:
        return mean_of(networks, images, ctx, phase, combine)


def mean_of(
    networks: Sequence[Network], images: Tensor, ctx: Context, phase: Phase, combine: Combine = "mean"
) -> Tensor:
    """Return float32[N, K]: the mean of what these networks say; `phase` advances by one for each."""

    def answers() -> Iterator[Tensor]:
        for network in networks:
            yield predict(network, images, device=ctx.device.torch)
            phase.advance()

    return combined(answers(), combine)


def deal(real: Real, folds: int, seed: int) -> Tensor:
    """Return the fold of each allowed train row, long[len(real.rows)] in 0..folds-1, in the order of `real.rows`.

    Each class in an order of its own, one class after the other, row by row to the next fold: so folds are even to one
    image within every class, and over all of them.

    Raises: DatastillError naming a class of one image, which no network could know that has not seen it.
    """
    order = []
    for k, name in enumerate(real.classes):
        rows = real.of_class(k)
        if len(rows) == 1:
            raise DatastillError(
                f"class '{name}' has one training image, so no network without that image knows the class; ask for "
                "label.folds=1, or leave the class out with --classes."
            )
        order.append(rows[torch.from_numpy(rng(seed, "folds", k).permutation(len(rows)))])
    dealt = torch.empty_like(real.rows)
    dealt[torch.searchsorted(real.rows, torch.cat(order))] = torch.arange(len(dealt)) % folds
    return dealt


def without_fold(training: Training, real: Real, dealt: Tensor, fold: int) -> tuple[Training, Callable[[], Data]]:
    """Return a network as it is when trained without a fold, and the data of all other folds, as a `Bank` wants them.

    Args:
        training: the network on all allowed rows; its recipe and seed stay.
        real: knows the rows.
        dealt: the fold of each allowed row, as `deal` returns it.
        fold: which fold is not seen.
    """
    rows = real.rows[dealt != fold]
    name = f"{training.name} without fold {fold + 1}"
    return replace(training, name=name, data_key=real.key_of(rows)), lambda: real.data(rows)


def cross_fitted(images: Tensor, ctx: Context, content: Content, folds: int, combine: Combine = "mean") -> Tensor:
    """Return float32[N, K]: for each item the mean logits of the networks that did not see its real picture.

    Every network of the table is trained once per fold of the allowed train rows, on all other folds. Items that share
    a picture share its fold.

    Raises: DatastillError for items whose picture is no allowed train row.
    """
    dealt = deal(ctx.real, folds, ctx.recipe.seed)
    fold = dealt[torch.searchsorted(ctx.real.rows, _rows(ctx, content, folds))]
    networks = {
        unseen: [ctx.bank.get(*without_fold(ctx.training(name), ctx.real, dealt, unseen)) for name in ctx.makers]
        for unseen in fold.unique().tolist()
    }
    logits = torch.empty(len(images), ctx.info.classes)
    with ctx.reporter.phase("label", len(networks) * len(ctx.makers)) as phase:
        for unseen, answering in networks.items():
            items = (fold == unseen).nonzero().flatten()
            logits[items] = mean_of(answering, images[items], ctx, phase, combine)
    return logits


def _rows(ctx: Context, content: Content, folds: int) -> Tensor:
    """Return the allowed train row that each item comes from, long[N]."""
    pictures = content.items.picture
    rows = torch.where(pictures >= 0, ctx.real.rows_of(content.pictures)[pictures.clamp(min=0)], -1)
    strange = int(torch.isin(rows, ctx.real.rows, invert=True).sum())
    if strange:
        raise DatastillError(
            f"label 'static' with folds={folds} asks which training image each item comes from, but for {strange} of "
            f"{len(rows)} items that is unknown, or an image that was held out; ask for label.folds=1."
        )
    return rows


def _dealt_anew(cls: Tensor, ctx: Context) -> Tensor:
    """Return long[N]: for each item another of its class (itself where it is the only one), every one once."""
    rows = torch.arange(len(cls))
    for k in range(ctx.info.classes):
        mine = (cls == k).nonzero().flatten()
        order = mine[torch.from_numpy(ctx.rng("shuffled labels", part=k).permutation(len(mine)))]
        rows[order] = order.roll(1)
    return rows


def needs_networks(label: Label, recipe: Recipe) -> list[str]:
    """Return the sentence for a label whose networks are missing."""
    if recipe.networks:
        return []
    return [f"label '{label.name}' asks the networks of the recipe, but the table 'networks' is empty."]


@register("label", "static")
@dataclass(frozen=True, kw_only=True)
class Static(Label):
    """Mean logits under a codec. Logits and not probabilities, so that the temperature stays the student's choice."""

    codec: LabelCodec = setting(LabelCodec(), help="how logits are stored")
    folds: int = setting(
        1, low=1, high=10, help="above 1: networks are trained anew without each fold, and label the items of that fold"
    )
    combine: Combine = setting("mean", help=COMBINE)
    shuffled: bool = setting(False, help="control: labels change places among the items of each class")

    column = "S"

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a recipe without networks, and a codec that does not fit the classes."""
        return needs_networks(self, recipe) + label_problems(self.codec, info.classes)

    def make(self, images: Tensor, ctx: Context, content: Content) -> Labels:
        """Return logits of un-augmented images, as they come back from the codec.

        Raises: DatastillError, with folds, for items that come from no training image that is known.
        """
        if self.folds == 1:
            logits = mean_logits(images, ctx, self.combine)
        else:
            logits = cross_fitted(images, ctx, content, self.folds, self.combine)
        return Labels.coded(logits[_dealt_anew(content.items.cls, ctx)] if self.shuffled else logits, self.codec)

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
        """Yield batches whose logits are mixed like the pictures; crops and flips leave labels as they are."""
        assert data.labels.values is not None, "static labels come with values"
        made = Data(data.images, data.cls, data.labels.values.float(), "logits", data.scale).to(device)
        return supply(made, work, recipe, seed, start=start)
