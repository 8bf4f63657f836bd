"""What the rules share: the rows of each class, what networks say of them, and rankings by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from datastill.errors import DatastillError, suggestion
from datastill.fields import Context, Select
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.training.dynamics import Scores, Scoring, score
from datastill.training.predict import predict


def rows_by_class(counts: Sequence[int], ctx: Context) -> list[Tensor]:
    """Return the allowed train rows of each class, long[n_k], ascending.

    Raises: DatastillError naming the first class that has fewer than its count.
    """
    found = []
    for k, (name, n) in enumerate(zip(ctx.real.classes, counts, strict=True)):
        rows = ctx.real.of_class(k)
        if len(rows) < n:
            raise DatastillError(
                f"class '{name}' has {len(rows)} training images, but this recipe starts from {n} per class; "
                f"ask for a smaller --ipc or leave the class out with --classes."
            )
        found.append(rows)
    return found


@dataclass(frozen=True, kw_only=True)
class ByNetwork(Select):
    """A rule that asks a network of the recipe's table."""

    network: str | None = setting(None, help="a name of the recipe's table of networks; none is its first")

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse an empty table of networks, and a name that is not in it."""
        if not recipe.networks:
            return [self._no_network]
        if self.network is not None and self.network not in recipe.networks:
            near = suggestion(self.network, recipe.networks)
            return [f"select '{self.name}' asks network '{self.network}', which is not in the table 'networks'{near}"]
        return []

    def asked(self, ctx: Context) -> str:
        """Return the name of the network that is asked. Raises: DatastillError where the table holds none."""
        if not ctx.makers:
            raise DatastillError(self._no_network)
        return self.network or ctx.makers[0]

    @property
    def _no_network(self) -> str:
        return (
            f"select '{self.name}' asks a network of the recipe, but the table 'networks' is empty; name one with "
            "--teachers, such as convnet."
        )


@dataclass(frozen=True, kw_only=True)
class ByFeatures(ByNetwork):
    """A rule on features: what the last layer of a trained network sees of un-augmented images."""

    normalise: bool = setting(True, help="whether every feature vector is scaled to length 1")

    def features(self, rows: list[Tensor], ctx: Context) -> Iterator[Tensor]:
        """Yield float64[n_k, D] for the rows of each class; the network answers once per context."""
        name = self.asked(ctx)
        if (key := ("features", name)) not in ctx.memo:
            network = ctx.network(name)
            with ctx.reporter.phase(f"features of {name}", len(rows)) as phase:
                found = []
                for mine in rows:
                    pixels = ctx.real.pictures(mine).pixels
                    found.append(predict(network, pixels, device=ctx.device.torch, features=True))
                    phase.advance()
            ctx.memo[key] = found
        for phi in ctx.memo[key]:
            yield functional.normalize(phi.double()) if self.normalise else phi.double()


@dataclass(frozen=True, kw_only=True)
class ByScores(ByNetwork):
    """A rule on scores of networks that are trained for them, each from its own seed, for a few epochs."""

    epochs: int = setting(5, low=1, help="of each scoring network")
    runs: int = setting(3, low=1, help="scoring networks, from different seeds")

    def scores(self, ctx: Context) -> Scores:
        """Return the scores of all allowed rows, from the cache where they are."""
        return scores_of(Scoring(ctx.training(self.asked(ctx)), self.epochs, self.runs, ctx.recipe.seed), ctx)


def scores_of(scoring: Scoring, ctx: Context) -> Scores:
    """Return the scores of all allowed rows, from the cache where they are; says so where they say little."""
    if (key := ("scores", scoring.key)) not in ctx.memo:
        found = score(scoring, ctx.real.data, device=ctx.device, reporter=ctx.reporter)
        if not found.learned(ctx.info.classes):
            ctx.reporter.say(
                f"The scoring networks of select '{ctx.fields.select.name}' have hardly learned, so their scores say "
                f"little; raise select.epochs above {scoring.epochs}."
            )
        ctx.memo[key] = found
    made: Scores = ctx.memo[key]
    return made


def ranked(rows: Tensor, scores: Tensor, ctx: Context, *, largest: bool) -> Tensor:
    """Return the rows of a class, long[n_k], by their scores; equal ones in the order of their index.

    Args:
        rows: some allowed rows.
        scores: float[N], one for every allowed row, in order.
        ctx: knows the allowed rows.
        largest: whether the largest score comes first.
    """
    mine = scores[torch.searchsorted(ctx.real.rows, rows)]
    return rows[mine.argsort(descending=largest, stable=True)]


def distances(phi: Tensor, to: Tensor) -> Tensor:
    """Return the Euclidean distances of phi float[N, D] to one point float[D], as float[N].

    Not by a matrix product: equal rows must be at equal distances, so that ties are decided by the index.
    """
    return torch.cdist(phi, to[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
