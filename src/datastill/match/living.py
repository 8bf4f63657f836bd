"""Class means of features of networks that live: trained on the set between image updates, and left in time.

CAFE (arXiv 2203.01531), first-order: no gradient passes the training of a network. K classes, N synthetic items, R real
images, D numbers of the last features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from datastill.fields import Context, Optimise, Weighing, register
from datastill.match.aligned import Aligner, Term
from datastill.match.discrimination import discrimination, slope
from datastill.match.dynamic import COUNTED, Controller, Policy, query_accuracy
from datastill.match.features import Features
from datastill.match.lives import Life
from datastill.match.paired import LEARNED, Passes, inner_data
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting

if TYPE_CHECKING:
    from datastill.draft import Draft

LAYERS = (Term(tap="relu", weight=0.1), Term(tap="relu_last"), Term(tap="embed", weight=2.0))


@register("match", "living")
@dataclass(frozen=True, kw_only=True)
class Living(Features):
    """L = the distance of `terms` + beta * L_disc, in networks that are trained on the set as it stands.

    L_disc = - sum over the real images of a batch of log softmax(<f(x), c_k>) at the class of x, with f what the head
    sees and c_k its mean over the synthetic images of class k. It is a sum: more classes or a larger `batch` give it
    more weight. A round is the life of one network: an image update, a phase of training, and so on, as `policy` says.
    The last update of a life has no phase after it.
    """

    rounds: int = setting(2000, low=0, help="networks met, one after another")
    lr: float = setting(0.1, low=0.0, help="of what is learned, in the unit of the store; SGD")
    milestones: tuple[float, ...] = setting(
        (0.6, 0.8, 0.9), low=0.0, high=1.0, help="shares of the rounds after which lr is halved"
    )
    terms: tuple[Term, ...] = setting(LAYERS, help="what is alike, in the mean of a class")
    beta: float = setting(0.01, low=0.0, help="weight of L_disc, a sum over the real images of a batch")
    policy: Policy = setting(Policy(kind="dynamic"), help="when a network is left, and how long it is trained before")

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse also counts in two places, accuracies that nothing waits for, and L_disc without its features."""
        found = super().check(recipe, info)
        policy = self.policy
        if self.steps != 1:
            found.append(
                f"match 'living' was given steps={self.steps}, but `policy` says how many image updates a network has; "
                "set policy.outer, with policy.kind=fixed."
            )
        if policy.asks and policy.window > min(policy.longest):
            found.append(
                f"match 'living' was given policy.window={policy.window}, which never fills in {min(policy.longest)} "
                "updates or epochs; ask for a smaller window, or for fixed counts with policy.kind=fixed."
            )
        if self.beta and not any(map(_is_centre, self.terms)):
            found.append(
                "match 'living' with beta above 0 needs the means of what the head sees; give a term at tap=embed that "
                "is not normalised, or beta=0."
            )
        return found

    def unweighed(self, how: Weighing, info: DatasetInfo) -> str:
        """Refuse also L_disc, in which a real image pulls the images of all classes."""
        if self.beta:
            return "in match 'living' L_disc sums over real images and pulls all classes at once; take match.beta=0"
        return super().unweighed(how, info)

    def passes(self, recipe: Recipe, info: DatasetInfo, items: int, rows: int) -> Passes:
        """Return the passes of image updates, of training between them and of queries; at most, where these decide."""
        outer, inner = self.policy.longest
        updates, epochs = self.rounds * outer, self.rounds * (outer - 1) * inner
        asked = min(self.policy.each(info.classes) * info.classes, rows) if self.policy.asks else 0
        batch = min(self.network.training.batch, items)
        return Passes(
            answers=updates * self.looked(info, rows) + (updates + epochs) * asked, pulls=updates * items,
            trainings=epochs * -(-items // batch) * batch, bound=self.policy.asks,
        )  # fmt: skip

    def optimise(self) -> dict[str, Optimise]:
        """Return SGD whose rate is halved at each milestone."""
        plan = Optimise(self.lr, momentum=self.momentum, schedule="steps", milestones=self.milestones, drop=0.5)
        return dict.fromkeys(LEARNED, plan)

    def counted(self, draft: Draft) -> dict[str, Any]:
        """Return what the lives of all networks were made of: networks, image updates, epochs, and bounds reached."""
        lives = draft.state.get("lives", torch.zeros(len(COUNTED), dtype=torch.long))
        return {"lives": dict(zip(COUNTED, lives.tolist(), strict=True))}

    def _life(self, network: Network, draft: Draft, ctx: Context) -> Iterator[int]:
        control = Controller(self.policy)
        life = self._begun(network, draft, ctx) if self.policy.trains else None
        while True:
            yield control.updates
            if control.updated(self._asked(network, draft, ctx, control)):
                break
            if life is not None:
                data = inner_data(draft, ctx)
                life.learn(data, life.work.epoch)
                while not control.trained(self._asked(network, draft, ctx, control)):
                    life.learn(data, life.work.epoch)
        now = torch.tensor(control.counted(), device=ctx.device.torch)
        draft.state["lives"] = draft.state.get("lives", torch.zeros_like(now)) + now

    def _begun(self, network: Network, draft: Draft, ctx: Context) -> Life:
        items = len(draft.rows)
        updates, epochs = self.policy.longest
        steps = -(-items // min(self.network.training.batch, items))
        return Life(network, self.network, ctx, draft.round, items=items, limit=(updates - 1) * epochs * steps)

    def _asked(self, network: Network, draft: Draft, ctx: Context, control: Controller) -> float:
        """Return the accuracy of the network on a draw of its own of real images; 0 where no one waits for it."""
        if not self.policy.asks:
            return 0.0
        stream = ctx.rng(f"query {control.updates} {control.phase}", round=draft.round)
        return query_accuracy(network, draft.memo["real"], stream, self.policy.each(ctx.info.classes))

    def _slopes(
        self,
        aligner: Aligner,
        pixels: Callable[[Tensor], Tensor],
        places: Sequence[Tensor],
        x: Tensor,
        items: Sequence[Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        if not self.beta:
            return super()._slopes(aligner, pixels, places, x, items)
        seen: list[Tensor] = []
        apart = aligner.distance(aligner.real(pixels, places, seen))
        judged = _Judged(aligner, torch.cat(seen), places, x, items)
        told = {"distance": x.new_zeros(1), "discrimination": x.new_zeros(1)}

        def loss(found: list[Tensor], classes: slice) -> Tensor:
            distance, wrong = apart(found, classes), judged(found, classes)
            told["distance"] += distance.detach()
            told["discrimination"] += wrong.detach()
            return distance + self.beta * wrong

        _, dx = aligner.slopes(x, items, loss)
        return told, dx


class _Judged:
    """L_disc as `Aligner.slopes` asks for it: at once where all classes pass together, else by its gradient at centres.

    Centres of all classes are then needed before the first class passes, and come from a pass of their own.

    Args:
        aligner: of the step.
        real: float[R, D], features of the real images, in the order of `places`.
        places: of the real images of each class, long[n_k].
        x: float[N, C, H, W], synthetic pixels.
        items: rows of each class among them.
    """

    def __init__(
        self, aligner: Aligner, real: Tensor, places: Sequence[Tensor], x: Tensor, items: Sequence[Tensor]
    ) -> None:
        self._aligner, self._real, self._x, self._items = aligner, real, x, items
        counts = torch.tensor([len(of_class) for of_class in places])
        self._cls = torch.arange(len(places)).repeat_interleave(counts).to(real.device, non_blocking=True)
        self._place = [_is_centre(term) for term in aligner.order].index(True)
        self._known: tuple[Tensor, Tensor] | None = None

    def __call__(self, found: list[Tensor], classes: slice) -> Tensor:
        """Return L_disc, or the part of <its gradient, centres> that these classes have, plus a constant.

        The constants of all classes together make the sum L_disc.
        """
        mine = found[self._place]
        if len(mine) == len(self._items):
            return discrimination(self._real, self._cls, mine)
        if self._known is None:
            centres = self._aligner.real(self._x.__getitem__, self._items)[self._place]
            g = slope(self._real, self._cls, centres)
            self._known = g, discrimination(self._real, self._cls, centres) - (g * centres).sum()
        g, rest = self._known
        part = (g[classes] * mine).sum()
        return part + rest if classes.start == 0 else part


def _is_centre(term: Term) -> bool:
    return term.tap == "embed" and not term.normalise
