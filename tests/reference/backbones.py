"""Three small networks of different kinds, and a set of free pixels that is matched to all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datastill.draft import Draft
from datastill.fields import Content, Context
from datastill.match import Various
from datastill.networks import Network, Space, create_network
from datastill.recipe import NetworkRecipe, choice
from reference import tiny

SMALL: dict[str, Any] = {"rounds": 6, "lr": 0.1, "jitter": 2, "real_batch": 16}


def network(arch: str = "convnet", seed: int = 0, **settings: Any) -> Network:
    """Return a network whose BatchNorms remember roughly, not exactly, what the tiny set's images give."""
    data = tiny.dataset()
    made = create_network(
        arch, classes=4, shape=tiny.SHAPE, space=Space(data.mean, data.std), seed=seed, **({"width": 8} | settings)
    )
    with torch.no_grad():
        made.train()(data.train.pixels.float() / 255.0)
    return made.eval().requires_grad_(False)


NETWORKS = {
    "first": NetworkRecipe(arch="convnet", settings={"width": 8}, training=tiny.TEACHING),
    "second": NetworkRecipe(arch="convnet_in", settings={"width": 8}, seed=1, training=tiny.TEACHING),
    "third": NetworkRecipe(arch="resnet10", settings={"width": 8}, seed=2, training=tiny.TEACHING),
}


def given() -> dict[str, Network]:
    return {"first": network(), "second": network("convnet_in", 1), "third": network("resnet10", 2)}


def opened(match: dict[str, Any] | None = None, **changes: Any) -> tuple[Context, Content]:
    """Return a context on three given networks, and a content of free pixels in class-major sets of 8."""
    made: dict[str, Any] = {
        "ipc": 4, "networks": NETWORKS, "store": choice("synthetic", block=8, order="class-major"),
        "match": choice("various", **(SMALL | (match or {}))),
    }  # fmt: skip
    ctx = tiny.context(given=given(), **(made | changes))
    return ctx, ctx.fields.store.begin(ctx)


def drafted(ctx: Context, content: Content, parts: list[Any]) -> Draft:
    found = ctx.fields.match
    return Draft(
        ctx.fields.store, content, parts, found.optimise(),
        rounds=found.total_rounds, classes=4, device=ctx.device.torch,
    )  # fmt: skip


def run(draft: Draft, ctx: Context, rounds: int) -> list[dict[str, Tensor]]:
    told = []
    for _ in range(rounds):
        told.append(ctx.fields.match.round(draft, ctx))
        draft.round += 1
    return told


def various(ctx: Context) -> Various:
    assert isinstance(ctx.fields.match, Various)
    return ctx.fields.match
