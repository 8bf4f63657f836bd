"""The two sides of every phase, ready to run a round again and again, and the numbers that must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.cases import CROPS, GRID, MEAN, RATIO, STD, Case
from datastill.codecs import LabelCodec
from datastill.draft import Draft
from datastill.fields import Content, Context, Items, Pictures, Store
from datastill.label.dense import Dense
from datastill.match.features import Features
from datastill.match.gradients import Gradients
from datastill.match.lives import Life
from datastill.match.statistics import Statistics
from datastill.networks import Network
from datastill.networks.norms import hasten
from datastill.networks.taps import tap
from datastill.recipe import DatasetInfo, Recipe
from datastill.runtime.device import Device, open_device
from datastill.runtime.progress import Reporter
from datastill.select.random import Random
from datastill.store.compensated import Compensated
from datastill.store.crops import Crops
from datastill.store.synthetic import Synthetic
from datastill.training.loop import Learner, train
from datastill.training.losses import one_hot
from datastill.training.predict import predict
from datastill.training.supply import Data, supply

ROUNDS = 1000  # the length of recovery's schedule; what is run is its beginning
# By phase: INFER's compensators and SRe2L's pictures on CIFAR.
MATCHES = {"recovery": Statistics(rounds=ROUNDS), "pictures": Statistics(rounds=ROUNDS, alpha=0.01)}
Numbers = dict[str, Tensor]


@dataclass(frozen=True)
class Ready:
    """`again` runs a round; `first` runs the first one and returns its numbers: "outcome", the losses of the first step
    or of every crop, or the logits, "gradient", the first step's up to a factor, and "later", the losses of the steps
    that follow."""

    first: Callable[[], Numbers]
    again: Callable[[], object]


def ready(case: Case) -> Ready:
    """Return a side that is ready to run; everything of the reference stays out of the product's process."""
    if case.side == "product":
        device = open_device("cpu", "bf16" if case.precision == "bf16" else "float32")
        makers = {
            "recovery": _product_recovery, "pictures": _product_recovery, "matching": _product_matching,
            "features": _product_matching, "labelling": _product_labelling, "boxes": _product_boxes,
            "scoring": _product_scoring,
        }  # fmt: skip
        return makers.get(case.phase, _product_training)(case, device)
    makers_plain = {
        "recovery": _plain_recovery, "pictures": _plain_recovery, "matching": _plain_matching,
        "features": _plain_features, "labelling": _plain_labelling, "boxes": _plain_boxes, "scoring": _plain_scoring,
    }  # fmt: skip
    return makers_plain.get(case.phase, _plain_training)(case)


def _trained(losses: Iterator[Tensor], optimiser: torch.optim.Optimizer, steps: int) -> Ready:
    """A round is `steps` losses; after the first step the momentum is a multiple of the gradient."""

    def first() -> Numbers:
        outcome = next(losses)
        states = [optimiser.state[p] for group in optimiser.param_groups for p in group["params"]]
        momenta = [next(state[key] for key in ("momentum_buffer", "exp_avg") if key in state) for state in states]
        gradient = torch.cat([m.flatten() for m in momenta])
        later = [next(losses) for _ in range(steps - 1)]
        return {"outcome": outcome, "gradient": gradient} | ({"later": torch.stack(later)} if later else {})

    return Ready(first, lambda: [next(losses) for _ in range(steps)])


def _product_training(case: Case, device: Device) -> Ready:
    recipe, labels, work = case.recipe, case.labels(), case.work
    if case.phase == "teacher":
        data = Data(case.pixels(), labels, one_hot(labels, case.sizes.classes), "classes")
    else:
        data = Data(case.pixels(), labels, case.logits(), "logits")
    learner = Learner(case.build(), recipe, work, case.seed, device)
    steps = train(learner, supply(data.to(device.torch), work, recipe, case.seed))
    return _trained((step.loss for step in steps), learner.optimiser, case.sizes.steps)


def _plain_training(case: Case) -> Ready:
    from benchmarks import plain

    network = case.build()
    optimiser = plain.make_optimiser(case, network)
    losses = plain.train(case, network.body, optimiser, plain.batches(case))
    return _trained(losses, optimiser, case.sizes.steps)


def _compensators(case: Case) -> tuple[Store, Content, str]:
    """Return a store, what it holds before anything is learned, and the name of what will be."""
    sizes, labels = case.sizes, case.labels()
    parts = torch.arange(sizes.parts).repeat_interleave(sizes.classes)
    items = Items.of(cls=labels, set=parts, maker=torch.zeros_like(parts), unit=parts, picture=torch.arange(len(parts)))
    arrays = {
        "compensators": torch.zeros(sizes.parts, 3, sizes.pixels, sizes.pixels, dtype=case.dtype),
        "std": torch.tensor(STD).view(1, 3, 1, 1),
    }
    content = Content(items, Pictures(case.pixels(), labels, ()), arrays, ("compensators",))
    return Compensated(), content, "compensators"


