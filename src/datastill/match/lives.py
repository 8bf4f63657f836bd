"""The life of a network that a match meets: begun anew, and trained between steps of the images."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from datastill.fields import Context
from datastill.networks import Network
from datastill.networks.norms import hasten
from datastill.recipe import NetworkRecipe, Work
from datastill.runtime.seeds import derive
from datastill.training.bank import Training
from datastill.training.loop import Learner, train
from datastill.training.supply import Data, supply


def fresh(made: NetworkRecipe, ctx: Context, round: int) -> Network:
    """Return the untrained network of a round, in training mode, on the device; every round has another one."""
    seed = derive(ctx.recipe.seed, ctx.stage, "network", made.seed, round)
    training = Training("matched", replace(made, seed=seed), ctx.info, ctx.real.key, ctx.device.precision)
    return _ready(training.build(), ctx)


def pooled(made: NetworkRecipe, ctx: Context, index: int, epochs: int) -> Network:
    """Return a network of a pool, in training mode, on the device: trained for so many epochs on the real images.

    Networks of a pool differ in their seed. They are kept in the cache, and every call returns a copy.
    """
    recipe = replace(made, seed=made.seed + index, training=replace(made.training, epochs=epochs, steps=None))
    training = Training(f"pool {index}", recipe, ctx.info, ctx.real.key_of(ctx.pool), ctx.device.precision)
    kept = ctx.bank.get(training, lambda: ctx.real.data(ctx.pool))
    network = training.build()
    network.load_state_dict(kept.state_dict())
    return _ready(network, ctx)


def _ready(network: Network, ctx: Context) -> Network:
    network = network.to(ctx.device.torch).to(memory_format=torch.channels_last)
    if ctx.device.torch.type == "cpu":
        hasten(network)
    return network.train()


@torch.no_grad()
def settle_norms(network: Network, x: Tensor, how: Literal["exact", "released"]) -> None:
    """Put a network into evaluation mode, its BatchNorm layers having seen pixels x float[B, C, H, W] as one batch.

    exact: they hold the statistics of this batch. released: what they held before, moved towards these by their
    momentum, as the released code of DC does (arXiv 2006.05929).
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    if how == "exact":
        for norm in norms:
            norm.momentum = 1.0
    network.train()
    network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


class Life:
    """One network and the optimiser that trains it, both of which live until the round ends.

    Args:
        network: what is trained, in place.
        made: its recipe; `training` says how it learns.
        ctx: of the run.
        round: names the order of its batches and their views.
        items: images of the sets that it will learn from.
        limit: the most steps that it will ever take; a schedule other than constant runs over these.
    """

    def __init__(
        self, network: Network, made: NetworkRecipe, ctx: Context, round: int, *, items: int, limit: int
    ) -> None:
        recipe = made.training
        batch = min(recipe.batch, items)
        self.network = network
        self.work = Work(items, batch, -(-items // batch), limit)
        seed = derive(ctx.recipe.seed, ctx.stage, "life", made.seed, round)
        self._learner = Learner(network, recipe, self.work, seed, ctx.device)

    def learn(self, data: Data, steps: int) -> None:
        """Train for so many steps on `data`, which has `items` images; order and views go on where they stood.

        An epoch is `work.epoch` steps. The network is left in training mode.
        """
        learner = self._learner
        batches = supply(data, self.work, learner.recipe, learner.seed, start=learner.step)
        wanted = [p.requires_grad for p in self.network.parameters()]
        self.network.requires_grad_(True)
        with torch.enable_grad():
            for _ in islice(train(learner, batches), steps):
                pass
        for parameter, before in zip(self.network.parameters(), wanted, strict=True):
            parameter.requires_grad_(before)
