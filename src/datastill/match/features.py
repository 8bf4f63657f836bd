"""Class means of features of untrained networks, alike for real and synthetic images: distribution matching.

DM (arXiv 2110.04181), DataDAM (arXiv 2310.00093) and ATOM (arXiv 2405.01373) are lists of terms of this match.

K classes, N synthetic items, C channels, H W pixels, D numbers of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from datastill.fields import Context, Weighing, register
from datastill.match.aligned import Aligner, Term, taps
from datastill.match.influence import feature_effects
from datastill.match.lives import fresh
from datastill.match.paired import Paired, Passes, pixels_of
from datastill.networks import Network, sketch
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting

if TYPE_CHECKING:
    from datastill.draft import Draft

# Values that pass a network at once, where images do not meet in it: enough to fill the device.
PASS_VALUES = {"cpu": 64 * 3 * 32 * 32, "cuda": 4096 * 3 * 32 * 32}


@register("match", "features")
@dataclass(frozen=True, kw_only=True)
class Features(Paired):
    """Synthetic images whose class means in fresh random networks are those of real images.

    L = sum over terms of weight * sum over classes and taps of ||mean of r(f(x)) - mean of r(f(s))||^2, with a fresh
    network each round, whose weights stay as they are.
    """

    terms: tuple[Term, ...] = setting((Term(),), help="what is alike; as it stands, the features that the head sees")
    steps: int = setting(1, low=1, help="image updates against each network")

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse also no terms, a tap that the network does not have, and a sum over what is no map."""
        found = super().check(recipe, info)
        if not self.terms:
            found.append(f"match '{self.name}' was given no terms; give one at least, or take match=none.")
        for place, term in enumerate(self.terms):
            where = f"match '{self.name}', terms[{place}]:"
            if term.tap == "embed" and term.reduce != "none":
                found.append(f"{where} what the head sees is no map to sum over; take reduce=none, or tap=relu.")
            if term.power != 1.0 and term.reduce == "none":
                found.append(f"{where} power={term.power} is of a sum, and nothing is summed; set reduce, or power=1.")
        return found if found else self._missing_taps(info)

    def _missing_taps(self, info: DatasetInfo) -> list[str]:
        made = self.network
        has = taps(sketch(made.arch, classes=info.classes, shape=info.shape, settings=made.settings))
        lacks = sorted({term.tap for term in self.terms} - set(has))
        if not lacks:
            return []
        blocks = "two blocks or more" if lacks[0] == "relu" else "any depth"
        return [
            f"match '{self.name}' was given a term at tap={lacks[0]}, which the network '{made.arch}' does not have; "
            f"take a ConvNet of {blocks}, or tap={' or '.join(sorted(set(has)))}."
        ]

    def unweighed(self, how: Weighing, info: DatasetInfo) -> str:
        """Refuse a network in which real images meet: to leave one out changes what it makes of the others."""
        made = self.network
        network = sketch(made.arch, classes=info.classes, shape=info.shape, settings=made.settings)
        if not any(isinstance(module, _BatchNorm) for module in network.modules()):
            return ""
        return (
            f"images meet in the BatchNorm of '{made.arch}', the network of match '{self.name}', so that none can be "
            "left out alone; take match.network.arch=convnet_in"
        )

    def passes(self, recipe: Recipe, info: DatasetInfo, items: int, rows: int) -> Passes:
        """Return an answer for each real image and a pull at each item, of every image update."""
        updates = self.rounds * self.steps
        return Passes(answers=updates * self.looked(info, rows), pulls=updates * items)

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        """Draw a network and step the images against it; returns the distance at its last step, float[1]."""
        network = fresh(self.network, ctx, draft.round)
        found: dict[str, Tensor] = {}
        for step in self._life(network, draft, ctx):
            found = self._update(network, draft, ctx, step)
        return found

    def _life(self, network: Network, draft: Draft, ctx: Context) -> Iterator[int]:
        """Yield the number of each image update of a network, and do between two of them what makes it another one."""
        yield from range(self.steps)

    def _update(self, network: Network, draft: Draft, ctx: Context, step: int) -> dict[str, Tensor]:
        """Step the images once, against new real batches under new views."""
        real, items = draft.memo["real"], draft.memo["items"]
        drawn = self.drawn(ctx, draft.round, step) if self.augment != "none" else None
        most = PASS_VALUES[ctx.device.torch.type]
        aligner = Aligner(network, self.terms, ctx.info.classes, drawn=drawn, most=most)
        x, _ = draft.batch(draft.rows)
        places = self._places(aligner, x.detach(), draft, ctx, step)
        told, dx = self._slopes(aligner, partial(pixels_of, real), places, x.detach(), items)
        draft.pull(draft.rows, dx)
        draft.step()
        return told

    def _places(self, aligner: Aligner, x: Tensor, draft: Draft, ctx: Context, step: int) -> list[Tensor]:
        """Return places of real images of each class: a batch, sifted beside the pixels x."""
        real, items = draft.memo["real"], draft.memo["items"]
        found = []
        for k, mine in enumerate(real.draw(ctx.rng(f"real {step}", round=draft.round), self.batch)):

            def influence(how: Weighing, k: int = k, mine: Tensor = mine) -> Tensor:
                stream = ctx.rng(f"directions {step}", part=k, round=draft.round)
                parts = [pixels_of(real, some) for some in mine.split(aligner.images)]
                return feature_effects(aligner, x[items[k]], parts, k, how, stream)

            kept = ctx.fields.select.sift(k, mine, influence, draft.state, ctx) if len(items[k]) else mine
            found.append(kept)
        return found

    def _slopes(
        self,
        aligner: Aligner,
        pixels: Callable[[Tensor], Tensor],
        places: Sequence[Tensor],
        x: Tensor,
        items: Sequence[Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the parts of the loss, float[1] each, and its gradient at the pixels x float[N, C, H, W]."""
        distance, dx = aligner.slopes(x, items, aligner.distance(aligner.real(pixels, places)))
        return {"distance": distance[None]}, dx