def _learned_pictures(case: Case) -> tuple[Store, Content, str]:
    """Return the same of learned pictures."""
    sizes, labels = case.sizes, case.labels()
    parts = torch.arange(sizes.parts).repeat_interleave(sizes.classes)
    none = torch.full_like(labels, -1)
    items = Items.of(cls=labels, set=parts, maker=none, unit=torch.arange(len(parts)), picture=none)
    scale = {name: torch.tensor(v).view(1, 3, 1, 1) for name, v in (("mean", MEAN), ("std", STD))}
    empty = Pictures(torch.empty(0, 3, sizes.pixels, sizes.pixels, dtype=torch.uint8), labels[:0], ())
    return Synthetic(), Content(items, empty, {"pixels": case.noise()} | scale, ("pixels",)), "pixels"


def _product_recovery(case: Case, device: Device) -> Ready:
    match, shape = MATCHES[case.phase], (3, case.sizes.pixels, case.sizes.pixels)
    store, content, learned = _compensators(case) if case.phase == "recovery" else _learned_pictures(case)
    tapped = tap(case.build(), torch.zeros(1, *shape))
    nothing: Any = None  # a round asks its context for seed, device and taps alone
    ctx = Context(cast(Recipe, SimpleNamespace(seed=case.seed)), nothing, nothing, device, nothing, nothing)
    ctx.memo["tapped", case.network] = tapped
    draft = Draft(
        store, content, match.parts(content.items, (case.network,)), match.optimise(),
        rounds=ROUNDS, classes=case.sizes.classes, device=device.torch,
    )  # fmt: skip

    def step() -> Tensor:
        with device.autocast():
            metrics = match.round(draft, ctx)
        draft.round += 1
        return match.ce * metrics["cross-entropy"] + match.alpha * metrics["statistics"]

    def first() -> Numbers:
        numbers = {"outcome": step(), "gradient": draft.arrays()[f"optimiser.{learned}.0.exp_avg"].clone()}
        later = [step() for _ in range(case.sizes.steps - 1)]
        return numbers | ({"later": torch.stack(later)} if later else {})

    return Ready(first, lambda: [step() for _ in range(case.sizes.steps)])


def _plain_recovery(case: Case) -> Ready:
    from benchmarks import plain

    body, match = case.build().body.eval(), MATCHES[case.phase]
    parts = [plain.Recovery(body, case, part, match.lr, ROUNDS, match.jitter, match.alpha)
             for part in range(case.sizes.parts)]  # fmt: skip

    def step() -> Tensor:
        return torch.stack([part.step() for part in parts])

    def first() -> Numbers:
        numbers = {"outcome": step(), "gradient": torch.cat([part.adam.state[part.u]["exp_avg"] for part in parts])}
        later = [step() for _ in range(case.sizes.steps - 1)]
        return numbers | ({"later": torch.stack(later)} if later else {})

    return Ready(first, lambda: [step() for _ in range(case.sizes.steps)])


class _Updates(Gradients):
    """Image updates alone, all of one network, whose norms of batches remember what they saw."""

    def _begun(self, draft: Draft, ctx: Context, steps: int) -> tuple[Network, Life | None]:
        return ctx.memo["network"], None

    def _settle(self, network: Network, draft: Draft, ctx: Context, step: int) -> None:
        network.eval()


class _Steps(Features):
    """Distribution matching in networks that both sides draw alike."""

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        network: Network = ctx.memo["drawn"](draft.round)
        return self._update(network, draft, ctx, 0)


def _condensed(case: Case) -> tuple[Tensor, Tensor]:
    """Return synthetic pictures in normalised units as they begin, class after class, and their classes."""
    sizes = case.sizes
    return case.noise()[: sizes.classes * sizes.matched], torch.arange(sizes.classes).repeat_interleave(sizes.matched)


def _product_matching(case: Case, device: Device) -> Ready:
    sizes, (start, cls) = case.sizes, _condensed(case)
    none = torch.full_like(cls, -1)
    items = Items.of(cls=cls, set=none, maker=none, unit=torch.arange(len(cls)), picture=none)
    scale = {name: torch.tensor(v).view(1, 3, 1, 1) for name, v in (("mean", MEAN), ("std", STD))}
    empty = Pictures(torch.empty(0, 3, sizes.pixels, sizes.pixels, dtype=torch.uint8), cls[:0], ())
    content = Content(items, empty, {"pixels": start} | scale, ("pixels",))
    info = DatasetInfo("benchmark", sizes.classes, (3, sizes.pixels, sizes.pixels), case.items, MEAN, STD)
    data = Data(case.pixels(), case.labels(), None, "classes")
    real = SimpleNamespace(info=info, classes=range(sizes.classes), rows=None, data=lambda rows: data)
    fields = SimpleNamespace(select=Random())
    nothing: Any = None
    recipe = cast(Recipe, SimpleNamespace(seed=case.seed, ipc=sizes.matched))
    ctx = Context(recipe, cast(Any, real), nothing, device, nothing, cast(Any, fields))

    def drawn(round: int) -> Network:  # as `fresh` does
        network = replace(case, seed=round).build().to(memory_format=torch.channels_last)
        hasten(network)
        return network

    match: Gradients | Features = _Updates(batch=sizes.real, outer=1, inner=0, lr=0.1)
    if case.phase == "features":
        match = _Steps(batch=sizes.real, augment="one")
    ctx.memo |= {"network": drawn(case.seed), "drawn": drawn}
    draft = Draft(
        Synthetic(bound=False), content, match.parts(items, ()), match.optimise(),
        rounds=ROUNDS, classes=sizes.classes, device=device.torch,
    )  # fmt: skip
    match.begin(draft, ctx)

    def step() -> Tensor:
        with device.autocast():
            found = match.round(draft, ctx)["distance"]
        draft.end_round()
        return found

    return _matched(step, lambda: draft.arrays()["optimiser.pixels.0.momentum_buffer"], sizes.steps)


def _plain_matching(case: Case) -> Ready:
    from reference import gradients

    start, _ = _condensed(case)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    images, labels = (case.images().to(case.dtype) / 255.0 - mean) / std, case.labels()
    real = [images[labels == k] for k in range(case.sizes.classes)]
    body, s = case.build().body.eval(), start.clone().requires_grad_()
    optimiser = torch.optim.SGD([s], lr=0.1, momentum=0.5, foreach=False, fused=False)

    def step() -> Tensor:
        loss = gradients.objective(body, s.chunk(len(real)), real, lambda _, z: z)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()[None]

    return _matched(step, lambda: optimiser.state[s]["momentum_buffer"], case.sizes.steps)


def _plain_features(case: Case) -> Ready:
    from benchmarks import plain

    sizes, (start, _) = case.sizes, _condensed(case)
    matching = plain.Features(case, start, sizes.classes)
    return _matched(matching.step, lambda: matching.sgd.state[matching.s]["momentum_buffer"], sizes.steps)


def _matched(step: Callable[[], Tensor], momentum: Callable[[], Tensor], steps: int) -> Ready:
    def first() -> Numbers:
        numbers = {"outcome": step(), "gradient": momentum().clone()}
        later = [step() for _ in range(steps - 1)]
        return numbers | ({"later": torch.stack(later)} if later else {})

    return Ready(first, lambda: [step() for _ in range(steps)])


def _product_labelling(case: Case, device: Device) -> Ready:
    network, images = case.build(), case.pixels()
    network.to(memory_format=torch.channels_last)  # as the bank hands networks out

    def label() -> Tensor:
        return predict(network, images, device=device.torch)

    return Ready(lambda: {"outcome": label()}, label)


def _plain_labelling(case: Case) -> Ready:
    from benchmarks import plain

    network, images = case.build(), case.images()

    def label() -> Tensor:
        return plain.label(network, images, case.dtype)

    return Ready(lambda: {"outcome": label()}, label)


def _product_boxes(case: Case, device: Device) -> Ready:
    network, images, labels = case.build(), case.images(), case.labels()
    network.to(memory_format=torch.channels_last)  # as the bank hands networks out
    network.register_forward_pre_hook(lambda module, given: (given[0].to(case.dtype),))  # boxes are float32
    dense = Dense(grid=GRID, ratio=RATIO, codec=LabelCodec(kind="fp32"))
    ctx = cast(Context, SimpleNamespace(
        makers=("it",), network=lambda name: network, device=device, reporter=Reporter(), recipe=None
    ))  # fmt: skip
    content = cast(Content, SimpleNamespace(items=SimpleNamespace(cls=labels)))

    def label() -> Tensor:
        values = dense.make(images, ctx, content).values
        assert values is not None, "labels of boxes have values"
        return values

    return Ready(lambda: {"outcome": label()}, label)


def _plain_boxes(case: Case) -> Ready:
    from benchmarks import plain

    network, images = case.build(), case.images()

    def label() -> Tensor:
        return plain.label_boxes(network, images, case.dtype)

    return Ready(lambda: {"outcome": label()}, label)


def _product_scoring(case: Case, device: Device) -> Ready:
    network, images, windows = case.build(), case.pixels(), case.windows()
    network.to(memory_format=torch.channels_last)  # as the bank hands networks out
    nothing: Any = None  # scoring asks its context for the shape of pictures and the device alone
    info = DatasetInfo("benchmark", case.sizes.classes, (3, case.sizes.pixels, case.sizes.pixels), 0, MEAN, STD)
    ctx = Context(nothing, cast(Any, SimpleNamespace(info=info)), nothing, device, nothing, nothing)
    store = Crops(crops=CROPS)

    def score() -> Tensor:
        return store.losses(images, windows, 0, network, ctx)

    return Ready(lambda: {"outcome": score()}, score)


def _plain_scoring(case: Case) -> Ready:
    from benchmarks import plain

    network, images, windows = case.build(), case.images(), case.windows()

    def score() -> Tensor:
        return plain.score(network, images, windows, case)

    return Ready(lambda: {"outcome": score()}, score)
